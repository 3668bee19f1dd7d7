//! Whom a TLS connection is made to, and what is said where it is not.
#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

#[path = "support/tls.rs"]
mod tls;

use std::io;
use std::sync::Arc;
use std::time::Duration;

use offloop_egress::{Connector, EgressError, Policy, Resolve, Resolving, Roots, Stream};
use tls::{Authority, Flaw, Home, Identity, TlsServer};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

const SOON: Duration = Duration::from_secs(30);

impl Resolve for Home {
    fn resolve<'a>(&'a self, _: &'a str, port: u16) -> Resolving<'a> {
        let found = Self::addresses(port);
        Box::pin(async move { Ok::<_, io::Error>(found) })
    }
}

fn connector(server: &TlsServer, pem: &str) -> Connector {
    let policy = Policy {
        ports: vec![server.at.port()],
        allow: vec!["127.0.0.1/32".parse().unwrap()],
        ..Policy::default()
    };
    let mut roots = Roots::default();
    if !pem.is_empty() {
        roots.add_pem(pem.as_bytes()).unwrap();
    }
    Connector::new(policy, Arc::new(Home), &roots).unwrap()
}

/// Connects, with a server that says one word to whoever it likes.
async fn connect(server: &TlsServer, pem: &str, host: &str) -> Result<String, EgressError> {
    let connector = connector(server, pem);
    let target = connector
        .policy()
        .target(&format!("https://{host}:{}/", server.at.port()))
        .unwrap();
    let serve = async {
        if let Some(mut stream) = server.accept().await {
            stream.write_all(b"hello").await.unwrap();
            stream.shutdown().await.unwrap();
        }
    };
    let (stream, ()) = tokio::join!(connector.connect(&target, SOON), serve);
    let mut stream: Stream = stream?;
    let mut word = String::new();
    stream.read_to_string(&mut word).await.unwrap();
    Ok(word)
}

#[tokio::test]
async fn an_authority_of_ones_own_is_trusted_where_it_is_named_and_nowhere_else() {
    let own = Authority::new("own");
    let below = own.below("below");
    let direct = own.identity(&["good.example"], Flaw::None, &[]);
    let chained = below.identity(&["good.example"], Flaw::None, &[&below]);
    for identity in [&direct, &chained] {
        let server = TlsServer::new(identity).await;
        let word = connect(&server, &own.pem(), "good.example").await;
        assert_eq!(word.unwrap(), "hello");
        let other = Authority::new("own").pem(); // another of the same name
        for pem in ["", other.as_str()] {
            let refused = connect(&server, pem, "good.example").await.unwrap_err();
            assert!(matches!(refused, EgressError::Certificate(_)), "{refused}");
        }
    }
    // Not even with the authority's help: what lies between was not sent.
    let torn = below.identity(&["good.example"], Flaw::None, &[]);
    let server = TlsServer::new(&torn).await;
    assert!(connect(&server, &own.pem(), "good.example").await.is_err());
}

#[tokio::test]
async fn what_is_wrong_with_a_certificate_is_said_and_does_not_pass_for_a_fault_that_mends_itself()
{
    let own = Authority::new("own");
    let one = |flaw| own.identity(&["good.example", "*.wild.example"], flaw, &[]);
    #[rustfmt::skip]
    let rows: [(Identity, &str, &[&str]); 9] = [
        (one(Flaw::Expired), "good.example", &["expired", "days ago"]),
        (one(Flaw::NotYet), "good.example", &["not valid for another", "days", "clock"]),
        (one(Flaw::None), "other.example", &["not for other.example", "good.example"]),
        (one(Flaw::None), "wild.example", &["not for wild.example"]),
        (one(Flaw::None), "a.b.wild.example", &["not for a.b.wild.example"]),
        (one(Flaw::None), "127.0.0.1", &["not for 127.0.0.1"]),
        (one(Flaw::SelfSigned), "good.example", &["signed by itself", "`ca`"]),
        (one(Flaw::OwnAuthority), "good.example", &["CA:TRUE", "CA:FALSE"]),
        (one(Flaw::CommonNameAlone), "good.example", &["names nobody", "common name"]),
    ];
    for (identity, host, words) in rows {
        let server = TlsServer::new(&identity).await;
        let refused = connect(&server, &own.pem(), host).await.unwrap_err();
        let text = refused.to_string();
        assert!(
            words.iter().all(|word| text.contains(word)),
            "{host}: {text}"
        );
        assert!(!refused.retry_helps(), "{text}");
    }
    // A certificate that is trusted itself is as good as its authority, if it may not sign others.
    let alone = one(Flaw::SelfSigned);
    let server = TlsServer::new(&alone).await;
    let word = connect(&server, &alone.pem(), "good.example").await;
    assert_eq!(word.unwrap(), "hello");
}

#[tokio::test]
async fn a_server_of_many_names_is_told_which_one_is_wanted() {
    let own = Authority::new("own");
    let identity = own.identity(&["good.example", "127.0.0.1"], Flaw::None, &[]);
    let server = TlsServer::new(&identity).await;
    for host in ["good.example", "GOOD.example.", "127.0.0.1"] {
        connect(&server, &own.pem(), host).await.unwrap();
    }
    let name = Some("good.example".to_owned());
    let names = server.names();
    let names = names.lock().unwrap();
    // An address is no name (RFC 6066, section 3).
    assert_eq!(*names, [name.clone(), name, None]);
}

#[tokio::test]
async fn a_server_that_speaks_no_tls_is_no_matter_of_certificates() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let policy = Policy {
        ports: vec![port],
        allow: vec!["127.0.0.1/32".parse().unwrap()],
        ..Policy::default()
    };
    let connector = Connector::new(policy, Arc::new(Home), &Roots::default()).unwrap();
    let target = connector
        .policy()
        .target(&format!("https://a.example:{port}/"));
    for (words, is_silent) in [
        (&b"HTTP/1.1 400 Bad Request\r\n\r\n"[..], false),
        (b"", true),
    ] {
        let serve = async {
            let (mut stream, _) = listener.accept().await.unwrap();
            stream.write_all(words).await.unwrap();
        };
        let target = target.as_ref().unwrap();
        let (refused, ()) = tokio::join!(connector.connect(target, SOON), serve);
        let refused = refused.unwrap_err();
        assert!(
            matches!(refused, EgressError::Tls(_)),
            "{is_silent}: {refused}"
        );
        assert!(refused.retry_helps(), "a server that starts is one, too");
    }
}
