//! A million queued jobs, and millions of finished ones.

use std::time::Instant;

use serde_json::json;

use super::Bench;
use super::callers::Callers;
use super::conn::{bulk, post};
use super::server::Server;
use super::speed::{HELD, NOOP, hold, lives};
use crate::tell::{Figure, Goal, Rounds, quantiles};

/// Memory with a million queued jobs, and the start with them, after an end in order and a kill.
pub(super) fn million(bench: &mut Bench) -> anyhow::Result<()> {
    let jobs = bench.jobs(1_000_000);
    let folder = bench.program.fresh()?;
    let mut server = bench.program.serve(folder.path(), &[])?;
    let empty = server.resident_bytes()?;
    hold(&server)?;
    bulk(&mut server.connect()?, HELD, jobs)?;
    let mib = |bytes: u64| bytes as f64 / f64::from(1 << 20);
    let full = server.resident_bytes()?;
    let (mut clean, mut killed, mut after) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..bench.rounds {
        server.end()?;
        server = bench.program.serve(folder.path(), &[])?;
        clean.push(server.ready_after.as_secs_f64());
        server.kill()?;
        server = bench.program.serve(folder.path(), &[])?;
        killed.push(server.ready_after.as_secs_f64());
        after.push(mib(server.resident_bytes()?));
    }
    let more = json!({ "jobs": jobs, "empty_mib": mib(empty) });
    bench.add(
        Figure::new("million queued: resident", "MiB", vec![mib(full)])
            .below(300.0)
            .more(more),
    );
    bench.add(Figure::new("million queued: resident after a restart", "MiB", after).below(300.0));
    bench.add(Figure::new("million queued: ready after SIGTERM", "s", clean).below(3.0));
    bench.add(Figure::new("million queued: ready after SIGKILL", "s", killed).below(3.0));
    server.end()
}

/// Enqueue and life with many finished rows beside the same with none, round by round.
pub(super) fn history(bench: &mut Bench) -> anyhow::Result<()> {
    let (adds, runs) = (bench.jobs(60_000), bench.jobs(100_000));
    let (new, old) = (bench.program.fresh()?, bench.program.fresh()?);
    let full = bench.program.serve(old.path(), &[])?;
    let mut left = bench.finished;
    while left > 0 {
        let jobs = left.min(1_000_000);
        lives(&full, jobs)?;
        left -= jobs;
    }
    let fresh = bench.program.serve(new.path(), &[])?;
    let (mut add_full, mut add_fresh) = (Vec::new(), Vec::new());
    let (mut life_full, mut life_fresh) = (Vec::new(), Vec::new());
    for server in [&full, &fresh] {
        hold(server)?;
        add_rate(server, adds / 4)?;
        life_rate(server, runs / 4)?;
    }
    for _ in 0..bench.rounds {
        add_fresh.push(add_rate(&fresh, adds)?);
        add_full.push(add_rate(&full, adds)?);
        life_fresh.push(life_rate(&fresh, runs)?);
        life_full.push(life_rate(&full, runs)?);
    }
    let (mut trip_full, mut trip_fresh) = (Vec::new(), Vec::new());
    let mut pages = Vec::new();
    for _ in 0..bench.rounds {
        trip_fresh.push(trip_p99(&fresh)?);
        trip_full.push(trip_p99(&full)?);
        pages.push(slowest_page(&full)?);
    }
    let more =
        json!({ "finished_rows": bench.finished, "beside": "the same server without history" });
    let rows = bench.finished;
    for (what, full, fresh) in [
        ("add-50", add_full, add_fresh),
        ("life", life_full, life_fresh),
    ] {
        let mut figure = Figure::new(format!("{what} with {rows} finished"), "jobs/s", full);
        figure.rival = Rounds::new(fresh);
        figure.goal = Goal::TimesRival(0.9);
        bench.add(figure.more(more.clone()));
    }
    let mut trip = Figure::new(
        format!("POST with wait to the end, p99, with {rows} finished"),
        "ms",
        trip_full,
    );
    trip.rival = Rounds::new(trip_fresh);
    trip.goal = Goal::AtMostTimesRival(1.2);
    bench.add(trip.more(more));
    let pages = Figure::new(
        format!("slowest page of a list with {rows} finished"),
        "ms",
        pages,
    );
    bench.add(
        pages
            .below(100.0)
            .more(json!({ "lists": LISTS, "each": PAGES })),
    );
    full.end()?;
    fresh.end()
}

/// What people look for: the newest, by what is common, and by what is nowhere, which takes the longest.
const LISTS: [&str; 6] = [
    "",
    "&state=completed",
    "&task=offloop.noop",
    "&state=failed",
    "&class=timeout",
    "&tag=nowhere",
];
/// Pages of each.
const PAGES: usize = 20;
const TRIPS: usize = 500;

/// Milliseconds of the slowest page, in the middle of its kind.
fn slowest_page(server: &Server) -> anyhow::Result<f64> {
    let mut conn = server.connect()?;
    let mut slowest: f64 = 0.0;
    for list in LISTS {
        let mut took = Vec::with_capacity(PAGES);
        for _ in 0..PAGES {
            let began = Instant::now();
            conn.get(&format!("/v1/jobs?limit=50{list}"))?.expect(200)?;
            took.push(began.elapsed());
        }
        slowest = slowest.max(quantiles(&mut took).0);
    }
    Ok(slowest)
}

/// One job after the other, each until its answer.
fn trip_p99(server: &Server) -> anyhow::Result<f64> {
    let mut conn = server.connect()?;
    let mut took = Vec::with_capacity(TRIPS);
    for _ in 0..TRIPS {
        let began = Instant::now();
        conn.post("/v1/jobs", "prefer: wait=10\r\n", NOOP)?
            .expect(200)?;
        took.push(began.elapsed());
    }
    Ok(quantiles(&mut took).1)
}

fn add_rate(server: &Server, jobs: usize) -> anyhow::Result<f64> {
    let mut callers = Callers::connect(server, 50)?;
    let called = callers.call(&post("/v1/jobs", "", HELD), jobs, 201)?;
    Ok(jobs as f64 / called.took.as_secs_f64())
}

fn life_rate(server: &Server, jobs: usize) -> anyhow::Result<f64> {
    Ok(jobs as f64 / lives(server, jobs)?.as_secs_f64())
}
