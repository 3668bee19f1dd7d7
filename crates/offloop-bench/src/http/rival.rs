//! The other queue, in a process of its own that stays warm between rounds.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use anyhow::Context;
use serde_json::Value;

/// Where the rival's figures come from.
#[derive(Debug)]
pub(super) enum Rival {
    None,
    /// It runs now, round by round beside ours.
    Live(Box<Live>),
    /// An earlier run, by measure.
    Told(BTreeMap<String, Vec<f64>>),
}

#[derive(Debug)]
pub(super) struct Live {
    child: Child,
    asks: ChildStdin,
    answers: BufReader<ChildStdout>,
    pub(super) about: Value,
    /// Jobs that its worker holds at a time, once the sweep has found the best.
    pub(super) concurrency: u32,
}

impl Live {
    /// Starts `bullmq.mjs` of `folder` on a Redis that runs.
    pub(super) fn start(folder: &Path, redis_port: u16) -> anyhow::Result<Self> {
        let mut command = Command::new("node");
        command
            .arg("bullmq.mjs")
            .current_dir(folder)
            .env("REDIS_PORT", redis_port.to_string())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped());
        #[allow(clippy::disallowed_methods)] // the bench is the parent here, not a lane
        let mut child = command.spawn().context("cannot start node")?;
        let asks = child.stdin.take().context("no stdin")?;
        let answers = BufReader::new(child.stdout.take().context("no stdout")?);
        let mut live = Self {
            child,
            asks,
            answers,
            about: Value::Null,
            concurrency: 100,
        };
        live.about = live.read().context("bullmq.mjs said nothing")?;
        Ok(live)
    }

    fn read(&mut self) -> anyhow::Result<Value> {
        let mut line = String::new();
        self.answers.read_line(&mut line)?;
        Ok(serde_json::from_str(&line)?)
    }

    /// One round: jobs per second.
    pub(super) fn round(&mut self, measure: &str, jobs: usize) -> anyhow::Result<f64> {
        let concurrency = self.concurrency;
        writeln!(self.asks, "{measure} {jobs} {concurrency}")?;
        let answer = self.read()?;
        answer["per_second"]
            .as_f64()
            .with_context(|| format!("the rival failed: {answer}"))
    }

    /// Finds the number of jobs in flight that suits its worker best.
    pub(super) fn sweep(&mut self, jobs: usize) -> anyhow::Result<Vec<(u32, f64)>> {
        let mut found = [50, 100, 200].map(|concurrency| (concurrency, 0.0_f64));
        // In turn, so that a noisy moment does not speak against one of them.
        for _ in 0..3 {
            for (concurrency, best) in &mut found {
                self.concurrency = *concurrency;
                *best = best.max(self.round("life", jobs)?);
            }
        }
        let best = found.iter().max_by(|a, b| a.1.total_cmp(&b.1));
        self.concurrency = best.map_or(100, |best| best.0);
        Ok(found.to_vec())
    }
}

impl Drop for Live {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Figures of an earlier run, as its JSON lines say.
pub(super) fn told(path: &Path) -> anyhow::Result<BTreeMap<String, Vec<f64>>> {
    let text =
        std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
    let mut found: BTreeMap<String, Vec<f64>> = BTreeMap::new();
    for line in text.lines() {
        let Ok(line) = serde_json::from_str::<Value>(line) else {
            continue;
        };
        if let (Some(measure), Some(rate)) = (line["measure"].as_str(), line["per_second"].as_f64())
        {
            found.entry(measure.into()).or_default().push(rate);
        }
    }
    Ok(found)
}
