//! `lab`: what heavy work does to an event loop on this machine, by where it runs; and `lab serve`,
//! the same endpoints for one's own load tool.

use std::fs::File;
use std::io::{Read as _, Write as _};
use std::net::SocketAddr;
use std::num::NonZeroU64;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::Context;
use indicatif::{ProgressBar, ProgressStyle};
use offloop_lab::{Kind, Pace, Plan, Ready, ServeOptions, ServerCommand};
use tempfile::TempDir;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::oneshot;

use super::args::within;
use crate::config;

/// Hidden commands: the children of the ways `process` and `exec`.
pub(crate) const WARM: &str = "__lab-warm";
pub(crate) const ONCE: &str = "__lab-once";
/// This very program, also after an upgrade has replaced its file.
const MYSELF: &str = "/proc/self/exe";
/// A server that was told to end does so by itself within; else it is ended.
const END_MAX: Duration = Duration::from_secs(4);
/// As a shell tells of SIGINT.
const INTERRUPTED: i32 = 130;
const PATIENCE_MS_LEAST: u32 = 1_000;
/// Without `--patience-ms`, clients wait for so many pieces.
const PATIENCE_PIECES: u32 = 20;
const PATIENCE_MS_MAX: u32 = 300_000;

#[derive(clap::Args)]
#[command(args_conflicts_with_subcommands = true)]
pub(crate) struct Args {
    #[command(subcommand)]
    command: Option<Sub>,
    #[command(flatten)]
    run: RunArgs,
}

#[derive(clap::Subcommand)]
enum Sub {
    /// Serve the experiment's endpoints for your own load tool: /, /blocking, /non-blocking, /pulse
    #[command(
        after_help = "Example:\n  offloop lab serve &\n  curl 'http://127.0.0.1:7979/blocking?cpu_time_ms=2000' & curl http://127.0.0.1:7979/"
    )]
    Serve(ServeArgs),
}

#[derive(clap::Args)]
struct RunArgs {
    /// How long each way is loaded, 0.1 to 600; the idle server takes as long
    #[arg(long, default_value_t = 5.0, value_parser = seconds)]
    seconds_per_strategy: f64,
    /// Processor time of one piece of work, 1 to 60000
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=60_000))]
    cpu_time_ms: u32,
    /// Work that comes, as a multiple of what all cores together could do, 0.01 to 20
    #[arg(long, default_value_t = 1.6, value_parser = offered)]
    offered: f64,
    /// When a client hangs up, 1 to 300000; default 20 pieces, at least 1000
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=i64::from(PATIENCE_MS_MAX)))]
    patience_ms: Option<u32>,
    /// Of the times at which work comes
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// The ways to measure, separated by commas; default all
    #[arg(long, value_delimiter = ',', value_parser = kind)]
    only: Vec<Kind>,
    /// Where the durable jobs are kept meanwhile: a folder on a disk; default /var/tmp
    #[arg(long)]
    data: Option<PathBuf>,
    /// Leave the loop with the system's usual scheduling slice, as a program without offloop has it
    #[arg(long)]
    usual_slices: bool,
    /// Print the whole record as JSON
    #[arg(long)]
    json: bool,
    /// Draw the record into this file
    #[arg(long)]
    svg: Option<PathBuf>,
}

#[derive(clap::Args)]
struct ServeArgs {
    /// A loopback address
    #[arg(long, default_value = "127.0.0.1:7979")]
    listen: SocketAddr,
    /// The ways to offer, separated by commas; default all
    #[arg(long, value_delimiter = ',', value_parser = kind)]
    only: Vec<Kind>,
    /// Where the durable jobs are kept meanwhile: a folder on a disk; default /var/tmp
    #[arg(long)]
    data: Option<PathBuf>,
    /// Leave the loop with the system's usual scheduling slice, as a program without offloop has it
    #[arg(long)]
    usual_slices: bool,
    /// The pace of the work, as another process has measured it
    #[arg(long, hide = true)]
    rounds_per_ms: Option<NonZeroU64>,
    #[arg(long, hide = true)]
    until_stdin_ends: bool,
}

fn kind(text: &str) -> Result<Kind, String> {
    let names: Vec<_> = Kind::ALL.iter().map(|kind| kind.name()).collect();
    Kind::named(text).ok_or_else(|| format!("there are {}", names.join(", ")))
}

fn seconds(text: &str) -> Result<f64, String> {
    within(text, 0.1, 600.0)
}

fn offered(text: &str) -> Result<f64, String> {
    within(text, 0.01, 20.0)
}

/// All, or what was named, each once and in the order of the table.
fn kinds(only: &[Kind]) -> Vec<Kind> {
    let wanted = |kind: &Kind| only.is_empty() || only.contains(kind);
    Kind::ALL.into_iter().filter(wanted).collect()
}

fn scratch(data: Option<&Path>) -> anyhow::Result<TempDir> {
    let what = data.map_or("/var/tmp".into(), Path::to_string_lossy);
    offloop_lab::scratch(data).with_context(|| format!("cannot keep durable jobs in {what}"))
}

pub(crate) fn run(args: &Args) -> anyhow::Result<ExitCode> {
    match &args.command {
        Some(Sub::Serve(args)) => serve(args),
        None => measure(&args.run),
    }
}

fn measure(args: &RunArgs) -> anyhow::Result<ExitCode> {
    // Before a minute is spent.
    let svg = args.svg.as_ref().map(|path| {
        let file = File::create(path);
        file.with_context(|| format!("cannot write the chart to {}", path.display()))
    });
    let svg = svg.transpose()?;
    let data = scratch(args.data.as_deref())?;
    leave_nothing(data.path().to_owned())?;
    let patience_ms = args
        .patience_ms
        .unwrap_or_else(|| (args.cpu_time_ms * PATIENCE_PIECES).max(PATIENCE_MS_LEAST));
    let plan = Plan {
        kinds: kinds(&args.only),
        span: Duration::from_secs_f64(args.seconds_per_strategy),
        cpu_time_ms: args.cpu_time_ms,
        offered: args.offered,
        patience: Duration::from_millis(patience_ms.min(PATIENCE_MS_MAX).into()),
        seed: args.seed,
        short_slices: !args.usual_slices,
        data: data.path().to_owned(),
        server: ServerCommand {
            program: MYSELF.into(),
            args: vec!["lab".into(), "serve".into()],
        },
    };
    let style = ProgressStyle::with_template("[{bar:32}] {percent:>3} %  {msg}")?;
    let bar = ProgressBar::new(1_000).with_style(style.progress_chars("=> "));
    let record = offloop_lab::run(&plan, &mut |progress| {
        let what = progress.kind.map_or("the idle server", Kind::about);
        bar.set_message(what);
        bar.set_position((progress.part * 1e3) as u64);
    });
    bar.finish_and_clear();
    let record = record?;
    if let Some(mut file) = svg {
        file.write_all(offloop_lab::chart(&record).as_bytes())
            .context("cannot write the chart")?;
    }
    if args.json {
        println!("{}", serde_json::to_string(&record)?);
        return Ok(ExitCode::SUCCESS);
    }
    print!("{}", offloop_lab::table(&record));
    println!("\n{}", record.conclusion);
    if let Some(path) = &args.svg {
        println!("chart: {}", path.display());
    }
    Ok(ExitCode::SUCCESS)
}

/// When the experiment is interrupted, its folder goes; the server under test ends with its input.
fn leave_nothing(folder: PathBuf) -> anyhow::Result<()> {
    let stopped = stop(false)?;
    let clean = move || {
        if stopped.blocking_recv().is_err() {
            return;
        }
        let until = Instant::now() + END_MAX / 2;
        // Until the server does not write there any more.
        while std::fs::remove_dir_all(&folder).is_err() && Instant::now() < until {
            thread::sleep(Duration::from_millis(50));
        }
        std::process::exit(INTERRUPTED)
    };
    thread::Builder::new()
        .name("lab-clean".into())
        .spawn(clean)
        .context("cannot start a thread")?;
    Ok(())
}

fn serve(args: &ServeArgs) -> anyhow::Result<ExitCode> {
    let data = scratch(args.data.as_deref())?;
    let options = ServeOptions {
        listen: args.listen,
        kinds: kinds(&args.only),
        data: data.path().to_owned(),
        pace: args.rounds_per_ms.map(Pace::of),
        warm: vec![MYSELF.into(), WARM.into()],
        once: vec![MYSELF.into(), ONCE.into()],
        environment: std::env::vars_os().collect(),
        short_slices: !args.usual_slices,
    };
    let stop = stop(args.until_stdin_ends)?;
    let offered = options.kinds.clone();
    offloop_lab::serve(&options, stop, |ready| greet(ready, &offered))?;
    Ok(ExitCode::SUCCESS)
}

fn greet(ready: Ready, offered: &[Kind]) {
    let address = ready.address;
    // The first line is read by `offloop lab`.
    println!("lab listens on http://{address}");
    println!("for experiments: it burns processor time for whoever asks, on one loop thread\n");
    println!("  /                                latency of this is what counts");
    for kind in offered {
        let path = format!("{}?cpu_time_ms=N", kind.path());
        println!("  {path:<32} {}", kind.about());
    }
    println!("  /pulse                           the loop's delay, now and lately");
    println!(
        "\nN: 0 to {}; also &timeout_ms= and &seed=",
        offloop_lab::CPU_TIME_MS_MAX
    );
}

/// Told by the first signal, or by the end of standard input. On a thread of its own, because the
/// loop may be blocked, which is what the lab shows; what does not end then is ended.
fn stop(until_stdin_ends: bool) -> anyhow::Result<oneshot::Receiver<()>> {
    let (stop, stopped) = oneshot::channel();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("cannot listen for signals")?;
    let entered = runtime.enter();
    let mut interrupt = signal(SignalKind::interrupt()).context("cannot listen for SIGINT")?;
    let mut terminate = signal(SignalKind::terminate()).context("cannot listen for SIGTERM")?;
    drop(entered);
    let (end, ended) = oneshot::channel::<()>();
    let mut end = Some(end);
    if until_stdin_ends {
        let end = end.take();
        thread::spawn(move || {
            let mut piece = [0; 64];
            while matches!(std::io::stdin().read(&mut piece), Ok(1..)) {}
            drop(end);
        });
    }
    let watch = async move {
        let _never = end; // without standard input, only signals end it
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
            _ = ended => {}
        }
        let _ = stop.send(()); // nobody listens: it has ended already
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
            () = tokio::time::sleep(END_MAX) => {}
        }
        std::process::exit(1)
    };
    thread::Builder::new()
        .name("lab-signals".into())
        .spawn(move || runtime.block_on(watch))
        .context("cannot listen for signals")?;
    Ok(stopped)
}

/// A warm child of the way `process`.
pub(crate) fn warm() -> anyhow::Result<ExitCode> {
    let fd = config::from_environment("FD").and_then(|fd| fd.parse().ok());
    let fd = fd.context("OFFLOOP_FD names no channel: this command is for the process lane")?;
    offloop_lab::warm(fd)?;
    Ok(ExitCode::SUCCESS)
}

/// One piece of the way `exec`.
pub(crate) fn once() -> anyhow::Result<ExitCode> {
    offloop_lab::once(std::io::stdin().lock(), std::io::stdout().lock())?;
    Ok(ExitCode::SUCCESS)
}
