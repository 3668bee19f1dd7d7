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

    /// Microseconds, median.
    fn trip(&mut self, count: usize, bytes: usize) -> anyhow::Result<f64> {
        let payload = payload(bytes);
        let mut times = Vec::with_capacity(count);
        for _ in 0..count {
            let began = Instant::now();
            self.send(&payload);
            self.heard.completed()?;
            times.push(began.elapsed());
        }
        Ok(quantile(&mut times, 0.5, 1e6))
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
    let pools = ["workerpool", "tinypool", "piscina"];
    let (trips, large, stream) = (
        bench.count(TRIPS),
        bench.count(LARGE_TRIPS),
        bench.count(STREAM),
    );
    let mut ours = [const { Vec::new() }; 6];
    let mut theirs = [const { [const { Vec::new() }; 3] }; 3]; // trip, large, stream; by pool
    for _ in 0..bench.rounds {
        ours[0].push(rust.trip(trips, SMALL_BYTES)?);
        ours[1].push(js.trip(trips, SMALL_BYTES)?);
        ours[2].push(rust.trip(large, LARGE_BYTES)?);
        ours[3].push(js.trip(large, LARGE_BYTES)?);
        ours[4].push(rust_2.stream(stream, SMALL_BYTES)?);
        ours[5].push(js_2.stream(stream, SMALL_BYTES)?);
        let Some(rival) = &mut bench.rival else {
            continue;
        };
        for (at, pool) in pools.iter().enumerate() {
            theirs[0][at].push(rival.round("trip", pool, trips, SMALL_BYTES)?);
            theirs[1][at].push(rival.round("trip", pool, large, LARGE_BYTES)?);
            theirs[2][at].push(rival.round("stream", pool, stream, SMALL_BYTES)?);
        }
    }
    let [
        rust_trip,
        js_trip,
        rust_large,
        js_large,
        rust_stream,
        js_stream,
    ] = ours;
    bench.add(Figure::new("64 B there and back, compiled child", "us", rust_trip).below(20.0));
    for (at, pool) in pools.iter().enumerate() {
        let figure = Figure::new(
            format!("64 B, Node child, rival {pool}"),
            "us",
            js_trip.clone(),
        );
        let figure = figure.rival(theirs[0][at].clone());
        bench.add(if at == 0 {
            figure.goal(Goal::AtMostTimesRival(1.0))
        } else {
            figure
        });
    }
    let figure = Figure::new("1 MiB, compiled child, rival piscina", "us", rust_large);
    bench.add(
        figure
            .rival(theirs[1][2].clone())
            .goal(Goal::AtMostTimesRival(1.0)),
    );
    for (at, pool) in pools.iter().enumerate() {
        let figure = Figure::new(
            format!("1 MiB, Node child, rival {pool}"),
            "us",
            js_large.clone(),
        );
        let figure = figure.rival(theirs[1][at].clone());
        bench.add(if at == 2 {
            figure.goal(Goal::AtMostTimesRival(1.0))
        } else {
            figure
        });
    }
    bench.add(Figure::new(
        "stream of 2 compiled children",
        "tasks/s",
        rust_stream,
    ));
    for (at, pool) in pools.iter().enumerate() {
        let figure = Figure::new(
            format!("stream of 2 Node children, rival {pool}"),
            "tasks/s",
            js_stream.clone(),
        );
        bench.add(figure.rival(theirs[2][at].clone()));
    }
    Ok(())
}
