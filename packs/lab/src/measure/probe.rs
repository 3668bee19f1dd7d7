//! The prober: asks for `/` a thousand times a second on one kept-alive connection, from a thread of
//! its own.
//!
//! Open loop: a probe is due every millisecond whatever became of the one before it, and its latency
//! counts from that time. While an answer is late the connection cannot carry another question; the
//! probes that fell due meanwhile count as answered with it, each from its own due time, and only
//! the newest of them is really sent. That is the correction for coordinated omission (G. Tene,
//! HdrHistogram). It flatters a blocked loop a little: those probes might have waited longer still.

use std::io::{self, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::num::NonZeroU64;
use std::thread;
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;

use super::http::{get, whole};
use super::quantiles;
use crate::report::Probe;

const EVERY: Duration = Duration::from_millis(1);
/// An answer that is due at the end is waited for so long; then what is missing counts with the time
/// that it waited so far.
const PATIENCE_AFTER: Duration = Duration::from_millis(500);

/// From when until when.
#[derive(Clone, Copy, Debug)]
pub(super) struct Span {
    pub(super) begin: Instant,
    pub(super) end: Instant,
}

pub(super) struct Prober {
    address: SocketAddr,
    span: Span,
    latency: Histogram<u64>,
    /// Of the thread itself: from the due time to the question, when no answer was awaited.
    own: Histogram<u64>,
    sent: u64,
    imputed: u64,
    unanswered: u64,
    failed: u64,
}

impl Prober {
    pub(super) fn new(address: SocketAddr, span: Span) -> io::Result<Self> {
        Ok(Self {
            address,
            span,
            latency: quantiles::empty()?,
            own: quantiles::empty()?,
            sent: 0,
            imputed: 0,
            unanswered: 0,
            failed: 0,
        })
    }

    /// Blocks until the span is over.
    pub(super) fn run(mut self) -> io::Result<Probe> {
        offloop::lane::slice::answer_first();
        // The system rounds sleeps by 50 us unless it is told.
        let _ = rustix::thread::set_current_timer_slack(NonZeroU64::new(1)); // only less exact
        let mut socket = self.connect()?;
        let mut due = self.span.begin;
        while due < self.span.end {
            let now = Instant::now();
            if now < due {
                thread::sleep(due - now);
                quantiles::note(&mut self.own, due.elapsed());
            }
            self.sent += 1;
            match self.ask(&mut socket) {
                Ok(()) => {}
                Err(error) if error.kind() == io::ErrorKind::TimedOut => {
                    self.give_up(due);
                    break;
                }
                Err(_) => {
                    self.failed += 1;
                    socket = self.connect()?;
                }
            }
            due = self.count(due);
        }
        Ok(self.result())
    }

    fn connect(&self) -> io::Result<TcpStream> {
        let socket = TcpStream::connect(self.address)?;
        socket.set_nodelay(true)?;
        Ok(socket)
    }

    /// One question and its answer.
    fn ask(&self, socket: &mut TcpStream) -> io::Result<()> {
        socket.write_all(&get("/"))?;
        let (mut held, mut length) = ([0; 4096], 0);
        loop {
            let left = self.span.end + PATIENCE_AFTER;
            let left = left.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(io::ErrorKind::TimedOut.into());
            }
            socket.set_read_timeout(Some(left))?;
            let count = match socket.read(&mut held[length..]) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(count) => count,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    return Err(io::ErrorKind::TimedOut.into());
                }
                Err(error) => return Err(error),
            };
            length += count;
            if let Some(answer) = whole(&held[..length])? {
                return match answer.status {
                    200 => Ok(()),
                    other => Err(io::Error::other(format!("answer {other} on `/`"))),
                };
            }
        }
    }

    /// Counts the probe that was due then, and those that fell due since. Answers when the next is.
    fn count(&mut self, due: Instant) -> Instant {
        let now = Instant::now();
        quantiles::note(&mut self.latency, now - due);
        let mut next = due + EVERY;
        // All but the newest.
        while next + EVERY <= now && next < self.span.end {
            self.imputed += 1;
            quantiles::note(&mut self.latency, now - next);
            next += EVERY;
        }
        next
    }

    /// No answer came: what was due until the end waited at least until now.
    fn give_up(&mut self, due: Instant) {
        let (now, mut due) = (Instant::now(), due);
        while due < self.span.end {
            self.unanswered += 1;
            quantiles::note(&mut self.latency, now - due);
            due += EVERY;
        }
    }

    fn result(&self) -> Probe {
        Probe {
            p50_ms: quantiles::ms(&self.latency, 0.5),
            p99_ms: quantiles::ms(&self.latency, 0.99),
            max_ms: quantiles::ms(&self.latency, 1.0),
            sent: self.sent,
            imputed: self.imputed,
            unanswered: self.unanswered,
            failed: self.failed,
            own_late_p99_ms: quantiles::ms(&self.own, 0.99),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpListener;

    /// Answers `answers` questions at once, then calls `then` for each.
    fn server(answers: u64, then: impl Fn() + Send + 'static) -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        thread::spawn(move || {
            let (mut socket, _) = listener.accept().unwrap();
            let mut held = [0; 1024];
            for number in 0.. {
                if !matches!(socket.read(&mut held), Ok(1..)) {
                    return;
                }
                if number >= answers {
                    then();
                }
                if socket
                    .write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok")
                    .is_err()
                {
                    return;
                }
            }
        });
        address
    }

    fn probe(address: SocketAddr, length: Duration) -> Probe {
        let begin = Instant::now();
        let span = Span {
            begin,
            end: begin + length,
        };
        Prober::new(address, span).unwrap().run().unwrap()
    }

    #[test]
    fn a_pause_counts_for_every_probe_that_was_due_in_it() {
        let pause = Duration::from_millis(60);
        let seen = probe(server(100, move || thread::sleep(pause)), pause * 8);
        assert_eq!((seen.unanswered, seen.failed), (0, 0), "{seen:?}");
        assert_eq!(seen.sent + seen.imputed, 480, "{seen:?}");
        // At least four fifths of the time after the first tenth of a second were pauses.
        assert!(seen.imputed > 300 && seen.p50_ms > 5.0, "{seen:?}");
        assert!(seen.max_ms >= 60.0, "{seen:?}");
    }

    #[test]
    fn a_server_that_never_answers_is_not_the_fastest() {
        let for_ever = || loop {
            thread::park();
        };
        let seen = probe(server(10, for_ever), Duration::from_millis(200));
        assert_eq!(
            seen.sent + seen.imputed + seen.unanswered - 1,
            200,
            "{seen:?}"
        );
        assert!(seen.unanswered > 0, "{seen:?}");
        // They waited until the prober gave up.
        assert!(seen.p99_ms > 500.0, "{seen:?}");
    }
}
