//! How quickly the door answers while every core converts photos.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use serde_json::json;

use super::Bench;
use super::server::Server;
use crate::tell::{Figure, quantiles};

const ASK_EVERY: Duration = Duration::from_millis(5);
const PATHS: [&str; 2] = ["/healthz", "/v1/queues"];

pub(super) fn measure(bench: &mut Bench) -> anyhow::Result<()> {
    let Some(photos) = bench.photos.clone() else {
        println!(
            "{}",
            json!({ "measure": "photos", "skipped": "give a folder with --photos" })
        );
        return Ok(());
    };
    let photos = photos.canonicalize()?;
    let mut found: [[Vec<f64>; 3]; 2] = Default::default();
    let mut seconds = Vec::new();
    let mut counts = serde_json::Value::Null;
    for _ in 0..bench.rounds {
        let folder = bench.program.fresh()?;
        let env = [("OFFLOOP_PHOTOS_CONCURRENCY", "2")];
        let server = bench.program.serve(folder.path(), &env)?;
        let began = Instant::now();
        let body = json!({ "path": photos }).to_string();
        let answer = server.connect()?.post("/v1/photos/scan", "", &body)?;
        ensure!(
            (200..300).contains(&answer.status),
            "scan: answer {}",
            answer.status
        );
        let (ended, waits) = beside(&server)?;
        seconds.push(began.elapsed().as_secs_f64());
        counts = ended;
        for (all, mut waits) in found.iter_mut().zip(waits) {
            let (p50, p99, max) = quantiles(&mut waits);
            for (rounds, value) in all.iter_mut().zip([p50, p99, max]) {
                rounds.push(value);
            }
        }
        server.end()?;
    }
    let more = json!({ "counts": counts, "seconds": seconds, "asks_per_s": 200 });
    for (path, [p50, p99, max]) in PATHS.into_iter().zip(found) {
        bench.add(Figure::new(format!("photos: GET {path} p50"), "ms", p50).more(more.clone()));
        bench.add(Figure::new(format!("photos: GET {path} p99"), "ms", p99).below(5.0));
        bench.add(Figure::new(format!("photos: GET {path} max"), "ms", max));
    }
    Ok(())
}

/// Asks each path at its pace until every photo has ended: the last counts, and the waits.
fn beside(server: &Server) -> anyhow::Result<(serde_json::Value, [Vec<Duration>; 2])> {
    let over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let askers = PATHS.map(|path| scope.spawn(|| ask(server, path, &over)));
        let ended = until_done(server);
        over.store(true, Ordering::Release);
        let [first, second] = askers.map(|asker| {
            asker
                .join()
                .map_err(|_| anyhow::anyhow!("an asker panicked"))?
        });
        Ok((ended?, [first?, second?]))
    })
}

fn until_done(server: &Server) -> anyhow::Result<serde_json::Value> {
    let mut conn = server.connect()?;
    loop {
        std::thread::sleep(Duration::from_millis(200));
        let status = conn.get("/v1/photos/status")?.expect(200)?.json()?;
        let count = |name: &str| status["counts"][name].as_u64().unwrap_or(0);
        let open = count("PENDING_CONVERSION") + count("CONVERTING");
        if status["scan"]["state"] == "completed" && open == 0 {
            return Ok(status["counts"].clone());
        }
        ensure!(
            status["scan"]["state"] != "failed",
            "the scan failed: {status}"
        );
    }
}

/// Open loop: an ask that was held up counts from the time when it was due.
fn ask(server: &Server, path: &str, over: &AtomicBool) -> anyhow::Result<Vec<Duration>> {
    let mut conn = server.connect().context("no connection for an asker")?;
    let began = Instant::now();
    let mut waits = Vec::new();
    let mut at = Duration::ZERO;
    while !over.load(Ordering::Acquire) {
        if let Some(left) = at.checked_sub(began.elapsed()) {
            std::thread::sleep(left);
        }
        // The generator's own oversleep is not the server's wait.
        let late = began.elapsed().saturating_sub(at);
        let sent = Instant::now();
        conn.get(path)?.expect(200)?;
        let held_up = if late > ASK_EVERY {
            late
        } else {
            Duration::ZERO
        };
        waits.push(sent.elapsed() + held_up);
        at += ASK_EVERY;
    }
    Ok(waits)
}
