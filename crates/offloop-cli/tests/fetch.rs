//! `offloop fetch`: a list called from the command line, its answers, its figures and its exit code.
#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]
#![allow(
    clippy::disallowed_methods,
    reason = "the program itself is under test"
)]

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Output, Stdio};

use serde_json::Value;

mod support;

use support::program;

/// Answers what the path says, `/200/name`, on connections that stay open.
fn server() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let at = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            std::thread::spawn(move || answer(stream));
        }
    });
    at
}

fn answer(stream: TcpStream) {
    let mut reader = BufReader::new(stream);
    let mut line = String::new();
    let mut status = String::new();
    while reader.read_line(&mut line).is_ok_and(|read| read > 0) {
        if let Some(path) = line.strip_prefix("GET /") {
            path.split(['/', ' '])
                .next()
                .unwrap()
                .clone_into(&mut status);
        }
        if line == "\r\n" {
            let text = format!("HTTP/1.1 {status} X\r\nContent-Length: 5\r\n\r\nhello");
            if reader.get_mut().write_all(text.as_bytes()).is_err() {
                return;
            }
        }
        line.clear();
    }
}

fn fetch(folder: &Path, list: &str, flags: &[&str]) -> Output {
    std::fs::write(folder.join("list.txt"), list).unwrap();
    let mut command = program(folder);
    command.args(["fetch", "list.txt", "--json"]).args(flags);
    command.output().unwrap()
}

fn summary(output: &Output) -> Value {
    let text = String::from_utf8_lossy(&output.stdout);
    serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{text}"))
}

const OWN: [&str; 2] = ["--allow-private", "127.0.0.0/8"];

#[test]
fn a_cron_job_learns_from_the_exit_code_whether_all_was_well() {
    let folder = tempfile::tempdir().unwrap();
    let at = server();
    let urls: Vec<_> = (0..200)
        .map(|turn| format!("http://{at}/200/{turn}"))
        .collect();
    let urls = urls.join(
        "
",
    ) + "
";
    let good = fetch(folder.path(), &format!("# all of them\n\n{urls}"), &OWN);
    let told = summary(&good);
    assert_eq!(
        (&told["ok"], &told["failed"]),
        (&200.into(), &0.into()),
        "{told}"
    );
    assert_eq!(good.status.code(), Some(0));
    let bad = fetch(folder.path(), &format!("{urls}http://{at}/404/x\n"), &OWN);
    let told = summary(&bad);
    assert_eq!(
        (&told["statuses"]["4xx"], &told["success"]),
        (&1.into(), &false.into()),
        "{told}"
    );
    assert_eq!(bad.status.code(), Some(1));
    let any = fetch(
        folder.path(),
        &format!("http://{at}/404/x\n{urls}"),
        &[&OWN[..], &["--rule", "any"]].concat(),
    );
    assert_eq!(any.status.code(), Some(0), "{}", summary(&any));
    for flags in [
        &["--limit", "0"][..],
        &["--rule", "first"],
        &["--hedge", "soon"],
    ] {
        assert_eq!(
            fetch(folder.path(), &urls, flags).status.code(),
            Some(2),
            "{flags:?}"
        );
    }
}

#[test]
fn what_leads_inside_is_told_by_line_and_not_called() {
    let folder = tempfile::tempdir().unwrap();
    let at = server();
    let list = format!("http://{at}/200/a\n{{\"url\": \"http://169.254.169.254/?key=hunter2\"}}\n");
    let output = fetch(folder.path(), &list, &[]);
    let told = summary(&output);
    let errors = String::from_utf8(output.stderr.clone()).unwrap();
    assert_eq!(
        (&told["refused_lines"], &told["calls"]),
        (&2.into(), &0.into())
    );
    assert!(
        errors.contains("line 1") && errors.contains("--allow-private"),
        "{errors}"
    );
    assert!(
        errors.contains("line 2") && errors.contains("metadata") && !errors.contains("hunter2"),
        "{errors}"
    );
    assert_eq!(output.status.code(), Some(1));
    // Allowed or not: a cloud's credentials are not fetched.
    let output = fetch(folder.path(), &list, &["--allow-private", "0.0.0.0/0"]);
    let told = summary(&output);
    assert_eq!(
        (&told["ok"], &told["refused_lines"]),
        (&1.into(), &1.into())
    );
}

#[test]
fn answers_are_written_line_by_line_and_a_list_may_come_by_a_pipe() {
    let folder = tempfile::tempdir().unwrap();
    let at = server();
    let mut command = program(folder.path());
    command
        .args(["fetch", "-", "--out", "answers.ndjson", "--limit", "3"])
        .args(OWN);
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut pipe = child.stdin.take().unwrap();
    for turn in 0..10 {
        writeln!(
            pipe,
            "{{\"id\": \"n{turn}\", \"url\": \"http://{at}/200/{turn}\"}}"
        )
        .unwrap();
    }
    drop(pipe);
    let mut text = String::new();
    child
        .stdout
        .take()
        .unwrap()
        .read_to_string(&mut text)
        .unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(0), "{text}");
    assert!(
        text.contains("10 ok, 0 failed") && text.contains("2xx 10") && text.contains("p99"),
        "{text}"
    );
    let lines = std::fs::read_to_string(folder.path().join("answers.ndjson")).unwrap();
    let lines: Vec<Value> = lines
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    assert_eq!(lines.len(), 10);
    assert!(
        lines
            .iter()
            .all(|line| line["body"] == "hello" && line["status"] == 200)
    );
    let mut ids: Vec<_> = lines
        .iter()
        .map(|line| line["id"].as_str().unwrap().to_owned())
        .collect();
    ids.sort();
    assert_eq!(ids[0], "n0");
}
