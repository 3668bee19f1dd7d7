//! Rows per second from a CSV file into a topic, beside Kafka's own producer benchmark.
//!
//! `cargo run --release -p offloop-ingest --features kafka --example bench_kafka -- [ROWS] [ROUNDS] [COMPRESSION]`
//! with `OFFLOOP_TEST_KAFKA` and `OFFLOOP_TEST_KAFKA_LIBS` as `xtask/servers.sh start` prints them.
//!
//! Both with acks=all and idempotence, the same linger, batch size, compression, partitions and
//! mean size of values. Ours reads and checks the file, writes JSON, keys each message, adds three
//! headers and keeps notes; theirs sends payloads made beforehand, without keys.

use std::io::Write as _;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use offloop_ingest::RawTarget;
use offloop_ingest::load::{LoadAsk, LoadId, Loader, Settings, feed};
use offloop_ingest::sink::Outlet;
use offloop_ingest::sink::kafka::{KafkaOutlet, RawKafka};

const PARTITIONS: u32 = 4;

fn main() {
    let mut arguments = std::env::args().skip(1);
    let mut number = |default: usize| -> usize {
        let argument = arguments.next();
        argument.map_or(default, |text| text.parse().expect("a number"))
    };
    let (rows, rounds) = (number(2_000_000), number(5));
    let compression = arguments.next().unwrap_or_else(|| "lz4".into());
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("rows.csv");
    write_csv(&file, rows);
    let mean = mean_value(rows);
    let brokers = variable("OFFLOOP_TEST_KAFKA");
    println!(
        "{rows} rows, {} bytes of CSV, {mean} bytes of JSON a row, {PARTITIONS} partitions, {compression}",
        std::fs::metadata(&file).expect("the file").len()
    );
    let (mut ours, mut theirs) = (Vec::new(), Vec::new());
    for round in 0..rounds {
        ours.push(load(
            folder.path(),
            &file,
            rows,
            &brokers,
            round,
            &compression,
        ));
        theirs.push(perf(&brokers, round, rows, mean, &compression));
        println!(
            "round {round}: offloop {:.0} rows/s, ProducerPerformance {:.0} records/s",
            ours[round], theirs[round]
        );
    }
    let (ours, theirs) = (median(ours), median(theirs));
    println!(
        "median of {rounds}: offloop {ours:.0} rows/s, ProducerPerformance {theirs:.0} records/s, ratio {:.2}",
        ours / theirs
    );
}

#[expect(clippy::disallowed_methods, reason = "where the broker is")]
fn variable(name: &str) -> String {
    std::env::var(name).unwrap_or_else(|_| panic!("set {name}"))
}

fn median(mut rates: Vec<f64>) -> f64 {
    rates.sort_by(f64::total_cmp);
    rates[rates.len() / 2]
}

fn row(at: usize) -> String {
    format!(
        "tenant-{:04},{},{}.{:02},customer {} of the row,2024-{:02}-{:02}",
        at * 7_919 % 1_000,
        at,
        at % 10_000,
        at % 100,
        at * 31 % 99_991,
        at % 12 + 1,
        at % 28 + 1
    )
}

fn write_csv(path: &Path, rows: usize) {
    let file = std::fs::File::create(path).expect("a file");
    let mut out = std::io::BufWriter::with_capacity(1 << 20, file);
    writeln!(out, "tenant,id,amount,name,day").expect("room");
    for at in 0..rows {
        writeln!(out, "{}", row(at)).expect("room");
    }
    out.flush().expect("room");
}

/// The fields, and what JSON adds to them.
fn mean_value(rows: usize) -> usize {
    let added = r#"{"tenant":"","id":,"amount":,"name":"","day":""}"#.len();
    let sample = rows.min(100_000);
    let bytes: usize = (0..sample).map(|at| row(at).len() - 4 + added).sum();
    bytes / sample.max(1)
}

fn load(
    folder: &Path,
    file: &Path,
    rows: usize,
    brokers: &str,
    round: usize,
    compression: &str,
) -> f64 {
    let unique = folder.file_name().and_then(|name| name.to_str());
    let topic = format!("bench-ours{}-{round}", unique.unwrap_or_default());
    let raw: RawTarget = toml::from_str(&format!(
        r#"
        sink = "kafka"
        topic = "{topic}"
        key = "tenant"
        kafka = {{ create = {{ partitions = {PARTITIONS} }} }}
        columns = [
            {{ name = "tenant", type = "text" }}, {{ name = "id", type = "int8" }},
            {{ name = "amount", type = "decimal(12,2)" }}, {{ name = "name", type = "text" }},
            {{ name = "day", type = "date" }},
        ]
        "#
    ))
    .expect("a declaration");
    let target = raw.resolve("bench").expect("a target");
    let kafka: RawKafka = toml::from_str(&format!(
        "brokers = \"{brokers}\"\ncompression = \"{compression}\""
    ))
    .expect("settings");
    let kafka = kafka.resolve(Path::new("."), None).expect("settings");
    let outlet = KafkaOutlet::new(&target, &kafka, folder.join("notes")).expect("an outlet");
    let settings = Settings::new(folder.join("rejects"));
    let loader = Loader::new(settings, [(target, Arc::new(outlet) as Arc<dyn Outlet>)]);
    let loader = loader.expect("a loader");
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .expect("a runtime");
    let ask = LoadAsk {
        load: LoadId::parse(&format!("bench-{round}")).expect("a name"),
        target: "bench".into(),
        tenant: None,
        bytes_total: None,
    };
    let load = loader.load(ask).expect("a place");
    let (to, from) = feed();
    let file = file.to_owned();
    let begun = Instant::now();
    let reader = std::thread::spawn(move || {
        use std::io::Read as _;
        let mut file = std::fs::File::open(file).expect("the file");
        loop {
            let mut piece = vec![0; 64 << 10];
            let got = file.read(&mut piece).expect("the file");
            if got == 0 {
                break;
            }
            piece.truncate(got);
            to.send_blocking(Bytes::from(piece)).expect("the load");
        }
        to.end_blocking().expect("the load");
    });
    let summary = runtime.block_on(load.run(from)).expect("a load");
    let elapsed = begun.elapsed();
    reader.join().expect("the reader");
    assert_eq!(summary.rows_stored, rows as u64);
    rows as f64 / elapsed.as_secs_f64()
}

/// Records per second by Kafka's own tool.
#[expect(clippy::disallowed_methods, reason = "the rival is a program")]
fn perf(brokers: &str, round: usize, rows: usize, mean: usize, compression: &str) -> f64 {
    let libs = format!("{}/*", variable("OFFLOOP_TEST_KAFKA_LIBS"));
    let topic = format!("bench-theirs-{}-{round}", std::process::id());
    let made = Command::new("java")
        .args(["-cp", &libs, "org.apache.kafka.tools.TopicCommand"])
        .args(["--bootstrap-server", brokers, "--create", "--topic", &topic])
        .args(["--partitions", &PARTITIONS.to_string()])
        .args(["--replication-factor", "1"])
        .output()
        .expect("java");
    assert!(made.status.success(), "{made:?}");
    let done = Command::new("java")
        .args(["-Xmx1g", "-cp", &libs])
        .arg("org.apache.kafka.tools.ProducerPerformance")
        .args(["--topic", &topic, "--num-records", &rows.to_string()])
        .args(["--record-size", &mean.to_string(), "--throughput", "-1"])
        .arg("--producer-props")
        .arg(format!("bootstrap.servers={brokers}"))
        .args(["acks=all", "enable.idempotence=true", "linger.ms=5"])
        .args(["batch.size=1048576", "buffer.memory=33554432"])
        .arg(format!("compression.type={compression}"))
        .output()
        .expect("java");
    let text = String::from_utf8_lossy(&done.stdout);
    assert!(done.status.success(), "{done:?}");
    let last = text.lines().rfind(|line| line.contains("records/sec"));
    let last = last.expect("a figure");
    let rate = last
        .split(", ")
        .nth(1)
        .and_then(|part| part.split(' ').next());
    rate.and_then(|rate| rate.parse().ok()).expect("a figure")
}
