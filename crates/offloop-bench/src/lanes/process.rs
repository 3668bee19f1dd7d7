//! The process lane beside npm's pools: the same function in Node, and a compiled child that speaks
//! the protocol itself. Ours is asked from Rust, as in a server; theirs from Node, as in theirs.

use std::ffi::OsString;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use offloop_job::TaskName;
use offloop_lane::Lane;
use offloop_lane_process::{ProcessLane, ProcessSpec};

use super::Bench;
use super::work::{Heard, Line, info, payload, quantile, work};
use crate::tell::{Figure, Goal};

const TRIPS: usize = 3_000;
const LARGE_TRIPS: usize = 60;
const STREAM: usize = 20_000;
const SMALL_BYTES: usize = 64;
const LARGE_BYTES: usize = 1 << 20;
const POOLS: [&str; 3] = ["workerpool", "tinypool", "piscina"];
const HOUR: Duration = Duration::from_secs(3_600);

/// A lane with children that wait.
struct Ours {
    lane: ProcessLane,
    heard: Heard,
    task: TaskName,
    lease: u64,
    children: usize,
}

impl Ours {
    fn new(
        bench: &Bench,
        command: impl IntoIterator<Item = OsString>,
        children: u16,
    ) -> anyhow::Result<Self> {
        let mut spec = ProcessSpec::process(info()?, command);
        spec.processes = children;
        let (line, heard) = Line::new();
        let lane = ProcessLane::new(spec, Arc::clone(&bench.host));
        lane.open(Arc::new(line))?;
        let mut ours = Self {
            lane,
            heard,
            task: info()?.name,
            lease: 0,
            children: usize::from(children),
        };
        ours.stream(300, SMALL_BYTES)?; // warm, as the rivals are
        Ok(ours)
    }

    fn send(&mut self, payload: &Bytes) {
        self.lease += 1;
        self.lane
            .start(vec![work(self.lease, &self.task, payload, HOUR)]);
    }

    /// Microseconds, median: to the lane's news of the end, and to the thread that waits for it.
    fn trip(&mut self, count: usize, bytes: usize) -> anyhow::Result<[f64; 2]> {
        let payload = payload(bytes);
        let (mut told, mut heard) = (Vec::with_capacity(count), Vec::with_capacity(count));
        for _ in 0..count {
            let began = Instant::now();
            self.send(&payload);
            let at = self.heard.completed()?;
            heard.push(began.elapsed());
            told.push(at.saturating_duration_since(began));
        }
        Ok([told, heard].map(|mut times| quantile(&mut times, 0.5, 1e6)))
    }

    /// Tasks per second; a child never waits for more than the news of its end to travel.
    fn stream(&mut self, count: usize, bytes: usize) -> anyhow::Result<f64> {
        let (payload, began) = (payload(bytes), Instant::now());
        for _ in 0..self.children {
            self.send(&payload);
        }
        for sent in self.children..count + self.children {
            self.heard.completed()?;
            if sent < count {
                self.send(&payload);
            }
        }
        Ok(count as f64 / began.elapsed().as_secs_f64())
    }
}

pub(super) fn measure(bench: &mut Bench) -> anyhow::Result<()> {
    let compiled = || [bench.me.clone().into(), "child".into(), "echo".into()];
    let node = || [OsString::from("node"), bench.echo.clone().into()];
    let (mut rust, mut js) = (
        Ours::new(bench, compiled(), 1)?,
        Ours::new(bench, node(), 1)?,
    );
    let (mut rust_2, mut js_2) = (
        Ours::new(bench, compiled(), 2)?,
        Ours::new(bench, node(), 2)?,
    );
    let (trips, large, stream) = (
        bench.count(TRIPS),
        bench.count(LARGE_TRIPS),
        bench.count(STREAM),
    );
    let mut ours = [const { Vec::new() }; 10];
    let mut theirs = [const { [const { Vec::new() }; 3] }; 3]; // trip, large, stream; by pool
    for _ in 0..bench.rounds {
        let trips_of = [
            rust.trip(trips, SMALL_BYTES)?,
            js.trip(trips, SMALL_BYTES)?,
            rust.trip(large, LARGE_BYTES)?,
            js.trip(large, LARGE_BYTES)?,
        ];
        let told = trips_of.iter().flatten().copied();
        let streams = [
            rust_2.stream(stream, SMALL_BYTES)?,
            js_2.stream(stream, SMALL_BYTES)?,
        ];
        let all = told.chain(streams);
        ours.iter_mut()
            .zip(all)
            .for_each(|(rounds, value)| rounds.push(value));
        let Some(rival) = &mut bench.rival else {
            continue;
        };
        for (at, pool) in POOLS.iter().enumerate() {
            theirs[0][at].push(rival.round("trip", pool, trips, SMALL_BYTES)?);
            theirs[1][at].push(rival.round("trip", pool, large, LARGE_BYTES)?);
            theirs[2][at].push(rival.round("stream", pool, stream, SMALL_BYTES)?);
        }
    }
    tell(bench, ours, &theirs);
    Ok(())
}

fn tell(bench: &mut Bench, ours: [Vec<f64>; 10], theirs: &[[Vec<f64>; 3]; 3]) {
    let [
        rust,
        rust_heard,
        js,
        js_heard,
        rust_large,
        _,
        js_large,
        _,
        rust_2,
        js_2,
    ] = ours;
    let trip = "64 B there and back, compiled child";
    bench.add(Figure::new(trip, "us", rust).below(20.0));
    bench.add(Figure::new(
        format!("{trip}, to a thread that waits"),
        "us",
        rust_heard,
    ));
    // Goals are held against one rival each: workerpool's processes for the way, Piscina's clone
    // for the size.
    let rows = [
        ("64 B, Node child", "us", js, 0, Some("workerpool")),
        (
            "64 B, Node child, to a thread that waits",
            "us",
            js_heard,
            0,
            None,
        ),
        (
            "1 MiB, compiled child",
            "us",
            rust_large,
            1,
            Some("piscina"),
        ),
        ("1 MiB, Node child", "us", js_large, 1, Some("piscina")),
        ("stream of 2 compiled children", "tasks/s", rust_2, 2, None),
        ("stream of 2 Node children", "tasks/s", js_2, 2, None),
    ];
    for (what, unit, rounds, measure, held_against) in rows {
        for (pool, rival) in POOLS.iter().zip(&theirs[measure]) {
            let figure = Figure::new(format!("{what}, rival {pool}"), unit, rounds.clone());
            let figure = figure.rival(rival.clone());
            bench.add(if held_against == Some(pool) {
                figure.goal(Goal::AtMostTimesRival(1.0))
            } else {
                figure
            });
        }
    }
}
