//! All lists of a process together: as many connections as it may have, and lists that take turns.
#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

mod support;

use std::sync::Arc;
use std::sync::atomic::Ordering;

use offloop::egress::SystemResolver;
use offloop_fetch::{Client, ClientOptions, Hedge, Runner, Settings};
use support::{SOON, Server, policy, run};

const MOST: u32 = 4;

fn client(servers: &[&Server]) -> Client {
    let at: Vec<_> = servers.iter().map(|server| server.at).collect();
    let usual = ClientOptions::new(policy(&at), Arc::new(SystemResolver::default()), 1);
    Client::new(ClientOptions {
        connections: MOST,
        ..usual
    })
    .unwrap()
}

#[tokio::test]
async fn all_lists_together_stay_within_the_connections_of_the_process() {
    let servers = [
        Server::start().await,
        Server::at("127.0.0.9:0").await,
        Server::at("127.0.0.10:0").await,
    ];
    let client = client(&servers.iter().collect::<Vec<_>>());
    let list = |turn: usize| {
        let hosts = servers.iter().cycle().skip(turn);
        let calls = hosts.take(60).map(|server| server.call("/delay/2"));
        let settings = Settings {
            hedge: Hedge::After(std::time::Duration::from_millis(1)),
            ..Settings::default()
        };
        let mut runner = Runner::of(client.clone(), settings, calls.collect());
        let client = client.clone();
        async move {
            let mut good = 0;
            while let Some(done) = runner.next().await {
                let (open, most) = client.open_connections();
                assert!(open <= most && most == MOST as usize, "{open} are open");
                good += usize::from(done.outcome.is_ok());
            }
            good
        }
    };
    let all = futures_util::future::join_all((0..3).map(list));
    let good = tokio::time::timeout(SOON, all).await.expect("in time");
    assert_eq!(good, [60, 60, 60]);
    // Connections that lay idle made room for those to other hosts.
    assert!(client.idle_connections() <= MOST as usize);
    for server in &servers {
        let busiest = server.seen.busiest.load(Ordering::SeqCst);
        assert!(busiest <= MOST as usize, "{busiest} calls at a time");
    }
}

#[tokio::test]
async fn a_short_list_does_not_wait_for_the_end_of_a_long_one() {
    let server = Server::start().await;
    let client = client(&[&server]);
    let calls = (0..400).map(|_| server.call("/delay/1")).collect();
    let mut long = Runner::of(client.clone(), Settings::default(), calls);
    // It is well under way, and everything that may be is its own.
    for _ in 0..20 {
        long.next().await.unwrap();
    }
    let short = run(
        &client,
        Settings::default(),
        (0..20).map(|_| server.call("/delay/1")).collect(),
    );
    let mut short = std::pin::pin!(short);
    let mut meanwhile = 0;
    let (done, _) = loop {
        tokio::select! {
            ended = &mut short => break ended,
            one = long.next() => {
                assert!(one.is_some(), "the long one came first");
                meanwhile += 1;
            }
        }
    };
    assert!(done.iter().all(|done| done.outcome.is_ok()));
    // In turns: one of the long one for one of the short one, and those that were under way.
    assert!(
        meanwhile <= 60,
        "{meanwhile} of the long list came before 20 of the short one"
    );
}

#[tokio::test]
async fn a_list_that_is_dropped_gives_its_places_back() {
    let server = Server::start().await;
    let client = client(&[&server]);
    let hang = |count: usize| {
        let calls = (0..count).map(|_| server.call("/hang")).collect();
        Runner::of(client.clone(), Settings::default(), calls)
    };
    let (mut first, mut second) = (hang(10), hang(10));
    let both = async { tokio::join!(first.next(), second.next()) };
    let full = server.seen.until_open(|open| open == MOST as usize);
    tokio::select! {
        _ = both => panic!("it hangs"),
        () = full => {}
    }
    drop((first, second));
    let calls = (0..10).map(|_| server.call("/ok")).collect();
    let (done, _) = run(&client, Settings::default(), calls).await;
    assert!(done.iter().all(|done| done.outcome.is_ok()));
}
