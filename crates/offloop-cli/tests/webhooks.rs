//! Webhooks through the program: its file, its commands, and a receiver that is a process of its
//! own, checks signatures by the code of docs/guides/webhooks.md, and can also be busy, hang, or
//! point inward.
#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]
#![allow(
    clippy::disallowed_methods,
    reason = "the program itself is under test"
)]

use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::Command;
use std::time::Instant;

use serde_json::{Value, json};

mod support;

use support::{PATIENCE, Running, end_of, post, serve};

/// Behind the guide's `accept`. `/busy`: 503 to the first try of each message. `/hang`: no answer.
/// `/inward`: leads to a port that it was told.
const RECEIVER: &str = r#"
import threading
tried = set()

class Odd(http.server.BaseHTTPRequestHandler):
    def do_POST(self):
        body = self.rfile.read(int(self.headers["content-length"]))
        message = self.headers["webhook-id"]
        def say(status, word, *headers):
            self.send_response(status)
            for name, value in headers:
                self.send_header(name, value)
            self.end_headers()
            print(word, message, json.loads(body)["data"]["id"], flush=True)
        if self.path == "/hang":
            print("hanging", message, flush=True)
            threading.Event().wait()
        if self.path == "/inward":
            return say(302, "led", ("location", f"http://127.0.0.1:{INWARD}/latest/meta-data"))
        if message not in tried:
            tried.add(message)
            return say(503, "busy", ("retry-after", "1"))
        say(*((204, "accepted") if accept(self.headers, body) else (400, "refused")))

    def log_message(self, *_):
        pass

INWARD = int(sys.argv[1])
server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Odd)
server.daemon_threads = True
print("listening", server.server_port, flush=True)
server.serve_forever()
"#;

struct Receiver {
    running: Running,
    port: u16,
}

impl Receiver {
    /// With a secret in `secrets` of the folder, which the server signs by.
    fn start(folder: &Path, inward: u16) -> Self {
        let guide = include_str!("../../../docs/guides/webhooks.md");
        let code = guide.split("```python\n").nth(1).unwrap();
        let checks = code.split("class Receiver").next().unwrap();
        let file = folder.join("receiver.py");
        std::fs::write(&file, format!("{checks}{RECEIVER}")).unwrap();
        let secrets = folder.join("secrets");
        std::fs::create_dir_all(&secrets).unwrap();
        let secret = secrets.join("default.v1.whsec");
        std::fs::write(&secret, format!("whsec_{}", "QUJD".repeat(8))).unwrap();
        std::fs::set_permissions(&secret, std::fs::Permissions::from_mode(0o600)).unwrap();
        let mut command = Command::new("python3");
        command.arg(file).arg(inward.to_string()).arg(secret);
        let mut running = Running::new(&mut command);
        let port = running.line("listening ").parse().unwrap();
        Self { running, port }
    }

    fn url(&self, path: &str) -> String {
        format!("http://127.0.0.1:{}{path}", self.port)
    }
}

/// All jobs of `told` are told to `/busy`.
fn configure(folder: &Path, receiver: &Receiver) {
    let (port, url) = (receiver.port, receiver.url("/busy"));
    let text = format!(
        "[packs.webhooks]\nsecrets = \"secrets\"\nhttp = true\nports = [{port}]\n\
         allow = [\"127.0.0.1/32\"]\ntimeout = \"60s\"\n\
         [tasks.told]\nlane = \"exec\"\ncommand = [\"true\"]\n\
         [tasks.told.webhook]\nurl = \"{url}\"\n"
    );
    std::fs::write(folder.join("offloop.toml"), text).unwrap();
}

/// A no-op whose end is told to this path.
fn enqueue(server: &Running, url: &str) -> String {
    let body = json!({"task": "offloop.noop", "webhook": {"url": url}});
    let (status, job) = post(&server.url, body.to_string().as_bytes());
    assert_eq!(status, 201, "{job}");
    job["id"].as_str().unwrap().to_owned()
}

fn deliveries(server: &Running) -> Vec<Value> {
    let found = server.json(&["jobs", "--task", "webhook.deliver"], 0);
    found["jobs"].as_array().unwrap().clone()
}

#[test]
fn a_delivery_survives_a_busy_receiver_and_a_killed_server_and_arrives_signed() {
    let folder = tempfile::tempdir().unwrap();
    let mut receiver = Receiver::start(folder.path(), 1);
    configure(folder.path(), &receiver);
    let mut server = serve(folder.path());
    let job = server.json(&["enqueue", "told", "--wait", "60"], 0);
    let id = job["id"].as_str().unwrap();
    let first = receiver.running.line("busy ");
    assert!(first.ends_with(id), "{first}");
    server.kill(); // with the answer on its way, or just taken down
    let server = serve(folder.path());
    assert_eq!(
        receiver.running.line("accepted "),
        first,
        "the same message"
    );
    let all = deliveries(&server);
    assert_eq!(all.len(), 1, "{all:?}");
    let end = end_of(&server.url, all[0]["id"].as_str().unwrap());
    assert_eq!(end["state"], "completed", "{end}");
}

#[test]
fn a_receiver_that_hangs_holds_no_job_back() {
    let folder = tempfile::tempdir().unwrap();
    let mut receiver = Receiver::start(folder.path(), 1);
    configure(folder.path(), &receiver);
    let server = serve(folder.path());
    let noops = |count: usize| {
        let began = Instant::now();
        let body = json!({"task": "offloop.noop"}).to_string();
        let ids = (0..count).map(|_| post(&server.url, body.as_bytes()).1["id"].clone());
        let ids: Vec<_> = ids.collect();
        for id in &ids {
            assert_eq!(
                end_of(&server.url, id.as_str().unwrap())["state"],
                "completed"
            );
        }
        began.elapsed()
    };
    let alone = noops(200);
    for _ in 0..40 {
        enqueue(&server, &receiver.url("/hang"));
    }
    receiver.running.line("hanging ");
    let beside = noops(200);
    eprintln!("200 no-ops: {alone:?} alone, {beside:?} beside 40 deliveries to one that hangs");
    // Nothing has let go of it meanwhile: the jobs ran beside it.
    let all = deliveries(&server);
    assert_eq!(all.len(), 40);
    let over = |job: &&Value| job["finished_at"].is_string();
    assert_eq!(all.iter().filter(over).count(), 0, "{all:?}");
}

#[test]
fn a_receiver_that_points_inward_is_not_followed_and_an_address_inside_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let inward = TcpListener::bind("127.0.0.1:0").unwrap();
    inward.set_nonblocking(true).unwrap();
    let mut receiver = Receiver::start(folder.path(), inward.local_addr().unwrap().port());
    configure(folder.path(), &receiver);
    let server = serve(folder.path());
    enqueue(&server, &receiver.url("/inward"));
    receiver.running.line("led ");
    let deadline = Instant::now() + PATIENCE;
    let failed = loop {
        let all = deliveries(&server);
        let id = all.first().and_then(|job| job["id"].as_str());
        let job = id.map_or(Value::Null, |id| support::job(&server.url, id, ""));
        if job["attempts"][0]["end"].is_object() {
            break job;
        }
        assert!(
            Instant::now() < deadline,
            "the answer is not taken down: {job}"
        );
        std::thread::yield_now();
    };
    let told = failed["attempts"][0]["end"].to_string();
    assert!(told.contains("302"), "{failed}");
    let nobody = inward.accept().unwrap_err();
    assert_eq!(nobody.kind(), std::io::ErrorKind::WouldBlock);
    for host in ["169.254.169.254", "[::ffff:10.0.0.1]", "127.0.0.2"] {
        let url = format!("http://{host}:{}/latest/meta-data", receiver.port);
        let body = json!({"task": "offloop.noop", "webhook": {"url": url}});
        let (status, said) = post(&server.url, body.to_string().as_bytes());
        assert_eq!(status, 422, "{url}: {said}");
        assert!(said.to_string().contains("/webhook/url"), "{said}");
    }
}
