//! The process lane alone: its round trips, its streams, and how punctually it ends what must end.
//!
//! npm's process pools run beside it, their rounds between ours. The CPU lane's comparison is an
//! example of its crate; `just bench-lanes` runs both. Figures are in docs/guides/performance.md.

mod births;
mod ladder;
mod process;
mod rival;
mod work;

use std::path::PathBuf;
use std::sync::Arc;

use anyhow::{Context, ensure};
use offloop_lane_process::{Host, HostConfig, SHIM_COMMAND};
use serde_json::json;

use crate::report;
use crate::tell::{self, Figure};
use rival::Rival;

#[derive(clap::Args)]
pub(crate) struct Args {
    /// Rounds of each measure
    #[arg(long, default_value_t = 7)]
    rounds: usize,
    /// One of process, ladder, births; may be repeated
    #[arg(long)]
    only: Vec<String>,
    /// Size of each round, 1 for the published figures
    #[arg(long, default_value_t = 1.0)]
    scale: f64,
    /// Folder of lanes.mjs with its packages installed
    #[arg(long, default_value = "bench/rivals")]
    rival_folder: PathBuf,
}

/// What all measures share.
struct Bench {
    rounds: usize,
    scale: f64,
    /// This program, which is also the child.
    me: PathBuf,
    /// The rivals' task, which is ours too.
    echo: PathBuf,
    host: Arc<Host>,
    /// `None`: not installed.
    rival: Option<Rival>,
    figures: Vec<Figure>,
}

impl Bench {
    fn count(&self, count: usize) -> usize {
        ((count as f64 * self.scale) as usize).max(20)
    }

    fn add(&mut self, figure: Figure) {
        println!("{}", figure.json());
        self.figures.push(figure);
    }
}

type Measure = fn(&mut Bench) -> anyhow::Result<()>;

const MEASURES: [(&str, Measure); 3] = [
    ("process", process::measure),
    ("ladder", ladder::measure),
    ("births", births::measure),
];

pub(crate) fn run(args: &Args) -> anyhow::Result<()> {
    for name in &args.only {
        ensure!(
            MEASURES.iter().any(|measure| measure.0 == name),
            "--only {name}: there is no such measure"
        );
    }
    let folder = tempfile::tempdir()?;
    let me = std::env::current_exe()?;
    let config = HostConfig::new(folder.path().join("run"))
        .shim(&me, [SHIM_COMMAND])
        .environment(std::env::vars_os());
    let rival_folder = std::fs::canonicalize(&args.rival_folder)
        .with_context(|| format!("no rivals at {}", args.rival_folder.display()))?;
    let rival = match Rival::start(&rival_folder) {
        Ok(rival) => Some(rival),
        Err(error) => {
            eprintln!("without npm's pools: {error:#}");
            None
        }
    };
    let mut bench = Bench {
        rounds: args.rounds.max(1),
        scale: args.scale,
        me,
        echo: rival_folder.join("echo.mjs"),
        host: Host::open(config)?,
        rival,
        figures: Vec::new(),
    };
    let load = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    let rival = bench.rival.as_ref().map(|rival| rival.about.clone());
    println!(
        "{}",
        json!({
            "machine": report::machine(), "load_before": load.trim(), "rivals": rival,
            "offloop": env!("CARGO_PKG_VERSION"),
        })
    );
    for (name, measure) in MEASURES {
        if args.only.is_empty() || args.only.iter().any(|only| only == name) {
            measure(&mut bench).with_context(|| format!("the measure {name}"))?;
        }
    }
    tell::table(&bench.figures);
    Ok(())
}
