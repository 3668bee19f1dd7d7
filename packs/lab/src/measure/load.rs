//! The load: requests for work that come when their time is due (a Poisson process by seed), whatever
//! became of those before. From a thread of its own with a small runtime.
//!
//! A client waits for its patience, counted from the due time, and then hangs up: it closes its
//! connection, and the server may stop what nobody waits for.

use std::cell::{Cell, RefCell};
use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::task::LocalSet;

use super::http::{get, whole};
use super::probe::Span;
use super::quantiles;
use crate::report::WorkDone;
use crate::work::Done;

/// Clients at a time; what is due beyond is not sent, and counts as late.
const CLIENTS_MAX: usize = 8_192;

/// What is asked for, how often, and what the right answer is.
#[derive(Clone, Debug)]
pub(super) struct LoadPlan {
    pub(super) address: SocketAddr,
    pub(super) path: String,
    pub(super) rate_per_s: f64,
    pub(super) patience: Duration,
    pub(super) seed: u64,
    pub(super) checksum: String,
}

#[derive(Default)]
struct Counts {
    offered: Cell<u64>,
    done: Cell<u64>,
    refused: Cell<u64>,
    late: Cell<u64>,
    failed: Cell<u64>,
    wrong: Cell<u64>,
    open: Cell<usize>,
}

fn add(to: &Cell<u64>) {
    to.set(to.get() + 1);
}

struct Shared {
    plan: LoadPlan,
    request: Vec<u8>,
    idle: RefCell<Vec<TcpStream>>,
    counts: Counts,
    latency: RefCell<Histogram<u64>>,
    refusal: RefCell<Histogram<u64>>,
}

/// Blocks until the span is over and every client has its answer or has hung up.
pub(super) fn load(plan: LoadPlan, span: Span) -> io::Result<WorkDone> {
    offloop::lane::slice::answer_first();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let shared = Rc::new(Shared {
        request: get(&plan.path),
        plan,
        idle: RefCell::default(),
        counts: Counts::default(),
        latency: RefCell::new(quantiles::empty()?),
        refusal: RefCell::new(quantiles::empty()?),
    });
    let clients = LocalSet::new();
    clients.block_on(&runtime, arrive(&shared, span));
    runtime.block_on(clients); // until the last client has ended
    Ok(shared.result(span.end - span.begin))
}

async fn arrive(shared: &Rc<Shared>, span: Span) {
    let mut dice = fastrand::Rng::with_seed(shared.plan.seed);
    let mut due = span.begin;
    loop {
        // The gaps of a Poisson process are exponential.
        let gap = -(1.0 - dice.f64()).ln() / shared.plan.rate_per_s;
        due += Duration::from_secs_f64(gap);
        if due >= span.end {
            return;
        }
        if due > Instant::now() {
            tokio::time::sleep_until(due.into()).await;
        }
        add(&shared.counts.offered);
        let open = shared.counts.open.get();
        if open >= CLIENTS_MAX {
            add(&shared.counts.late);
            continue;
        }
        shared.counts.open.set(open + 1);
        tokio::task::spawn_local(client(Rc::clone(shared), due));
    }
}

async fn client(shared: Rc<Shared>, due: Instant) {
    let patience = tokio::time::Instant::from(due + shared.plan.patience);
    let answer = tokio::time::timeout_at(patience, shared.ask()).await;
    let (counts, latency) = (&shared.counts, due.elapsed());
    match answer {
        // Its socket is dropped with the future that held it: the hang-up.
        Err(_) => add(&counts.late),
        Ok(Ok((200, body))) => {
            let done: Option<Done> = serde_json::from_slice(&body).ok();
            if done.is_some_and(|done| done.checksum == shared.plan.checksum) {
                add(&counts.done);
                quantiles::note(&mut shared.latency.borrow_mut(), latency);
            } else {
                add(&counts.wrong);
            }
        }
        Ok(Ok((429 | 503, _))) => {
            add(&counts.refused);
            quantiles::note(&mut shared.refusal.borrow_mut(), latency);
        }
        Ok(_) => add(&counts.failed),
    }
    counts.open.set(counts.open.get() - 1);
}

impl Shared {
    async fn ask(&self) -> io::Result<(u16, Vec<u8>)> {
        let kept = self.idle.borrow_mut().pop();
        let mut socket = if let Some(socket) = kept {
            socket
        } else {
            let socket = TcpStream::connect(self.plan.address).await?;
            socket.set_nodelay(true)?;
            socket
        };
        socket.write_all(&self.request).await?;
        let mut held = Vec::with_capacity(1024);
        loop {
            if socket.read_buf(&mut held).await? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            if let Some(answer) = whole(&held)? {
                self.idle.borrow_mut().push(socket);
                return Ok((answer.status, held[answer.body.0..answer.body.1].to_vec()));
            }
        }
    }

    fn result(&self, length: Duration) -> WorkDone {
        let per_s = |count: &Cell<u64>| count.get() as f64 / length.as_secs_f64();
        let counts = &self.counts;
        let (latency, refusal) = (self.latency.borrow(), self.refusal.borrow());
        WorkDone {
            offered_per_s: per_s(&counts.offered),
            done_per_s: per_s(&counts.done),
            refused_per_s: per_s(&counts.refused),
            late_per_s: per_s(&counts.late),
            failed_per_s: per_s(&counts.failed),
            done: counts.done.get(),
            wrong: counts.wrong.get(),
            p50_ms: quantiles::ms(&latency, 0.5),
            p99_ms: quantiles::ms(&latency, 0.99),
            refused_p99_ms: quantiles::ms(&refusal, 0.99),
        }
    }
}
