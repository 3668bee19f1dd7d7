//! The parse stage (split, unescape, check) of real tables beside npm's csv-parse, the `csv` crate,
//! simd-csv and memchr alone, in one run, rounds in turn: `bench/rivals/csv.sh`.
#![allow(clippy::unwrap_used, reason = "a benchmark may panic")]

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use offloop_ingest::split::Splitter;
use offloop_ingest::{Decoder, RawTarget, Reader, Target, infer};

const BYTES: usize = 240 << 20;
const NODE_BYTES: usize = 60 << 20;
const PIECE: usize = 64 << 10;

/// One way to go through a table: its name, and rows for bytes.
type Way<'a> = (&'static str, Box<dyn Fn(&[u8]) -> u64 + 'a>);

fn main() {
    let mut args = std::env::args().skip(1);
    let (mut corpus, mut node, mut rounds) = (PathBuf::new(), PathBuf::new(), 5);
    while let Some(arg) = args.next() {
        let value = args.next().unwrap_or_else(|| panic!("{arg} needs a value"));
        match arg.as_str() {
            "--corpus" => corpus = value.into(),
            "--node" => node = value.into(),
            "--rounds" => rounds = value.parse().unwrap(),
            _ => panic!("--corpus FOLDER --node SCRIPT [--rounds N]"),
        }
    }
    let mut worst = f64::MAX;
    for name in ["asn-ipv4.csv", "airports.csv"] {
        let path =
            find(&corpus, name).unwrap_or_else(|| panic!("{name} is not in {}", corpus.display()));
        worst = worst.min(table(&path, &node, rounds));
    }
    println!("\nworst ratio to csv-parse: {worst:.1} (goal: 20)");
}

fn find(folder: &Path, name: &str) -> Option<PathBuf> {
    std::fs::read_dir(folder).ok()?.flatten().find_map(|entry| {
        let path = entry.path();
        if path.is_dir() {
            find(&path, name)
        } else {
            let is_it = path
                .file_name()
                .is_some_and(|file| file.to_string_lossy().contains(name));
            is_it.then_some(path)
        }
    })
}

/// Measures one table; returns our median over that of csv-parse.
fn table(path: &Path, node: &Path, rounds: usize) -> f64 {
    let once = std::fs::read(path).unwrap();
    let guess = infer(&once[..once.len().min(1 << 20)], false).unwrap();
    let types: Vec<_> = guess
        .raw
        .columns
        .iter()
        .map(|column| column.kind.clone())
        .collect();
    let raw = RawTarget {
        // Joined files repeat the header: rows of text here.
        header: Some("none".to_owned()),
        ..guess.raw.clone()
    };
    let typed = declared(&raw);
    let mut bytes = Vec::with_capacity(BYTES);
    let body = match guess.raw.header.as_deref() {
        Some("none") => &once[..],
        _ => &once[once.iter().position(|byte| *byte == b'\n').unwrap() + 1..],
    };
    while bytes.len() + body.len() <= BYTES {
        bytes.extend_from_slice(body);
    }
    println!(
        "\n{} x {} = {} MB, types {}",
        path.display(),
        bytes.len() / body.len(),
        bytes.len() / 1_000_000,
        types.join(" ")
    );
    let ways: Vec<Way<'_>> = vec![
        (
            "memchr, line ends only",
            Box::new(|bytes| memchr::memchr_iter(b'\n', bytes).count() as u64),
        ),
        ("ours, record ends only", Box::new(split_only)),
        ("simd-csv, copied", Box::new(simd)),
        ("csv, ByteRecord", Box::new(csv_bytes)),
        ("csv, StringRecord", Box::new(csv_text)),
        (
            "ours, checked rows",
            Box::new(|bytes| checked(&typed, bytes)),
        ),
        (
            "ours, decoded too",
            Box::new(|bytes| decoded(&typed, bytes)),
        ),
    ];
    let mut speeds = vec![Vec::new(); ways.len() + 1];
    let mut rows = vec![0; ways.len() + 1];
    let mut version = String::new();
    for _ in 0..rounds {
        for (at, (_, way)) in ways.iter().enumerate() {
            let start = Instant::now();
            rows[at] = way(&bytes);
            speeds[at].push(bytes.len() as f64 / 1e6 / start.elapsed().as_secs_f64());
        }
        let (speed, count, said) = csv_parse(path, node);
        speeds[ways.len()].push(speed);
        rows[ways.len()] = count;
        version = said;
    }
    let node_median = median(&mut speeds[ways.len()]);
    let names = ways.iter().map(|(name, _)| *name).chain(["npm csv-parse"]);
    let mut ours = 0.0;
    for ((name, speeds), rows) in names.zip(&mut speeds).zip(rows) {
        let middle = median(speeds);
        if name == "ours, checked rows" {
            ours = middle / node_median;
        }
        let (low, high) = (speeds[0], speeds[speeds.len() - 1]);
        println!(
            "{name:<24} {middle:>8.0} MB/s  ({low:.0} to {high:.0})  {:>6.1} x csv-parse  {rows} rows",
            middle / node_median
        );
    }
    println!(
        "{version}; {} threads here, each way uses one",
        std::thread::available_parallelism().map_or(0, usize::from)
    );
    ours
}

fn median(speeds: &mut [f64]) -> f64 {
    speeds.sort_by(f64::total_cmp);
    speeds[speeds.len() / 2]
}

fn declared(raw: &RawTarget) -> Target {
    let raw = RawTarget {
        sink: "jobs".to_owned(),
        task: Some("x".to_owned()),
        ..raw.clone()
    };
    raw.resolve("bench").unwrap()
}

fn checked(target: &Target, bytes: &[u8]) -> u64 {
    let mut reader = Reader::new(target.clone());
    let mut rows = 0;
    for mut piece in bytes.chunks(PIECE) {
        while !piece.is_empty() {
            piece = &piece[reader.push(piece).unwrap()..];
            if let Some(batch) = reader.take_batch() {
                rows += batch.len() as u64;
                reader.recycle(batch);
            }
        }
    }
    while let Some(batch) = reader.finish().unwrap() {
        rows += batch.len() as u64;
    }
    rows
}

fn decoded(target: &Target, bytes: &[u8]) -> u64 {
    let mut decoder = Decoder::new(target.format(), target.limits());
    let mut reader = Reader::new(target.clone());
    let (mut rows, mut text) = (0, Vec::new());
    for mut piece in bytes.chunks(PIECE) {
        loop {
            text.clear();
            let step = decoder.push(piece, &mut text).unwrap();
            piece = &piece[step.taken..];
            let mut slice = &text[..];
            while !slice.is_empty() {
                slice = &slice[reader.push(slice).unwrap()..];
                if let Some(batch) = reader.take_batch() {
                    rows += batch.len() as u64;
                    reader.recycle(batch);
                }
            }
            if piece.is_empty() && !step.more {
                break;
            }
        }
    }
    while let Some(batch) = reader.finish().unwrap() {
        rows += batch.len() as u64;
    }
    rows
}

fn split_only(bytes: &[u8]) -> u64 {
    let mut splitter = Splitter::new(b',', Some(b'"'));
    let mut rows = 0;
    for piece in bytes.chunks(PIECE) {
        splitter.push(piece, |_| rows += 1);
    }
    splitter.finish(|_| rows += 1);
    rows
}

fn csv_bytes(bytes: &[u8]) -> u64 {
    let mut reader = csv::ReaderBuilder::new()
        .has_headers(false)
        .buffer_capacity(PIECE)
        .from_reader(bytes);
    let (mut record, mut rows) = (csv::ByteRecord::new(), 0);
    while reader.read_byte_record(&mut record).unwrap() {
        rows += 1;
    }
    rows
}

fn csv_text(bytes: &[u8]) -> u64 {
    let mut reader = csv::ReaderBuilder::new()
        .has_headers(false)
        .buffer_capacity(PIECE)
        .from_reader(bytes);
    let (mut record, mut rows) = (csv::StringRecord::new(), 0);
    while reader.read_record(&mut record).unwrap() {
        rows += 1;
    }
    rows
}

fn simd(bytes: &[u8]) -> u64 {
    let mut reader = simd_csv::ReaderBuilder::with_capacity(PIECE)
        .has_headers(false)
        .from_reader(bytes);
    let (mut record, mut rows) = (simd_csv::ByteRecord::new(), 0);
    while reader.read_byte_record(&mut record).unwrap() {
        rows += 1;
    }
    rows
}

/// MB/s, rows and versions.
#[expect(
    clippy::disallowed_methods,
    reason = "a benchmark that starts its rival"
)]
fn csv_parse(path: &Path, node: &Path) -> (f64, u64, String) {
    let said = Command::new("node")
        .arg(node)
        .arg(path)
        .arg(NODE_BYTES.to_string())
        .output()
        .unwrap();
    assert!(
        said.status.success(),
        "{}",
        String::from_utf8_lossy(&said.stderr)
    );
    let said: serde_json::Value = serde_json::from_slice(&said.stdout).unwrap();
    let seconds = said["seconds"].as_f64().unwrap();
    let speed = said["bytes"].as_f64().unwrap() / 1e6 / seconds;
    (
        speed,
        said["records"].as_u64().unwrap(),
        said["version"].as_str().unwrap().to_owned(),
    )
}
