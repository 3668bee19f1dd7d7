//! Connections that are used again, and peers that close them when they like.
#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

mod support;

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use hyper::Method;
use hyper::header::{HeaderName, HeaderValue};
use offloop_fetch::{Call, Cause, RetryRule, Settings};
use support::{SOON, client, policy, run};
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{broadcast, mpsc};

/// A server that says `Keep-Alive: timeout=1` and closes its idle connections when it is told to.
struct Closing {
    at: SocketAddr,
    /// Requests that were carried out, by what they ask for.
    carried_out: Arc<Mutex<HashMap<String, usize>>>,
    close: broadcast::Sender<bool>,
    /// Of each connection that its client has closed.
    left: mpsc::UnboundedReceiver<()>,
}

impl Closing {
    async fn start(timeout: &'static str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let at = listener.local_addr().unwrap();
        let carried_out = Arc::<Mutex<HashMap<_, _>>>::default();
        let (close, _) = broadcast::channel(4);
        let (leave, left) = mpsc::unbounded_channel();
        let (counts, orders) = (Arc::clone(&carried_out), close.clone());
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (counts, leave) = (Arc::clone(&counts), leave.clone());
                let mut orders = orders.subscribe();
                tokio::spawn(async move {
                    let mut stream = BufReader::new(stream);
                    loop {
                        let asked = tokio::select! {
                            order = orders.recv() => {
                                if order.is_ok_and(|hard| hard) {
                                    reset(stream.get_ref());
                                }
                                return;
                            }
                            asked = read(&mut stream) => asked,
                        };
                        let Some(asked) = asked else {
                            let _ = leave.send(()); // the test may be over
                            return;
                        };
                        *counts.lock().unwrap().entry(asked).or_default() += 1;
                        let text = format!(
                            "HTTP/1.1 200 OK\r\nKeep-Alive: timeout={timeout}\r\nContent-Length: 2\r\n\r\nok"
                        );
                        if stream.write_all(text.as_bytes()).await.is_err() {
                            return;
                        }
                    }
                });
            }
        });
        Self {
            at,
            carried_out,
            close,
            left,
        }
    }

    fn call(&self, method: &Method, name: &str) -> Call {
        Call {
            method: method.clone(),
            ..Call::get(format!("http://{}/{name}", self.at))
        }
    }
}

fn reset(stream: &TcpStream) {
    rustix::net::sockopt::set_socket_linger(stream, Some(Duration::ZERO)).unwrap();
}

async fn read(stream: &mut BufReader<TcpStream>) -> Option<String> {
    let mut first = String::new();
    if stream.read_line(&mut first).await.ok()? == 0 {
        return None;
    }
    let mut length = 0;
    loop {
        let mut line = String::new();
        if stream.read_line(&mut line).await.ok()? == 0 {
            return None;
        }
        if let Some(text) = line.strip_prefix("content-length: ") {
            length = text.trim().parse().unwrap();
        }
        if line == "\r\n" {
            break;
        }
    }
    let mut body = vec![0; length];
    stream.read_exact(&mut body).await.ok()?;
    first.split(' ').nth(1).map(str::to_owned)
}

fn no_retries() -> Settings {
    Settings {
        retry: RetryRule {
            max: 0,
            ..RetryRule::default()
        },
        ..Settings::default()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_question_is_lost_or_asked_twice_while_its_connection_is_being_closed() {
    let server = Closing::start("1").await;
    let client = client(policy(&[server.at]));
    let (mut replays, mut lost) = (0, 0);
    for round in 0..400 {
        let name = |kind: &str| format!("{kind}-{round}");
        let mut keyed = server.call(&Method::POST, &name("keyed"));
        let key = HeaderValue::from_static("k");
        keyed
            .headers
            .insert(HeaderName::from_static("idempotency-key"), key);
        let calls = vec![
            server.call(&Method::GET, &name("get")),
            server.call(&Method::POST, &name("post")),
            keyed,
        ];
        // What is idle is closed at the moment at which it is wanted, softly or not.
        let close = async {
            for _ in 0..round % 7 {
                tokio::task::yield_now().await;
            }
            let _ = server.close.send(round % 2 == 0); // nobody may be there yet
        };
        let (ended, ()) = tokio::join!(run(&client, no_retries(), calls), close);
        let (done, runner) = ended;
        replays += runner.tally().replays;
        for (done, kind) in done.iter().zip(["get", "post", "keyed"]) {
            let times = server
                .carried_out
                .lock()
                .unwrap()
                .get(&format!("/{}", name(kind)))
                .copied();
            let times = times.unwrap_or(0);
            match &done.outcome {
                Ok(_) => assert!((1..=2).contains(&times), "{kind} {times}"),
                Err(failure) => {
                    // A fresh one is closed, too, if it is there at the wrong moment.
                    let expected = matches!(failure.cause, Cause::Reset | Cause::Connect);
                    assert!(expected, "{kind}: {failure}");
                    lost += 1;
                }
            }
            assert!(
                kind != "post" || times <= 1,
                "an order was placed {times} times"
            );
            assert!(done.calls <= 2, "asked {} times", done.calls);
        }
    }
    println!(
        "{replays} replays, {lost} of 1200 without an answer, {} calls on used connections",
        client.reused()
    );
    assert!(replays > 0, "no connection was closed in time");
    assert!(client.reused() > 0);
}

#[tokio::test]
async fn a_connection_is_given_up_before_the_peer_does_it() {
    let mut server = Closing::start("1").await;
    let client = client(policy(&[server.at]));
    let calls = vec![server.call(&Method::GET, "a"); 10];
    let settings = Settings {
        limit: 1,
        ..no_retries()
    };
    run(&client, settings, calls).await;
    assert_eq!((client.connections(), client.reused()), (1, 9));
    assert_eq!(client.idle_connections(), 1);
    // Nobody calls, and the server would keep it for ever.
    let given_up = async {
        while client.idle_connections() > 0 {
            client.sweep();
            tokio::task::yield_now().await;
        }
        server.left.recv().await.unwrap();
    };
    tokio::time::timeout(SOON, given_up).await.expect("in time");
}

#[tokio::test]
async fn a_peer_that_keeps_nothing_is_not_asked_on_what_it_closes() {
    let server = Closing::start("0").await;
    let client = client(policy(&[server.at]));
    let calls = vec![server.call(&Method::POST, "a"); 10];
    let (done, runner) = run(&client, no_retries(), calls).await;
    assert!(done.iter().all(|done| done.outcome.is_ok()));
    assert_eq!((client.connections(), client.reused()), (10, 0));
    assert_eq!(runner.tally().replays, 0);
}
