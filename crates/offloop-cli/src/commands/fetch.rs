//! `fetch`: calls the URLs of a list from this machine, without a server.

use std::fs::File;
use std::io::{BufRead as _, BufReader, BufWriter, Read, Write as _};
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::Context;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use offloop::egress::{EgressError, Forbidden, Net, Policy, Roots, SystemResolver};
use offloop::runtime::clock::{Clock as _, SystemClock};
use offloop_fetch::{
    Call, Client, ClientOptions, Hedge, Keep, RetryRule, Rule, Runner, Settings, Tally, calls_from,
    done_json, read_line, summary_json,
};
use serde_json::Value;
use tokio::sync::mpsc;

use crate::config::authorities;

use super::text::{plain, size, span};

#[derive(clap::Args)]
pub(crate) struct Args {
    /// One URL or one call as JSON per line; `-` for standard input
    list: PathBuf,
    /// Calls at a time, 1 to 10000
    #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    limit: u32,
    /// To one host at a time [default: as --limit]
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    per_host: Option<u32>,
    /// Of one call after its first try
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u16).range(0..=100))]
    retries: u16,
    /// Of the whole list, such as 30s or 10min
    #[arg(long, value_parser = humantime::parse_duration)]
    deadline: Option<Duration>,
    /// Of one call, all its tries together
    #[arg(long, value_parser = humantime::parse_duration)]
    item_deadline: Option<Duration>,
    /// Of one try, to the last byte of its answer
    #[arg(long, default_value = "30s", value_parser = humantime::parse_duration)]
    timeout: Duration,
    /// Call once more beside one that takes so long: a time, or p95
    #[arg(long, value_parser = hedge)]
    hedge: Option<Hedge>,
    /// When the list is over: all, all_settled, race or any
    #[arg(long, default_value = "all_settled", value_parser = rule)]
    rule: Rule,
    /// Redirects that are followed, 0 to 20; each is checked as the first URL was
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u8).range(0..=20))]
    redirects: u8,
    /// Of one answer's body, such as 10MiB
    #[arg(long, default_value = "10MiB", value_parser = bytes)]
    max_response: u64,
    /// Write each answer as a line of JSON
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
    /// Leave bodies out of these lines: their SHA-256 is enough
    #[arg(long, requires = "out")]
    hash: bool,
    /// A network of your own that may be called, such as 127.0.0.0/8; may be given again
    #[arg(long, value_name = "NET")]
    allow_private: Vec<Net>,
    /// Authorities of your own that servers' certificates may be signed by, as PEM; may be given again
    #[arg(long, value_name = "FILE")]
    ca: Vec<PathBuf>,
    /// Print the summary as JSON
    #[arg(long)]
    json: bool,
}

fn hedge(text: &str) -> Result<Hedge, String> {
    if text == "p95" {
        return Ok(Hedge::P95);
    }
    let after = humantime::parse_duration(text).map_err(|_| "give a time or p95".to_owned())?;
    Ok(Hedge::After(after))
}

fn rule(text: &str) -> Result<Rule, String> {
    let known = || format!("give one of {}", Rule::ALL.map(Rule::as_str).join(", "));
    Rule::from_name(text).ok_or_else(known)
}

fn bytes(text: &str) -> Result<u64, String> {
    let size: bytesize::ByteSize = text.parse()?;
    let most = offloop_fetch::RESPONSE_BYTES_MAX;
    let size = size.as_u64();
    if (1..=most).contains(&size) {
        Ok(size)
    } else {
        Err(format!("give 1 to {most} bytes"))
    }
}

/// Of a line: a call with its body.
const LINE_BYTES_MAX: u64 = 1 << 20;
/// Lines that cannot be are told so often; all are counted.
const REFUSALS_TOLD: u64 = 20;
/// Before that, nobody needs a bar.
const BAR_AFTER: Duration = Duration::from_secs(2);
const TICK: Duration = Duration::from_millis(200);
/// Failures in the table.
const FAILURES_SHOWN: usize = 10;

pub(crate) fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let (input, total): (Box<dyn Read + Send>, _) = open(&args.list)?;
    let out = args.out.as_ref().map(|path| {
        let file = File::create(path);
        file.with_context(|| format!("cannot write the answers to {}", path.display()))
    });
    let out = out.transpose()?.map(BufWriter::new);
    let client = client(args)?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("cannot start")?;
    let refused = Arc::new(AtomicU64::new(0));
    let (calls, listed) = mpsc::channel(256);
    let (checker, counted) = (client.clone(), Arc::clone(&refused));
    // On a thread of its own: a pipe may be silent for long.
    std::thread::Builder::new()
        .name("offloop-list".into())
        .spawn(move || read(input, &checker, &calls, &counted))
        .context("cannot start the reader's thread")?;
    let (runner, failures, whole) = runtime.block_on(fetch(args, &client, listed, out, total))?;
    let refused = refused.load(Ordering::Acquire);
    let tally = runner.tally();
    let settled = args.rule != Rule::AllSettled || tally.failed == 0;
    let good = whole && runner.verdict() && settled && refused == 0;
    if args.json {
        let mut summary = summary_json(tally, &client, good);
        summary.insert("refused_lines".into(), refused.into());
        summary.insert("interrupted".into(), (!whole).into());
        summary.insert(
            "wall_ms".into(),
            (runner.elapsed().as_millis() as u64).into(),
        );
        summary.insert("failures".into(), failures.into());
        println!("{}", Value::Object(summary));
    } else {
        table(&runner, &client, &failures, refused);
    }
    // The process ends here, also where the reader still waits for its pipe.
    Ok(if good {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

fn open(list: &PathBuf) -> anyhow::Result<(Box<dyn Read + Send>, Option<u64>)> {
    if list.as_os_str() == "-" {
        return Ok((Box::new(std::io::stdin()), None));
    }
    let cannot = || format!("cannot read {}", list.display());
    let file = File::open(list).with_context(cannot)?;
    let is_file = file.metadata().with_context(cannot)?.is_file();
    // Read twice, so that the bar knows its end: a list is small beside what it asks for.
    let total = if is_file {
        let lines = BufReader::new(File::open(list).with_context(cannot)?).split(b'\n');
        let full = lines.map_while(Result::ok).filter(|line| {
            let first = line.iter().find(|byte| !byte.is_ascii_whitespace());
            first.is_some_and(|byte| *byte != b'#')
        });
        Some(full.count() as u64)
    } else {
        None
    };
    Ok((Box::new(file), total))
}

fn client(args: &Args) -> anyhow::Result<Client> {
    let policy = Policy {
        http: true,
        any_port: true, // whoever runs this has named the URLs
        allow: args.allow_private.clone(),
        ..Policy::default()
    };
    let now = SystemClock.now().as_millis();
    let seed = now ^ (u64::from(std::process::id()) << 44);
    let resolver = Arc::new(SystemResolver::default());
    let mut roots = Roots::default();
    for file in &args.ca {
        authorities(file, &mut roots).map_err(|error| anyhow::anyhow!("--ca: {error}"))?;
    }
    let usual = ClientOptions::new(policy, resolver, seed);
    Client::new(ClientOptions {
        roots,
        connections: args.limit, // what was asked for is what is made
        ..usual
    })
    .context("cannot set up TLS")
}

/// Line by line into the channel, which is the brake.
fn read(
    input: Box<dyn Read + Send>,
    client: &Client,
    calls: &mpsc::Sender<(u64, Call)>,
    refused: &AtomicU64,
) {
    let check = |url: &str| match client.check(url) {
        Err(error @ EgressError::Forbidden { why, .. }) if why != Forbidden::Metadata => Err(
            format!("{error}; --allow-private names networks of your own"),
        ),
        checked => checked.map_err(|error| error.to_string()),
    };
    let mut input = BufReader::new(input);
    let mut line = Vec::new();
    let (mut number, mut index) = (0_u64, 0_u64);
    let refuse = |number: u64, what: &str| {
        if refused.fetch_add(1, Ordering::AcqRel) < REFUSALS_TOLD {
            eprintln!("offloop: line {number} {}", plain(what));
        }
    };
    loop {
        line.clear();
        number += 1;
        let got = input
            .by_ref()
            .take(LINE_BYTES_MAX + 1)
            .read_until(b'\n', &mut line);
        match got {
            Ok(0) => return,
            Ok(_) => {}
            Err(error) => return refuse(number, &format!("cannot be read: {error}")),
        }
        if line.len() as u64 > LINE_BYTES_MAX {
            // Where it ends is not known: what follows would be read as something that it is not.
            let what =
                format!("is over {LINE_BYTES_MAX} bytes, the limit; nothing after it is read");
            return refuse(number, &what);
        }
        let Ok(text) = std::str::from_utf8(&line) else {
            refuse(number, "is no UTF-8");
            continue;
        };
        match read_line(text, &check) {
            None => {}
            Some(Err(problems)) => {
                let told = problems.iter().map(|problem| {
                    let name = problem.pointer.trim_start_matches('/');
                    let gap = if name.is_empty() { "" } else { " " };
                    format!("{name}{gap}{}", problem.message)
                });
                let told: Vec<_> = told.collect();
                refuse(number, &told.join("; "));
            }
            Some(Ok(call)) => {
                if calls.blocking_send((index, call)).is_err() {
                    return; // decided
                }
                index += 1;
            }
        }
    }
}

/// The runner at its end, some failures, and whether it came there by itself.
async fn fetch(
    args: &Args,
    client: &Client,
    listed: mpsc::Receiver<(u64, Call)>,
    mut out: Option<BufWriter<File>>,
    total: Option<u64>,
) -> anyhow::Result<(Runner, Vec<Value>, bool)> {
    let settings = settings(args);
    let mut runner = Runner::new(client.clone(), settings, calls_from(listed));
    let bar = ProgressBar::with_draw_target(total, ProgressDrawTarget::hidden());
    let style = "[{bar:32}] {pos}/{len}  {per_sec}  {msg}  {eta} left";
    bar.set_style(ProgressStyle::with_template(style)?.progress_chars("=> "));
    let mut ticks = tokio::time::interval(TICK);
    let mut stop = std::pin::pin!(tokio::signal::ctrl_c());
    let mut failures = Vec::new();
    let mut whole = true;
    let mut is_shown = false;
    loop {
        let done = tokio::select! {
            done = runner.next() => done,
            _ = ticks.tick() => {
                if !is_shown && runner.elapsed() >= BAR_AFTER && !args.json {
                    bar.set_draw_target(ProgressDrawTarget::stderr());
                    is_shown = true;
                }
                bar.set_position(runner.tally().done());
                bar.set_message(format!("{} failed", runner.tally().failed));
                continue;
            }
            _ = &mut stop => {
                whole = false;
                None
            }
        };
        let Some(done) = done else { break };
        if let Some(out) = &mut out {
            let body = (!args.hash).then_some(usize::MAX);
            writeln!(out, "{}", done_json(&done, body)).context("cannot write an answer")?;
        }
        if done.outcome.is_err() && failures.len() < FAILURES_SHOWN {
            failures.push(done_json(&done, None));
        }
    }
    bar.finish_and_clear();
    if let Some(mut out) = out {
        out.flush().context("cannot write the answers")?;
    }
    Ok((runner, failures, whole))
}

fn settings(args: &Args) -> Settings {
    Settings {
        limit: args.limit as usize,
        per_host: args.per_host.unwrap_or(args.limit) as usize,
        rule: args.rule,
        retry: RetryRule {
            max: args.retries,
            ..RetryRule::default()
        },
        hedge: args.hedge.unwrap_or_default(),
        deadline: args.deadline,
        item_deadline: args.item_deadline,
        timeout: args.timeout,
        response_bytes_max: args.max_response,
        redirects: args.redirects,
        keep: match (&args.out, args.hash) {
            (None, _) => Keep::Nothing,
            (Some(_), true) => Keep::Hash,
            (Some(_), false) => Keep::Bytes,
        },
        ..Settings::default()
    }
}

fn table(runner: &Runner, client: &Client, failures: &[Value], refused: u64) {
    let tally = runner.tally();
    let time = |share| {
        let found = tally.quantile(share);
        found.map_or("-".into(), |time| span(time.as_millis() as u64))
    };
    let statuses = tally
        .statuses
        .iter()
        .enumerate()
        .filter(|(_, count)| **count > 0);
    let statuses: Vec<_> = statuses
        .map(|(class, count)| format!("{class}xx {count}"))
        .collect();
    println!(
        "{} ok, {} failed, {} cancelled in {}",
        tally.ok,
        tally.failed,
        tally.cancelled,
        span(runner.elapsed().as_millis() as u64)
    );
    println!(
        "answers    {}",
        if statuses.is_empty() {
            "-".into()
        } else {
            statuses.join(", ")
        }
    );
    println!("time       p50 {}, p99 {}", time(0.5), time(0.99));
    println!(
        "calls      {} ({} retries, {} replays, {} hedges of which {} won), {} connections ({} calls on used ones), {} received",
        tally.calls,
        tally.retries,
        tally.replays,
        tally.hedges,
        tally.hedges_won,
        client.connections(),
        client.reused(),
        size(tally.bytes)
    );
    hosts(tally, client);
    let causes: Vec<_> = tally
        .causes
        .iter()
        .map(|(cause, count)| format!("{cause} {count}"))
        .collect();
    if !causes.is_empty() {
        println!("failures   {}", causes.join(", "));
    }
    for failure in failures {
        let text = |key: &str| plain(failure[key].as_str().unwrap_or_default());
        println!("  {}: {}", text("url"), text("message"));
    }
    if refused > 0 {
        println!("{refused} lines could not be read");
    }
}

/// Those that were left alone, and the slowest.
fn hosts(tally: &Tally, client: &Client) {
    for tripped in client.tripped(5) {
        let times = tripped.opened;
        println!(
            "breaker    {} opened {times} times, now {:?}",
            tripped.origin, tripped.state
        );
    }
    for (origin, host) in tally.slowest(3) {
        let mean = host.wall / u32::try_from(host.items.max(1)).unwrap_or(u32::MAX);
        println!(
            "slow       {}: {} on average, {} at most, {} of {} failed",
            plain(origin),
            span(mean.as_millis() as u64),
            span(host.longest.as_millis() as u64),
            host.failed,
            host.items
        );
    }
}
