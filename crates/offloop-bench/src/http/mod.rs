//! The real program over HTTP: `offloop serve` on a fresh folder, a lean load generator beside it
//! on the same cores, and a rival's rounds between ours.
//!
//! Every figure is of durable work: an enqueue is answered after its flush, a life is counted when
//! its end is on disk.

mod callers;
mod conn;
mod limits;
mod photos;
mod pickup;
mod rival;
mod scale;
mod server;
mod speed;

use std::path::PathBuf;

use anyhow::{Context, ensure};
use offloop_store_sqlite::SqliteStore;
use serde_json::{Value, json};

use self::rival::{Live, Rival};
use self::server::Program;
use crate::report;
use crate::tell::{Figure, Goal, Rounds};

#[derive(clap::Args)]
pub(crate) struct Args {
    /// The program to measure; default: `offloop` beside this one
    #[arg(long)]
    program: Option<PathBuf>,
    /// Rounds of each measure
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    /// One of limits, add-50, add-bulk, life, pickup, million, history, photos; may be repeated
    #[arg(long)]
    only: Vec<String>,
    /// Data folders are made here; it must be on a real disk
    #[arg(long, default_value = ".")]
    folder: PathBuf,
    /// Size of each round, 1 for the published figures
    #[arg(long, default_value_t = 1.0)]
    scale: f64,
    /// Redis for the rival, which then runs between our rounds (bench/rivals/run.sh starts one)
    #[arg(long)]
    redis_port: Option<u16>,
    /// Folder of bullmq.mjs
    #[arg(long, default_value = "bench/rivals")]
    rival_folder: PathBuf,
    /// The rival's figures of an earlier run, instead
    #[arg(long, conflicts_with = "redis_port")]
    rival_json: Option<PathBuf>,
    /// Finished rows for `history`
    #[arg(long, default_value_t = 1_000_000)]
    finished: usize,
    /// Photos for `photos`
    #[arg(long)]
    photos: Option<PathBuf>,
}

/// What all measures share.
struct Bench {
    program: Program,
    rounds: usize,
    scale: f64,
    rival: Rival,
    finished: usize,
    photos: Option<PathBuf>,
    /// Microseconds of one flush in the folder of the data.
    flush_us: f64,
    /// Jobs per second of the store alone, by measure.
    store: limits::StoreAlone,
    figures: Vec<Figure>,
}

impl Bench {
    fn jobs(&self, jobs: usize) -> usize {
        ((jobs as f64 * self.scale) as usize).max(100)
    }

    fn add(&mut self, figure: Figure) {
        println!("{}", figure.json());
        self.figures.push(figure);
    }

    /// A round of the rival, if there is one that runs.
    fn rival_round(&mut self, measure: &str, jobs: usize) -> anyhow::Result<Option<f64>> {
        match &mut self.rival {
            Rival::Live(live) => live.round(measure, jobs).map(Some),
            Rival::None | Rival::Told(_) => Ok(None),
        }
    }

    /// Puts the rival's rounds, or those of an earlier run, beside ours.
    fn against(&self, mut figure: Figure, measure: &str, rounds: Vec<f64>, goal: f64) -> Figure {
        figure.rival = match &self.rival {
            Rival::Told(told) => Rounds::new(told.get(measure).cloned().unwrap_or_default()),
            _ => Rounds::new(rounds),
        };
        figure.goal = Goal::TimesRival(goal);
        figure
    }
}

type Measure = fn(&mut Bench) -> anyhow::Result<()>;

const MEASURES: [(&str, Measure); 8] = [
    ("limits", limits::measure),
    ("add-50", speed::add),
    ("add-bulk", speed::bulk),
    ("life", speed::life),
    ("pickup", pickup::measure),
    ("million", scale::million),
    ("history", scale::history),
    ("photos", photos::measure),
];

pub(crate) fn run(args: &Args) -> anyhow::Result<()> {
    for name in &args.only {
        ensure!(
            MEASURES.iter().any(|measure| measure.0 == name),
            "--only {name}: there is no such measure"
        );
    }
    let mut bench = bench(args)?;
    if let Rival::Live(live) = &mut bench.rival {
        let swept = live.sweep((20_000.0 * args.scale) as usize)?;
        let rates: Vec<_> = swept
            .iter()
            .map(|(concurrency, rate)| json!({ "concurrency": concurrency, "per_second": rate }))
            .collect();
        println!(
            "{}",
            json!({ "rival_sweep": rates, "taken": live.concurrency })
        );
    }
    println!("{}", about(&bench));
    for (name, measure) in MEASURES {
        if args.only.is_empty() || args.only.iter().any(|only| only == name) {
            measure(&mut bench).with_context(|| format!("the measure {name}"))?;
        }
    }
    crate::tell::table(&bench.figures);
    Ok(())
}

fn bench(args: &Args) -> anyhow::Result<Bench> {
    let beside =
        || -> anyhow::Result<PathBuf> { Ok(std::env::current_exe()?.with_file_name("offloop")) };
    let path = args.program.clone().map_or_else(beside, Ok)?;
    ensure!(
        path.is_file(),
        "{} is not there; build it (cargo build --release -p offloop-cli) or give --program",
        path.display()
    );
    let kind = limits::file_system(&args.folder)?;
    ensure!(
        kind != "tmpfs",
        "{} is in memory, where a flush costs nothing; give --folder on a disk",
        args.folder.display()
    );
    let rival = match (args.redis_port, &args.rival_json) {
        (Some(port), _) => Rival::Live(Box::new(Live::start(&args.rival_folder, port)?)),
        (None, Some(path)) => Rival::Told(rival::told(path)?),
        (None, None) => Rival::None,
    };
    let flush_us = limits::flush_us(&args.folder)?;
    let program = Program {
        path,
        folder: args.folder.clone(),
    };
    Ok(Bench {
        program,
        rounds: args.rounds.max(1),
        scale: args.scale,
        rival,
        finished: args.finished,
        photos: args.photos.clone(),
        flush_us,
        store: limits::StoreAlone::default(),
        figures: Vec::new(),
    })
}

/// Machine, versions, durability.
fn about(bench: &Bench) -> Value {
    let rival = match &bench.rival {
        Rival::None => Value::Null,
        Rival::Told(_) => json!("figures of an earlier run: ratios are not of one run"),
        Rival::Live(live) => live.about.clone(),
    };
    json!({
        "machine": report::machine(),
        "load_before": std::fs::read_to_string("/proc/loadavg").unwrap_or_default().trim(),
        "folder": { "file_system": limits::file_system(&bench.program.folder).unwrap_or_default(), "fdatasync_16k_us": bench.flush_us },
        "offloop": {
            "version": env!("CARGO_PKG_VERSION"),
            "sqlite": SqliteStore::sqlite_version(),
            "durability": "WAL, synchronous=FULL: answered after fdatasync",
        },
        "rival": rival,
    })
}
