//! One job's events: what a reader sees, when it comes late, and when it does not keep up.

use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Mutex, PoisonError};

use offloop_lane::{Lane, TaskContext, TaskError, TaskOutput};
use offloop_lane_cpu::CpuLane;
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;

use crate::support::{Server, info, read_until, soon};

/// A task that says what it is told to say: `log X`, `partial X`, `progress X`; ends at `end`.
fn talker() -> (Arc<dyn Lane>, Sender<&'static str>) {
    let (say, orders) = channel::<&'static str>();
    let orders: Arc<Mutex<Receiver<&'static str>>> = Arc::new(Mutex::new(orders));
    let code = move |ctx: &TaskContext| -> Result<TaskOutput, TaskError> {
        ctx.progress("0")?; // it runs
        let orders = orders.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            let order = orders.recv().map_err(|_| TaskError::stopped())?;
            match order.split_once(' ') {
                Some(("log", text)) => ctx.log(text),
                Some(("partial", data)) => ctx.partial(data)?,
                Some(("progress", note)) => ctx.progress(note)?,
                Some(("flood", text)) => {
                    (0..20_000).for_each(|_| ctx.log(text));
                    return Ok(TaskOutput::none());
                }
                _ => return Ok(TaskOutput::json("[7]")),
            }
        }
    };
    let lane = CpuLane::builder("talk")
        .threads(1)
        .task(info("talk"), Arc::new(code))
        .build();
    (Arc::new(lane), say)
}

/// A reader and everything that it has heard.
struct Ear {
    socket: TcpStream,
    heard: String,
}

impl Ear {
    /// Everything so far, once `what` is in it.
    async fn until(&mut self, what: &str) -> &str {
        read_until(&mut self.socket, &mut self.heard, |text| {
            text.contains(what)
        })
        .await;
        assert!(self.heard.contains(what), "no {what:?} in {}", self.heard);
        &self.heard
    }
}

async fn listen(server: &Server, id: &str, headers: &str) -> Ear {
    let mut socket = server.connect().await;
    let head = format!(
        "GET /v1/jobs/{id}/events HTTP/1.1\r\nHost: {}\r\n{headers}\r\n",
        server.at
    );
    socket.write_all(head.as_bytes()).await.unwrap();
    let heard = String::new();
    Ear { socket, heard }
}

/// The ids of the events in a text, in order.
fn ids(text: &str) -> Vec<&str> {
    text.lines()
        .filter_map(|line| line.strip_prefix("id: "))
        .collect()
}

#[tokio::test]
async fn a_reader_sees_everything_that_a_job_says_in_order_and_then_its_end() {
    let (lane, say) = talker();
    let server = Server::with_lane(lane).await;
    let id = server.job(r#"{"task":"talk"}"#).await;
    server.running(&id).await;
    let mut ear = listen(&server, &id, "").await;
    let hello = ear.until("event: state").await;
    assert!(hello.contains("text/event-stream"), "{hello}");
    for order in [
        "log one",
        "partial {\"a\":\n1}",
        "progress 50",
        "log žluť",
        "end",
    ] {
        say.send(order).unwrap();
    }
    let text = ear.until("event: end").await;
    let at = |needle: &str| {
        text.find(needle)
            .unwrap_or_else(|| panic!("no {needle:?} in {text}"))
    };
    let order = [
        at("\"text\":\"one\\n\""),
        at("event: partial"),
        at("\"note\":50"),
        at("\"text\":\"žluť\\n\""),
        at("event: completed"),
        at("event: end"),
    ];
    assert!(order.is_sorted(), "{order:?} in {text}");
    assert!(text.contains("\"data\":{\"a\": 1}"), "on one line: {text}");
    let address = format!("\"job\":\"/v1/jobs/{id}\"");
    ear.until(&address).await;
    assert_eq!(
        server.get(&format!("/v1/jobs/{id}")).await.json()["result"][0],
        7
    );
}

#[tokio::test]
async fn who_comes_after_the_end_gets_it_at_once_and_is_told_not_to_come_back() {
    let server = Server::start().await;
    let id = server.job(r#"{"task":"fail"}"#).await;
    server.end(&id).await;
    let mut ear = listen(&server, &id, "").await;
    let text = ear.until("event: end\ndata: ").await;
    assert!(
        text.contains("event: state") && text.contains("\"state\":\"failed\""),
        "{text}"
    );
    let path = format!("/v1/jobs/{id}/events");
    let again = server.send("GET", &path, "Last-Event-ID: end\r\n", b"");
    assert_eq!(soon(again).await.status, 204);
    let unknown = server
        .get("/v1/jobs/0199f3c2-7c1e-7a40-8000-1f2e3d4c5b6a/events")
        .await;
    unknown.is_problem(404, "not-found");
}

#[tokio::test]
async fn a_reader_that_comes_back_goes_on_where_it_was() {
    let (lane, say) = talker();
    let server = Server::with_lane(lane).await;
    let id = server.job(r#"{"task":"talk"}"#).await;
    server.running(&id).await;
    let mut ear = listen(&server, &id, "").await;
    ear.until("event: state").await;
    say.send("log one").unwrap();
    say.send("log two").unwrap();
    let text = ear.until("two").await;
    let seen = ids(text).into_iter().next_back().unwrap().to_owned();
    drop(ear);
    say.send("log three").unwrap();
    let mut ear = listen(&server, &id, &format!("Last-Event-ID: {seen}\r\n")).await;
    let text = ear.until("three").await;
    assert!(
        !text.contains("\"two\\n\"") && !text.contains("lagged"),
        "{text}"
    );
    let mut stranger = listen(&server, &id, "Last-Event-ID: 1-2-3\r\n").await;
    stranger.until("event: lagged").await;
    say.send("end").unwrap();
    for ear in [&mut ear, &mut stranger] {
        ear.until("event: end").await;
    }
}

/// It reads nothing while the job prints twenty times what is kept.
#[tokio::test]
async fn a_reader_that_does_not_read_is_told_that_it_lags_and_still_hears_of_the_end() {
    let (lane, say) = talker();
    let server = Server::with_lane(lane).await;
    let id = server.job(r#"{"task":"talk"}"#).await;
    server.running(&id).await;
    let mut ear = listen(&server, &id, "").await;
    ear.until("event: state").await;
    say.send("flood 0123456789012345678901234567890123456789012345678901234567890123456789")
        .unwrap();
    server.end(&id).await;
    let text = ear.until("event: end").await;
    assert!(
        text.contains("event: lagged") || text.contains("event: left_out"),
        "{}",
        text.len()
    );
    assert!(text.contains("event: completed"), "{}", text.len());
}

#[tokio::test]
async fn one_reader_too_many_is_refused_and_room_comes_back_with_the_last_one() {
    let server = Server::with(|config| config.subscribers_max = 1).await;
    let id = server.job(r#"{"task":"hold"}"#).await;
    server.running(&id).await;
    let mut ear = listen(&server, &id, "").await;
    ear.until("event: state").await;
    server
        .get(&format!("/v1/jobs/{id}/events"))
        .await
        .is_problem(429, "too-many");
    server.gate.open();
    ear.until("event: end").await;
    drop(ear);
    server.end(&id).await;
    let mut tries = 0;
    while server.get(&format!("/v1/jobs/{id}/events")).await.status == 429 {
        tries += 1;
        assert!(tries < 1_000, "its place did not come back");
        tokio::task::yield_now().await;
    }
}
