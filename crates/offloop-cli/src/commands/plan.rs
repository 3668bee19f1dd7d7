//! `plan`: what a mix of work costs on this machine, how many cores a load needs, and whether that is
//! true.

use std::fs::File;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use anyhow::Context;
use indicatif::{ProgressBar, ProgressStyle};
use offloop_plan::report::{self, Ask};
use offloop_plan::{Cores, Mix, ServerCommand, Trial, UserConfig};
use offloop_vault::keys::KeyName;
use offloop_vault::keys::make::{self, Algorithm};
use serde_json::json;
use tokio::signal::unix::{SignalKind, signal};

use super::args::within;
use crate::config::{self, Flags};

/// This very program, also after an upgrade has replaced its file.
const MYSELF: &str = "/proc/self/exe";
/// A validation needs longer looks than a measurement: its loads are random.
const VALIDATE_FACTOR: f64 = 2.5;

#[derive(clap::Args)]
pub(crate) struct Args {
    /// What one request of yours does, such as 'seal:1KiB + 2*sign:ed25519'; may be given again
    #[arg(long, required = true, value_parser = mix)]
    mix: Vec<Mix>,
    /// Cores of one pod, or a Kubernetes CPU string such as 1500m; default this machine's
    #[arg(long, visible_alias = "cpu", value_name = "CORES", value_parser = Cores::parse)]
    cores: Option<Cores>,
    /// Pods, 1 to 100000
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pods: u32,
    /// Part of the full capacity to plan with, 0.05 to 1
    #[arg(long, visible_alias = "utilization", default_value_t = 0.7, value_parser = utilisation)]
    utilisation: f64,
    /// How many cores and pods carry so many requests per second?
    #[arg(long, value_name = "RATE", value_parser = rate)]
    target_rps: Option<f64>,
    /// For each mix, 0.3 to 600; more where calls are long
    #[arg(long, default_value_t = 10.0, value_parser = seconds)]
    seconds: f64,
    /// Drive the real server at 0.5, 0.7, 0.9 of the prediction and beyond, and compare
    #[arg(long)]
    validate: bool,
    /// Configuration with the declared tasks [default: offloop.toml, if it is there]
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Of the times at which calls come
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Print everything as JSON
    #[arg(long)]
    json: bool,
    /// Draw answers by load into this file
    #[arg(long, value_name = "FILE")]
    svg: Option<PathBuf>,
}

fn mix(text: &str) -> Result<Mix, String> {
    Mix::parse(text).map_err(|error| error.to_string())
}

fn utilisation(text: &str) -> Result<f64, String> {
    within(text, 0.05, 1.0)
}

fn rate(text: &str) -> Result<f64, String> {
    within(text, 0.001, 1e9)
}

fn seconds(text: &str) -> Result<f64, String> {
    within(text, 0.3, 600.0)
}

pub(crate) fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let user = user(args)?;
    // Before a minute is spent.
    let svg = args.svg.as_ref().map(|path| {
        let file = File::create(path);
        file.with_context(|| format!("cannot write the chart to {}", path.display()))
    });
    let svg = svg.transpose()?;
    let command = ServerCommand {
        program: MYSELF.into(),
        without: std::env::vars_os()
            .map(|(name, _)| name)
            .filter(|name| name.to_string_lossy().starts_with("OFFLOOP_"))
            .collect(),
    };
    let ask = Ask {
        pod: args.cores,
        pods: args.pods,
        utilisation: args.utilisation,
        target_rps: args.target_rps,
    };
    let style = ProgressStyle::with_template("[{bar:32}] {percent:>3} %  {msg}")?;
    let bar = ProgressBar::new(1_000).with_style(style.progress_chars("=> "));
    let stop = stop()?;
    let mut all = Vec::new();
    for (at, mix) in args.mix.iter().enumerate() {
        let trial = Trial {
            mix,
            command: &command,
            user: &user,
            seconds: args.seconds,
            validate_seconds: args.validate.then_some(args.seconds * VALIDATE_FACTOR),
            seed: args.seed,
            stop,
        };
        let found = offloop_plan::run(&trial, &make_keys, &mut |done, what| {
            bar.set_position(((at as f64 + done) / args.mix.len() as f64 * 1e3) as u64);
            bar.set_message(what.to_owned());
        });
        let found = found.with_context(|| format!("cannot plan for {mix}"))?;
        if !args.json {
            bar.suspend(|| println!("{}", report::text(&found, &ask)));
        }
        all.push(found);
    }
    bar.finish_and_clear();
    if let Some(mut file) = svg {
        file.write_all(report::chart(&all, &ask).as_bytes())
            .context("cannot write the chart")?;
    }
    if args.json {
        let plans: Vec<_> = all.iter().map(|found| report::json(found, &ask)).collect();
        println!("{}", json!({ "plans": plans }));
    } else if let Some(path) = &args.svg {
        println!("chart: {}", path.display());
    }
    Ok(ExitCode::SUCCESS)
}

/// Set by the first signal, so that server and folder of the trial end with it; the second does not
/// wait for that.
fn stop() -> anyhow::Result<&'static AtomicBool> {
    static STOP: AtomicBool = AtomicBool::new(false);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("cannot listen for signals")?;
    let entered = runtime.enter();
    let mut interrupt = signal(SignalKind::interrupt()).context("cannot listen for SIGINT")?;
    let mut terminate = signal(SignalKind::terminate()).context("cannot listen for SIGTERM")?;
    drop(entered);
    let watch = async move {
        for _ in 0..2 {
            tokio::select! {
                _ = interrupt.recv() => {}
                _ = terminate.recv() => {}
            }
            if STOP.swap(true, Ordering::Relaxed) {
                std::process::exit(1);
            }
        }
    };
    thread::Builder::new()
        .name("plan-signals".into())
        .spawn(move || runtime.block_on(watch))
        .context("cannot listen for signals")?;
    Ok(&STOP)
}

/// The operator's configuration, checked as `serve` would.
fn user(args: &Args) -> anyhow::Result<UserConfig> {
    let flags = Flags {
        config: args.config.clone(),
        ..Flags::default()
    };
    let Some(file) = config::file(&flags) else {
        return Ok(UserConfig::default());
    };
    config::load(&flags)?;
    let whole = std::fs::canonicalize(&file).with_context(|| format!("no {}", file.display()))?;
    let text = std::fs::read_to_string(&whole);
    Ok(UserConfig {
        text: text.with_context(|| format!("cannot read {}", whole.display()))?,
        folder: whole.parent().unwrap_or(Path::new("/")).to_owned(),
    })
}

/// Keys of the trial, in its own folder.
fn make_keys(folder: &Path, keys: &[(String, &'static str)]) -> Result<(), String> {
    for (name, algorithm) in keys {
        let name = KeyName::parse(name).map_err(|error| error.to_string())?;
        let algorithm = Algorithm::of_name(algorithm).ok_or("an algorithm is unknown")?;
        make::keygen(folder, &name, algorithm).map_err(|error| error.to_string())?;
    }
    Ok(())
}
