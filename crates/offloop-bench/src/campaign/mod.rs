//! Reliability campaigns: the program as a whole, under kills, failing disks and hostile clients.
//!
//! Each prints its seed, runs a bounded number of rounds, is judged by one common oracle
//! (`oracle`), and ends with one line of JSON. Exit 1 on any breach; `--expect-red` turns that
//! round, for builds that are broken on purpose. docs/guides/reliability.md says what is tested.

mod beside;
mod bombs;
mod broken_files;
mod clock_steps;
mod cut_uploads;
mod deaths;
mod dice;
mod drain;
mod elsewhere;
mod faults;
mod flood;
mod frozen;
mod full_disk;
mod groups;
mod herd;
mod honest;
mod http;
mod images;
mod journal;
mod kills;
mod lanes;
mod load;
mod oracle;
mod photos;
mod poison;
mod procfs;
mod puller;
mod server;
mod slow;
mod stubborn;
mod table;
mod uploads;

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use serde_json::{Map, Value, json};

use dice::Dice;
use journal::Ledger;
use oracle::{Counters, History};
use server::Setup;

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Which {
    /// SIGKILL at random moments under load
    R1,
    /// System calls that fail, one at a time
    R4,
    /// A full disk, held and freed
    R5,
    /// Thousands of slow connections
    L2,
    /// Uploads that are cut, wrong, or whose server is killed
    L3,
    /// Thousands of broken files; one line, and one file, of `--megabytes`
    L4,
    /// Pictures that claim more than they are
    L5,
    /// SIGTERM under load, once and twice
    Drain,
    /// Tasks that ignore every wish to stop
    Stubborn,
    /// Harm of every kind in Node and Python, beside good jobs
    Lanes,
    /// SIGKILL for children, wardens and servers
    R2,
    /// Jobs that kill what runs them
    R6,
    /// SIGSTOP for children and for the server
    R7,
    /// Floods of output
    L7,
    /// SIGKILL in the middle of groups and flows
    Groups,
    /// SIGSTOP for workers elsewhere, past their leases
    R7Remote,
    /// A wall clock that steps under the program
    R8,
    /// Ten thousand jobs that fail together; five hundred workers that come back at once
    L6,
    /// Hundreds of large uploads at once into one table
    Uploads,
}

impl Which {
    fn name(self) -> String {
        let value = clap::ValueEnum::to_possible_value(&self);
        value.map_or_else(String::new, |value| value.get_name().to_owned())
    }
}

pub(crate) use flood::talk;
pub(crate) use puller::work;

#[derive(clap::Args)]
pub(crate) struct Args {
    #[arg(value_enum)]
    which: Which,
    /// Rounds; default by campaign
    #[arg(long)]
    cycles: Option<u32>,
    /// Default from the clock
    #[arg(long)]
    seed: Option<u64>,
    /// The program under test
    #[arg(long, default_value = "target/quick/offloop")]
    program: PathBuf,
    /// Folder for this run; default a temporary one, removed after a green run
    #[arg(long)]
    data: Option<PathBuf>,
    /// Folder of the tasks that leave marks
    #[arg(long, default_value = "bench/campaign-tasks")]
    tasks: PathBuf,
    /// Folder of broken photos, beside the generated ones
    #[arg(long)]
    corpus: Option<PathBuf>,
    /// r5: how long the disk stays full, in seconds
    #[arg(long, default_value_t = 10)]
    hold_s: u64,
    /// lanes: how long it goes on, in seconds
    #[arg(long, default_value_t = 110)]
    for_s: u64,
    /// Size: of each of uploads, default 100; of l4's large files, default 1,000
    #[arg(long)]
    megabytes: Option<u64>,
    /// uploads: the address of a PostgreSQL; default a SQLite file
    #[arg(long)]
    postgres: Option<String>,
    /// uploads: the senders have the last processor to themselves; start the database there too, as in
    /// `taskset -c 1 postgres ...`
    #[arg(long)]
    apart: bool,
    /// A build that is broken on purpose: run as well, and it must turn red
    #[arg(long)]
    sabotaged: Option<PathBuf>,
    /// l6: no jitter; r8: the clock of spans steps too. It must turn red
    #[arg(long)]
    broken: bool,
    /// Succeed if a breach is found
    #[arg(long)]
    expect_red: bool,
}

/// One run of one campaign: where it works, and what it has found so far.
pub(crate) struct Run {
    pub(crate) cycles: Option<u32>,
    pub(crate) program: PathBuf,
    /// Of this run alone; the server's data is in `data` below it.
    pub(crate) folder: PathBuf,
    pub(crate) tasks: PathBuf,
    pub(crate) corpus: Option<PathBuf>,
    pub(crate) hold: Duration,
    pub(crate) span: Duration,
    pub(crate) megabytes: Option<u64>,
    pub(crate) postgres: Option<String>,
    pub(crate) apart: bool,
    /// What is asked of the program is broken on purpose.
    pub(crate) broken: bool,
    pub(crate) dice: Dice,
    pub(crate) counters: Counters,
    pub(crate) survivors: u64,
    pub(crate) recovery: Vec<Duration>,
    pub(crate) figures: Map<String, Value>,
    pub(crate) breaches: Vec<String>,
    /// Parts that were left out, and why.
    pub(crate) skipped: Vec<String>,
}

impl Run {
    /// The configuration with the tasks that leave marks. `more`: further lines of TOML.
    pub(crate) fn config(&self, more: &str) -> String {
        let (tasks, journal) = (self.tasks.display(), self.effects().display().to_string());
        let node = format!("command = [\"node\", \"{tasks}/mark.mjs\"]\nprocesses = 2");
        let exec = format!("command = [\"/bin/sh\", \"{tasks}/mark.sh\"]\nprocesses = 2");
        let env = format!("env = {{ CAMPAIGN_JOURNAL = \"{journal}\" }}\ntimeout = \"30s\"");
        format!(
            "[tasks.mark]\nlane = \"process\"\n{node}\n{env}\n\
             [tasks.mark-exec]\nlane = \"exec\"\n{exec}\n{env}\n{more}\n"
        )
    }

    pub(crate) fn setup(&self, more: &str) -> anyhow::Result<Setup> {
        Setup::new(&self.program, &self.folder, &self.config(more))
    }

    /// Digits that name this run in command lines.
    pub(crate) fn token(&mut self) -> String {
        let (chosen, me) = (self.dice.between(0, 1_000_000), std::process::id());
        format!("{chosen:06}{me:07}")
    }

    /// Journals stand outside the server's folder.
    pub(crate) fn journal(&self) -> PathBuf {
        self.folder.join("client.journal")
    }

    pub(crate) fn effects(&self) -> PathBuf {
        self.folder.join("effects.journal")
    }

    pub(crate) fn breach(&mut self, what: impl Into<String>) {
        let what = what.into();
        eprintln!("breach: {what}");
        self.breaches.push(what);
    }

    pub(crate) fn skip(&mut self, what: impl Into<String>) {
        let what = what.into();
        eprintln!("skipped: {what}");
        self.skipped.push(what);
    }

    pub(crate) fn figure(&mut self, name: &str, value: impl Into<Value>) {
        self.figures.insert(name.into(), value.into());
    }

    /// A figure that counts, so far.
    pub(crate) fn counted(&self, name: &str) -> u64 {
        self.figures.get(name).and_then(Value::as_u64).unwrap_or(0)
    }

    /// Waits until the server is quiet and compares the three witnesses.
    pub(crate) fn judge(&mut self, setup: &Setup, limit: Duration) -> anyhow::Result<History> {
        let mut client = setup.client();
        let left = oracle::quiesce(&mut client, limit)?;
        if left > 0 {
            self.breach(format!(
                "{left} jobs are unfinished {limit:?} after the end"
            ));
        }
        let history = oracle::history(&mut client)?;
        let ledger = Ledger::read(&self.journal())?;
        let effects = journal::effects(&self.effects());
        let mut told = Vec::new();
        let counters = oracle::judge(&ledger, &effects, &history, &mut told);
        self.counters.add(&counters);
        for line in told.iter().take(10) {
            eprintln!("{line}");
        }
        self.figure("jobs", history.len());
        self.figure(
            "acked",
            ledger
                .keys
                .values()
                .filter(|known| !known.ids.is_empty())
                .count(),
        );
        self.figure(
            "broken_calls",
            ledger.keys.values().filter(|known| known.unknown).count(),
        );
        self.figure(
            "refused",
            ledger.keys.values().filter(|known| known.refused).count(),
        );
        let poison = |job: &&oracle::Shown| job.reason.as_deref() == Some("poison");
        self.figure("poison", history.values().filter(poison).count());
        Ok(history)
    }

    fn is_red(&self) -> bool {
        let counted = self.counters.rows().iter().any(|(_, count)| *count > 0);
        counted || self.survivors > 0 || !self.breaches.is_empty()
    }

    fn report(&self, which: Which, seed: u64, took: Duration) {
        let mut line = Map::new();
        line.insert("campaign".into(), which.name().into());
        line.insert("seed".into(), seed.into());
        for (name, count) in self.counters.rows() {
            line.insert(name.into(), count.into());
        }
        line.insert("survivors".into(), self.survivors.into());
        line.insert("recovery_ms".into(), spread(&self.recovery));
        line.insert("figures".into(), self.figures.clone().into());
        line.insert("skipped".into(), self.skipped.clone().into());
        line.insert("breaches".into(), self.breaches.clone().into());
        line.insert("took_s".into(), rounded(took.as_secs_f64()));
        line.insert("red".into(), self.is_red().into());
        println!("{}", Value::from(line));
    }
}

/// Milliseconds: p50, p99 and max. `null` of nothing.
pub(crate) fn spread(times: &[Duration]) -> Value {
    let mut sorted = times.to_vec();
    sorted.sort();
    let at = |share: f64| {
        let place = ((sorted.len() as f64 * share).ceil() as usize).clamp(1, sorted.len().max(1));
        sorted
            .get(place - 1)
            .map(|time| rounded(time.as_secs_f64() * 1e3))
    };
    if sorted.is_empty() {
        return Value::Null;
    }
    json!({ "p50": at(0.5), "p99": at(0.99), "max": at(1.0), "of": sorted.len() })
}

pub(crate) fn p99(times: &[Duration]) -> Duration {
    let mut sorted = times.to_vec();
    sorted.sort();
    let place = (sorted.len() * 99).div_ceil(100).saturating_sub(1);
    sorted.get(place).copied().unwrap_or_default()
}

pub(crate) fn rounded(number: f64) -> Value {
    json!((number * 10.0).round() / 10.0)
}

pub(crate) fn run(args: &Args) -> anyhow::Result<()> {
    let seed = args
        .seed
        .unwrap_or_else(|| journal::now_ms() % 1_000_000_000);
    let red = once(args, &args.program, seed, args.cycles)?;
    if red != args.expect_red {
        let found = if red {
            "breaches were found"
        } else {
            "a broken build was not noticed"
        };
        bail!("{found}; repeat with --seed {seed}");
    }
    if let Some(program) = &args.sabotaged {
        println!("negative control: a build that is broken on purpose");
        let cycles = args.cycles.map_or(10, |cycles| cycles.min(10));
        if !once(args, program, seed, Some(cycles))? {
            bail!("the negative control stayed green; repeat with --seed {seed}");
        }
    }
    Ok(())
}

/// Whether it turned red.
fn once(args: &Args, program: &Path, seed: u64, cycles: Option<u32>) -> anyhow::Result<bool> {
    println!("{}", crate::report::machine());
    println!("campaign {:?}, seed {seed}", args.which);
    let folder = match &args.data {
        Some(folder) => {
            std::fs::create_dir_all(folder)?;
            tempfile::Builder::new().prefix("run-").tempdir_in(folder)?
        }
        None => tempfile::tempdir()?,
    };
    let mut run = Run {
        cycles,
        program: program.to_owned(),
        folder: folder.path().to_owned(),
        tasks: std::fs::canonicalize(&args.tasks)
            .with_context(|| format!("no tasks at {}", args.tasks.display()))?,
        corpus: args.corpus.clone(),
        hold: Duration::from_secs(args.hold_s),
        span: Duration::from_secs(args.for_s),
        megabytes: args.megabytes,
        postgres: args.postgres.clone(),
        apart: args.apart,
        broken: args.broken,
        dice: Dice::new(seed),
        counters: Counters::default(),
        survivors: 0,
        recovery: Vec::new(),
        figures: Map::new(),
        breaches: Vec::new(),
        skipped: Vec::new(),
    };
    let began = Instant::now();
    let done = match args.which {
        Which::R1 => kills::run(&mut run),
        Which::R4 => faults::run(&mut run),
        Which::R5 => full_disk::run(&mut run),
        Which::L2 => slow::run(&mut run),
        Which::L3 => cut_uploads::run(&mut run),
        Which::L4 => broken_files::run(&mut run),
        Which::L5 => bombs::run(&mut run),
        Which::Drain => drain::run(&mut run),
        Which::Stubborn => stubborn::run(&mut run),
        Which::Lanes => lanes::run(&mut run),
        Which::R2 => deaths::run(&mut run),
        Which::R6 => poison::run(&mut run),
        Which::R7 => frozen::run(&mut run),
        Which::L7 => flood::run(&mut run),
        Which::Groups => groups::run(&mut run),
        Which::R7Remote => elsewhere::run(&mut run),
        Which::R8 => clock_steps::run(&mut run),
        Which::L6 => herd::run(&mut run),
        Which::Uploads => uploads::run(&mut run),
    };
    let found = run.is_red();
    if let Err(error) = &done {
        run.breach(format!("the campaign itself failed: {error:#}"));
    }
    run.report(args.which, seed, began.elapsed());
    if run.is_red() {
        eprintln!("kept for a look: {}", folder.keep().display());
    }
    match done {
        // A campaign that could not be carried out proves nothing, least of all of a broken build.
        Err(error) if !found => Err(error.context("the campaign itself failed")),
        _ => Ok(found),
    }
}
