//! Load for a door: `load ADDRESS one CALLERS SECONDS` posts single jobs on kept connections,
//! `load ADDRESS bulk CALLERS LINES` sends NDJSON and asks for the summary.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

type Failure = Box<dyn std::error::Error + Send + Sync>;

static DONE: AtomicU64 = AtomicU64::new(0);
static STOP: AtomicBool = AtomicBool::new(false);

async fn caller(address: String) -> Result<Vec<u32>, Failure> {
    let mut socket = tokio::net::TcpStream::connect(&address).await?;
    socket.set_nodelay(true)?;
    let body = "{\"task\":\"noop\",\"payload\":{\"n\":123456}}";
    let request = format!(
        "POST /v1/jobs HTTP/1.1\r\nHost: {address}\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    );
    let (mut times, mut answer) = (Vec::new(), vec![0; 4096]);
    while !STOP.load(Ordering::Relaxed) {
        let begun = Instant::now();
        socket.write_all(request.as_bytes()).await?;
        let len = socket.read(&mut answer).await?; // one small answer, one read
        if !answer[..len].starts_with(b"HTTP/1.1 201") {
            return Err(String::from_utf8_lossy(&answer[..len]).into_owned().into());
        }
        times.push(u32::try_from(begun.elapsed().as_micros())?);
        DONE.fetch_add(1, Ordering::Relaxed);
    }
    Ok(times)
}

fn one(address: &str, callers: usize, seconds: u64) -> Result<(), Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let mut times = runtime.block_on(async {
        let callers: Vec<_> = (0..callers)
            .map(|_| tokio::spawn(caller(address.to_owned())))
            .collect();
        tokio::time::sleep(Duration::from_secs(seconds)).await;
        STOP.store(true, Ordering::Relaxed);
        let mut times = Vec::new();
        for caller in callers {
            times.extend(caller.await??);
        }
        Ok::<_, Failure>(times)
    })?;
    times.sort_unstable();
    let at = |share: f64| times[(times.len() as f64 * share) as usize];
    println!(
        "{:.0} requests/s, p50 {} us, p99 {} us",
        times.len() as f64 / seconds as f64,
        at(0.5),
        at(0.99)
    );
    Ok(())
}

fn bulk(address: &str, callers: usize, lines: usize) {
    let line = "{\"task\":\"noop\",\"payload\":{\"n\":123456}}\n";
    let body = line.repeat(lines);
    let head = format!(
        "POST /v1/jobs?answer=summary HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\nContent-Type: application/x-ndjson\r\nContent-Length: {}\r\n\r\n",
        body.len()
    );
    let begun = Instant::now();
    std::thread::scope(|scope| {
        for _ in 0..callers {
            scope.spawn(|| -> Result<(), Failure> {
                let mut socket = TcpStream::connect(address)?;
                socket.write_all(head.as_bytes())?;
                socket.write_all(body.as_bytes())?;
                let mut answer = String::new();
                socket.read_to_string(&mut answer)?;
                println!("{}", answer.lines().last().unwrap_or_default());
                Ok(())
            });
        }
    });
    let took = begun.elapsed();
    println!(
        "{:.0} lines/s",
        (lines * callers) as f64 / took.as_secs_f64()
    );
}

fn main() -> Result<(), Failure> {
    let given: Vec<_> = std::env::args().skip(1).collect();
    let [address, mode, callers, amount] = &given[..] else {
        return Err("load ADDRESS one|bulk CALLERS SECONDS|LINES".into());
    };
    if mode == "bulk" {
        bulk(address, callers.parse()?, amount.parse()?);
        Ok(())
    } else {
        one(address, callers.parse()?, amount.parse()?)
    }
}
