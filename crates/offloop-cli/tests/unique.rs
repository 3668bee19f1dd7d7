//! Unique keys through a program that is killed without a word: a key is held exactly as long as its
//! scope says, never left behind, never lost.
#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]
#![allow(
    clippy::disallowed_methods,
    reason = "the program itself is under test"
)]

use std::time::Instant;

mod support;

use support::{PATIENCE, Running, end_of, job, post, serve};

const ROUNDS: usize = 6;

/// Status and id of a job with this unique rule.
fn ask(server: &Running, ms: u32, more: &str, unique: &str) -> (u16, String) {
    let body = format!(
        r#"{{"task": "offloop.sleep", "payload": {{"ms": {ms}}}, "unique": {unique}{more}}}"#
    );
    let (status, answer) = post(&server.url, body.as_bytes());
    (status, answer["id"].as_str().unwrap_or("").to_owned())
}

fn until_running(server: &Running, id: &str) {
    let deadline = Instant::now() + PATIENCE;
    while job(&server.url, id, "")["state"] != "running" {
        assert!(Instant::now() < deadline, "{id} never ran");
        std::thread::yield_now();
    }
}

#[test]
fn a_key_that_is_held_until_the_end_is_free_after_it_however_often_the_server_is_killed() {
    let folder = tempfile::tempdir().unwrap();
    let unique = r#"{"key": "k"}"#;
    let mut server = serve(folder.path());
    for round in 0..ROUNDS {
        let (status, id) = ask(&server, 400, "", unique);
        assert_eq!(status, 201, "round {round}: left behind by an earlier one");
        if round % 2 == 1 {
            until_running(&server, &id);
        }
        server.kill();
        server = serve(folder.path());
        assert_eq!(
            ask(&server, 400, "", unique),
            (200, id.clone()),
            "round {round}"
        );
        assert_eq!(end_of(&server.url, &id)["state"], "completed");
    }
}

#[test]
fn a_key_that_is_held_until_the_start_comes_back_only_with_a_job_that_did_not_start() {
    let folder = tempfile::tempdir().unwrap();
    let unique = r#"{"key": "s", "scope": "until_started"}"#;
    let mut server = serve(folder.path());
    let later = r#", "delay_ms": 3600000"#;
    let (status, idle) = ask(&server, 10, later, unique);
    assert_eq!(status, 201);
    server.kill();
    server = serve(folder.path());
    assert_eq!(ask(&server, 10, later, unique), (200, idle));
    let other = r#"{"key": "t", "scope": "until_started"}"#;
    let (_, started) = ask(&server, 1_000, "", other);
    until_running(&server, &started);
    server.kill();
    server = serve(folder.path());
    let (status, next) = ask(&server, 10, "", other);
    assert!(
        status == 201 && next != started,
        "a retry does not take it again"
    );
}

#[test]
fn a_key_that_is_held_for_a_time_outlives_its_job_and_the_server() {
    let folder = tempfile::tempdir().unwrap();
    let hour = r#"{"key": "p", "scope": "for", "for_ms": 3600000}"#;
    let mut server = serve(folder.path());
    let (status, id) = ask(&server, 10, "", hour);
    assert_eq!(status, 201);
    assert_eq!(end_of(&server.url, &id)["state"], "completed");
    server.kill();
    server = serve(folder.path());
    assert_eq!(ask(&server, 10, "", hour), (200, id));
}
