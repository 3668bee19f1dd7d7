//! One thread of clients: connections around one epoll.

use std::collections::VecDeque;
use std::io::{self, Read as _, Write as _};
use std::net::TcpStream;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, epoll, poll};
use rustix::time::Timespec;

use super::answer::{detail, whole};
use super::{LoadPlan, Pace, STOP_LOOK, Seen, Window};

/// Calls that wait for a connection; beyond that they are failures.
const BACKLOG_MAX: usize = 100_000;
const READ_BYTES: usize = 64 << 10;

/// A call: when it was due, and which request.
#[derive(Clone, Copy, Debug)]
struct Call {
    due: Instant,
    request: usize,
}

struct Conn {
    socket: TcpStream,
    call: Option<Call>,
    /// Bytes of the request that were sent.
    sent: usize,
    wants_write: bool,
    held: Vec<u8>,
}

pub(super) struct Client<'a> {
    plan: &'a LoadPlan<'a>,
    window: Window,
    epoll: rustix::fd::OwnedFd,
    conns: Vec<Option<Conn>>,
    idle: Vec<usize>,
    /// Places in `conns` without a connection.
    vacant: Vec<usize>,
    backlog: VecDeque<Call>,
    busy: usize,
    dice: fastrand::Rng,
    next_due: Instant,
    per_s: f64,
    connections: usize,
    weight_sum: f64,
    seen: Seen,
    piece: Vec<u8>,
}

impl<'a> Client<'a> {
    pub(super) fn new(plan: &'a LoadPlan<'a>, number: usize, window: Window) -> io::Result<Self> {
        let clients = plan.clients.max(1);
        let (per_s, connections) = match plan.pace {
            Pace::Open { per_s, connections } => (per_s / clients as f64, connections),
            Pace::Closed { connections } => (0.0, connections),
        };
        let more = usize::from(number < connections % clients);
        let mut client = Self {
            plan,
            window,
            epoll: epoll::create(epoll::CreateFlags::CLOEXEC)?,
            conns: Vec::new(),
            idle: Vec::new(),
            vacant: Vec::new(),
            backlog: VecDeque::new(),
            busy: 0,
            dice: fastrand::Rng::with_seed(plan.seed.wrapping_add(number as u64)),
            next_due: Instant::now(),
            per_s,
            connections: connections / clients + more,
            weight_sum: plan.weights.iter().sum(),
            seen: Seen {
                latency_s: vec![Vec::new(); plan.requests.len()],
                ..Seen::default()
            },
            piece: vec![0; READ_BYTES],
        };
        // All of them now: a full server may take a second to let one in.
        for _ in 0..client.connections {
            let place = client.connect()?;
            client.idle.push(place);
        }
        Ok(client)
    }

    pub(super) fn run(mut self) -> io::Result<Seen> {
        // Served at once on a busy machine, so that a call leaves when it is due; both harmless
        // where the system has no such thing.
        offloop::lane::slice::answer_first();
        let _ = rustix::thread::set_current_timer_slack(std::num::NonZeroU64::new(1));
        let is_open = matches!(self.plan.pace, Pace::Open { .. });
        if !is_open {
            for _ in 0..self.connections {
                self.demand(Instant::now());
            }
        }
        loop {
            let now = Instant::now();
            if is_open {
                self.arrivals(now);
            }
            self.send_waiting(now);
            let over = now >= self.window.end;
            let stops = self.plan.stop.load(Ordering::Relaxed);
            if stops
                || now >= self.window.drained
                || (over && self.busy == 0 && self.backlog.is_empty())
            {
                break;
            }
            let until = if over {
                self.window.drained
            } else if is_open && self.next_due < self.window.end {
                self.next_due
            } else {
                self.window.end
            };
            let left = until.saturating_duration_since(now);
            self.wait(left.min(STOP_LOOK))?;
        }
        let open = self.conns.iter().flatten().filter_map(|conn| conn.call);
        let lost = open.chain(self.backlog.iter().copied());
        let window = self.window;
        let lost = lost.filter(|call| window.counts(call.due)).count();
        // A closed load's last calls are under way by its nature.
        if is_open {
            self.seen.failed += lost as u64;
        }
        Ok(self.seen)
    }

    /// Which request comes next.
    fn draw(&mut self) -> usize {
        let mut rest = self.dice.f64() * self.weight_sum;
        for (at, weight) in self.plan.weights.iter().enumerate() {
            rest -= weight;
            if rest < 0.0 {
                return at;
            }
        }
        self.plan.weights.len() - 1
    }

    fn demand(&mut self, due: Instant) {
        let request = self.draw();
        if self.window.counts(due) {
            self.seen.offered += 1;
        }
        if self.backlog.len() >= BACKLOG_MAX {
            self.fail(
                due,
                "more calls wait for a connection than the load may hold",
            );
            return;
        }
        self.backlog.push_back(Call { due, request });
    }

    /// Everything that is due by now.
    fn arrivals(&mut self, now: Instant) {
        while self.next_due <= now && self.next_due < self.window.end {
            self.demand(self.next_due);
            // The gaps of a Poisson process are exponential.
            let gap = -(1.0 - self.dice.f64()).ln() / self.per_s;
            self.next_due += Duration::from_secs_f64(gap.min(3_600.0));
        }
    }

    fn send_waiting(&mut self, now: Instant) {
        while let Some(call) = self.backlog.front().copied() {
            let place = match self.idle.pop() {
                Some(place) => place,
                None if self.busy < self.connections => match self.connect() {
                    Ok(place) => place,
                    Err(error) => {
                        self.backlog.pop_front();
                        self.fail(call.due, &format!("cannot connect: {error}"));
                        continue;
                    }
                },
                None => return,
            };
            self.backlog.pop_front();
            if let Some(conn) = &mut self.conns[place] {
                // A closed load's call is due when it can be sent.
                let due = if self.per_s > 0.0 { call.due } else { now };
                conn.call = Some(Call { due, ..call });
                conn.sent = 0;
                self.busy += 1;
                self.push(place);
            }
        }
    }

    fn connect(&mut self) -> io::Result<usize> {
        let socket = TcpStream::connect(self.plan.address)?;
        socket.set_nodelay(true)?;
        socket.set_nonblocking(true)?;
        let place = self.vacant.pop().unwrap_or_else(|| {
            self.conns.push(None);
            self.conns.len() - 1
        });
        let data = epoll::EventData::new_u64(place as u64);
        epoll::add(&self.epoll, &socket, data, epoll::EventFlags::IN)?;
        self.conns[place] = Some(Conn {
            socket,
            call: None,
            sent: 0,
            wants_write: false,
            held: Vec::new(),
        });
        Ok(place)
    }

    /// Sends what the socket takes.
    fn push(&mut self, place: usize) {
        let Some(conn) = &mut self.conns[place] else {
            return;
        };
        let Some(call) = conn.call else { return };
        let request = &self.plan.requests[call.request];
        while conn.sent < request.len() {
            match conn.socket.write(&request[conn.sent..]) {
                Ok(count) => conn.sent += count,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return self.lose(place, &error.to_string()),
            }
        }
        let wants_write = conn.sent < request.len();
        if wants_write != conn.wants_write {
            conn.wants_write = wants_write;
            let mut flags = epoll::EventFlags::IN;
            flags.set(epoll::EventFlags::OUT, wants_write);
            let data = epoll::EventData::new_u64(place as u64);
            if let Err(error) = epoll::modify(&self.epoll, &conn.socket, data, flags) {
                self.lose(place, &error.to_string());
            }
        }
    }

    fn wait(&mut self, at_most: Duration) -> io::Result<()> {
        // epoll waits in whole milliseconds; calls are due between them.
        let timeout = Timespec {
            tv_sec: at_most.as_secs().cast_signed(),
            tv_nsec: at_most.subsec_nanos().into(),
        };
        let mut ready = [PollFd::new(&self.epoll, PollFlags::IN)];
        match poll(&mut ready, Some(&timeout)) {
            Ok(0) | Err(rustix::io::Errno::INTR) => return Ok(()),
            Ok(_) => {}
            Err(error) => return Err(error.into()),
        }
        let mut events = Vec::with_capacity(256);
        let now = Timespec {
            tv_sec: 0,
            tv_nsec: 0,
        };
        epoll::wait(
            &self.epoll,
            rustix::buffer::spare_capacity(&mut events),
            Some(&now),
        )?;
        for event in events {
            let (flags, data) = (event.flags, event.data);
            let place = data.u64() as usize;
            if flags.contains(epoll::EventFlags::OUT) {
                self.push(place);
            }
            if flags
                .intersects(epoll::EventFlags::IN | epoll::EventFlags::HUP | epoll::EventFlags::ERR)
            {
                self.pull(place);
            }
        }
        Ok(())
    }

    fn pull(&mut self, place: usize) {
        let Some(conn) = &mut self.conns[place] else {
            return;
        };
        match conn.socket.read(&mut self.piece) {
            Ok(0) => return self.lose(place, "the server closed the connection"),
            Ok(count) => conn.held.extend_from_slice(&self.piece[..count]),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
            Err(error) => return self.lose(place, &error.to_string()),
        }
        let answer = match whole(&conn.held) {
            Ok(Some(answer)) => answer,
            Ok(None) => return,
            Err(error) => return self.lose(place, &error.to_string()),
        };
        let now = Instant::now();
        let Some(call) = conn.call.take() else {
            return self.lose(place, "the server answered what was not asked");
        };
        let held = std::mem::take(&mut conn.held);
        self.busy -= 1;
        self.judge(call, now, answer.status, &held[answer.body]);
        let conn_closes = answer.closes;
        if conn_closes {
            self.close(place);
        } else {
            if let Some(conn) = &mut self.conns[place] {
                conn.held = held;
                conn.held.clear();
            }
            self.idle.push(place);
        }
        self.again(now);
    }

    fn judge(&mut self, call: Call, now: Instant, status: u16, body: &[u8]) {
        let is_ok = (200..300).contains(&status);
        if is_ok && self.window.counts(now) {
            self.seen.done += 1;
        }
        if !self.window.counts(call.due) {
            return;
        }
        match status {
            200..300 => {
                self.seen.answered += 1;
                let took = now.saturating_duration_since(call.due);
                self.seen.latency_s[call.request].push(took.as_secs_f64());
                if self.seen.bodies.len() < self.plan.keep {
                    self.seen.bodies.push(body.to_vec());
                }
            }
            429 | 503 => self.seen.refused += 1,
            _ => self.fail(call.due, &format!("answered {status}: {}", detail(body))),
        }
    }

    /// A closed load asks again at once.
    fn again(&mut self, now: Instant) {
        if matches!(self.plan.pace, Pace::Closed { .. }) && now < self.window.end {
            self.demand(now);
        }
    }

    fn fail(&mut self, due: Instant, why: &str) {
        if self.window.counts(due) {
            self.seen.failed += 1;
            self.seen.failure.get_or_insert_with(|| why.to_owned());
        }
    }

    fn close(&mut self, place: usize) {
        self.idle.retain(|idle| *idle != place);
        // Closing it takes it out of the epoll as well.
        self.conns[place] = None;
        self.vacant.push(place);
    }

    fn lose(&mut self, place: usize, why: &str) {
        let call = self.conns[place].as_mut().and_then(|conn| conn.call.take());
        self.close(place);
        if let Some(call) = call {
            self.busy -= 1;
            self.fail(call.due, why);
            self.again(Instant::now());
        }
    }
}

impl Window {
    fn counts(self, instant: Instant) -> bool {
        (self.begin..self.end).contains(&instant)
    }
}
