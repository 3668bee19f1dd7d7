//! How much per second: one by one, in bulk, and whole lives.

use std::time::{Duration, Instant};

use anyhow::ensure;
use serde_json::json;

use super::Bench;
use super::callers::{Called, Callers};
use super::conn::{Conn, bulk as send_bulk, post};
use super::server::{Server, own_cpu};
use crate::tell::{Figure, quantiles};

const CALLERS: usize = 50;
/// A queue that gives nothing out, as the rival's has no worker while it adds.
pub(super) const HELD: &str = r#"{"task":"offloop.noop","queue":"held","payload":{}}"#;
/// A job that runs at once.
pub(super) const NOOP: &str = r#"{"task":"offloop.noop","payload":{}}"#;
const LOOK_EVERY: Duration = Duration::from_millis(3);

/// Pauses the queue of [`HELD`].
pub(super) fn hold(server: &Server) -> anyhow::Result<()> {
    let mut conn = server.connect()?;
    conn.post("/v1/queues/held/pause", "", "")?.expect(200)?;
    Ok(())
}

/// Processor time per job of server and generator, in microseconds.
struct Meter {
    server: Duration,
    own: Duration,
    jobs: usize,
}

impl Meter {
    fn start(server: &Server, jobs: usize) -> anyhow::Result<Self> {
        Ok(Self {
            server: server.cpu()?,
            own: own_cpu()?,
            jobs,
        })
    }

    fn stop(&self, server: &Server) -> anyhow::Result<serde_json::Value> {
        let each = |spent: Duration| spent.as_secs_f64() * 1e6 / self.jobs as f64;
        let server_us = each(server.cpu()?.saturating_sub(self.server));
        let own_us = each(own_cpu()?.saturating_sub(self.own));
        Ok(json!({ "server_cpu_us_per_job": server_us, "generator_cpu_us_per_job": own_us }))
    }
}

/// 50 callers, one `POST /v1/jobs` at a time each, into a paused queue; 201 after the flush.
pub(super) fn add(bench: &mut Bench) -> anyhow::Result<()> {
    let jobs = bench.jobs(60_000);
    let folder = bench.program.fresh()?;
    let server = bench.program.serve(folder.path(), &[])?;
    hold(&server)?;
    let mut callers = Callers::connect(&server, CALLERS)?;
    let request = post("/v1/jobs", "", HELD);
    callers.call(&request, jobs / 4, 201)?; // warm, as the rival's
    bench.rival_round("add-50", jobs / 4)?;
    let meter = Meter::start(&server, jobs * bench.rounds)?;
    let (mut ours, mut theirs, mut waits) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..bench.rounds {
        let Called { took, waits: own } = callers.call(&request, jobs, 201)?;
        ours.push(jobs as f64 / took.as_secs_f64());
        waits.extend(own);
        theirs.extend(bench.rival_round("add-50", jobs)?);
    }
    let mut more = meter.stop(&server)?;
    let (p50, p99, max) = quantiles(&mut waits);
    more["wait_ms"] = json!({ "p50": p50, "p99": p99, "max": max });
    let mut figure = Figure::new("add-50: POST by 50 callers", "jobs/s", ours).more(more);
    figure.limit = Some((
        CALLERS as f64 / (bench.flush_us / 1e6),
        "50 jobs in each fdatasync",
    ));
    let mut figure = bench.against(figure, "add-50", theirs, 1.2);
    if let Some(store) = bench.store.add {
        figure.more["of_store_alone"] = json!(figure.ours.median() / store);
    }
    bench.add(figure);
    server.end()
}

/// One streamed NDJSON body with `?answer=summary` into a paused queue.
pub(super) fn bulk(bench: &mut Bench) -> anyhow::Result<()> {
    let (jobs, rival_jobs) = (bench.jobs(400_000), bench.jobs(100_000));
    let folder = bench.program.fresh()?;
    let server = bench.program.serve(folder.path(), &[])?;
    hold(&server)?;
    let mut conn = server.connect()?;
    send_bulk(&mut conn, HELD, jobs / 4)?;
    bench.rival_round("add-bulk", rival_jobs / 4)?;
    let meter = Meter::start(&server, jobs * bench.rounds)?;
    let (mut ours, mut theirs) = (Vec::new(), Vec::new());
    for _ in 0..bench.rounds {
        let began = Instant::now();
        send_bulk(&mut conn, HELD, jobs)?;
        ours.push(jobs as f64 / began.elapsed().as_secs_f64());
        theirs.extend(bench.rival_round("add-bulk", rival_jobs)?);
    }
    let figure = Figure::new("add-bulk: NDJSON stream", "jobs/s", ours).more(meter.stop(&server)?);
    let mut figure = bench.against(figure, "add-bulk", theirs, 8.0);
    figure.limit = bench.store.bulk.map(|rate| (rate, "the store alone"));
    bench.add(figure);
    server.end()
}

/// Bulk in, a no-op on the CPU lane, settled; until the last end is on disk.
pub(super) fn life(bench: &mut Bench) -> anyhow::Result<()> {
    let (jobs, rival_jobs) = (bench.jobs(200_000), bench.jobs(50_000));
    let folder = bench.program.fresh()?;
    let server = bench.program.serve(folder.path(), &[])?;
    lives(&server, jobs / 4)?;
    bench.rival_round("life", rival_jobs / 4)?;
    let meter = Meter::start(&server, jobs * bench.rounds)?;
    let (mut ours, mut theirs) = (Vec::new(), Vec::new());
    for _ in 0..bench.rounds {
        let took = lives(&server, jobs)?;
        ours.push(jobs as f64 / took.as_secs_f64());
        theirs.extend(bench.rival_round("life", rival_jobs)?);
    }
    let figure = Figure::new("life: NDJSON in, run, settled", "jobs/s", ours);
    let figure = figure.more(meter.stop(&server)?);
    let mut figure = bench.against(figure, "life", theirs, 6.0);
    figure.limit = bench.store.life.map(|rate| (rate, "the store alone"));
    bench.add(figure);
    server.end()
}

/// Sends `jobs` no-ops and waits until none is left.
pub(super) fn lives(server: &Server, jobs: usize) -> anyhow::Result<Duration> {
    let mut conn = server.connect()?;
    let began = Instant::now();
    send_bulk(&mut conn, NOOP, jobs)?;
    while unfinished(&mut conn)? > 0 {
        std::thread::sleep(LOOK_EVERY);
    }
    Ok(began.elapsed())
}

/// Jobs that are not final, in all queues that are not paused. The store answers after the commit
/// of what it counts.
pub(super) fn unfinished(conn: &mut Conn) -> anyhow::Result<u64> {
    let answer = conn.get("/v1/queues")?.expect(200)?.json()?;
    let queues = answer["queues"].as_array();
    ensure!(queues.is_some(), "no queues in {answer}");
    let open = queues.into_iter().flatten();
    Ok(open
        .filter(|queue| queue["paused"] != true)
        .flat_map(|queue| {
            ["waiting", "scheduled", "ready", "running"].map(|state| &queue["counts"][state])
        })
        .filter_map(serde_json::Value::as_u64)
        .sum())
}
