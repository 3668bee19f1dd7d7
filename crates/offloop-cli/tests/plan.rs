//! `offloop plan` on the real program: it measures what it says, keeps to its own folder, and leaves
//! nothing behind.
#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]
#![allow(
    clippy::disallowed_methods,
    reason = "the program itself is under test"
)]

use std::path::Path;
use std::process::{Command, Output};
use std::time::{Duration, Instant};

use serde_json::Value;
use tempfile::TempDir;

const WITHIN: Duration = Duration::from_secs(120);

const TASK: &str = r#"
[server]
token = "a-token-that-no-trial-may-need"

[tasks.double]
lane = "process"
command = ["python3", "double.py"]
calls = { processes = 1 }
"#;

const DOUBLE: &str = "def handle(payload, ctx):\n    return payload['n'] * 2\n";

struct Place {
    folder: TempDir,
}

impl Place {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir(folder.path().join("tmp")).unwrap();
        Self { folder }
    }

    fn file(&self, name: &str, text: &str) {
        std::fs::write(self.folder.path().join(name), text).unwrap();
    }

    fn command(&self) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_offloop"));
        for (name, _) in std::env::vars_os() {
            if name.to_string_lossy().starts_with("OFFLOOP_") {
                command.env_remove(name);
            }
        }
        command.arg("plan");
        command.current_dir(self.folder.path());
        // What it keeps meanwhile is here, so that what it leaves is seen.
        command.env("TMPDIR", self.folder.path().join("tmp"));
        command.env("OFFLOOP_LISTEN", "127.0.0.1:1");
        command
    }

    fn run(&self, words: &[&str]) -> Output {
        self.command().args(words).output().unwrap()
    }

    /// The plans of a run that works.
    fn plans(&self, words: &[&str]) -> Vec<Value> {
        let output = self.run(&[words, &["--json"]].concat());
        let error = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "{words:?}: {error}");
        let all: Value = serde_json::from_slice(&output.stdout).unwrap();
        all["plans"].as_array().unwrap().clone()
    }

    /// What a run that fails says.
    fn error(&self, words: &[&str], code: i32) -> String {
        let output = self.run(words);
        let error = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(code), "{words:?}: {error}");
        error
    }
}

fn left_over(folder: &Path) -> usize {
    std::fs::read_dir(folder.join("tmp")).unwrap().count()
}

#[test]
fn a_spin_of_a_millisecond_costs_that_at_least_and_nothing_is_left_behind() {
    let place = Place::new();
    let words = ["--mix", "2*cpu:1ms", "--seconds", "0.5", "--svg", "a.svg"];
    let more = ["--cpu", "1500m", "--pods", "3", "--target-rps", "100"];
    let plans = place.plans(&[&words[..], &more].concat());
    let plan = &plans[0];
    let ms = plan["operations"][0]["cpu_ms"]["one_core"]
        .as_f64()
        .unwrap();
    // No upper bound: what a host takes from this machine counts as processor time of who had it.
    assert!(ms >= 1.0, "{plan}");
    // Two calls a request.
    let service = plan["service_ms"].as_f64().unwrap();
    let ratio = plan["together"]["ratio"].as_f64().unwrap();
    assert!((service - 2.0 * ms * ratio).abs() < 1e-6, "{plan}");
    let capacity = plan["capacity"].as_array().unwrap();
    let one = capacity[0]["full_rps"].as_f64().unwrap();
    assert!((one - 1e3 / service).abs() < 1e-6 * one, "{plan}");
    let pods = capacity.last().unwrap();
    assert_eq!(pods["for"], "3 pods of 1500m");
    let (full, planned) = (pods["full_rps"].as_f64(), pods["planned_rps"].as_f64());
    assert!((planned.unwrap() / full.unwrap() - 0.7).abs() < 1e-9);
    assert!(plan["target"]["cores"].as_f64().unwrap() > 0.0);
    assert_eq!(plan["configure"]["threads"], 2);
    for key in [
        "mix",
        "calls_per_request",
        "machine",
        "http",
        "scaling",
        "utilisation",
        "pod",
        "answers",
        "notes",
        "conclusion",
    ] {
        assert!(!plan[key].is_null(), "{key}: {plan}");
    }
    assert!(plan["validation"].is_null());
    let p99: Vec<_> = plan["answers"]
        .as_array()
        .unwrap()
        .iter()
        .map(|at| at["p99_ms"].as_f64().unwrap())
        .collect();
    assert!(p99.windows(2).all(|two| two[0] <= two[1]), "{p99:?}");
    let chart = std::fs::read_to_string(place.folder.path().join("a.svg")).unwrap();
    assert!(chart.starts_with("<svg") && chart.contains("2*cpu:1ms"));
    assert_eq!(left_over(place.folder.path()), 0);
}

#[test]
fn a_declared_task_is_measured_with_its_payload_in_its_folder() {
    let place = Place::new();
    place.file("offloop.toml", TASK);
    place.file("double.py", DOUBLE);
    place.file("payload.json", "{\"n\": 21}");
    let mix = "task:double=@payload.json";
    let words = ["--mix", mix, "--seconds", "0.5", "--validate"];
    let plans = place.plans(&words);
    let plan = &plans[0];
    assert!(plan["operations"][0]["holds_ms"].as_f64().unwrap() > 0.0);
    assert!(plan["configure"]["processes"].as_u64().unwrap() >= 1);
    let validation = &plan["validation"];
    let points = validation["points"].as_array().unwrap();
    let loads: Vec<_> = points
        .iter()
        .map(|at| at["load"].as_f64().unwrap())
        .collect();
    assert_eq!(loads[..3], [0.5, 0.7, 0.9]);
    assert!(points.iter().all(|at| at["failed"] == 0.0), "{validation}");
    assert!(validation["measured_rps"].as_f64().unwrap() > 0.0);
    assert!(validation["error"].as_f64().unwrap().is_finite());
    assert_eq!(left_over(place.folder.path()), 0);
}

#[test]
fn every_operation_of_the_vault_can_be_planned_for() {
    let place = Place::new();
    let mix = "seal:1KiB + open:1KiB + sign:p256 + check:ed25519 + hash:bcrypt:4 + verify:bcrypt:4";
    let plans = place.plans(&["--mix", mix, "--seconds", "1"]);
    let operations = plans[0]["operations"].as_array().unwrap();
    assert_eq!(operations.len(), 6);
    for operation in operations {
        assert!(
            operation["cpu_ms"]["all_cores"].as_f64().unwrap() > 0.0,
            "{operation}"
        );
        assert!(
            operation["calls_counted"].as_u64().unwrap() > 0,
            "{operation}"
        );
    }
    assert_eq!(left_over(place.folder.path()), 0);
}

#[test]
fn what_cannot_be_planned_is_said_before_anything_is_measured() {
    let place = Place::new();
    let error = place.error(&["--mix", "seal:1KiB + sing:rsa2048"], 2);
    assert!(
        error.contains("`sing:rsa2048`") && error.contains("sign:KEY"),
        "{error}"
    );
    let error = place.error(&["--mix", "cpu:1ms", "--cpu", "1.5m"], 2);
    assert!(error.contains("finer"), "{error}");
    place.file("offloop.toml", TASK);
    let error = place.error(&["--mix", "task:treble"], 1);
    assert!(
        error.contains("treble") && error.contains("`double`"),
        "{error}"
    );
    place.file("double.py", DOUBLE);
    place.file("payload.json", "{n: 21}");
    let error = place.error(&["--mix", "task:double=@payload.json"], 1);
    assert!(error.contains("not JSON"), "{error}");
    // A task that fails is no measurement.
    place.file("payload.json", "{}");
    let error = place.error(&["--mix", "task:double=@payload.json"], 1);
    assert!(
        error.contains("task:double") && error.contains("KeyError"),
        "{error}"
    );
    assert_eq!(left_over(place.folder.path()), 0);
}

#[test]
fn a_plan_that_is_interrupted_takes_its_server_and_its_folder_with_it() {
    let place = Place::new();
    let mut command = place.command();
    command.args(["--mix", "cpu:1ms", "--seconds", "600"]);
    let mut child = command.spawn().unwrap();
    // Its server has written its lock or its tables: it runs.
    let runs = || {
        let folders = std::fs::read_dir(place.folder.path().join("tmp")).unwrap();
        let data = folders
            .flatten()
            .map(|folder| folder.path().join("alone/data"));
        data.into_iter().any(|data| data.exists())
    };
    let began = Instant::now();
    while !runs() {
        assert!(began.elapsed() < WITHIN, "no server is started");
        std::thread::sleep(Duration::from_millis(20));
    }
    let pid = rustix::process::Pid::from_raw(child.id().cast_signed()).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
    let ended = child.wait().unwrap();
    assert_eq!(ended.code(), Some(1));
    assert!(
        began.elapsed() < WITHIN,
        "it did not wait for its ten minutes"
    );
    assert_eq!(left_over(place.folder.path()), 0);
}
