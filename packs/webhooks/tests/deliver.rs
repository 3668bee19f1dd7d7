//! Ends of real jobs, told to a real receiver.
#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::Duration;

use offloop::job::{EndStates, Webhook};
use offloop::runtime::EnqueueError;
use offloop::store::InsertOutcome;
use offloop::{
    Builder, JobId, JobOptions, JobState, NewJob, NewJobExt as _, Server, TaskError, TaskName,
    TaskOutput, Timestamp, block_on,
};
use offloop_webhooks::{Secrets, WebhooksOptions, WebhooksPack};
use serde_json::{Value, json};

const SOON: Duration = Duration::from_secs(30);
const SECRET: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";

/// One request that a receiver got.
#[derive(Debug)]
struct Got {
    headers: Vec<(String, String)>,
    body: String,
}

impl Got {
    fn header(&self, name: &str) -> &str {
        let found = self.headers.iter().find(|(key, _)| key == name);
        &found.unwrap_or_else(|| panic!("no {name}: {self:?}")).1
    }

    fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap()
    }
}

fn read(stream: &TcpStream) -> Option<Got> {
    let mut reader = BufReader::new(stream);
    let mut lines = Vec::new();
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line).ok()? == 0 {
            return None;
        }
        match line.trim_end() {
            "" => break,
            text => lines.push(text.to_owned()),
        }
    }
    let headers: Vec<_> = lines[1..]
        .iter()
        .filter_map(|line| line.split_once(": "))
        .map(|(name, value)| (name.to_ascii_lowercase(), value.to_owned()))
        .collect();
    let length = headers.iter().find(|(name, _)| name == "content-length");
    let mut body = vec![0; length.map_or(0, |(_, text)| text.parse().unwrap())];
    reader.read_exact(&mut body).ok()?;
    let body = String::from_utf8(body).unwrap();
    Some(Got { headers, body })
}

/// Answers each request with the next of `answers`, the last one again and again. An empty answer
/// leaves the connection open and silent.
fn receiver(answers: &[&str]) -> (SocketAddr, Receiver<Got>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let at = listener.local_addr().unwrap();
    let (tell, got) = channel();
    let answers: Vec<String> = answers.iter().map(|text| (*text).to_owned()).collect();
    std::thread::spawn(move || serve(&listener, &answers, &tell));
    (at, got)
}

fn serve(listener: &TcpListener, answers: &[String], tell: &Sender<Got>) {
    let mut kept = Vec::new();
    for (turn, stream) in listener.incoming().enumerate() {
        let mut stream = stream.unwrap();
        let Some(got) = read(&stream) else { continue };
        let answer = &answers[turn.min(answers.len() - 1)];
        if answer.is_empty() {
            kept.push(stream); // hangs
        } else {
            let text = format!("HTTP/1.1 {answer}\r\nContent-Length: 0\r\n\r\n");
            let _ = stream.write_all(text.as_bytes()); // it may have left
        }
        if tell.send(got).is_err() {
            return;
        }
    }
}

fn secrets(folder: &Path, versions: &[(u32, &str)]) -> std::path::PathBuf {
    let at = folder.join("secrets");
    std::fs::create_dir_all(&at).unwrap();
    for (version, text) in versions {
        let file = at.join(format!("default.v{version}.whsec"));
        std::fs::write(&file, text).unwrap();
        std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o600)).unwrap();
    }
    at
}

fn options(folder: &Path, receivers: &[SocketAddr]) -> WebhooksOptions {
    let mut options = WebhooksOptions::new(secrets(folder, &[(1, SECRET)]));
    options.policy.http = true;
    options.policy.ports = receivers.iter().map(SocketAddr::port).collect();
    options.policy.allow = vec!["127.0.0.1/32".parse().unwrap()];
    options.timeout = Duration::from_millis(1_500);
    options
}

fn server(folder: &Path, options: WebhooksOptions) -> Server {
    Builder::embedded(folder.join("data"))
        .cpu_task("add", |context| {
            let numbers: Vec<i64> = offloop::payload(context)?;
            Ok(TaskOutput::json(numbers.iter().sum::<i64>().to_string()))
        })
        .unwrap()
        .cpu_task("bad", |_| Err(TaskError::invalid("no <numbers>")))
        .unwrap()
        .pack(WebhooksPack::new(options))
        .start()
        .unwrap()
}

fn hook(at: SocketAddr, path: &str, on: EndStates) -> Webhook {
    Webhook {
        url: format!("http://{at}{path}").into(),
        on,
        secret: None,
    }
}

fn job(task: &str, webhook: impl Into<Option<Webhook>>) -> NewJob {
    NewJob::of(task, &[1, 2, 3]).unwrap().with(JobOptions {
        webhook: webhook.into().map(Box::new),
        ..JobOptions::default()
    })
}

fn put(server: &Server, job: NewJob) -> JobId {
    let outcomes = block_on(server.handle().enqueue(vec![job])).unwrap();
    let InsertOutcome::Created { id, .. } = outcomes[0] else {
        panic!("{outcomes:?}");
    };
    id
}

fn all(server: &Server, task: &str) -> Vec<offloop::job::JobSummary> {
    let ask = offloop::store::ListRequest {
        filter: offloop::store::JobFilter {
            task: Some(TaskName::parse(task).unwrap()),
            ..Default::default()
        },
        now: server.handle().now(),
        limit: 100,
        cursor: None,
    };
    block_on(server.handle().jobs(ask)).unwrap().jobs
}

/// Looks until it is so.
#[track_caller]
fn until<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let deadline = std::time::Instant::now() + SOON;
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(std::time::Instant::now() < deadline, "not {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn delivery_in(server: &Server, state: JobState) -> offloop::job::JobSummary {
    until(&format!("a delivery that is {state}"), || {
        let found = all(server, "webhook.deliver").into_iter();
        found.into_iter().find(|job| job.state == state)
    })
}

#[test]
fn every_kind_of_end_is_told_signed_and_with_what_came_of_it() {
    let folder = tempfile::tempdir().unwrap();
    let (at, got) = receiver(&["204 No Content"]);
    let server = server(folder.path(), options(folder.path(), &[at]));
    let id = put(&server, job("add", hook(at, "/hook?x=1", EndStates::ALL)));
    let told = got.recv_timeout(SOON).unwrap();
    let event = told.json();
    assert_eq!(event["type"], "job.completed");
    assert_eq!(event["data"]["id"], id.to_string());
    assert_eq!(
        (&event["data"]["result"], &event["data"]["attempt"]),
        (&json!(6), &json!(1))
    );
    assert_eq!(told.header("host"), at.to_string());
    let secrets = Secrets::load(&folder.path().join("secrets")).unwrap();
    let seconds = told.header("webhook-timestamp").parse().unwrap();
    let message = told.header("webhook-id");
    let want = secrets.sign("default", message, seconds, told.body.as_bytes());
    assert_eq!(Some(told.header("webhook-signature").to_owned()), want);
    let done = delivery_in(&server, JobState::Completed);
    assert_eq!(message, format!("msg_{}", done.id));

    let failed = put(&server, job("bad", hook(at, "/", EndStates::ALL)));
    let event = got.recv_timeout(SOON).unwrap().json();
    assert_eq!(event["type"], "job.failed");
    assert_eq!(event["data"]["id"], failed.to_string());
    assert_eq!(event["data"]["failure"]["class"], "invalid");
    assert_eq!(event["data"]["reason"], "not_retryable");

    let mut late = job("add", hook(at, "/", EndStates::ALL));
    late.options.run_at = Some(Timestamp::from_millis(1 << 42));
    let id = put(&server, late.clone());
    block_on(server.handle().cancel(id)).unwrap();
    assert_eq!(
        got.recv_timeout(SOON).unwrap().json()["type"],
        "job.cancelled"
    );
    block_on(server.handle().set_paused("default".parse_queue(), true)).unwrap();
    let mut stale = job("add", hook(at, "/", EndStates::ALL));
    stale.options.expires_at = Some(server.handle().now());
    put(&server, stale);
    assert_eq!(
        got.recv_timeout(SOON).unwrap().json()["type"],
        "job.expired"
    );
}

trait Queue {
    fn parse_queue(&self) -> offloop::QueueName;
}

impl Queue for str {
    fn parse_queue(&self) -> offloop::QueueName {
        offloop::QueueName::parse(self).unwrap()
    }
}

#[test]
fn only_the_ends_that_were_asked_for_are_told_and_a_job_wins_over_its_task() {
    let folder = tempfile::tempdir().unwrap();
    let (own, at_own) = receiver(&["200 OK"]);
    let (of_task, at_task) = receiver(&["200 OK"]);
    let mut options = options(folder.path(), &[own, of_task]);
    let all_of_task = hook(of_task, "/", EndStates::ALL);
    options
        .tasks
        .insert(TaskName::parse("add").unwrap(), all_of_task);
    let server = server(folder.path(), options);
    let failures = EndStates::NONE.with(JobState::Failed);
    put(&server, job("add", hook(own, "/", failures)));
    let id = put(&server, job("add", None));
    let told = at_task.recv_timeout(SOON).unwrap().json();
    assert_eq!(told["data"]["id"], id.to_string());
    until("both ended", || {
        (all(&server, "add")
            .iter()
            .all(|job| job.state == JobState::Completed))
        .then_some(())
    });
    assert_eq!(all(&server, "webhook.deliver").len(), 1);
    assert!(at_own.try_recv().is_err());
}

#[test]
fn a_receiver_that_fails_is_told_again_and_one_that_redirects_is_not_followed() {
    let folder = tempfile::tempdir().unwrap();
    let (inside, canary) = receiver(&["200 OK"]);
    let redirect = format!("302 Found\r\nLocation: http://{inside}/");
    let (at, got) = receiver(&[&redirect, "500 Oops", "200 OK"]);
    let server = server(folder.path(), options(folder.path(), &[at, inside]));
    put(&server, job("add", hook(at, "/", EndStates::ALL)));
    let first = got.recv_timeout(SOON).unwrap();
    let waiting = delivery_in(&server, JobState::Scheduled);
    let failure = waiting.failure.unwrap();
    assert!(
        failure.message.contains("redirects are not followed"),
        "{failure:?}"
    );
    let second = got.recv_timeout(SOON).unwrap(); // about 5 s later
    assert_eq!(
        first.header("webhook-id"),
        second.header("webhook-id"),
        "the same message"
    );
    assert_eq!(first.body, second.body);
    assert!(canary.try_recv().is_err());
}

#[test]
fn a_receiver_inside_is_refused_at_the_door_by_its_field() {
    let folder = tempfile::tempdir().unwrap();
    let (at, got) = receiver(&["200 OK"]);
    let mut options = options(folder.path(), &[at]);
    options.policy.allow.clear();
    let server = server(folder.path(), options);
    for url in [
        format!("http://{at}/"),
        format!("http://localhost.:{}/@", at.port()),
        "http://169.254.169.254/".into(),
        "file:///etc/passwd".into(),
    ] {
        let webhook = Webhook {
            url: url.as_str().into(),
            on: EndStates::ALL,
            secret: None,
        };
        let asked = block_on(server.handle().enqueue(vec![job("add", webhook)]));
        match asked {
            Err(EnqueueError::Options(found)) => assert_eq!(found[0].field, "webhook/url"),
            // A name is looked up when it is called.
            Ok(_) => {
                let failed = delivery_in(&server, JobState::Failed);
                assert!(failed.failure.unwrap().message.contains("loopback"));
            }
            Err(other) => panic!("{url}: {other}"),
        }
    }
    let mut unknown = job("add", hook(at, "/", EndStates::ALL));
    unknown.options.webhook = Some(Box::new(Webhook {
        url: "https://example.com/".into(),
        on: EndStates::ALL,
        secret: Some("nope".into()),
    }));
    let asked = block_on(server.handle().enqueue(vec![unknown]));
    assert!(asked.is_err());
    assert!(got.try_recv().is_err(), "nobody was connected to");
}

#[test]
fn a_receiver_that_hangs_holds_up_neither_jobs_nor_other_receivers() {
    let folder = tempfile::tempdir().unwrap();
    let (hanging, hung) = receiver(&[""]);
    let (well, told) = receiver(&["200 OK"]);
    let mut options = options(folder.path(), &[hanging, well]);
    options.per_host = 2;
    options.concurrency = 4;
    options.timeout = Duration::from_secs(20);
    let server = server(folder.path(), options);
    for _ in 0..12 {
        put(&server, job("add", hook(hanging, "/", EndStates::ALL)));
    }
    for _ in 0..2 {
        hung.recv_timeout(SOON).unwrap(); // they hang now, for 20 s
    }
    for _ in 0..6 {
        put(&server, job("add", hook(well, "/", EndStates::ALL)));
        told.recv_timeout(Duration::from_secs(15)).unwrap();
    }
    assert!(hung.try_recv().is_err(), "two at a time");
}

#[test]
fn a_receiver_that_says_it_is_gone_is_not_called_again_until_a_person_says_so() {
    let folder = tempfile::tempdir().unwrap();
    let (at, got) = receiver(&["410 Gone", "200 OK"]);
    let server = server(folder.path(), options(folder.path(), &[at]));
    put(&server, job("add", hook(at, "/", EndStates::ALL)));
    got.recv_timeout(SOON).unwrap();
    let gone = delivery_in(&server, JobState::Failed);
    put(&server, job("add", hook(at, "/", EndStates::ALL)));
    let refused = until("refused", || {
        let found = all(&server, "webhook.deliver").into_iter();
        found
            .into_iter()
            .find(|job| job.id != gone.id && job.state == JobState::Failed)
    });
    let message = refused.failure.unwrap().message;
    assert!(message.contains("given up"), "{message}");
    assert!(got.try_recv().is_err());
}

#[test]
fn a_server_without_secrets_refuses_webhooks_by_their_field() {
    let folder = tempfile::tempdir().unwrap();
    let server = Builder::embedded(folder.path())
        .cpu_task("add", |_| Ok(TaskOutput::none()))
        .unwrap()
        .start()
        .unwrap();
    let (at, _got) = receiver(&["200 OK"]);
    let asked = block_on(
        server
            .handle()
            .enqueue(vec![job("add", hook(at, "/", EndStates::ALL))]),
    );
    let Err(EnqueueError::Options(found)) = asked else {
        panic!("{asked:?}");
    };
    assert_eq!(found[0].field, "webhook");
}
