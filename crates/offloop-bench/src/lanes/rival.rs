//! npm's pools, in a Node process that stays warm between rounds.

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use anyhow::{Context, ensure};
use serde_json::Value;

#[derive(Debug)]
pub(super) struct Rival {
    child: Child,
    asks: ChildStdin,
    answers: BufReader<ChildStdout>,
    /// Versions.
    pub(super) about: Value,
}

impl Rival {
    #[expect(
        clippy::disallowed_methods,
        reason = "the bench is the parent here, not a lane"
    )]
    pub(super) fn start(folder: &Path) -> anyhow::Result<Self> {
        ensure!(
            folder.join("node_modules/piscina").is_dir(),
            "run `npm ci` in {}",
            folder.display()
        );
        let mut command = Command::new("node");
        command
            .arg("lanes.mjs")
            .current_dir(folder)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped());
        let mut child = command.spawn().context("cannot start node")?;
        let asks = child.stdin.take().context("no stdin")?;
        let answers = BufReader::new(child.stdout.take().context("no stdout")?);
        let mut rival = Self {
            child,
            asks,
            answers,
            about: Value::Null,
        };
        rival.about = rival.read().context("lanes.mjs said nothing")?;
        Ok(rival)
    }

    fn read(&mut self) -> anyhow::Result<Value> {
        let mut line = String::new();
        self.answers.read_line(&mut line)?;
        Ok(serde_json::from_str(&line)?)
    }

    /// One round: microseconds for `trip`, tasks per second for `stream`.
    pub(super) fn round(
        &mut self,
        measure: &str,
        pool: &str,
        count: usize,
        bytes: usize,
    ) -> anyhow::Result<f64> {
        writeln!(self.asks, "{measure} {pool} {count} {bytes}")?;
        let answer = self.read()?;
        answer["value"]
            .as_f64()
            .with_context(|| format!("the rival failed: {answer}"))
    }
}

impl Drop for Rival {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
