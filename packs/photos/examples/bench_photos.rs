//! Measures the engine: conversions per second and heads per second.
//!
//! `cargo run --release -p offloop-photos --example bench_photos -- MODE DIR [THREADS] [ROUNDS]`
//!
//! MODE `convert`: every file below DIR to 500 px and 160 px, from memory that is read once.
//! MODE `convert500`: the 500 px thumbnail alone is counted on (what peers make); both are made.
//! MODE `probe`: walk, open, read and understand every head below DIR, on one thread.
//!
//! Prints one line per round and the median: `offloop MODE files/s`.

use std::io::Read;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use offloop_photos::budget::Limits;
use offloop_photos::convert::{Recipe, convert};
use offloop_photos::probe::{Probe, Prober};
use offloop_photos::walk::{Found, Next, Root, WalkLimits, walk};

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [mode, folder, rest @ ..] = arguments.as_slice() else {
        eprintln!("usage: bench_photos convert|probe DIR [THREADS] [ROUNDS]");
        return;
    };
    let number = |at: usize, default: usize| {
        rest.get(at)
            .and_then(|text: &String| text.parse().ok())
            .unwrap_or(default)
    };
    let (threads, rounds) = (number(0, 2), number(1, 5));
    let root = Root::open(Path::new(folder)).expect("the folder opens");
    let mut rates = Vec::new();
    let photos = if mode == "probe" {
        Vec::new()
    } else {
        load(&root)
    };
    for _ in 0..rounds.max(1) {
        let started = Instant::now();
        let count = if mode == "probe" {
            probe_all(&root)
        } else {
            convert_all(&photos, threads)
        };
        rates.push(count as f64 / started.elapsed().as_secs_f64());
        println!(
            "round {:.1} files/s ({count} files)",
            rates[rates.len() - 1]
        );
    }
    rates.sort_by(f64::total_cmp);
    let version = env!("CARGO_PKG_VERSION");
    println!(
        "offloop-photos {version} {mode} threads {threads}: {:.1} files/s",
        rates[rates.len() / 2]
    );
}

fn load(root: &Root) -> Vec<(Vec<u8>, Probe)> {
    let mut photos = Vec::new();
    let mut prober = Prober::new();
    walk(root, WalkLimits::default(), &mut |found, here| {
        if let (Found::File(_), Some(Ok(mut opened))) = (found, here.map(|here| here.open()))
            && let Ok(probe) = prober.probe(&opened.file)
        {
            let mut bytes = Vec::new();
            opened.file.read_to_end(&mut bytes).expect("reads");
            photos.push((bytes, probe));
        }
        Next::Continue
    })
    .expect("walks");
    photos
}

fn convert_all(photos: &[(Vec<u8>, Probe)], threads: usize) -> usize {
    let next = AtomicUsize::new(0);
    let done = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                while let Some((bytes, probe)) = photos.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let (recipe, limits) = (Recipe::default(), Limits::default());
                    if convert(bytes, probe, &recipe, &limits, &|| false).is_ok() {
                        done.fetch_add(1, Ordering::Relaxed);
                    }
                }
            });
        }
    });
    done.load(Ordering::Relaxed)
}

fn probe_all(root: &Root) -> usize {
    let mut prober = Prober::new();
    let mut understood = 0;
    walk(root, WalkLimits::default(), &mut |found, here| {
        if let (Found::File(_), Some(Ok(opened))) = (found, here.map(|here| here.open()))
            && prober.probe(&opened.file).is_ok()
        {
            understood += 1;
        }
        Next::Continue
    })
    .expect("walks");
    understood
}
