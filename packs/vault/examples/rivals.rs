//! The vault beside Node over HTTP: starts both servers, loads them in turn over kept connections,
//! and prints medians, spread and ratios. `bench/rivals/vault.sh` builds and starts it.
//!
//! One thread per connection, blocking, with requests that were written beforehand; its own cost is
//! part of both sides' figures.
#![allow(clippy::unwrap_used, reason = "a trial may panic")]
#![allow(clippy::disallowed_methods, reason = "both servers are other programs")]

use std::fmt::Write as _;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use offloop_vault::keys::KeyName;
use offloop_vault::keys::make::{Algorithm, keygen};

/// Bytes that compress to nothing and look like no other.
fn noise(len: usize) -> Vec<u8> {
    let mut word = 0x9e37_79b9_7f4a_7c15_u64;
    let mut next = || {
        word ^= word << 13;
        word ^= word >> 7;
        word ^= word << 17;
        word as u8
    };
    (0..len).map(|_| next()).collect()
}

fn b64(bytes: &[u8]) -> String {
    base64_simd::STANDARD.encode_to_string(bytes)
}

struct Measure {
    name: &'static str,
    /// Least ratio to Node that was set as the goal.
    goal: f64,
    /// Items in one request.
    items: u64,
    connections: usize,
    request: Vec<u8>,
}

fn request(path: &str, kind: &str, body: &[u8]) -> Vec<u8> {
    let head = format!(
        "POST {path} HTTP/1.1\r\nhost: localhost\r\ncontent-type: {kind}\r\ncontent-length: {}\r\n\r\n",
        body.len()
    );
    [head.as_bytes(), body].concat()
}

fn json(path: &str, body: &str) -> Vec<u8> {
    request(path, "application/json", body.as_bytes())
}

fn measures() -> Vec<Measure> {
    let large = noise(64 << 10);
    let small = b64(&large[..1024]);
    let batch = |count: usize, item: String| {
        let items = vec![item; count].join(",");
        format!("{{\"items\":[{items}]}}")
    };
    let signed = format!("{{\"key\":\"aes\",\"plaintext\":\"{small}\",\"sign_key\":\"ed\"}}");
    let sign = format!("{{\"key\":\"rsa\",\"message\":\"{small}\"}}");
    let seal = format!("{{\"key\":\"aes\",\"plaintext\":\"{}\"}}", b64(&large));
    let bytes = "application/octet-stream";
    let argon = "{\"password\":\"correct horse battery staple\"}";
    let bcrypt =
        "{\"password\":\"correct horse\",\"algorithm\":\"bcrypt\",\"params\":{\"cost\":10}}";
    let row = |name, goal, items, connections, request| Measure {
        name,
        goal,
        items,
        connections,
        request,
    };
    vec![
        row("sign", 2.0, 1, 6, json("/v1/vault/sign", &sign)),
        row("seal-64k-json", 8.0, 1, 8, json("/v1/vault/seal", &seal)),
        row(
            "seal-64k-batch",
            8.0,
            16,
            4,
            json("/v1/vault/seal", &batch(16, seal.clone())),
        ),
        row(
            "seal-64k-raw",
            8.0,
            1,
            8,
            request("/v1/vault/seal?key=aes", bytes, &large),
        ),
        row(
            "batch-1000",
            5.0,
            1000,
            4,
            json("/v1/vault/seal", &batch(1000, signed)),
        ),
        row("argon2id", 1.0, 1, 6, json("/v1/vault/hash", argon)),
        row("bcrypt-10", 1.0, 1, 12, json("/v1/vault/hash", bcrypt)),
    ]
}

/// A server that is ended with this.
struct Running {
    child: Child,
    address: String,
    about: String,
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill(); // it holds nothing that anybody needs
        let _ = self.child.wait();
    }
}

/// Starts a program and waits for the line that tells its address.
fn start(command: &mut Command, line: impl Fn(&str) -> Option<(String, String)>) -> Running {
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let found = lines.find_map(|text| line(&text.ok()?));
    std::thread::spawn(move || lines.for_each(drop));
    let (address, about) = found.expect("the server's address");
    Running {
        child,
        address,
        about,
    }
}

fn offloop(program: &Path, folder: &Path) -> Running {
    let mut command = Command::new(program);
    command
        .args(["serve", "--listen", "127.0.0.1:0", "--data"])
        .arg(folder.join("data"))
        .env("OFFLOOP_VAULT_KEYS", folder.join("keys"))
        .env("OFFLOOP_LOG", "error");
    start(&mut command, |line| {
        let url = line.strip_prefix("dashboard: http://")?;
        Some((url.trim_end_matches('/').into(), "offloop".into()))
    })
}

fn node(script: &Path, folder: &Path) -> Running {
    let mut command = Command::new("node");
    command.arg(script).arg(folder.join("keys"));
    start(&mut command, |line| {
        let (address, about) = line.strip_prefix("http://")?.split_once(' ')?;
        Some((address.into(), about.into()))
    })
}

/// Reads one answer into `buffer`; its status.
fn answer(stream: &mut TcpStream, buffer: &mut Vec<u8>, part: &mut [u8]) -> u16 {
    buffer.clear();
    loop {
        let read = stream.read(part).unwrap();
        assert!(read > 0, "the server closed the connection");
        buffer.extend_from_slice(&part[..read]);
        let Some(end) = buffer.windows(4).position(|four| four == b"\r\n\r\n") else {
            continue;
        };
        let head = std::str::from_utf8(&buffer[..end])
            .unwrap()
            .to_ascii_lowercase();
        let status = head[9..12].parse().unwrap();
        let (_, length) = head.split_once("content-length: ").expect("a length");
        let length: usize = length.lines().next().unwrap().trim().parse().unwrap();
        let mut missing = (end + 4 + length).saturating_sub(buffer.len());
        while missing > 0 {
            let most = missing.min(part.len());
            let read = stream.read(&mut part[..most]).unwrap();
            assert!(read > 0, "the server closed the connection");
            missing -= read;
        }
        return status;
    }
}

#[derive(Default)]
struct Round {
    rate: f64,
    refused: u64,
    /// Processor time of the server for one item, in microseconds: what a neighbour's load does not
    /// change as it changes rates.
    cpu_us: f64,
}

/// Processor time of a process and its ended children, in hundredths of a second.
fn cpu_ticks(process: u32) -> u64 {
    let text = std::fs::read_to_string(format!("/proc/{process}/stat")).unwrap();
    let (_, fields) = text.rsplit_once(") ").unwrap();
    let field = |at: usize| -> u64 { fields.split(' ').nth(at).unwrap().parse().unwrap() };
    field(11) + field(12)
}

/// Loads one server by one measure for a while.
fn round(server: &Running, measure: &Measure, time: Duration) -> Round {
    let (done, refused) = (AtomicU64::new(0), AtomicU64::new(0));
    let all = AtomicU64::new(0);
    let ended = AtomicBool::new(false);
    let began = Instant::now();
    let before = cpu_ticks(server.child.id());
    std::thread::scope(|scope| {
        for _ in 0..measure.connections {
            scope.spawn(|| {
                let mut stream = TcpStream::connect(&server.address).unwrap();
                stream.set_nodelay(true).unwrap();
                let (mut buffer, mut part) = (Vec::new(), vec![0; 128 << 10]);
                while !ended.load(Ordering::Relaxed) {
                    stream.write_all(&measure.request).unwrap();
                    match answer(&mut stream, &mut buffer, &mut part) {
                        200 => {
                            all.fetch_add(measure.items, Ordering::Relaxed);
                            if !ended.load(Ordering::Relaxed) {
                                done.fetch_add(measure.items, Ordering::Relaxed);
                            }
                        }
                        503 => _ = refused.fetch_add(1, Ordering::Relaxed),
                        other => panic!("{other}: {}", String::from_utf8_lossy(&buffer)),
                    }
                }
            });
        }
        std::thread::sleep(time);
        ended.store(true, Ordering::Relaxed);
    });
    let ticks = cpu_ticks(server.child.id()) - before;
    // Requests that ran past the end are not in the rate.
    let rate = done.load(Ordering::Relaxed) as f64 / began.elapsed().min(time).as_secs_f64();
    Round {
        rate,
        refused: refused.load(Ordering::Relaxed),
        cpu_us: ticks as f64 * 1e4 / all.load(Ordering::Relaxed).max(1) as f64,
    }
}

struct Args {
    program: PathBuf,
    node: PathBuf,
    only: Vec<String>,
    rounds: usize,
    time: Duration,
}

fn args() -> Args {
    let mut found = Args {
        program: PathBuf::new(),
        node: PathBuf::new(),
        only: Vec::new(),
        rounds: 3,
        time: Duration::from_secs(2),
    };
    let mut words = std::env::args().skip(1);
    while let Some(word) = words.next() {
        let value = words.next().expect("a value");
        match word.as_str() {
            "--program" => found.program = value.into(),
            "--node" => found.node = value.into(),
            "--only" => found.only = value.split(',').map(Into::into).collect(),
            "--rounds" => found.rounds = value.parse().unwrap(),
            "--seconds" => found.time = Duration::from_secs_f64(value.parse().unwrap()),
            other => panic!("{other} is no argument"),
        }
    }
    found
}

fn median(rates: &mut [f64]) -> (f64, f64, f64) {
    rates.sort_by(f64::total_cmp);
    (rates[rates.len() / 2], rates[0], rates[rates.len() - 1])
}

fn machine() -> String {
    let text = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = text
        .lines()
        .find_map(|line| line.strip_prefix("model name"));
    let model = model.unwrap_or("").trim_start_matches([' ', '\t', ':']);
    let load = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    format!("{cores} cores, {model}; load before {}", load.trim())
}

fn main() {
    let args = args();
    let folder = tempfile::tempdir().unwrap();
    let keys = folder.path().join("keys");
    for (name, algorithm) in [
        ("aes", Algorithm::Aes256),
        ("ed", Algorithm::Ed25519),
        ("rsa", Algorithm::Rsa4096),
    ] {
        keygen(&keys, &KeyName::parse(name).unwrap(), algorithm).unwrap();
    }
    println!("{}", machine());
    let ours = offloop(&args.program, folder.path());
    let theirs = node(&args.node, folder.path());
    println!("{}; offloop {}", theirs.about, env!("CARGO_PKG_VERSION"));
    let mut table = String::new();
    for measure in measures() {
        let chosen = |name: &String| measure.name.starts_with(name.as_str());
        if !args.only.is_empty() && !args.only.iter().any(chosen) {
            continue;
        }
        for server in [&ours, &theirs] {
            round(server, &measure, args.time / 4); // warm
        }
        let (mut own, mut other, mut ratios) = (Vec::new(), Vec::new(), Vec::new());
        let (mut own_cpu, mut other_cpu) = (Vec::new(), Vec::new());
        let mut refused = 0;
        for _ in 0..args.rounds {
            let a = round(&ours, &measure, args.time);
            let b = round(&theirs, &measure, args.time);
            refused += a.refused;
            ratios.push(a.rate / b.rate);
            own.push(a.rate);
            other.push(b.rate);
            own_cpu.push(a.cpu_us);
            other_cpu.push(b.cpu_us);
        }
        let (own_cpu, other_cpu) = (median(&mut own_cpu).0, median(&mut other_cpu).0);
        let (own, other, ratio) = (median(&mut own), median(&mut other), median(&mut ratios));
        let _ = writeln!(
            table,
            "{:<14} {:>9.0} ({:.0} to {:.0})  {:>9.0} ({:.0} to {:.0})  {:>5.2}x ({:.2} to {:.2})  goal {}x  cpu {own_cpu:.1} / {other_cpu:.1} us{}",
            measure.name,
            own.0,
            own.1,
            own.2,
            other.0,
            other.1,
            other.2,
            ratio.0,
            ratio.1,
            ratio.2,
            measure.goal,
            if refused > 0 {
                format!("  refused {refused}")
            } else {
                String::new()
            },
        );
    }
    println!(
        "items per second, medians (least to most) of {} rounds of {:?} in turn",
        args.rounds, args.time
    );
    println!("measure          offloop / node");
    print!("{table}");
}
