//! Two hundred URLs, redirects and names that want to lead inside, and servers inside that nobody may
//! reach.
#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

#[path = "../../../crates/offloop-egress/tests/support/canaries.rs"]
mod canaries;
mod support;
#[path = "../../../crates/offloop-egress/tests/support/urls.rs"]
mod urls;

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use canaries::Canaries;
use hyper::header::{HeaderName, HeaderValue};
use offloop::egress::{Policy, Resolve, Resolving};
use offloop_fetch::{BreakerRule, Call, Cause, Client, ClientOptions, RetryRule, Settings};
use support::{Server, run};

/// Names lead home at each look: every second time to the door that is allowed, else inside.
#[derive(Debug, Default)]
struct Turning(AtomicUsize);

impl Resolve for Turning {
    fn resolve<'a>(&'a self, name: &'a str, port: u16) -> Resolving<'a> {
        let turn = self.0.fetch_add(1, Ordering::SeqCst);
        let one = |last: u8| SocketAddr::from(([127, 0, 0, last], port));
        let found = match name {
            "mixed.example" => vec![one(9), one(1)],
            "turning.example" if turn.is_multiple_of(2) => vec![one(9)],
            _ => vec![one(1)],
        };
        Box::pin(async move { Ok::<_, io::Error>(found) })
    }
}

fn guarded(door: &Server, canaries: &Canaries) -> Client {
    let policy = Policy {
        http: true,
        ports: vec![80, 443, door.at.port(), canaries.port],
        allow: vec!["127.0.0.9/32".parse().unwrap()],
        ..Policy::default()
    };
    Client::new(ClientOptions {
        // Every URL is tried on its own merits.
        breaker: BreakerRule {
            calls: u32::MAX,
            ..BreakerRule::default()
        },
        ..ClientOptions::new(policy, Arc::new(Turning::default()), 1)
    })
    .unwrap()
}

fn once() -> Settings {
    Settings {
        retry: RetryRule {
            max: 2,
            base: std::time::Duration::from_millis(1),
            ..RetryRule::default()
        },
        ..Settings::default()
    }
}

#[tokio::test]
async fn no_url_leads_inside_however_it_is_written() {
    let door = Server::at("127.0.0.9:0").await;
    let canaries = Canaries::start().await;
    let client = guarded(&door, &canaries);
    let all = urls::urls(canaries.port);
    assert!(all.len() >= 200, "{}", all.len());
    let calls = all.iter().map(|url| Call::get(url.as_str())).collect();
    let (done, _) = run(&client, once(), calls).await;
    assert_eq!(done.len(), all.len());
    for done in &done {
        let refused = done.outcome.as_ref().unwrap_err();
        let by_its_form = matches!(refused.cause, Cause::Url | Cause::Forbidden | Cause::Name);
        assert!(by_its_form, "{}: {refused}", done.url);
    }
    canaries.saw_nobody().await;
}

#[tokio::test]
async fn no_redirect_leads_inside_from_a_server_that_may_be_called() {
    let door = Server::at("127.0.0.9:0").await;
    let canaries = Canaries::start().await;
    let client = guarded(&door, &canaries);
    let calls: Vec<_> = urls::urls(canaries.port)
        .iter()
        .filter_map(|url| {
            let mut call = door.call("/to");
            let to = HeaderValue::from_bytes(url.as_bytes()).ok()?;
            call.headers.insert(HeaderName::from_static("x-to"), to);
            Some(call)
        })
        .collect();
    assert!(calls.len() >= 200, "{}", calls.len());
    let asked = calls.len();
    let (done, _) = run(&client, once(), calls).await;
    let refused = done.iter().filter(|done| {
        let failure = done.outcome.as_ref().err();
        failure.is_some_and(|failure| {
            matches!(
                failure.cause,
                Cause::Redirect | Cause::Forbidden | Cause::Url | Cause::Name
            )
        })
    });
    // A few are no redirects at all: an empty Location, or a path of the door's own.
    assert!(refused.count() >= asked - 5);
    assert!(door.seen.count("/to") >= asked, "the door was asked");
    canaries.saw_nobody().await;
}

#[tokio::test]
async fn a_name_that_changes_its_answer_is_checked_at_each_connection() {
    let door = Server::at("127.0.0.9:0").await;
    let canaries = Canaries::start().await;
    for round in 0..20 {
        // Nothing is remembered from client to client, so that each looks the name up.
        let client = guarded(&door, &canaries);
        for name in ["turning.example", "mixed.example", "inside.example"] {
            let mut ports = [canaries.port, door.at.port()];
            ports.rotate_left(round % 2);
            for port in ports {
                let calls = vec![Call::get(format!("http://{name}:{port}/ok")); 3];
                run(&client, once(), calls).await;
            }
        }
    }
    assert!(door.seen.count("/ok") > 0, "the allowed door was reached");
    canaries.saw_nobody().await;
}
