//! Two hundred URLs that want to lead inside, and servers inside that nobody may reach.
#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

#[path = "support/canaries.rs"]
mod canaries;
#[path = "support/urls.rs"]
mod urls;

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use canaries::Canaries;
use offloop_egress::{EgressError, Policy, Resolve, Resolving};

const WITHIN: Duration = Duration::from_secs(5);

fn policy_of(canaries: &Canaries) -> Policy {
    Policy {
        http: true,
        ports: vec![80, 443, canaries.port],
        ..Policy::default()
    }
}

/// Names that lead where their owner wants them to.
#[derive(Debug)]
struct Script {
    answers: Vec<Vec<IpAddr>>,
    asked: AtomicUsize,
}

impl Script {
    fn new(answers: &[&[&str]]) -> Self {
        let read = |row: &&[&str]| row.iter().map(|text| text.parse().unwrap()).collect();
        Self {
            answers: answers.iter().map(read).collect(),
            asked: AtomicUsize::new(0),
        }
    }
}

impl Resolve for Script {
    fn resolve<'a>(&'a self, _: &'a str, port: u16) -> Resolving<'a> {
        let turn = self.asked.fetch_add(1, Ordering::SeqCst);
        let row = &self.answers[turn.min(self.answers.len() - 1)];
        let found = row.iter().map(|ip| SocketAddr::new(*ip, port)).collect();
        Box::pin(async move { Ok::<_, io::Error>(found) })
    }
}

#[tokio::test]
async fn no_url_leads_inside_however_it_is_written() {
    let canaries = Canaries::start().await;
    let policy = policy_of(&canaries);
    let all = urls::urls(canaries.port);
    assert!(all.len() >= 200, "{}", all.len());
    // Names lead to this machine, as those of an attacker do.
    let home = Script::new(&[&["127.0.0.1"]]);
    for url in &all {
        let connected = match policy.target(url) {
            Ok(target) => policy.connect(&target, &home, WITHIN).await.map(drop),
            Err(refused) => Err(refused),
        };
        assert!(connected.is_err(), "{url:?} was connected to");
    }
    canaries.saw_nobody().await;
}

#[tokio::test]
async fn a_name_that_changes_its_answer_is_looked_up_once_for_each_connection() {
    let canaries = Canaries::start().await;
    let policy = policy_of(&canaries);
    let target = policy
        .target(&format!("http://rebind.example:{}/", canaries.port))
        .unwrap();
    // Public first (only looked at, not called), then inside.
    let changing = Script::new(&[&["127.0.0.1"], &["93.184.216.34"], &["127.0.0.1"]]);
    for turn in 0..20 {
        let asked = changing.asked.load(Ordering::SeqCst);
        if turn == 1 {
            // The turn on which the name looks public: checked, and nothing asks again.
            let found = policy.addresses(&target, &changing).await.unwrap();
            assert_eq!(found[0].ip(), IpAddr::from([93, 184, 216, 34]));
        } else {
            let refused = policy.connect(&target, &changing, WITHIN).await;
            assert!(
                matches!(refused, Err(EgressError::Forbidden { .. })),
                "{refused:?}"
            );
        }
        assert_eq!(changing.asked.load(Ordering::SeqCst), asked + 1);
    }
    canaries.saw_nobody().await;
}

#[tokio::test]
async fn one_address_inside_among_public_ones_refuses_them_all() {
    let canaries = Canaries::start().await;
    let policy = policy_of(&canaries);
    let target = policy
        .target(&format!("http://mixed.example:{}/", canaries.port))
        .unwrap();
    for answer in [
        &["93.184.216.34", "127.0.0.1"][..],
        &["::1", "93.184.216.34"],
        &["93.184.216.34", "::ffff:10.0.0.1"],
        &["169.254.169.254"],
    ] {
        let mixed = Script::new(&[answer]);
        let refused = policy.connect(&target, &mixed, WITHIN).await;
        assert!(
            matches!(refused, Err(EgressError::Forbidden { .. })),
            "{answer:?}"
        );
    }
    let none = Script::new(&[&[]]);
    let refused = policy.connect(&target, &none, WITHIN).await;
    assert!(matches!(refused, Err(EgressError::Unknown { .. })));
    canaries.saw_nobody().await;
}

#[tokio::test]
async fn an_allowed_network_is_reached_and_a_clouds_credentials_still_are_not() {
    let canaries = Canaries::start().await;
    let mut policy = policy_of(&canaries);
    policy.allow = vec![
        "127.0.0.1/32".parse().unwrap(),
        "169.254.0.0/16".parse().unwrap(),
    ];
    let url = |host: &str| format!("http://{host}:{}/", canaries.port);
    let target = policy.target(&url("127.0.0.1")).unwrap();
    let home = Script::new(&[&["127.0.0.1"]]);
    policy.connect(&target, &home, WITHIN).await.unwrap();
    let refused = policy.target(&url("169.254.169.254"));
    assert!(matches!(refused, Err(EgressError::Forbidden { .. })));
    let target = policy.target(&url("metadata.google.internal")).unwrap();
    let cloud = Script::new(&[&["169.254.169.254"]]);
    let refused = policy.connect(&target, &cloud, WITHIN).await;
    assert!(matches!(refused, Err(EgressError::Forbidden { .. })));
}

#[test]
fn what_is_connected_to_and_what_is_asked_for_come_from_one_reading() {
    let policy = Policy {
        http: true,
        ports: vec![80, 443, 8080],
        ..Policy::default()
    };
    for (url, authority, path) in [
        ("https://EXAMPLE.com./a?b=c#d", "example.com", "/a?b=c"),
        ("http://example.com:8080", "example.com:8080", "/"),
        (
            "https://bücher.example/ü",
            "xn--bcher-kva.example",
            "/%C3%BC",
        ),
        ("https://[2606:4700::1111]/", "[2606:4700::1111]", "/"),
        ("https://example.com/a@b", "example.com", "/a@b"),
    ] {
        let target = policy.target(url).unwrap();
        assert_eq!(
            (&*target.authority(), target.path()),
            (authority, path),
            "{url}"
        );
    }
    let secret = policy.target("https://example.com/hook?key=1234").unwrap();
    assert_eq!(secret.to_string(), "https://example.com/hook");
    let long = format!("https://example.com/{}", "x".repeat(2_048));
    assert!(policy.target(&long).is_err());
    assert!(
        Policy::default().target("http://example.com/").is_err(),
        "https alone"
    );
}
