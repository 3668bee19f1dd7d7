//! `ingest`: a file or a pipe into a target, here or through a server.
//!
//! A file's load is named by what it is (target, path, length, time): the same command again, after
//! Ctrl-C or a kill, goes on where it was. Must never: load a file that was changed under the name
//! of what it was before.

use std::fs::File;
use std::io::{self, IsTerminal as _, Read};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use bytes::Bytes;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use offloop::egress::{Net, Roots};
use offloop_fetch::{DownloadError, Remote};
use offloop_ingest::load::{
    Feed, LoadAsk, LoadFailed, LoadId, Loader, PIECE_BYTES_MAX, Settings, Status, Summary, feed,
};
use offloop_ingest::pack::{Opener, chain, load_name};
use offloop_ingest::{IngestOptions, SAMPLE_BYTES_MAX, Target, infer};
use serde_json::{Value, json};
use tokio::sync::watch;

use super::text::{plain, size, span};
use crate::client::{Client, ServerArgs, escape};
use crate::config::{self, Flags, authorities};

#[derive(clap::Args)]
pub(crate) struct Args {
    /// File or http(s) URL of delimited text, packed or not; `-` for standard input
    input: PathBuf,
    /// Where its rows go: one of [ingest.targets]
    #[arg(long, value_name = "NAME")]
    target: String,
    /// Name of the load; the same again goes on where it was [default: by the file]
    #[arg(long, value_name = "NAME", value_parser = load_id)]
    load: Option<LoadId>,
    /// Load a file once more that is stored already
    #[arg(long, conflicts_with = "load")]
    again: bool,
    /// Print a declaration of the target for this input, to look at and keep; nothing is stored
    #[arg(long, conflicts_with_all = ["load", "again", "rejects"])]
    infer: bool,
    /// Copy the rows that were refused to this file, one JSON object a line
    #[arg(long, value_name = "FILE")]
    rejects: Option<PathBuf>,
    /// Configuration file [default: offloop.toml, if it is there]
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Folder of the server's data, for what is remembered of the load [default: ./offloop-data]
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
    /// A network of your own that a URL may be in, such as 127.0.0.0/8; may be given again
    #[arg(long, value_name = "NET")]
    allow_private: Vec<Net>,
    /// File of certificates (PEM) that a URL's server may stand on too; may be given again
    #[arg(long, value_name = "FILE")]
    ca: Vec<PathBuf>,
    /// Of what comes from a URL
    #[arg(long, value_name = "SIZE", default_value = "64GiB")]
    max_size: bytesize::ByteSize,
    #[command(flatten)]
    server: ServerArgs,
}

fn load_id(text: &str) -> Result<LoadId, String> {
    LoadId::parse(text).map_err(|error| error.to_string())
}

/// Before that, nobody needs a bar.
const BAR_AFTER: Duration = Duration::from_secs(2);
const TICK: Duration = Duration::from_millis(200);
/// After Ctrl-C, what is read is stored within so long.
const STOP_WITHIN: Duration = Duration::from_secs(10);
const USAGE: u8 = 2;

/// What is to be read.
struct Input {
    from: Box<dyn Read + Send>,
    /// Of a file.
    bytes: Option<u64>,
    load: LoadId,
}

pub(crate) fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let input = open(args)?;
    if args.infer {
        return declare(args, input);
    }
    if args.server.is_named() {
        return send(args, input);
    }
    let config = config::load(&Flags {
        data: args.data.clone(),
        config: args.config.clone(),
        ..Flags::default()
    })?;
    let declared = config.ingest.as_ref();
    let known = declared.map(|ingest| ingest.targets.iter().map(Target::name));
    let known: Vec<_> = known.into_iter().flatten().collect();
    let Some(ingest) = declared.filter(|_| known.contains(&args.target.as_str())) else {
        let told = match known.as_slice() {
            [] => "the configuration declares none under [ingest.targets]; --infer writes a declaration after a look at the file".to_owned(),
            known => format!("declared are: {}", known.join(", ")),
        };
        eprintln!("offloop: there is no target {:?}; {told}", args.target);
        return Ok(ExitCode::from(USAGE));
    };
    here(args, ingest, &config.data, input)
}

/// What a person would write after a look at the first lines.
fn declare(args: &Args, input: Input) -> anyhow::Result<ExitCode> {
    let mut sample = Vec::new();
    let most = SAMPLE_BYTES_MAX as u64;
    let mut from = input.from.take(most);
    from.read_to_end(&mut sample)
        .context("the input cannot be read")?;
    let is_whole = (sample.len() as u64) < most;
    let inferred = infer(&sample, is_whole)
        .with_context(|| format!("{} tells nothing", args.input.display()))?;
    match inferred.into_toml(&args.target) {
        Ok(text) => {
            println!("{}", text.trim_end());
            Ok(ExitCode::SUCCESS)
        }
        Err(problems) => {
            for problem in problems {
                eprintln!("offloop: {problem}");
            }
            Ok(ExitCode::from(USAGE))
        }
    }
}

fn is_url(text: &str) -> bool {
    let scheme = text.split_once("://").map(|(scheme, _)| scheme);
    scheme.is_some_and(|scheme| {
        scheme.eq_ignore_ascii_case("http") || scheme.eq_ignore_ascii_case("https")
    })
}

/// The load is of this run alone.
fn fresh(parts: &mut Vec<Vec<u8>>) {
    use offloop::runtime::clock::{Clock as _, SystemClock};
    let now = SystemClock.now().as_millis();
    parts.push(format!("{now} {}", std::process::id()).into_bytes());
}

/// The load is named by the URL and which version of its content it is.
fn open_url(args: &Args, text: &str, mut parts: Vec<Vec<u8>>) -> anyhow::Result<Input> {
    let mut roots = Roots::default();
    for file in &args.ca {
        authorities(file, &mut roots).map_err(|error| anyhow::anyhow!("--ca: {error}"))?;
    }
    let most = args.max_size.as_u64();
    let remote = Remote::open(text, &args.allow_private, &roots, most);
    let remote = remote.map_err(|error| match error {
        DownloadError::TooLarge { length, most } => {
            anyhow::anyhow!("it has {length} bytes; --max-size is {most}")
        }
        error => error.into(),
    });
    let remote = remote.with_context(|| format!("cannot read {}", plain(text)))?;
    let version = remote.version();
    let bytes = version.length;
    parts.push(text.as_bytes().to_vec());
    parts.push(version.name().into_bytes());
    if args.again {
        fresh(&mut parts);
    } else if version.is_unknown() && args.load.is_none() && !args.infer {
        eprintln!(
            "offloop: nothing tells which version this is (no ETag, no Last-Modified): if it was loaded before and has changed, say --again"
        );
    }
    let load = match &args.load {
        Some(load) => load.clone(),
        None => load_name("url", parts.iter().map(Vec::as_slice))?,
    };
    Ok(Input {
        from: Box::new(remote),
        bytes,
        load,
    })
}

fn open(args: &Args) -> anyhow::Result<Input> {
    let mut parts: Vec<Vec<u8>> = vec![args.target.as_bytes().to_vec()];
    let name = |parts: &[Vec<u8>]| match &args.load {
        Some(load) => Ok(load.clone()),
        None => load_name("file", parts.iter().map(Vec::as_slice)),
    };
    if args.input.as_os_str() == "-" {
        fresh(&mut parts);
        return Ok(Input {
            from: Box::new(io::stdin()),
            bytes: None,
            load: name(&parts)?,
        });
    }
    if let Some(text) = args.input.to_str().filter(|text| is_url(text)) {
        return open_url(args, text, parts);
    }
    let cannot = || format!("cannot read {}", args.input.display());
    let file = File::open(&args.input).with_context(cannot)?;
    let about = file.metadata().with_context(cannot)?;
    if about.is_dir() {
        bail!("{} is a folder; give a file", args.input.display());
    }
    let path = std::fs::canonicalize(&args.input).with_context(cannot)?;
    let changed = about.modified().with_context(cannot)?;
    let changed = changed.duration_since(std::time::UNIX_EPOCH);
    parts.push(path.into_os_string().into_encoded_bytes());
    parts.push(format!("{} {:?}", about.len(), changed.unwrap_or_default()).into_bytes());
    if args.again || !about.is_file() {
        fresh(&mut parts);
    }
    Ok(Input {
        bytes: about.is_file().then_some(about.len()),
        from: Box::new(file),
        load: name(&parts)?,
    })
}

/// Bytes, rows and time, once it is worth it.
struct Bar {
    line: ProgressBar,
    begun: Instant,
    wanted: bool,
    shown: bool,
}

impl Bar {
    fn new(bytes: Option<u64>, quiet: bool) -> anyhow::Result<Self> {
        let bar = ProgressBar::with_draw_target(bytes, ProgressDrawTarget::hidden());
        let style = match bytes {
            Some(_) => "[{bar:28}] {bytes}/{total_bytes}  {msg}  {eta} left",
            None => "{spinner} {bytes}  {msg}",
        };
        bar.set_style(ProgressStyle::with_template(style)?.progress_chars("=> "));
        Ok(Self {
            line: bar,
            begun: Instant::now(),
            wanted: !quiet && io::stderr().is_terminal(),
            shown: false,
        })
    }

    fn at(&mut self, bytes: u64, message: impl FnOnce() -> String) {
        if !self.shown && self.wanted && self.begun.elapsed() >= BAR_AFTER {
            self.line.set_draw_target(ProgressDrawTarget::stderr());
            self.shown = true;
        }
        if self.shown {
            self.line.set_position(bytes);
            self.line.set_message(message());
        }
    }
}

/// In this process, without a server.
fn here(
    args: &Args,
    ingest: &IngestOptions,
    data: &Path,
    input: Input,
) -> anyhow::Result<ExitCode> {
    let mut targets = ingest.targets.iter();
    let target = targets.find(|target| target.name() == args.target);
    let target = target.context("the target is gone")?;
    let own = data.join("ingest");
    let mut opener = Opener::new(ingest.places(&own, None));
    let outlet = opener
        .open(target)
        .map_err(|error| anyhow::anyhow!("target {:?}: {error}", args.target))?;
    let settings = Settings {
        batch_memory: ingest.memory_bytes,
        ..Settings::new(own.join("rejects"))
    };
    let loader = Loader::new(settings, [(target.clone(), outlet)]);
    let loader = loader.context("cannot use the folder of reject files")?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .context("cannot start")?;
    let ended = runtime.block_on(load(args, &loader, input))?;
    // A reader that waits for its pipe holds up nobody.
    runtime.shutdown_background();
    let (summary, error) = match &ended {
        Ok(summary) => (summary, None),
        Err(failed) => (&*failed.summary, Some(&failed.error)),
    };
    if let (Some(to), Some(from)) = (&args.rejects, &summary.rejects) {
        std::fs::copy(from, to)
            .with_context(|| format!("cannot write the refused rows to {}", to.display()))?;
    }
    let mut view = json!({
        "load": summary.load, "target": summary.target, "stored": summary.rows_stored,
        "rejected": summary.rows_rejected, "bytes": summary.bytes_in,
        "stored_to": summary.stored_to, "stored_to_row": summary.stored_to_row,
        "resumed_at": summary.resumed_at, "was_stored": summary.was_stored,
        "rejects": summary.rejects, "elapsed_ms": summary.elapsed.as_millis() as u64,
    });
    if let Some(error) = error {
        view["error"] = chain(error).into();
        view["goes_on"] = error.retry_helps().into();
    }
    Ok(tell(args, &view))
}

/// Feeds the input from a thread of its own and follows the load.
async fn load(
    args: &Args,
    loader: &Loader,
    input: Input,
) -> anyhow::Result<Result<Summary, LoadFailed>> {
    let Input { from, bytes, load } = input;
    let load = loader.load(LoadAsk {
        load,
        target: args.target.clone(),
        tenant: None,
        bytes_total: bytes,
    })?;
    let (to, intake) = feed();
    let stop = Arc::new(AtomicBool::new(false));
    let stopped = Arc::clone(&stop);
    // On a thread of its own: a pipe may be silent for long.
    std::thread::Builder::new()
        .name("offloop-input".into())
        .spawn(move || read(from, to, &stopped))
        .context("cannot start the reader's thread")?;
    let status = load.watch();
    let running = tokio::spawn(load.run(intake));
    follow(args, bytes, running, status, &stop).await
}

async fn follow(
    args: &Args,
    bytes: Option<u64>,
    mut running: tokio::task::JoinHandle<Result<Summary, LoadFailed>>,
    status: watch::Receiver<Status>,
    stop: &AtomicBool,
) -> anyhow::Result<Result<Summary, LoadFailed>> {
    let mut bar = Bar::new(bytes, args.server.json)?;
    let mut ticks = tokio::time::interval(TICK);
    let mut stop_at = None;
    loop {
        tokio::select! {
            ended = &mut running => {
                bar.line.finish_and_clear();
                return ended.context("the load broke off");
            }
            _ = ticks.tick() => {
                let status = status.borrow().clone();
                bar.at(status.bytes_in, || {
                    let (rate, bad) = (status.rate().round(), status.rows_rejected);
                    format!("{} rows, {rate} rows/s, {bad} rejected", status.rows_stored)
                });
                if stop_at.is_some_and(|at| Instant::now() > at) {
                    running.abort();
                    bail!("stopped before it could say what is stored; the same command again goes on");
                }
            }
            _ = tokio::signal::ctrl_c() => {
                stop.store(true, Ordering::Release);
                if stop_at.replace(Instant::now() + STOP_WITHIN).is_some() {
                    bail!("stopped; the same command again goes on");
                }
            }
        }
    }
}

/// Into the feed, which is the brake.
fn read(mut from: Box<dyn Read + Send>, to: Feed, stop: &AtomicBool) {
    let mut buffer = vec![0; PIECE_BYTES_MAX];
    let reason = loop {
        if stop.load(Ordering::Acquire) {
            break "it was interrupted".to_owned();
        }
        match from.read(&mut buffer) {
            Ok(0) => {
                let _ended = to.end_blocking(); // a load that has ended says why itself
                return;
            }
            Ok(len) => {
                if to
                    .send_blocking(Bytes::copy_from_slice(&buffer[..len]))
                    .is_err()
                {
                    return;
                }
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => break format!("it cannot be read: {error}"),
        }
    };
    offloop::block_on(to.cut(reason));
}

/// Counts what the connection takes.
struct Counted {
    from: Box<dyn Read + Send>,
    taken: Arc<AtomicU64>,
}

impl Read for Counted {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let len = self.from.read(buffer)?;
        self.taken.fetch_add(len as u64, Ordering::AcqRel);
        Ok(len)
    }
}

/// Through a server, which does the work.
fn send(args: &Args, input: Input) -> anyhow::Result<ExitCode> {
    let client = Client::new(&args.server);
    let taken = Arc::new(AtomicU64::new(0));
    let from = Counted {
        from: input.from,
        taken: Arc::clone(&taken),
    };
    let path = format!("/v1/ingest/{}?load={}", escape(&args.target), input.load);
    let mut bar = Bar::new(input.bytes, args.server.json)?;
    let (tell_end, told) = std::sync::mpsc::channel();
    let sender = client.clone();
    std::thread::Builder::new()
        .name("offloop-upload".into())
        .spawn(move || {
            let _left = tell_end.send(sender.upload(&path, from, input.bytes));
        })
        .context("cannot start the sender's thread")?;
    let answer = loop {
        match told.recv_timeout(TICK) {
            Ok(answer) => break answer,
            Err(std::sync::mpsc::RecvTimeoutError::Timeout) => {
                bar.at(taken.load(Ordering::Acquire), || "sent".into());
            }
            Err(std::sync::mpsc::RecvTimeoutError::Disconnected) => bail!("the sender broke off"),
        }
    };
    bar.line.finish_and_clear();
    let answer = answer.with_context(|| {
        format!(
            "what came to the server is stored; the same command again, or --load {}, goes on",
            input.load
        )
    })?;
    let mut view = answer.json()?;
    if answer.status != 200 {
        let said = |key: &str| view[key].as_str().map(str::to_owned);
        let detail = said("detail").or_else(|| said("title"));
        if view["load"].is_null() {
            bail!("{} ({})", detail.unwrap_or_default(), answer.status);
        }
        view["error"] = detail.into();
    }
    if let (Some(to), Some(rejects)) = (&args.rejects, view["rejects"].as_str()) {
        let cannot = || format!("cannot write the refused rows to {}", to.display());
        let mut file = File::create(to).with_context(cannot)?;
        client.download(rejects, &mut file).with_context(cannot)?;
    }
    Ok(tell(args, &view))
}

/// 0: all rows are stored. 1: some were refused, or the load ended early.
fn tell(args: &Args, view: &Value) -> ExitCode {
    if args.server.json {
        println!("{view}");
    } else {
        let count = |key: &str| view[key].as_u64().unwrap_or(0);
        let ms = count("elapsed_ms");
        if view["was_stored"] == true {
            println!(
                "stored already as {}: {} rows; --again stores them once more",
                view["load"].as_str().unwrap_or_default(),
                count("stored")
            );
        } else {
            let rate = count("stored") as f64 * 1000.0 / ms.max(1) as f64;
            println!(
                "{} rows stored, {} rejected, {} read in {} ({rate:.0} rows/s)",
                count("stored"),
                count("rejected"),
                size(count("bytes")),
                span(ms)
            );
        }
        if count("resumed_at") > 0 && view["was_stored"] != true {
            println!("{} of it were stored before", size(count("resumed_at")));
        }
        let copied = args.rejects.as_ref().map(|path| path.display().to_string());
        if let Some(rejects) = copied.or_else(|| view["rejects"].as_str().map(str::to_owned))
            && count("rejected") > 0
        {
            println!("refused rows: {}", plain(&rejects));
        }
        if let Some(error) = view["error"].as_str() {
            println!("ended early: {}", plain(error));
            println!(
                "all up to row {} (byte {}) is stored",
                count("stored_to_row"),
                count("stored_to")
            );
        }
    }
    if view["error"].is_null() && view["rejected"] == 0 {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}
