//! What is as large as it may be, a byte more, and a hundred times that; and JSON that nests without
//! end: each has one exact answer, and the server that gave it goes on (reliability L8).
#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]
#![allow(
    clippy::disallowed_methods,
    reason = "the program itself is under test"
)]

mod support;

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::path::Path;

use serde_json::Value;
use support::{Running, end_of, job, post, serve};

const LIMIT: usize = 1 << 20;
const DEPTH_MAX: usize = 64;
const FAR_TOO_DEEP: usize = 10_000;

/// Answers what it got, and results of any size and depth.
const NODE: &str = "export const echo = (payload) => payload;
export const sized = (bytes) => 'x'.repeat(bytes - 2);
";

/// Speaks the protocol itself, so that nothing of ours stands before the lane.
const DEEP: &str = r#"import sys, json
print('{"type":"ready","protocol":1}', flush=True)
for line in sys.stdin:
    run = json.loads(line)
    if run["type"] == "run":
        depth = run["payload"]
        deep = "[" * depth + "]" * depth
        print('{"type":"result","lease":%d,"result":%s}' % (run["lease"], deep), flush=True)
"#;

fn server(at: &Path) -> Running {
    std::fs::write(at.join("sizes.mjs"), NODE).unwrap();
    std::fs::write(at.join("deep.py"), DEEP).unwrap();
    let tasks = "[tasks.echo]\nlane = \"process\"\ncommand = [\"node\", \"sizes.mjs#echo\"]\n\
        [tasks.sized]\nlane = \"process\"\ncommand = [\"node\", \"sizes.mjs#sized\"]\n\
        [tasks.deep]\nlane = \"process\"\nprotocol = \"json_lines\"\ncommand = [\"python3\", \"deep.py\"]\n";
    std::fs::write(at.join("offloop.toml"), tasks).unwrap();
    serve(at)
}

fn asked(task: &str, payload: &str) -> Vec<u8> {
    format!("{{\"task\":\"{task}\",\"max_attempts\":1,\"payload\":{payload}}}").into_bytes()
}

#[track_caller]
fn made(server: &Running, body: &[u8]) -> String {
    let (status, job) = post(&server.url, body);
    assert_eq!(status, 201, "{job}");
    job["id"].as_str().unwrap().to_owned()
}

#[track_caller]
fn refused(server: &Running, body: &[u8], status: u16, kind: &str, field: Option<&str>) {
    let (got, problem) = post(&server.url, body);
    let kind = format!("urn:offloop:problem:{kind}");
    assert_eq!((got, &problem["type"]), (status, &kind.into()), "{problem}");
    assert_eq!(problem["errors"][0]["pointer"].as_str(), field, "{problem}");
}

fn is_well(server: &Running) {
    let answer = ureq::get(format!("{}/readyz", server.url)).call();
    assert_eq!(answer.unwrap().status(), 200);
}

/// The head of a request whose body would be this long; the answer to it alone.
fn answer_to_promise(server: &Running, bytes: usize) -> String {
    let host = server.url.strip_prefix("http://").unwrap();
    let mut socket = TcpStream::connect(host).unwrap();
    let head = format!(
        "POST /v1/jobs HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\
         Content-Type: application/json\r\nContent-Length: {bytes}\r\n\r\n"
    );
    socket.write_all(head.as_bytes()).unwrap();
    let mut answer = String::new();
    let _ = socket.read_to_string(&mut answer); // a reset comes after the answer
    answer
}

#[test]
fn a_payload_is_taken_up_to_its_last_byte_and_not_one_more() {
    let folder = tempfile::tempdir().unwrap();
    let server = server(folder.path());
    let of = |bytes: usize| asked("echo", &format!("\"{}\"", "x".repeat(bytes - 2)));
    for bytes in [LIMIT - 1, LIMIT] {
        let id = made(&server, &of(bytes));
        let done = end_of(&server.url, &id);
        assert_eq!(done["state"], "completed", "{bytes}: {}", done["failure"]);
        assert_eq!(done["result"].as_str().unwrap().len(), bytes - 2);
        assert_eq!(done["payload"], done["result"]);
    }
    refused(&server, &of(LIMIT + 1), 413, "too-large", Some("/payload"));
    let answer = answer_to_promise(&server, 100 * LIMIT);
    assert!(answer.starts_with("HTTP/1.1 413 "), "{answer}");
    is_well(&server);
}

#[test]
fn a_result_is_kept_up_to_its_last_byte_and_not_one_more() {
    let folder = tempfile::tempdir().unwrap();
    let server = server(folder.path());
    for (bytes, fits) in [
        (LIMIT - 1, true),
        (LIMIT, true),
        (LIMIT + 1, false),
        (100 * LIMIT, false),
        (LIMIT, true),
    ] {
        let id = made(&server, &asked("sized", &bytes.to_string()));
        let done = end_of(&server.url, &id);
        if fits {
            let result = done["result"].as_str().unwrap_or_default();
            assert_eq!(result.len(), bytes - 2, "{bytes}: {}", done["failure"]);
        } else {
            assert_eq!(done["failure"]["class"], "output_limit", "{bytes}: {done}");
            let says = done["failure"]["message"].as_str().unwrap();
            assert!(says.contains("1048576"), "{says}");
        }
    }
    is_well(&server);
}

#[test]
fn json_that_nests_without_end_is_refused_by_its_depth_and_overflows_no_stack() {
    let folder = tempfile::tempdir().unwrap();
    let server = server(folder.path());
    let nested = |depth: usize| format!("{}{}", "[".repeat(depth), "]".repeat(depth));
    let objects = |depth: usize| format!("{}1{}", "{\"a\":".repeat(depth), "}".repeat(depth));
    for deepest in [nested(DEPTH_MAX), objects(DEPTH_MAX)] {
        let id = made(&server, &asked("echo", &deepest));
        let done = end_of(&server.url, &id);
        assert_eq!(done["state"], "completed", "{done}");
        assert_eq!(done["result"].to_string(), deepest);
    }
    for depth in [DEPTH_MAX + 1, FAR_TOO_DEEP, 100 * FAR_TOO_DEEP / 4] {
        for deep in [nested(depth), objects(depth)] {
            if deep.len() < LIMIT {
                refused(
                    &server,
                    &asked("echo", &deep),
                    422,
                    "invalid-job",
                    Some("/payload"),
                );
            }
        }
    }
    // Where offloop reads a value itself, and around the whole.
    let deep = nested(FAR_TOO_DEEP);
    let tags = format!("{{\"task\":\"echo\",\"tags\":{deep}}}");
    refused(&server, tags.as_bytes(), 400, "invalid-json", None);
    refused(&server, deep.as_bytes(), 400, "invalid-json", None);
    let unknown = format!("{{\"task\":\"echo\",\"colour\":{deep}}}");
    refused(
        &server,
        unknown.as_bytes(),
        422,
        "invalid-job",
        Some("/colour"),
    );
    is_well(&server);
}

#[test]
fn a_result_that_nests_without_end_fails_its_job_alone() {
    let folder = tempfile::tempdir().unwrap();
    let server = server(folder.path());
    let run = |depth: usize| -> Value {
        let id = made(&server, &asked("deep", &depth.to_string()));
        end_of(&server.url, &id);
        job(&server.url, &id, "")
    };
    let first = run(DEPTH_MAX);
    assert_eq!(first["state"], "completed", "{first}");
    for depth in [128, FAR_TOO_DEEP] {
        let done = run(depth);
        let failure = &done["failure"];
        assert_eq!(failure["class"], "error", "{depth}: {done}");
        assert!(
            failure["message"].as_str().unwrap().contains("not JSON"),
            "{failure}"
        );
    }
    let last = run(1);
    let executor = |job: &Value| job["attempts"][0]["executor"].clone();
    assert_eq!(executor(&last), executor(&first), "its child stays");
    is_well(&server);
}
