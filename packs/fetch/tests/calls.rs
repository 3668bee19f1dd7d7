//! Calls to a server that does everything wrong that servers do.
#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

mod support;

use std::sync::atomic::Ordering;
use std::time::Duration;

use hyper::Method;
use hyper::header::{HeaderName, HeaderValue};
use offloop_fetch::{Call, Cause, Done, Hedge, Keep, RetryRule, Rule, Settings, done_json};
use support::{Server, client, policy, run};

fn cause(done: &Done) -> Option<Cause> {
    done.outcome.as_ref().err().map(|failure| failure.cause)
}

fn quick(max: u16) -> RetryRule {
    RetryRule {
        max,
        base: Duration::from_millis(1),
        cap: Duration::from_millis(5),
        ..RetryRule::default()
    }
}

fn with(mut call: Call, name: &'static str, value: &str) -> Call {
    let value = HeaderValue::from_str(value).unwrap();
    call.headers.insert(HeaderName::from_static(name), value);
    call
}

#[tokio::test]
async fn a_bad_server_costs_its_own_item_and_no_other() {
    let server = Server::start().await;
    let client = client(policy(&[server.at]));
    #[rustfmt::skip]
    let rows = [
        ("/ok", None), ("/garbage", Some(Cause::Protocol)), ("/short", Some(Cause::Reset)),
        ("/cut-chunk", Some(Cause::Reset)), ("/half-head", Some(Cause::Reset)),
        ("/huge-length", Some(Cause::TooLarge)), ("/early", Some(Cause::Reset)),
        ("/two-lengths", Some(Cause::Protocol)), ("/bad-chunk", Some(Cause::Reset)),
        ("/endless", Some(Cause::TooLarge)), ("/headers", Some(Cause::Protocol)),
        ("/loop", Some(Cause::Redirect)), ("/drip", Some(Cause::Timeout)), ("/hang", Some(Cause::Timeout)),
        ("/reset", Some(Cause::Reset)), ("/status/404", Some(Cause::Status)),
        ("/status/500", Some(Cause::Status)), ("/status/304", None), ("/status/204", None),
        ("/bytes/100000", None), ("/bytes/100001", Some(Cause::TooLarge)), ("/echo", None),
    ];
    let settings = Settings {
        timeout: Duration::from_millis(800),
        retry: quick(1),
        response_bytes_max: 100_000,
        ..Settings::default()
    };
    let calls = rows.iter().map(|(path, _)| server.call(path)).collect();
    let (done, runner) = run(&client, settings, calls).await;
    for (done, (path, want)) in done.iter().zip(&rows) {
        assert_eq!(cause(done), *want, "{path}: {:?}", done.outcome);
    }
    let tally = runner.tally();
    assert_eq!((tally.ok, tally.failed), (5, rows.len() as u64 - 5));
    // A list is a success however its items went, unless its rule says otherwise.
    assert!(runner.verdict());
}

#[tokio::test]
async fn a_pooled_connection_that_died_costs_one_replay_and_no_answer() {
    let server = Server::start().await;
    let client = client(policy(&[server.at]));
    let one_by_one = Settings {
        limit: 1,
        retry: quick(0),
        ..Settings::default()
    };
    let calls = (0..50).map(|_| server.call("/once")).collect();
    let (done, runner) = run(&client, one_by_one, calls).await;
    assert!(done.iter().all(|done| done.outcome.is_ok()), "{done:?}");
    // Each second question finds a dead connection and is asked again on a fresh one, once.
    assert!(done.iter().all(|done| done.calls <= 2));
    assert!(runner.tally().replays >= 25, "{:?}", runner.tally());
}

#[tokio::test]
async fn an_order_is_never_placed_twice_by_a_replay_or_a_retry() {
    let server = Server::start().await;
    let client = client(policy(&[server.at]));
    let settings = Settings {
        limit: 1,
        retry: quick(5),
        ..Settings::default()
    };
    let post = |path: &str| Call {
        method: Method::POST,
        body: "an order".into(),
        ..server.call(path)
    };
    // The first fills the pool; the second is read by a server that then hangs up.
    let (done, runner) = run(
        &client,
        settings.clone(),
        vec![post("/once"), post("/once")],
    )
    .await;
    assert!(done[0].outcome.is_ok());
    assert_eq!(cause(&done[1]), Some(Cause::Reset));
    assert_eq!(server.seen.count("/once"), 2);
    assert_eq!((runner.tally().replays, runner.tally().retries), (0, 0));
    for path in ["/early", "/reset", "/status/502", "/status/503"] {
        let (done, _) = run(&client, settings.clone(), vec![post(path)]).await;
        assert!(done[0].outcome.is_err());
        assert_eq!(server.seen.count(path), 1, "{path}");
    }
    // A key makes it safe, and a server that asks for a pause has done nothing.
    let keyed = with(post("/flaky/2/keyed"), "idempotency-key", "k1");
    let (done, _) = run(
        &client,
        settings.clone(),
        vec![keyed, post("/flaky/2/paused")],
    )
    .await;
    assert!(done.iter().all(|done| done.outcome.is_ok()), "{done:?}");
    assert_eq!(server.seen.count("/flaky/2/keyed"), 3);
}

#[tokio::test]
async fn connections_are_used_again_and_not_made_for_each_call() {
    let server = Server::start().await;
    let client = client(policy(&[server.at]));
    let settings = Settings {
        limit: 5,
        ..Settings::default()
    };
    let calls = (0..500).map(|_| server.call("/ok")).collect();
    let (done, _) = run(&client, settings, calls).await;
    assert!(done.iter().all(|done| done.outcome.is_ok()));
    let made = server.seen.connections.load(Ordering::SeqCst);
    assert!(made <= 5, "{made} connections for 500 calls at 5 at a time");
    assert_eq!(client.connections(), made as u64);
    assert!(client.idle_connections() <= made);
}

#[tokio::test]
async fn no_limit_is_passed_and_none_is_left_unused() {
    let (one, two) = (Server::start().await, Server::start().await);
    let client = client(policy(&[one.at, two.at]));
    let settings = Settings {
        limit: 8,
        per_host: 5,
        ..Settings::default()
    };
    let calls = (0..60).map(|turn| {
        if turn < 40 {
            one.call("/delay/30")
        } else {
            two.call("/delay/30")
        }
    });
    let (done, _) = run(&client, settings, calls.collect()).await;
    assert!(done.iter().all(|done| done.outcome.is_ok()));
    let busiest = |server: &Server| server.seen.busiest.load(Ordering::SeqCst);
    assert_eq!((busiest(&one), busiest(&two) <= 5), (5, true));
    assert!(busiest(&two) >= 3, "the second host waited for the first");
}

#[tokio::test]
async fn losers_of_a_race_leave_no_call_and_no_socket_behind() {
    for (rule, good, path) in [
        (Rule::Race, true, "/ok"),
        (Rule::Any, true, "/ok"),
        (Rule::All, false, "/status/404"),
        (Rule::Race, false, "/status/404"),
    ] {
        let server = Server::start().await;
        let client = client(policy(&[server.at]));
        let settings = Settings {
            rule,
            retry: quick(0),
            ..Settings::default()
        };
        let mut calls = vec![server.call("/hang"); 20];
        calls.push(server.call(path));
        calls.extend(vec![server.call("/hang"); 100]);
        let (done, runner) = run(&client, settings, calls).await;
        assert_eq!(done.len(), 1, "{rule:?}");
        assert_eq!(runner.verdict(), good, "{rule:?}");
        assert_eq!(runner.tally().cancelled, 120, "{rule:?}");
        // What is left is at most the winner's connection, which lies in the pool.
        server.seen.until_open(|open| open <= 1).await;
    }
}

#[tokio::test]
async fn any_waits_for_a_success_and_fails_only_without_one() {
    let server = Server::start().await;
    let client = client(policy(&[server.at]));
    let settings = Settings {
        rule: Rule::Any,
        retry: quick(0),
        ..Settings::default()
    };
    let bad = vec![server.call("/status/404"), server.call("/early")];
    let (done, runner) = run(&client, settings.clone(), bad.clone()).await;
    assert_eq!((done.len(), runner.verdict()), (2, false));
    let mut calls = bad;
    calls.push(server.call("/delay/50"));
    let (done, runner) = run(&client, settings, calls).await;
    assert_eq!((done.len(), runner.verdict()), (3, true));
}

#[tokio::test]
async fn a_call_that_hangs_is_answered_by_its_hedge_within_the_limits() {
    let server = Server::start().await;
    let client = client(policy(&[server.at]));
    let hedged = |limit| Settings {
        limit,
        hedge: Hedge::After(Duration::from_millis(20)),
        timeout: Duration::from_millis(1_000),
        retry: quick(0),
        ..Settings::default()
    };
    let (done, runner) = run(&client, hedged(2), vec![server.call("/hang-once/a")]).await;
    assert!(done[0].outcome.is_ok(), "{done:?}");
    assert_eq!((runner.tally().hedges, runner.tally().hedges_won), (1, 1));
    assert_eq!(done[0].calls, 2);
    // The loser is gone: only the winner's connection is left.
    server.seen.until_open(|open| open <= 1).await;
    // A hedge takes a place like any call, so none is made where there is none.
    let (done, runner) = run(&client, hedged(1), vec![server.call("/hang-once/b")]).await;
    assert_eq!(cause(&done[0]), Some(Cause::Timeout));
    assert_eq!(runner.tally().hedges, 0);
    // What may not be done twice is not hedged.
    let order = Call {
        method: Method::POST,
        ..server.call("/hang-once/c")
    };
    let (done, _) = run(&client, hedged(2), vec![order]).await;
    assert_eq!((cause(&done[0]), done[0].calls), (Some(Cause::Timeout), 1));
}

#[tokio::test]
async fn deadlines_end_items_and_lists_and_say_so() {
    let server = Server::start().await;
    let client = client(policy(&[server.at]));
    let settings = Settings {
        limit: 2,
        item_deadline: Some(Duration::from_millis(200)),
        retry: quick(3),
        ..Settings::default()
    };
    let mut own = server.call("/hang");
    own.deadline = Some(Duration::from_millis(50));
    let calls = vec![own, server.call("/hang"), server.call("/ok")];
    let (done, _) = run(&client, settings, calls).await;
    assert_eq!(cause(&done[0]), Some(Cause::Deadline));
    assert_eq!(cause(&done[1]), Some(Cause::Deadline));
    assert!(done[0].wall < done[1].wall);
    assert!(done[2].outcome.is_ok());
    let whole = Settings {
        limit: 2,
        deadline: Some(Duration::from_millis(100)),
        ..Settings::default()
    };
    let calls = vec![server.call("/hang"); 300];
    let (done, runner) = run(&client, whole, calls).await;
    assert_eq!(done.len(), 300, "each item has its end");
    assert!(done.iter().all(|done| cause(done) == Some(Cause::Deadline)));
    assert_eq!(
        runner.tally().calls,
        2,
        "what could not begin was not called"
    );
    server
        .seen
        .until_open(|open| open == 0 || open <= client.idle_connections())
        .await;
}

#[tokio::test]
async fn a_dead_host_is_left_alone_and_the_others_do_not_wait_for_it() {
    let server = Server::start().await;
    let dead = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let gone = dead.local_addr().unwrap();
    drop(dead);
    let client = client(policy(&[server.at, gone]));
    let settings = Settings {
        limit: 20,
        per_host: 10,
        retry: quick(3),
        patience: Duration::from_millis(1_500),
        ..Settings::default()
    };
    let mut calls = vec![Call::get(format!("http://{gone}/")); 500];
    calls.extend(vec![server.call("/ok"); 500]);
    let (done, runner) = run(&client, settings, calls).await;
    let (bad, good) = done.split_at(500);
    assert!(good.iter().all(|done| done.outcome.is_ok()));
    assert!(bad.iter().all(|done| done.outcome.is_err()));
    let left = bad
        .iter()
        .filter(|done| cause(done) == Some(Cause::BreakerOpen));
    assert!(left.count() > 400, "most are never tried");
    let tripped = client.tripped(10);
    assert_eq!(tripped.len(), 1);
    assert!(tripped[0].opened >= 1 && tripped[0].origin.contains(&gone.to_string()));
    assert!(runner.elapsed() < Duration::from_secs(30));
}

#[tokio::test]
async fn redirects_keep_secrets_at_home_and_questions_whole() {
    let (one, two) = (Server::start().await, Server::at("127.0.0.2:0").await);
    let client = client(policy(&[one.at, two.at]));
    let settings = Settings {
        keep: Keep::Bytes,
        retry: quick(0),
        ..Settings::default()
    };
    let told = |server: &Server, name: &str| {
        let call = with(
            one.call("/to"),
            "x-to",
            &server.url(&format!("/header/{name}")),
        );
        with(
            with(call, "authorization", "Bearer secret"),
            "x-other",
            "kept",
        )
    };
    let post = |path: &str| Call {
        method: Method::POST,
        body: "hello".into(),
        ..one.call(path)
    };
    let calls = vec![
        told(&one, "authorization"),
        told(&two, "authorization"),
        told(&two, "x-other"),
        with(post("/to"), "x-to", "/echo"),
        post("/see-other"),
    ];
    let (done, _) = run(&client, settings, calls).await;
    let bodies: Vec<_> = done
        .iter()
        .map(|done| done.outcome.as_ref().unwrap().body.clone())
        .collect();
    assert_eq!(bodies, ["Bearer secret", "-", "kept", "hello", ""]);
}

#[tokio::test]
async fn the_hash_is_that_of_the_whole_body() {
    let server = Server::start().await;
    let client = client(policy(&[server.at]));
    for keep in [Keep::Hash, Keep::Bytes] {
        let settings = Settings {
            keep,
            ..Settings::default()
        };
        let (done, _) = run(&client, settings, vec![server.call("/ok")]).await;
        let answer = done[0].outcome.as_ref().unwrap();
        let shown = done_json(&done[0], None);
        let hex = shown["sha256"].as_str().unwrap();
        // sha256("ok")
        assert_eq!(
            hex,
            "2689367b205c16ce32ed4200942b8b8b1e262dfc70d9bc9fbc77c49699a4f1df"
        );
        assert_eq!(answer.body.is_empty(), keep == Keep::Hash);
        assert_eq!(answer.body_bytes, 2);
    }
}

#[tokio::test]
async fn no_cut_of_an_answer_passes_for_a_whole_one() {
    let server = Server::start().await;
    let client = client(policy(&[server.at]));
    let settings = Settings {
        keep: Keep::Bytes,
        retry: quick(0),
        patience: Duration::ZERO,
        ..Settings::default()
    };
    // At every 2nd byte of head and body: 500 and more.
    let calls: Vec<_> = (0..1_040)
        .step_by(2)
        .map(|at| server.call(&format!("/cut/{at}")))
        .collect();
    let (done, _) = run(&client, settings, calls).await;
    for done in &done {
        let refused = matches!(
            cause(done),
            Some(Cause::Reset | Cause::Protocol | Cause::BreakerOpen)
        );
        assert!(refused, "{}: {:?}", done.url, done.outcome);
    }
}

/// 30 % 503 and 2 % resets. No client can do with fewer than one call per fault and one per item; a
/// tenth more is allowed for what is asked twice without need.
#[tokio::test]
async fn a_third_of_faults_costs_no_item_and_few_calls() {
    let server = Server::start().await;
    let client = client(policy(&[server.at]));
    let settings = Settings {
        limit: 100,
        per_host: 100,
        retry: RetryRule {
            max: 12,
            base: Duration::from_millis(5),
            cap: Duration::from_millis(50),
            ..RetryRule::default()
        },
        ..Settings::default()
    };
    let items = 20_000;
    let calls = (0..items).map(|_| server.call("/campaign")).collect();
    let (done, runner) = run(&client, settings, calls).await;
    let ok = done.iter().filter(|done| done.outcome.is_ok()).count();
    let faults = server.seen.faults.load(Ordering::SeqCst);
    let (calls, least) = (runner.tally().calls as f64, (items + faults) as f64);
    println!(
        "{ok} of {items} succeeded; {faults} faults; {calls} calls, {:.4} of the least; {:.3} per success; {} replays",
        calls / least,
        calls / ok as f64,
        runner.tally().replays
    );
    assert!(ok as f64 >= 0.9999 * items as f64, "{:?}", runner.tally());
    assert!(calls <= 1.1 * least, "{:?}", runner.tally());
    assert!(client.tripped(1).is_empty(), "a sick host is no dead one");
}
