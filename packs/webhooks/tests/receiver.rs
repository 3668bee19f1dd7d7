//! The receiver of docs/guides/webhooks.md, as it is printed there, against forgers.
#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]
#![allow(clippy::disallowed_methods, reason = "the sample itself is under test")]

use std::io::{BufRead as _, BufReader, Lines, Read as _, Write as _};
use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::{Child, ChildStdout, Command, Stdio};
use std::time::SystemTime;

use offloop::job::{EndStates, Webhook};
use offloop::{Builder, JobOptions, NewJob, NewJobExt as _, TaskOutput, block_on};
use offloop_webhooks::{Secrets, WebhooksOptions, WebhooksPack};

struct Sample {
    child: Child,
    lines: Lines<BufReader<ChildStdout>>,
    port: u16,
}

impl Sample {
    fn start(folder: &Path, secrets: &[&Path]) -> Self {
        let guide = include_str!("../../../docs/guides/webhooks.md");
        let code = guide.split("```python\n").nth(1).unwrap();
        let file = folder.join("receiver.py");
        std::fs::write(&file, code.split("```").next().unwrap()).unwrap();
        let mut command = Command::new("python3");
        command.arg(file).arg("0").args(secrets);
        let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let first = lines.next().unwrap().unwrap();
        let port = first.strip_prefix("listening ").unwrap().parse().unwrap();
        Self { child, lines, port }
    }

    fn line(&mut self) -> String {
        self.lines.next().unwrap().unwrap()
    }

    /// Whether it takes this.
    fn takes(&mut self, id: &str, seconds: u64, signature: &str, body: &str) -> bool {
        let mut stream = TcpStream::connect(("127.0.0.1", self.port)).unwrap();
        let length = body.len();
        let request = format!(
            "POST / HTTP/1.1\r\nHost: x\r\nwebhook-id: {id}\r\nwebhook-timestamp: {seconds}\r\nwebhook-signature: {signature}\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n{body}"
        );
        stream.write_all(request.as_bytes()).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        let accepted = self.line().starts_with("accepted");
        assert_eq!(accepted, answer.contains(" 204 "), "{answer}");
        accepted
    }
}

impl Drop for Sample {
    fn drop(&mut self) {
        let _ = self.child.kill(); // it may have ended
        let _ = self.child.wait();
    }
}

fn secret(folder: &Path, version: u32, fill: &str) -> std::path::PathBuf {
    std::fs::create_dir_all(folder).unwrap();
    let file = folder.join(format!("default.v{version}.whsec"));
    std::fs::write(&file, format!("whsec_{}", fill.repeat(8))).unwrap();
    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o600)).unwrap();
    file
}

fn now() -> u64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    since.unwrap().as_secs()
}

const BODY: &str = r#"{"type":"job.completed","data":{"id":"1"}}"#;

#[test]
fn a_receiver_takes_nothing_that_was_altered_is_old_was_seen_or_is_signed_by_another() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path().join("secrets");
    let first = secret(&at, 1, "AAAA");
    let mut sample = Sample::start(folder.path(), &[&first]);
    let secrets = Secrets::load(&at).unwrap();
    let sign = |id: &str, seconds, body: &str| {
        let signed = secrets.sign("default", id, seconds, body.as_bytes());
        signed.unwrap()
    };
    let now = now();
    let good = sign("msg_1", now, BODY);
    assert!(sample.takes("msg_1", now, &good, BODY), "the control");
    let altered = BODY.replace("completed", "failed");
    let forged = good.replace("v1,", "v1,A");
    let unsigned = [
        ("msg_1", now, good.clone(), BODY.to_owned()), // replayed
        ("msg_2", now, good.clone(), BODY.to_owned()), // under another id
        ("msg_3", now, sign("msg_3", now, BODY), altered), // altered body
        ("msg_4", now + 1, sign("msg_4", now, BODY), BODY.to_owned()),
        (
            "msg_5",
            now - 600,
            sign("msg_5", now - 600, BODY),
            BODY.to_owned(),
        ), // old
        (
            "msg_6",
            now + 600,
            sign("msg_6", now + 600, BODY),
            BODY.to_owned(),
        ), // from the future
        ("msg_7", now, forged, BODY.to_owned()),
        ("msg_8", now, String::new(), BODY.to_owned()),
        ("msg_9", now, "v1,".into(), BODY.to_owned()),
        (
            "msg_10",
            now,
            sign("msg_10", now, BODY).replace("v1,", "v2,"),
            BODY.to_owned(),
        ),
    ];
    for (id, seconds, signature, body) in unsigned {
        assert!(!sample.takes(id, seconds, &signature, &body), "{id}");
    }
}

#[test]
fn a_rotation_leaves_no_moment_in_which_nothing_fits_and_the_old_secret_ends() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path().join("secrets");
    let first = secret(&at, 1, "AAAA");
    let mut before = Sample::start(folder.path(), &[&first]);
    let second = secret(&at, 2, "BBBB");
    let mut after = Sample::start(folder.path(), &[&second]);
    let both = Secrets::load(&at).unwrap();
    let now = now();
    let sign = |secrets: &Secrets, id: &str| {
        let signed = secrets.sign("default", id, now, BODY.as_bytes());
        signed.unwrap()
    };
    assert!(before.takes("msg_1", now, &sign(&both, "msg_1"), BODY));
    assert!(after.takes("msg_1", now, &sign(&both, "msg_1"), BODY));
    std::fs::remove_file(&first).unwrap();
    let new = Secrets::load(&at).unwrap();
    assert!(!before.takes("msg_2", now, &sign(&new, "msg_2"), BODY));
    assert!(after.takes("msg_2", now, &sign(&new, "msg_2"), BODY));
}

#[test]
fn what_the_server_sends_is_what_the_receiver_takes() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path().join("secrets");
    let file = secret(&at, 1, "CCCC");
    let mut sample = Sample::start(folder.path(), &[&file]);
    let mut options = WebhooksOptions::new(&at);
    options.policy.http = true;
    options.policy.ports = vec![sample.port];
    options.policy.allow = vec!["127.0.0.1/32".parse().unwrap()];
    let server = Builder::embedded(folder.path().join("data"))
        .cpu_task("add", |_| Ok(TaskOutput::json("1")))
        .unwrap()
        .pack(WebhooksPack::new(options))
        .start()
        .unwrap();
    let webhook = Webhook {
        url: format!("http://127.0.0.1:{}/", sample.port).into(),
        on: EndStates::ALL,
        secret: None,
    };
    let job = NewJob::of("add", &1).unwrap().with(JobOptions {
        webhook: Some(Box::new(webhook)),
        ..JobOptions::default()
    });
    block_on(server.handle().enqueue(vec![job])).unwrap();
    assert!(sample.line().starts_with("accepted "));
}
