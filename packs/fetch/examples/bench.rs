//! Calls that sleep, made by this crate and by npm's undici with p-limit, in turn on the same machine.
//!
//! A server of its own process answers after the time that the path names, so that time, CPU and peak
//! memory of each client are its own. Both clients read theirs from the same place: `/proc/self`.
//!
//! ```text
//! cargo run --release -p offloop-fetch --example bench -- --calls 200 --ms 3000 --limit 50
//! bench/rivals/fetch.sh --calls 20000 --ms 200 --limit 1000 --rounds 5
//! ```
#![allow(clippy::unwrap_used, reason = "a bench that cannot go on ends")]
#![allow(
    clippy::disallowed_methods,
    reason = "the bench starts its own processes"
)]

use std::io::{BufRead as _, BufReader};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use offloop::egress::{Policy, SystemResolver};
use offloop_fetch::{Call, Client, ClientOptions, Runner, Settings};
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _};

/// Answers after the milliseconds that the path names.
fn serve() {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        let socket = tokio::net::TcpSocket::new_v4().unwrap();
        socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let listener = socket.listen(4_096).unwrap();
        println!("{}", listener.local_addr().unwrap().port());
        while let Ok((stream, _)) = listener.accept().await {
            let _ = stream.set_nodelay(true); // it only makes it faster
            tokio::spawn(answer(stream));
        }
    });
}

async fn answer(stream: tokio::net::TcpStream) {
    let mut stream = tokio::io::BufReader::with_capacity(1_024, stream);
    let (mut line, mut wait) = (String::new(), 0);
    loop {
        line.clear();
        if !matches!(stream.read_line(&mut line).await, Ok(read) if read > 0) {
            return;
        }
        if let Some(path) = line.strip_prefix("GET /") {
            wait = path.split(' ').next().unwrap().parse().unwrap();
        }
        if line == "\r\n" {
            tokio::time::sleep(Duration::from_millis(wait)).await;
            let text = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";
            if stream.write_all(text).await.is_err() {
                return;
            }
        }
    }
}

#[derive(Clone, Copy, Debug)]
struct Shape {
    calls: usize,
    ms: u64,
    limit: usize,
}

/// CPU time and peak memory of this process, as the kernel counts them.
fn cost() -> (f64, u64) {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap();
    let fields: Vec<_> = stat.rsplit(") ").next().unwrap().split(' ').collect();
    // utime and stime, in ticks of 10 ms.
    let ticks: f64 = fields[11].parse::<f64>().unwrap() + fields[12].parse::<f64>().unwrap();
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let peak = status
        .lines()
        .find_map(|line| line.strip_prefix("VmHWM:"))
        .unwrap();
    let kib: u64 = peak.trim().trim_end_matches(" kB").parse().unwrap();
    (ticks * 10.0, kib)
}

/// One run of ours, in a process of its own.
fn client(port: u16, shape: Shape) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let policy = Policy {
        http: true,
        ports: vec![port],
        allow: vec!["127.0.0.1/32".parse().unwrap()],
        ..Policy::default()
    };
    let resolver = Arc::new(SystemResolver::default());
    let client = Client::new(ClientOptions::new(policy, resolver, 1));
    let client = client.unwrap();
    let settings = Settings {
        limit: shape.limit,
        per_host: shape.limit,
        ..Settings::default()
    };
    let url = format!("http://127.0.0.1:{port}/{}", shape.ms);
    let calls = vec![Call::get(url); shape.calls];
    let begun = Instant::now();
    let ok = runtime.block_on(async {
        let mut runner = Runner::of(client.clone(), settings, calls);
        while let Some(done) = runner.next().await {
            assert!(done.outcome.is_ok(), "{done:?}");
        }
        runner.tally().ok
    });
    let wall = begun.elapsed().as_secs_f64() * 1e3;
    let (cpu, rss) = cost();
    let connections = client.connections();
    println!(
        "{}",
        json!({"ok": ok, "wall_ms": wall, "cpu_ms": cpu, "rss_kib": rss, "connections": connections})
    );
}

struct Served {
    child: Child,
    port: u16,
}

impl Served {
    fn start() -> Self {
        let mut command = Command::new("/proc/self/exe");
        let mut child = command.arg("serve").stdout(Stdio::piped()).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap())
            .read_line(&mut line)
            .unwrap();
        let port = line.trim().parse().unwrap();
        Self { child, port }
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        let _ = self.child.kill(); // it may have ended
        let _ = self.child.wait();
    }
}

fn run(mut command: Command, shape: Shape) -> Value {
    let output = command.stderr(Stdio::inherit()).output().unwrap();
    assert!(output.status.success(), "{command:?}");
    let value: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(value["ok"], shape.calls, "every call is answered");
    value
}

struct Spread {
    median: f64,
    least: f64,
    most: f64,
}

fn spread(rows: &[Value], key: &str) -> Spread {
    let mut all: Vec<f64> = rows.iter().map(|row| row[key].as_f64().unwrap()).collect();
    all.sort_by(f64::total_cmp);
    Spread {
        median: all[all.len() / 2],
        least: all[0],
        most: all[all.len() - 1],
    }
}

fn machine() -> String {
    let cpu = std::fs::read_to_string("/proc/cpuinfo").unwrap();
    let model = cpu.lines().find_map(|line| line.strip_prefix("model name"));
    let model = model.map_or("?", |line| line.trim_start_matches([' ', '\t', ':']));
    let kernel = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap();
    let cores = std::thread::available_parallelism().unwrap();
    format!("{model}, {cores} cores, Linux {}", kernel.trim())
}

fn load() -> String {
    let load = std::fs::read_to_string("/proc/loadavg").unwrap();
    load.split(' ').take(3).collect::<Vec<_>>().join(" ")
}

fn show(name: &str, rows: &[Value], ideal: f64) -> f64 {
    let (wall, cpu, rss) = (
        spread(rows, "wall_ms"),
        spread(rows, "cpu_ms"),
        spread(rows, "rss_kib"),
    );
    println!(
        "{name:22} {:>9.0} ms ({:.0} to {:.0}; ideal x {:.4})  CPU {:>7.0} ms ({:.0} to {:.0})  peak {:>6.1} MiB",
        wall.median,
        wall.least,
        wall.most,
        wall.median / ideal,
        cpu.median,
        cpu.least,
        cpu.most,
        rss.median / 1_024.0,
    );
    cpu.median
}

fn main() {
    let all: Vec<String> = std::env::args().skip(1).collect();
    let value = |name: &str| {
        let at = all.iter().position(|argument| argument == name)?;
        all.get(at + 1).cloned()
    };
    let number = |name: &str, or: u64| value(name).map_or(or, |text| text.parse().unwrap());
    let shape = Shape {
        calls: number("--calls", 200) as usize,
        ms: number("--ms", 3_000),
        limit: number("--limit", 50) as usize,
    };
    match all.first().map(String::as_str) {
        Some("serve") => return serve(),
        Some("client") => return client(number("--port", 0) as u16, shape),
        _ => {}
    }
    let rounds = number("--rounds", 3);
    let node = value("--node");
    let ideal = (shape.calls.div_ceil(shape.limit)) as f64 * shape.ms as f64;
    println!("{}; load {}", machine(), load());
    println!(
        "{} calls of {} ms, {} at a time, {rounds} rounds in turn: ideal {ideal} ms",
        shape.calls, shape.ms, shape.limit
    );
    let (mut ours, mut theirs) = (Vec::new(), Vec::new());
    for _ in 0..rounds {
        let server = Served::start();
        let arguments = [
            ("--port", u64::from(server.port)),
            ("--calls", shape.calls as u64),
            ("--ms", shape.ms),
            ("--limit", shape.limit as u64),
        ];
        let arguments = arguments.map(|(name, number)| [name.to_owned(), number.to_string()]);
        let mut own = Command::new("/proc/self/exe");
        own.arg("client").args(arguments.as_flattened());
        ours.push(run(own, shape));
        drop(server);
        if let Some(script) = &node {
            let server = Served::start();
            let mut rival = Command::new("node");
            let port = server.port.to_string();
            rival.args([
                script.as_str(),
                &port,
                &shape.calls.to_string(),
                &shape.ms.to_string(),
                &shape.limit.to_string(),
            ]);
            theirs.push(run(rival, shape));
        }
    }
    let own = show("offloop-fetch", &ours, ideal);
    if let Some(first) = theirs.first() {
        let name = first["name"].as_str().unwrap_or("rival");
        let rival = show(name, &theirs, ideal);
        println!("CPU: {:.3} of the rival's", own / rival);
    }
    println!("load after {}", load());
}
