//! `offloop lab`: every way does its work, bad questions are told by name, and nothing stays behind.
#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]
#![allow(
    clippy::disallowed_methods,
    reason = "the program itself is under test"
)]

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::num::NonZeroU64;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use offloop_lab::{Kind, Pace, compute};
use serde_json::Value;
use tempfile::TempDir;

const PROGRAM: &str = env!("CARGO_BIN_EXE_offloop");
/// Rounds in a millisecond, as the test tells the server: few, so that a debug build is quick.
const QUICK: u64 = 50;
/// So many that a millisecond never ends.
const ENDLESS: u64 = 1 << 50;
/// For whatever a loaded machine makes slow.
const WITHIN: Duration = Duration::from_secs(60);

fn program() -> Command {
    let mut command = Command::new(PROGRAM);
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("OFFLOOP_") {
            command.env_remove(name);
        }
    }
    command
}

/// `offloop lab serve` on a free port.
struct Lab {
    child: Child,
    address: String,
    _folder: TempDir,
}

impl Drop for Lab {
    fn drop(&mut self) {
        let _ = self.child.kill(); // its children die with it
        let _ = self.child.wait();
    }
}

impl Lab {
    fn start(rounds_per_ms: u64, words: &[&str]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let mut child = program()
            .args(["lab", "serve", "--listen", "127.0.0.1:0", "--data"])
            .arg(folder.path())
            .args(["--rounds-per-ms", &rounds_per_ms.to_string()])
            .args(words)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let first = lines.next().unwrap().unwrap();
        let address = first.strip_prefix("lab listens on http://").unwrap();
        let address = address.to_owned();
        std::thread::spawn(move || lines.for_each(drop));
        Self {
            child,
            address,
            _folder: folder,
        }
    }

    /// A request under way, on a connection of its own.
    fn send(&self, path: &str) -> TcpStream {
        let mut socket = TcpStream::connect(&self.address).unwrap();
        socket.set_read_timeout(Some(WITHIN)).unwrap();
        let text = format!("GET {path} HTTP/1.1\r\nhost: lab\r\nconnection: close\r\n\r\n");
        socket.write_all(text.as_bytes()).unwrap();
        socket
    }

    fn get(&self, path: &str) -> (u16, String) {
        let mut text = String::new();
        self.send(path).read_to_string(&mut text).unwrap();
        let (head, body) = text.split_once("\r\n\r\n").unwrap();
        let status = head.split(' ').nth(1).unwrap().parse().unwrap();
        (status, body.to_owned())
    }

    fn json(&self, path: &str) -> Value {
        let (status, body) = self.get(path);
        assert_eq!(status, 200, "{path}: {body}");
        serde_json::from_str(&body).unwrap()
    }
}

#[test]
fn no_way_says_that_it_worked_without_the_checksum_of_the_work() {
    let lab = Lab::start(QUICK, &[]);
    let pace = Pace::of(NonZeroU64::new(QUICK).unwrap());
    for (at, kind) in Kind::ALL.into_iter().enumerate() {
        for seed in [at as u64, 1 << 40] {
            let want = compute(pace.piece(7, seed), || false).unwrap();
            let said = lab.json(&format!("{}?CPUTimeMs=7&seed={seed}", kind.path()));
            assert_eq!(said["strategy"], kind.name());
            assert_eq!(said["checksum"], want.checksum.as_str(), "{said}");
            assert_eq!(said["rounds"], 7 * QUICK, "{said}");
        }
    }
    assert_eq!(lab.get("/"), (200, "ok\n".to_owned()));
}

#[test]
fn the_pulse_names_the_way_that_blocked_the_loop_and_no_other() {
    let lab = Lab::start(QUICK, &["--only", "inline,cpu"]);
    lab.json("/non-blocking?cpu_time_ms=10000");
    lab.json("/blocking?cpu_time_ms=10000"); // 500,000 rounds: a block on any machine
    let began = Instant::now();
    loop {
        let pulse = lab.json("/pulse");
        let blocks = pulse["blocks"].as_array().unwrap();
        if let Some(block) = blocks.iter().find(|block| block["route"] == "/blocking") {
            assert!(block["lasted_ms"].as_f64() >= Some(50.0), "{pulse}");
            assert!(
                blocks.iter().all(|block| block["route"] != "/non-blocking"),
                "{pulse}"
            );
            for figure in ["now_ms", "p50_ms", "p99_ms", "max_ms"] {
                assert!(pulse[figure].is_number(), "{figure}: {pulse}");
            }
            return;
        }
        assert!(began.elapsed() < WITHIN, "{pulse}");
    }
}

#[test]
fn a_question_that_cannot_be_is_told_by_field_and_limit() {
    let lab = Lab::start(QUICK, &["--only", "inline,cpu"]);
    let rows = [
        ("/blocking", "cpu_time_ms"),
        ("/blocking?cpu_time_ms=60001", "0 to 60000"),
        ("/non-blocking?cpu_time_ms=-1", "0 to 60000"),
        ("/non-blocking?CPUTimeMs=ten", "\"ten\""),
        ("/non-blocking?cpu_time_ms=1&timeout_ms=0", "1 to 300000"),
        ("/blocking?cpu_time_ms=1&burn=9", "burn"),
    ];
    for (path, says) in rows {
        let (status, body) = lab.get(path);
        assert_eq!(status, 400, "{path}: {body}");
        let body = body.replace("\\\"", "\"");
        assert!(body.contains(says), "{path}: {body}");
    }
    for path in ["/chunked?cpu_time_ms=1", "/favicon.ico"] {
        let (status, body) = lab.get(path);
        assert_eq!(status, 404, "{path}: {body}");
        assert!(body.contains("/non-blocking"), "{body}");
    }
}

/// Asks for a piece of no work until it is answered, or until it is not.
fn until_answered(lab: &Lab, kind: Kind, wanted: bool) {
    let began = Instant::now();
    let path = format!("{}?cpu_time_ms=0&timeout_ms=200", kind.path());
    loop {
        let (status, body) = lab.get(&path);
        if (status == 200) == wanted {
            return;
        }
        assert!(began.elapsed() < WITHIN, "{kind:?}, {wanted}: {body}");
    }
}

#[test]
fn work_that_nobody_waits_for_does_not_hold_a_core() {
    for kind in [Kind::Cpu, Kind::Process, Kind::Exec, Kind::Job] {
        let lab = Lab::start(ENDLESS, &["--only", kind.name()]);
        until_answered(&lab, kind, true);
        let executors = std::thread::available_parallelism().unwrap().get();
        let path = format!("{}?cpu_time_ms=1", kind.path());
        let under_way: Vec<_> = (0..executors).map(|_| lab.send(&path)).collect();
        until_answered(&lab, kind, false);
        drop(under_way);
        until_answered(&lab, kind, true);
    }
}

#[test]
fn a_server_that_burns_cores_is_not_offered_to_the_network() {
    for address in ["0.0.0.0:0", "[::]:0", "192.0.2.1:7979"] {
        let output = program()
            .args(["lab", "serve", "--listen", address])
            .output()
            .unwrap();
        assert_eq!(output.status.code(), Some(1));
        let said = String::from_utf8(output.stderr).unwrap();
        assert!(said.contains("not a loopback address"), "{said}");
    }
}

#[test]
fn an_interrupt_ends_the_lab_although_its_loop_is_blocked() {
    let mut lab = Lab::start(ENDLESS, &["--only", "inline"]);
    let held = lab.send("/blocking?cpu_time_ms=1");
    // Until the loop does not answer any more.
    let mut other = lab.send("/");
    let short = Some(Duration::from_millis(300));
    while other.set_read_timeout(short).is_ok() && matches!(other.read(&mut [0; 512]), Ok(1..)) {
        other = lab.send("/");
    }
    let pid = rustix::process::Pid::from_raw(lab.child.id().cast_signed()).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::INT).unwrap();
    let ended = lab.child.wait().unwrap();
    drop(held);
    assert!(ended.code().is_some(), "it ended by itself: {ended}");
}

fn lab(words: &[&str]) -> (Output, String) {
    let output = program().arg("lab").args(words).output().unwrap();
    let said = String::from_utf8(output.stdout.clone()).unwrap();
    (output, said)
}

#[test]
fn a_short_run_measures_every_way_and_draws_it() {
    let folder = tempfile::tempdir().unwrap();
    let svg = folder.path().join("lab.svg");
    let data = folder.path().join("data");
    let (data_word, svg_word) = (data.to_str().unwrap(), svg.to_str().unwrap());
    let words = ["--seconds-per-strategy", "0.3", "--data", data_word];
    let more = ["--svg", svg_word, "--json", "--seed", "7"];
    let (output, text) = lab(&[&words[..], &more[..]].concat());
    let problem = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{problem}");
    let record: Value = serde_json::from_str(&text).unwrap();
    let rows = record["strategies"].as_array().unwrap();
    let names: Vec<_> = rows.iter().map(|row| &row["strategy"]).collect();
    let want: Vec<_> = Kind::ALL.iter().map(|kind| kind.name()).collect();
    assert_eq!(names, want);
    for row in rows {
        let (probe, work) = (&row["probe"], &row["work"]);
        let seen = ["sent", "imputed", "unanswered"].map(|key| probe[key].as_u64().unwrap());
        assert!(
            seen.iter().sum::<u64>() >= 300,
            "a probe is due each ms: {row}"
        );
        let (p50, max) = (probe["p50_ms"].as_f64(), probe["max_ms"].as_f64());
        assert!(p50 > Some(0.0) && p50 <= max, "{row}");
        assert!(work["offered_per_s"].as_f64() > Some(0.0), "{row}");
        assert_eq!(work["wrong"], 0, "{row}");
        assert!(row["threads"].as_u64() >= Some(1), "{row}");
        assert!(row["rss_bytes"].as_u64() > Some(1 << 20), "{row}");
    }
    let done = |name: &str| {
        let row = rows.iter().find(|row| row["strategy"] == name).unwrap();
        row["work"]["done"].as_u64().unwrap()
    };
    assert!(done("cpu") > 0 && done("process") > 0, "{rows:#?}");
    assert!(
        record["conclusion"]
            .as_str()
            .unwrap()
            .contains("5 ms of work at 1.6x")
    );
    let drawn = std::fs::read_to_string(&svg).unwrap();
    assert!(drawn.starts_with("<svg ") && drawn.contains(">spawn_blocking<"));
    let left: Vec<_> = std::fs::read_dir(&data).unwrap().collect();
    assert!(left.is_empty(), "its folders are gone: {left:?}");
}

#[test]
fn an_experiment_that_is_interrupted_leaves_no_folder_behind() {
    let folder = tempfile::tempdir().unwrap();
    let mut child = program()
        .args(["lab", "--seconds-per-strategy", "600", "--data"])
        .arg(folder.path())
        .spawn()
        .unwrap();
    let count = || std::fs::read_dir(folder.path()).unwrap().count();
    let began = Instant::now();
    while count() == 0 {
        assert!(began.elapsed() < WITHIN, "it keeps nothing there");
    }
    let pid = rustix::process::Pid::from_raw(child.id().cast_signed()).unwrap();
    // Until it listens for signals, one ends it before it has begun to measure.
    let listens = || {
        std::fs::read_dir(format!("/proc/{pid}/task"))
            .unwrap()
            .count()
            > 2
    };
    while !listens() {
        assert!(began.elapsed() < WITHIN, "it does not begin");
    }
    rustix::process::kill_process(pid, rustix::process::Signal::INT).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(130));
    assert_eq!(count(), 0, "its folder is gone");
}

#[test]
fn a_person_gets_a_table_and_two_sentences() {
    let (output, text) = lab(&["--seconds-per-strategy", "0.2", "--only", "cpu,inline"]);
    assert!(output.status.success());
    let at = |name: &str| text.lines().position(|line| line.starts_with(name));
    assert!(at("latency of /") < at("(idle)"), "{text}");
    assert!(
        at("(idle)") < at("inline ") && at("inline ") < at("cpu "),
        "{text}"
    );
    assert!(
        at("process ").is_none() && text.contains("With 5 ms of work"),
        "{text}"
    );
}

#[test]
fn a_parameter_that_cannot_be_measured_is_refused_before_a_minute_is_spent() {
    let rows: [(&[&str], i32, &str); 7] = [
        (&["--cpu-time-ms", "0"], 2, "1..=60000"),
        (&["--offered", "0"], 2, "0.01 to 20"),
        (&["--offered", "NaN"], 2, "0.01 to 20"),
        (&["--seconds-per-strategy", "9999"], 2, "0.1 to 600"),
        (&["--only", "threads"], 2, "spawn_blocking"),
        (
            &["--svg", "/no/such/folder/lab.svg"],
            1,
            "cannot write the chart",
        ),
        (&["--data", "/dev/null/lab"], 1, "/dev/null/lab"),
    ];
    for (words, code, says) in rows {
        let (output, _) = lab(words);
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(code), "{words:?}: {said}");
        assert!(said.contains(says), "{words:?}: {said}");
    }
}
