//! Runs the engine over a folder and reports how every file ended.
//!
//! `cargo run --release -p offloop-photos --example scan_corpus -- DIR [THUMBNAIL_DIR]`
//!
//! Ends with code 1 when a file panicked, took over 30 s, or the process passed its memory budget.

use std::collections::BTreeMap;
use std::fs;
use std::io::Read;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use offloop_photos::budget::{Limits, predict};
use offloop_photos::convert::{Recipe, convert};
use offloop_photos::probe::Prober;
use offloop_photos::walk::{Found, Next, Root, WalkLimits, walk};

/// One conversion's limit plus what the process itself needs.
const MEMORY_BUDGET_KIB: u64 = (512 + 64) * 1024;
const SECONDS_MAX: u64 = 30;

fn main() -> ExitCode {
    let mut arguments = std::env::args().skip(1);
    let Some(folder) = arguments.next() else {
        eprintln!("usage: scan_corpus DIR [THUMBNAIL_DIR]");
        return ExitCode::from(2);
    };
    let thumbnails = arguments.next();
    let root = Root::open(Path::new(&folder)).expect("the folder opens");
    let mut prober = Prober::new();
    let (limits, recipe) = (Limits::default(), Recipe::default());
    let mut ends: BTreeMap<String, u32> = BTreeMap::new();
    let mut slowest = (Duration::ZERO, String::new());
    let mut bad = 0;
    let mut tightest = f64::MAX;
    let end = walk(&root, WalkLimits::default(), &mut |found, here| {
        let Found::File(entry) = found else {
            *ends.entry("problem of the walk".to_owned()).or_default() += 1;
            println!("{found:?}");
            return Next::Continue;
        };
        let Some(Ok(mut opened)) = here.map(|here| here.open()) else {
            *ends.entry("not opened".to_owned()).or_default() += 1;
            return Next::Continue;
        };
        let started = Instant::now();
        let outcome = catch_unwind(AssertUnwindSafe(|| {
            let probe = prober
                .probe(&opened.file)
                .map_err(|e| format!("NO PHOTO: {e}"))?;
            let mut bytes = Vec::new();
            if probe.format.convertible() {
                opened
                    .file
                    .read_to_end(&mut bytes)
                    .map_err(|e| format!("FAILED io: {e}"))?;
            }
            let predicted = predict(&probe, opened.bytes, 500, &limits);
            let made = convert(&bytes, &probe, &recipe, &limits, &|| false)
                .map_err(|e| format!("FAILED {}: {e}", e.class()))?;
            Ok::<_, String>((made, predicted))
        }));
        let took = started.elapsed();
        if took > slowest.0 {
            slowest = (took, entry.path.to_text());
        }
        if took.as_secs() >= SECONDS_MAX {
            bad += 1;
            println!("TOO SLOW {took:?} {}", entry.path);
        }
        let end = match outcome {
            Ok(Ok((made, predicted))) => {
                if let Some(thumbnails) = &thumbnails {
                    let name = entry.path.to_text().replace('/', "_");
                    let file = Path::new(thumbnails).join(format!("{name}.jpg"));
                    fs::write(file, &made.large.jpeg).expect("a thumbnail is written");
                }
                if let Ok(predicted) = predicted {
                    tightest = tightest.min(predicted.bytes as f64 / entry.bytes.max(1) as f64);
                }
                "DONE".to_owned()
            }
            Ok(Err(message)) => {
                println!("{message} | {}", entry.path);
                message.split(':').next().unwrap_or("").to_owned()
            }
            Err(_) => {
                bad += 1;
                println!("PANIC {}", entry.path);
                "PANIC".to_owned()
            }
        };
        *ends.entry(end).or_default() += 1;
        Next::Continue
    });
    println!("--- walk: {end:?}");
    for (end, count) in &ends {
        println!("{count:6} {end}");
    }
    let peak = peak_kib();
    println!("slowest {:?} {}", slowest.0, slowest.1);
    println!(
        "peak resident {} MiB, budget {} MiB",
        peak >> 10,
        MEMORY_BUDGET_KIB >> 10
    );
    if bad > 0 || peak > MEMORY_BUDGET_KIB {
        ExitCode::FAILURE
    } else {
        ExitCode::SUCCESS
    }
}

fn peak_kib() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find(|line| line.starts_with("VmHWM:"));
    line.and_then(|line| line.split_whitespace().nth(1)?.parse().ok())
        .unwrap_or(0)
}
