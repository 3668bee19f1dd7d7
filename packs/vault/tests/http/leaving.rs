//! A client that hangs up gives its thread back; those who share its run do not suffer.

use std::io::Write as _;
use std::net::TcpStream;
use std::time::{Duration, Instant};

use serde_json::json;

use super::support::World;

/// Many times what one run of the tests takes; a machine that is busy with others may need it.
const LONG: Duration = Duration::from_secs(60);

fn running(world: &World) -> u32 {
    let lanes = world.server().handle().call_lanes();
    let lane = lanes.iter().find(|lane| &*lane.name == "vault:passwords");
    lane.unwrap().running
}

/// Asks until it is so; the answer costs microseconds.
fn until(what: &str, fits: impl Fn() -> bool) -> Duration {
    let began = Instant::now();
    while !fits() {
        assert!(began.elapsed() < LONG, "{what}: never");
        std::thread::yield_now();
    }
    began.elapsed()
}

fn send(world: &World, body: &str) -> TcpStream {
    let mut stream = world.connect();
    let head = format!(
        "POST /v1/vault/hash HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    );
    stream.write_all(head.as_bytes()).unwrap();
    stream
}

#[test]
fn a_client_that_hangs_up_gives_its_core_back_in_the_middle_of_a_hash() {
    let world = World::with(|options, _| options.threads = Some(1));
    // Four at a time, seconds each time: it would hold the only thread for minutes.
    let item = json!({"password": "x", "algorithm": "bcrypt", "params": {"cost": 14}});
    let batch = json!({"items": vec![item; 400]}).to_string();
    let stream = send(&world, &batch);
    until("it runs", || running(&world) == 1);
    drop(stream);
    let took = until("it ends", || running(&world) == 0);
    println!("core free after {took:?}");
    let light = r#"{"password":"x","algorithm":"bcrypt","params":{"cost":4}}"#;
    world.post("/v1/vault/hash", light).ok();
}

#[test]
fn a_guest_gets_its_answer_when_the_host_of_its_run_hangs_up() {
    let world = World::with(|options, _| options.threads = Some(1));
    let body = |cost: u8| {
        json!({"password": "x", "algorithm": "bcrypt", "params": {"cost": cost}}).to_string()
    };
    // Holds the thread while the two gather behind it.
    let first = send(&world, &body(13));
    until("it runs", || running(&world) == 1);
    let host = send(&world, &body(12));
    let waiting = || {
        let lanes = world.server().handle().call_lanes();
        let lane = lanes.iter().find(|lane| &*lane.name == "vault:passwords");
        lane.unwrap().waiting
    };
    until("the host waits", || waiting() == 1);
    std::thread::scope(|scope| {
        let guest = scope.spawn(|| world.post("/v1/vault/hash", &body(12)).ok());
        until("the guest waits", || waiting() == 2);
        drop(first);
        // The guest leaves the line when the host's run takes it.
        until("they run together", || {
            waiting() == 0 && running(&world) == 1
        });
        drop(host);
        let hash = guest.join().unwrap();
        assert!(hash["hash"].as_str().unwrap().starts_with("$2b$12$"));
    });
    let seen = world.request("GET", "/v1/vault/keys", "", b"").ok();
    assert_eq!(seen["passwords"]["run_together"], 1);
}
