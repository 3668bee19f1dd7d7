//! Calls by https: on few connections, and never to who is not who he should be.
#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

mod support;
#[path = "../../../crates/offloop-egress/tests/support/tls.rs"]
mod tls;

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use offloop::egress::{Resolve, Resolving, Roots};
use offloop_fetch::{BreakerRule, Call, Cause, Client, ClientOptions, RetryRule, Settings};
use support::{policy, run};
use tls::{Authority, Flaw, Home, TlsServer};
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};

impl Resolve for Home {
    fn resolve<'a>(&'a self, _: &'a str, port: u16) -> Resolving<'a> {
        let found = Self::addresses(port);
        Box::pin(async move { Ok::<_, io::Error>(found) })
    }
}

/// Serves `ok` on connections that stay open; counts handshakes, good and bad.
fn serve(server: TlsServer) -> Arc<AtomicUsize> {
    let handshakes = Arc::<AtomicUsize>::default();
    let counted = Arc::clone(&handshakes);
    tokio::spawn(async move {
        loop {
            let stream = server.accept().await;
            counted.fetch_add(1, Ordering::SeqCst);
            let Some(stream) = stream else { continue };
            tokio::spawn(async move {
                let mut stream = BufReader::new(stream);
                let mut line = String::new();
                while stream.read_line(&mut line).await.is_ok_and(|read| read > 0) {
                    if line == "\r\n" {
                        let text = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";
                        stream.write_all(text).await.unwrap();
                    }
                    line.clear();
                }
            });
        }
    });
    handshakes
}

fn client(server: &TlsServer, authority: &Authority) -> Client {
    let mut roots = Roots::default();
    roots.add_pem(authority.pem().as_bytes()).unwrap();
    let usual = ClientOptions::new(policy(&[server.at]), Arc::new(Home), 1);
    Client::new(ClientOptions { roots, ..usual }).unwrap()
}

#[tokio::test]
async fn a_hundred_calls_by_tls_do_not_shake_hands_a_hundred_times() {
    let own = Authority::new("own");
    let identity = own.identity(&["good.example"], Flaw::None, &[]);
    let server = TlsServer::new(&identity).await;
    let (client, names, port) = (client(&server, &own), server.names(), server.at.port());
    let handshakes = serve(server);
    let settings = Settings {
        limit: 2,
        ..Settings::default()
    };
    let calls = vec![Call::get(format!("https://good.example:{port}/")); 100];
    let (done, _) = run(&client, settings, calls).await;
    assert!(done.iter().all(|done| done.outcome.is_ok()), "{done:?}");
    assert_eq!(handshakes.load(Ordering::SeqCst), 2);
    assert_eq!((client.connections(), client.reused()), (2, 98));
    let wanted = Some("good.example".to_owned());
    assert_eq!(*names.lock().unwrap(), [wanted.clone(), wanted]);
}

#[tokio::test]
async fn a_certificate_that_is_wrong_is_told_to_each_call_and_tried_by_none_again() {
    let own = Authority::new("own");
    for (flaw, host, word) in [
        (Flaw::Expired, "good.example", "expired"),
        (Flaw::None, "other.example", "not for other.example"),
        (Flaw::SelfSigned, "good.example", "signed by itself"),
        (Flaw::OwnAuthority, "good.example", "CA:TRUE"),
    ] {
        let identity = own.identity(&["good.example"], flaw, &[]);
        let server = TlsServer::new(&identity).await;
        let (client, port) = (client(&server, &own), server.at.port());
        let handshakes = serve(server);
        let settings = Settings {
            retry: RetryRule {
                max: 5,
                base: Duration::from_millis(1),
                ..RetryRule::default()
            },
            ..Settings::default()
        };
        // More than a breaker needs to open, which would tell the last ones something else.
        let most = BreakerRule::default().calls as usize * 2;
        let calls = vec![Call::get(format!("https://{host}:{port}/?key=hunter2")); most];
        let (done, runner) = run(&client, settings, calls).await;
        for done in &done {
            let failure = done.outcome.as_ref().unwrap_err();
            let text = failure.to_string();
            assert_eq!(failure.cause, Cause::Tls, "{text}");
            assert!(text.contains(word) && !text.contains("hunter2"), "{text}");
            assert_eq!(done.calls, 1);
        }
        assert_eq!(runner.tally().retries, 0);
        assert!(handshakes.load(Ordering::SeqCst) <= most);
        assert_eq!(client.open_connections().0, 0);
    }
}
