//! A server that is killed in the middle of a list calls what was done before not once more.
#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

#[path = "support/house.rs"]
#[allow(dead_code, reason = "a part of it is used")]
mod house;
mod support;

use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use house::{builder, options};
use offloop::job::IdempotencyKey;
use offloop::runtime::clock::Dice;
use offloop::store::InsertOutcome;
use offloop::{NewJob, NewJobExt as _, block_on};
use serde_json::{Value, json};
use support::{SOON, Server};

const CALLS: usize = 120;
const LIMIT: usize = 4;
const KILLS: usize = 6;
const PORT_FILE: &str = "port";

/// Not a test by itself: the server that is killed, in a folder that the test below has made.
#[test]
#[ignore = "it is a part of the next one"]
fn child() {
    let Ok(at) = std::fs::read_to_string(PORT_FILE) else {
        return;
    };
    let at: std::net::SocketAddr = at.parse().unwrap();
    let server = builder(Path::new("data"), options(at)).start().unwrap();
    let urls: Vec<_> = (0..CALLS)
        .map(|turn| format!("http://{at}/delay/40?{turn}"))
        .collect();
    let payload = json!({"urls": urls, "limit": LIMIT, "on_result": "task", "task": "take"});
    // The same job in each life.
    let mut job = NewJob::of("fetch", &payload).unwrap();
    job.idempotency = Some(IdempotencyKey::parse("the one").unwrap());
    let outcome = block_on(server.handle().enqueue(vec![job]))
        .unwrap()
        .remove(0);
    let id = match outcome {
        InsertOutcome::Created { id, .. } | InsertOutcome::Existing { id, .. } => id,
        InsertOutcome::Refused(refusal) => panic!("{refusal}"),
    };
    // Three lost servers in a row are held against the job; a person gives it its next life.
    block_on(server.handle().retry(id)).unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let job = runtime
        .block_on(server.handle().wait_final(id, SOON * 2))
        .unwrap()
        .unwrap();
    let handed = runtime.block_on(async {
        let ask = offloop::store::ListRequest {
            now: server.handle().now(),
            filter: offloop::store::JobFilter {
                task: Some(offloop::TaskName::parse("take").unwrap()),
                ..offloop::store::JobFilter::default()
            },
            limit: 500,
            cursor: None,
        };
        server.handle().jobs(ask).await.unwrap().jobs.len()
    });
    let result: Value = serde_json::from_slice(&job.result.unwrap()).unwrap();
    println!(
        "done {}",
        json!({"ok": result["ok"], "handed": handed, "calls": result["calls"]})
    );
}

struct Killed(Child);

impl Drop for Killed {
    fn drop(&mut self) {
        let _ = self.0.kill(); // it may have ended
        let _ = self.0.wait();
    }
}

fn start(folder: &Path) -> Killed {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["child", "--exact", "--ignored", "--nocapture"]);
    command.current_dir(folder).stdout(Stdio::piped());
    #[expect(clippy::disallowed_methods, reason = "the test kills it")]
    let child = command.spawn().unwrap();
    Killed(child)
}

#[test]
fn no_call_that_was_done_is_made_again_after_a_kill() {
    let folder = tempfile::tempdir().unwrap();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .unwrap();
    let bad = runtime.block_on(Server::start());
    std::fs::write(folder.path().join(PORT_FILE), bad.at.to_string()).unwrap();
    let made = || bad.seen.paths.lock().unwrap().values().sum::<usize>();
    let dice = Dice::new(41);
    for _ in 0..KILLS {
        let before = made();
        let child = start(folder.path());
        // Somewhere in the next part of the list.
        let more = LIMIT + 1 + (dice.roll() * 16.0) as usize;
        let wait = async {
            while made() < before + more {
                tokio::time::sleep(std::time::Duration::from_millis(1)).await;
            }
        };
        runtime
            .block_on(async { tokio::time::timeout(SOON, wait).await })
            .expect("in time");
        drop(child);
    }
    let mut last = start(folder.path());
    let lines = BufReader::new(last.0.stdout.take().unwrap()).lines();
    let told = lines.map_while(Result::ok).find_map(|line| {
        let (_, text) = line.split_once("done ")?;
        serde_json::from_str::<Value>(text).ok()
    });
    let told = told.expect("it came to its end");
    assert_eq!(
        (&told["ok"], &told["handed"]),
        (&json!(CALLS), &json!(CALLS)),
        "{told}"
    );
    let paths = bad.seen.paths.lock().unwrap();
    assert_eq!(paths.len(), CALLS);
    let twice: usize = paths.values().map(|count| count - 1).sum();
    println!("{twice} of {CALLS} calls were made again after {KILLS} kills");
    // Those that were under way when it was killed, and those whose row was on its way to the disk, which
    // may be slow. Were there no rows, it would be about 300.
    assert!(twice <= KILLS * LIMIT * 4, "{twice} calls were made again");
}
