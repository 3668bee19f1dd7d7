//! Secrets leave no trace: not in the data folder, not in errors, not in logs, not as jobs.

use std::fs;
use std::io::Write;
use std::path::Path;
use std::sync::{Arc, Mutex};

use serde_json::json;

use super::support::{World, b64};

/// Long enough that no accident makes it.
const CANARY: &str = "canary-3f9b1c-secret";

fn hunt(folder: &Path, needles: &[Vec<u8>], seen: &mut usize) {
    for entry in fs::read_dir(folder).unwrap().flatten() {
        if entry.path().is_dir() {
            hunt(&entry.path(), needles, seen);
            continue;
        }
        let Ok(bytes) = fs::read(entry.path()) else {
            continue; // a socket
        };
        *seen += bytes.len();
        for needle in needles {
            let found = bytes
                .windows(needle.len())
                .any(|window| window == &needle[..]);
            assert!(
                !found,
                "{:?} is in {}",
                String::from_utf8_lossy(needle),
                entry.path().display()
            );
        }
    }
}

#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl Write for Log {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().write(bytes)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[test]
fn a_secret_is_nowhere_after_the_server_has_gone() {
    let log = Log::default();
    let writer = log.clone();
    tracing_subscriber::fmt()
        .with_max_level(tracing_subscriber::filter::LevelFilter::TRACE)
        .with_writer(move || writer.clone())
        .init();
    let mut world = World::new();
    let secret = b64(CANARY);
    let bodies = [
        (
            "hash",
            json!({"password": CANARY, "params": {"memory_kib": 64}}),
        ),
        ("hash", json!({"password": CANARY, "algorithm": CANARY})),
        ("hash", json!({"password": [CANARY]})),
        ("hash", json!({"password": CANARY.repeat(500)})),
        (
            "hash",
            json!({"password": CANARY, "algorithm": "bcrypt", "params": {"cost": CANARY}}),
        ),
        (
            "hash",
            json!({"items": [{"password": CANARY}, {"password": {"p": CANARY}}]}),
        ),
        (
            "verify",
            json!({"password": CANARY, "hash": format!("$2b${CANARY}")}),
        ),
        ("verify", json!({"password": CANARY, "hash": CANARY})),
        (
            "seal",
            json!({"key": "documents", "plaintext": secret, "aad": secret}),
        ),
        ("seal", json!({"key": "documents", "plaintext": CANARY})),
        ("seal", json!({"key": "nobody", "plaintext": secret})),
        ("open", json!({"envelope": secret})),
        ("sign", json!({"key": "ed", "message": secret})),
        ("sign", json!({"key": "documents", "message": secret})),
        (
            "check",
            json!({"key": "ed", "message": secret, "signature": secret}),
        ),
    ];
    for (op, body) in &bodies {
        let answer = world.post(&format!("/v1/vault/{op}"), &body.to_string());
        let text = String::from_utf8_lossy(&answer.body).into_owned();
        assert!(
            !text.contains(CANARY) && !text.contains(&secret),
            "{op}: {text}"
        );
        // The same as a call, and as a job that must not be.
        let call = json!({"payload": body}).to_string();
        let answer = world.post(&format!("/v1/call/vault.{op}"), &call);
        let text = String::from_utf8_lossy(&answer.body).into_owned();
        assert!(
            !text.contains(CANARY) && !text.contains(&secret),
            "call {op}: {text}"
        );
        let job = json!({"task": format!("vault.{op}"), "payload": body}).to_string();
        let answer = world.post("/v1/jobs", &job);
        assert_eq!(answer.problem().1, "unknown-task", "{op}");
        assert!(!String::from_utf8_lossy(&answer.body).contains(CANARY));
    }
    world.half("/v1/vault/hash");
    // Something durable, so that the hunt has a store to look into.
    world.post(
        "/v1/jobs",
        r#"{"task":"offloop.noop","payload":{"marker":"durable-marker"}}"#,
    );
    tracing::info!("the log is heard");
    world.end();
    let material = fs::read_to_string(world.keys().join("documents.v1.pem")).unwrap();
    let material = material.lines().nth(1).unwrap().to_owned();
    let needles = [CANARY, &secret, &material].map(|needle| needle.as_bytes().to_vec());
    let mut seen = 0;
    hunt(&world.data(), &needles, &mut seen);
    assert!(seen > 1000, "the hunt saw {seen} bytes");
    let log = log.0.lock().unwrap();
    let log = String::from_utf8_lossy(&log);
    assert!(log.contains("the log is heard"), "{log}");
    for needle in [CANARY, &secret, &material] {
        assert!(!log.contains(needle), "{needle} is in the log");
    }
}
