//! Tasks with `encrypt`: what their jobs work on is nowhere on the disk in clear, not even after a
//! server was killed in the middle.
#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]
#![allow(
    clippy::disallowed_methods,
    reason = "the program itself is under test"
)]

use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use serde_json::{Value, json};

mod support;

use support::{Running, program};

/// In everything that a job of the task holds; in no other word of this test.
const CANARY: &str = "canary-9c41e2";

struct Server(Running);

/// As `support` does, and with not a word in the log.
fn serve(folder: &Path) -> Server {
    Server(support::serve_logging(folder, "off"))
}

impl Server {
    fn post(&self, path: &str, body: &Value) -> Value {
        let request = ureq::post(format!("{}{path}", self.0.url));
        let answer = request.config().http_status_as_error(false).build();
        answer
            .send_json(body)
            .unwrap()
            .body_mut()
            .read_json()
            .unwrap()
    }

    fn get(&self, path: &str) -> String {
        let answer = ureq::get(format!("{}{path}", self.0.url)).call();
        answer.unwrap().body_mut().read_to_string().unwrap()
    }

    fn json(&self, path: &str) -> Value {
        serde_json::from_str(&self.get(path)).unwrap()
    }

    fn put(&self, task: &str, key: Option<&str>) -> Value {
        self.post("/v1/jobs", &job(task, key))
    }

    /// The next job of the task, confirmed with everything that a worker may say.
    fn begin(&self, task: &str) -> Value {
        let ask = json!({"worker": "w", "tasks": [task], "wait_ms": 20_000});
        let told = self.post("/v1/work/claim", &ask);
        let job = told["jobs"][0].clone();
        let body = json!({
            "lease": job["lease"], "progress": CANARY, "checkpoint": [CANARY], "log": CANARY,
        });
        let path = format!("/v1/work/{}/extend", job["id"].as_str().unwrap());
        assert_eq!(self.post(&path, &body)["cancel"], false);
        job
    }

    fn settle(&self, job: &Value, mut end: Value) -> Value {
        end["lease"] = job["lease"].clone();
        let path = format!("/v1/work/{}/settle", job["id"].as_str().unwrap());
        self.post(&path, &end)
    }
}

fn job(task: &str, key: Option<&str>) -> Value {
    json!({
        "task": task, "payload": {"secret": CANARY, "fill": "x".repeat(5_000)}, "idempotency_key": key,
        "backoff": {"kind": "fixed", "base_ms": 1, "jitter": 0},
    })
}

/// Files below the folder that hold the canary.
fn found(folder: &Path) -> Vec<String> {
    let mut all = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap().flatten() {
        let path = entry.path();
        if path.is_dir() {
            all.extend(found(&path));
        } else if let Ok(bytes) = std::fs::read(&path) {
            let canary = CANARY.as_bytes();
            let holds = bytes.windows(canary.len()).any(|part| part == canary);
            all.extend(holds.then(|| path.display().to_string()));
        }
    }
    all
}

fn configure(folder: &Path, more: &str) {
    let text = format!(
        "[packs.vault]\nkeys = \"keys\"\n[tasks.secret]\nlane = \"remote\"\nlease = \"2s\"\ngrace = \"1s\"\nencrypt = \"jobs\"\n[tasks.open]\nlane = \"remote\"\n{more}"
    );
    std::fs::write(folder.join("offloop.toml"), text).unwrap();
}

fn run(folder: &Path, words: &[&str], code: i32) -> String {
    let done = program(folder).args(words).output().unwrap();
    let text = String::from_utf8([done.stdout, done.stderr].concat()).unwrap();
    assert_eq!(done.status.code(), Some(code), "{words:?}: {text}");
    text
}

#[test]
fn nothing_of_a_sealed_task_is_on_the_disk_in_clear_even_after_a_kill() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("offloop-data");
    configure(folder.path(), "");
    run(folder.path(), &["vault", "keygen", "jobs"], 0);
    let mut server = serve(folder.path());
    let first = server.put("secret", Some("once"));
    let id = first["id"].as_str().unwrap().to_owned();
    assert_eq!(
        server.put("secret", Some("once"))["id"],
        id.as_str(),
        "known again"
    );

    // Shown to who may ask, in every place.
    let done = server.begin("secret");
    assert_eq!(done["payload"]["secret"], CANARY);
    assert_eq!(
        server.settle(&done, json!({"result": CANARY, "log": CANARY}))["state"],
        "completed"
    );
    let shown = server.json(&format!("/v1/jobs/{id}"));
    assert_eq!(
        (&shown["result"], &shown["payload"]["secret"]),
        (&json!(CANARY), &json!(CANARY))
    );
    assert!(server.get(&format!("/v1/jobs/{id}/logs")).contains(CANARY));

    // One that fails, one that is scheduled, one whose worker is cut off by the kill.
    let bad = server.put("secret", None);
    let failing = server.begin("secret");
    let error = json!({"error": {"message": CANARY, "class": "invalid"}});
    assert_eq!(server.settle(&failing, error)["state"], "failed");
    let path = format!("/v1/jobs/{}", bad["id"].as_str().unwrap());
    assert_eq!(server.json(&path)["failure"]["message"], CANARY);
    let schedule = json!({"task": "secret", "payload": CANARY, "every_ms": 3_600_000});
    let request = ureq::put(format!("{}/v1/schedules/nightly", server.0.url));
    request.send_json(schedule).unwrap();
    let cut = server.put("secret", None);
    let cut = cut["id"].as_str().unwrap().to_owned();
    server.begin("secret");
    for _ in 0..50 {
        server.put("secret", None);
    }
    server.0.kill();
    assert_eq!(found(&data), [] as [&str; 0]);

    // The control: the same of an open task is found.
    let mut server = serve(folder.path());
    let schedule = server.get("/v1/schedules/nightly");
    assert!(schedule.contains(CANARY), "{schedule}");
    let again = server.json(&format!("/v1/jobs/{cut}"));
    assert_eq!(again["payload"]["secret"], CANARY, "{again}");
    server.put("open", None);
    server.0.kill();
    assert_ne!(found(&data), [] as [&str; 0]);
}

#[test]
fn a_missing_key_stops_the_start_by_name_and_later_its_jobs_alone() {
    let folder = tempfile::tempdir().unwrap();
    let keys = folder.path().join("keys");
    std::fs::create_dir(&keys).unwrap();
    std::fs::set_permissions(&keys, std::fs::Permissions::from_mode(0o700)).unwrap();
    configure(folder.path(), "");
    let told = run(folder.path(), &["serve", "--listen", "127.0.0.1:0"], 1);
    assert!(told.contains("tasks.secret.encrypt: "), "{told}");
    run(folder.path(), &["vault", "keygen", "jobs"], 0);
    let server = serve(folder.path());
    let id = server.put("secret", None)["id"]
        .as_str()
        .unwrap()
        .to_owned();
    run(folder.path(), &["vault", "rotate", "jobs"], 0);
    std::fs::remove_file(keys.join("jobs.v1.pem")).unwrap();
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(30);
    let listed = || server.get("/v1/vault/keys");
    while listed().contains("\"version\":1") && std::time::Instant::now() < deadline {
        std::thread::sleep(std::time::Duration::from_millis(50));
    }
    let ask = json!({"worker": "w", "wait_ms": 500});
    let none = server.post("/v1/work/claim", &ask);
    assert_eq!(none["jobs"], json!([]), "it is given to nobody");
    let shown = server.json(&format!("/v1/jobs/{id}"));
    assert_eq!(shown["state"], "failed", "{shown}");
    assert_eq!(shown["failure"]["class"], "invalid");
    assert!(
        shown["failure"]["message"]
            .as_str()
            .unwrap()
            .contains("key"),
        "{shown}"
    );
    server.put("open", None);
    let other = server.post("/v1/work/claim", &json!({"worker": "w", "wait_ms": 9_000}));
    assert_eq!(other["jobs"][0]["task"], "open", "the server goes on");
}
