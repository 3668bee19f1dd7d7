//! The load: calls over connections that stay open, closed (each answer brings the next call) or open
//! (calls come when they are due, whatever became of those before).
//!
//! Latency of an open load counts from the due time, so a server that stalls cannot hide it. Each
//! client is one thread around one epoll, because what it costs is taken from the server that it
//! measures; its processor time is told. Must never: send less than was asked without saying so.

mod answer;
mod client;

use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use client::Client;

/// What calls come after one another.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Pace {
    /// So many connections, each with one call in hand at all times.
    Closed { connections: usize },
    /// Poisson arrivals, calls per second; what is due while every connection has a call in hand
    /// waits for one, and its wait counts.
    Open { per_s: f64, connections: usize },
}

/// One run of load.
#[derive(Clone, Debug)]
pub(crate) struct LoadPlan<'a> {
    pub(crate) address: SocketAddr,
    /// Whole requests, head and body.
    pub(crate) requests: &'a [Vec<u8>],
    /// How often each request comes, in any unit; as many as there are requests.
    pub(crate) weights: &'a [f64],
    pub(crate) pace: Pace,
    /// Before the window; nothing of it counts.
    pub(crate) warm: Duration,
    /// The window.
    pub(crate) span: Duration,
    /// After the window, for what was due in it.
    pub(crate) drain: Duration,
    pub(crate) seed: u64,
    /// Client threads, 1 and more.
    pub(crate) clients: usize,
    /// Set: the load ends at once, with an error.
    pub(crate) stop: &'a AtomicBool,
    /// Answers' bodies to keep, per client.
    pub(crate) keep: usize,
}

/// What became of a load. Counts are of the window.
#[derive(Clone, Debug, Default)]
pub(crate) struct Seen {
    /// Calls that were due in it.
    pub(crate) offered: u64,
    /// Answers 2xx that came in it.
    pub(crate) done: u64,
    /// Of those due in it: answered 2xx.
    pub(crate) answered: u64,
    /// Of those due in it: 429 and 503.
    pub(crate) refused: u64,
    /// Of those due in it: anything else, or no answer until the end of the drain.
    pub(crate) failed: u64,
    /// Seconds from due to answer of each that was answered 2xx, by request.
    pub(crate) latency_s: Vec<Vec<f64>>,
    /// Bodies that were kept.
    pub(crate) bodies: Vec<Vec<u8>>,
    /// What the first failure was.
    pub(crate) failure: Option<String>,
}

impl Seen {
    fn add(&mut self, other: Self) {
        self.offered += other.offered;
        self.done += other.done;
        self.answered += other.answered;
        self.refused += other.refused;
        self.failed += other.failed;
        self.latency_s.resize(other.latency_s.len(), Vec::new());
        for (mine, theirs) in self.latency_s.iter_mut().zip(other.latency_s) {
            mine.extend(theirs);
        }
        self.bodies.extend(other.bodies);
        self.failure = self.failure.take().or(other.failure);
    }

    /// All latencies, ascending.
    pub(crate) fn sorted(&self) -> Vec<f64> {
        let mut all: Vec<f64> = self.latency_s.iter().flatten().copied().collect();
        all.sort_by(f64::total_cmp);
        all
    }
}

/// The window as wall time.
#[derive(Clone, Copy, Debug)]
struct Window {
    begin: Instant,
    end: Instant,
    drained: Instant,
}

/// Blocks until the load is over. `look` is called at the window's begin and end.
pub(crate) fn run<T>(plan: &LoadPlan<'_>, mut look: impl FnMut() -> T) -> io::Result<(Seen, T, T)> {
    let begin = Instant::now() + plan.warm;
    let end = begin + plan.span;
    let window = Window {
        begin,
        end,
        drained: end + plan.drain,
    };
    thread::scope(|scope| {
        let clients: Vec<_> = (0..plan.clients.max(1))
            .map(|number| {
                let client = Client::new(plan, number, window)?;
                Ok(scope.spawn(move || client.run()))
            })
            .collect::<io::Result<_>>()?;
        wait_until(window.begin, plan.stop);
        let before = look();
        wait_until(window.end, plan.stop);
        let after = look();
        let mut seen = Seen::default();
        for client in clients {
            let theirs = client.join();
            seen.add(theirs.map_err(|_| io::Error::other("a client of the load panicked"))??);
        }
        if plan.stop.load(Ordering::Relaxed) {
            return Err(io::ErrorKind::Interrupted.into());
        }
        Ok((seen, before, after))
    })
}

/// Between two looks whether the load is to end.
const STOP_LOOK: Duration = Duration::from_millis(100);

fn wait_until(instant: Instant, stop: &AtomicBool) {
    while !stop.load(Ordering::Relaxed) {
        let left = instant.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return;
        }
        thread::sleep(left.min(STOP_LOOK));
    }
}

/// One call, blocking; the body of an answer 200.
pub(crate) fn ask(address: SocketAddr, request: &[u8], within: Duration) -> io::Result<Vec<u8>> {
    use std::io::{Read as _, Write as _};
    let mut socket = std::net::TcpStream::connect(address)?;
    socket.set_read_timeout(Some(within))?;
    socket.write_all(request)?;
    let mut held = Vec::new();
    loop {
        if let Some(whole) = answer::whole(&held)? {
            let body = held[whole.body].to_vec();
            return match whole.status {
                200..300 => Ok(body),
                status => Err(io::Error::other(format!(
                    "the server answered {status}: {}",
                    answer::detail(&body)
                ))),
            };
        }
        let mut piece = [0; 16 << 10];
        match socket.read(&mut piece)? {
            0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            count => held.extend_from_slice(&piece[..count]),
        }
    }
}
