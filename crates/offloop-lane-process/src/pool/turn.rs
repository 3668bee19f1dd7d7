//! What happens to the pool: jobs come, children come and go, time passes.

use std::collections::{BTreeMap, VecDeque};
use std::ffi::OsString;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use offloop_job::limits::{PROGRESS_BYTES_MAX, RESULT_BYTES_MAX};
use offloop_job::{Failure, FailureClass, Lease, Outcome, StopReason};
use offloop_lane::{
    Ended, Gone, LaneEvent, Overrun, Proof, Stopped, TaskError, TaskOutput, Work, outcome_of,
};
use rustix::event::epoll::{self, EventData, EventFlags};
use serde::de::IgnoredAny;

use super::Shared;
use super::channel::{Channel, READ_BYTES, Sent, Stdin, read_some};
use super::child::{Child, Flight, Phase, Rung, exit_words};
use super::state::{Pool, Waiting, unstarted};
use super::verdict::{exit_of, of_dead_child, quoted, result_of};
use crate::frame::{Breach, FromChild, PROTOCOL_VERSION, ToChild, run_frame};
use crate::host::{Burial, Buried, SpawnOrder, Spawned};
use crate::procfs;
use crate::spec::Mode;

/// The descriptors of a child, as the low bits of its tokens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Part {
    Channel = 0,
    Stdout = 1,
    Stderr = 2,
    Stdin = 3,
    Death = 4,
}

impl Part {
    pub(super) const ALL: [Self; 5] = [
        Self::Channel,
        Self::Stdout,
        Self::Stderr,
        Self::Stdin,
        Self::Death,
    ];

    pub(super) const fn token(self, number: u64) -> u64 {
        number << 3 | self as u64
    }

    pub(super) fn of(token: u64) -> (u64, Option<Self>) {
        (token >> 3, Self::ALL.get((token & 7) as usize).copied())
    }
}

/// An idle child is asked for a sign of life this often, and must give it within.
const PING_EVERY: Duration = Duration::from_secs(30);
/// From the start of a command to the first look at what it holds.
const FIRST_SAMPLE: Duration = Duration::from_millis(3);
/// From the end of the channel to the end of the child.
const LAST_WORDS: Duration = Duration::from_millis(200);
const PONG_WITHIN: Duration = Duration::from_secs(10);
/// Waited ticks are read for jobs over this; below it they could not be seen.
const WORTH_A_LOOK: Duration = Duration::from_millis(10);

// Jobs come.
impl Shared {
    pub(super) fn submit(&self, pool: &mut Pool, work: Vec<Work>, now: Instant) {
        for work in work {
            if pool.closed || pool.held() >= self.slots() {
                pool.tell_never_started(&work, Duration::ZERO, unstarted(StopReason::Shutdown));
                continue;
            }
            let work = Arc::new(work);
            match self.spec.mode {
                Mode::Process => pool.wait(Waiting { work, since: now }),
                Mode::Exec => self.begin_command(pool, work, now),
            }
        }
        self.dispatch(pool, now);
        self.fill(pool, now);
    }

    /// Pushes waiting jobs to idle children.
    fn dispatch(&self, pool: &mut Pool, now: Instant) {
        while !pool.waiting.is_empty() {
            let Some(number) = pool.idle.pop() else {
                return;
            };
            let Some(child) = pool.children.get_mut(&number) else {
                continue;
            };
            let Some(waiting) = pool.waiting.pop_front() else {
                return;
            };
            match self.send(child, number, run_frame(&waiting.work)) {
                Sent::Whole | Sent::Partly => {
                    child.log.take(); // what it said between two jobs belongs to none
                    child.phase = Phase::Busy;
                    let mut flight = Flight::new(waiting.work, waiting.since);
                    flight.began = Some(now);
                    flight.progress = now;
                    flight.cpu_from = child.cpu_now();
                    child.flight = Some(flight);
                    pool.tell_started(number);
                }
                Sent::Refused => {
                    // It died while it was idle; the job never reached it.
                    child.kill(now);
                    pool.waiting.push_front(waiting);
                }
            }
        }
    }

    fn send(&self, child: &mut Child, number: u64, frame: Vec<u8>) -> Sent {
        let Some(channel) = child.channel.as_mut() else {
            return Sent::Refused;
        };
        let sent = channel.send(frame);
        if sent == Sent::Partly {
            self.watch_again(&channel.fd, Part::Channel.token(number), true);
        }
        sent
    }

    pub(super) fn ask(&self, pool: &mut Pool, lease: Lease, reason: StopReason, now: Instant) {
        let here = |waiting: &Waiting| waiting.work.lease == lease;
        if let Some(at) = pool.waiting.iter().position(here) {
            if let Some(waiting) = pool.waiting.remove(at) {
                let queued = now.saturating_duration_since(waiting.since);
                pool.tell_never_started(&waiting.work, queued, unstarted(reason));
            }
            return;
        }
        let flies = |child: &Child| child.flight.as_ref().is_some_and(|f| f.work.lease == lease);
        let found = pool.children.iter_mut().find(|(_, child)| flies(child));
        if let Some((number, child)) = found {
            let number = *number;
            self.stop_flight(child, number, Stopped::Asked(reason), None, now);
        }
    }

    /// Steps on the ladder. The first reason stays.
    pub(super) fn stop_flight(
        &self,
        child: &mut Child,
        number: u64,
        why: Stopped,
        overrun: Option<Overrun>,
        now: Instant,
    ) {
        let Some(flight) = child.flight.as_mut().filter(|f| f.stop.is_none()) else {
            return;
        };
        flight.stop = Some(why);
        flight.overrun = overrun;
        let lease = flight.work.lease.0;
        if !matches!(child.phase, Phase::Busy) || child.rung != Rung::Calm {
            return; // not there yet: its arrival looks at `stop`; or on its way out already
        }
        // Memory that runs away does not wait for a grace.
        if why == Stopped::Limit(FailureClass::MemoryLimit) {
            child.kill(now);
            return;
        }
        if self.spec.mode == Mode::Exec {
            child.term(now + self.spec.grace);
            return;
        }
        let reason = match why {
            Stopped::Asked(StopReason::Cancel) => "cancelled",
            Stopped::Asked(StopReason::Shutdown) => "shutdown",
            Stopped::Limit(class) => class.as_str(),
        };
        let frame = ToChild::Cancel { lease, reason }.encode(&[]);
        if self.send(child, number, frame) == Sent::Refused {
            child.kill(now);
        } else {
            child.rung = Rung::Asked {
                until: now + self.spec.grace,
            };
        }
    }

    pub(super) fn shut(&self, pool: &mut Pool) {
        let now = Instant::now();
        pool.closed = true;
        for waiting in std::mem::take(&mut pool.waiting) {
            let queued = now.saturating_duration_since(waiting.since);
            pool.tell_never_started(&waiting.work, queued, unstarted(StopReason::Shutdown));
        }
    }

    pub(super) fn kill_all(&self, pool: &mut Pool) {
        let now = Instant::now();
        pool.ending = true;
        for child in pool.children.values_mut() {
            if let Some(flight) = child.flight.as_mut() {
                flight
                    .stop
                    .get_or_insert(Stopped::Asked(StopReason::Shutdown));
            }
            if child.pid != 0 {
                child.kill(now);
            }
        }
    }
}

// Children come.
impl Shared {
    /// Orders warm children up to the pool's size.
    pub(super) fn fill(&self, pool: &mut Pool, now: Instant) {
        if self.spec.mode == Mode::Exec || pool.closed {
            return;
        }
        if pool.no_start_before.is_some_and(|at| now < at) {
            return;
        }
        pool.no_start_before = None;
        let Some(command) = self.command.get() else {
            return;
        };
        let staying = pool.children.values().filter(|child| !child.is_leaving());
        let missing = self.slots().saturating_sub(staying.count());
        // Trees that do not want to die take room, or a pool of them would grow without end.
        let room = (2 * self.slots()).saturating_sub(pool.children.len());
        for _ in 0..missing.min(room) {
            let (marker, roster) = self.host.next_marker();
            let number = pool.add(Child::new(marker, roster, Phase::Spawning));
            let mut env = self.base_env();
            env.insert(
                "OFFLOOP_FD".into(),
                crate::shim::CHANNEL_FD.to_string().into(),
            );
            self.order(pool, number, command.clone(), env, self.spec.cwd.clone());
        }
    }

    pub(super) fn base_env(&self) -> BTreeMap<OsString, OsString> {
        let mut env: BTreeMap<_, _> = self.host.environment().iter().cloned().collect();
        env.insert("OFFLOOP_TASK".into(), self.spec.task.name.as_str().into());
        let declared = self.spec.env.iter();
        env.extend(declared.map(|(name, value)| (name.into(), value.clone())));
        env
    }

    pub(super) fn order(
        &self,
        pool: &Pool,
        number: u64,
        command: super::Resolved,
        env: BTreeMap<OsString, OsString>,
        cwd: Option<std::path::PathBuf>,
    ) {
        let Some(child) = pool.children.get(&number) else {
            return;
        };
        let Some(shared) = self.me.upgrade() else {
            return;
        };
        self.host.spawn(SpawnOrder {
            marker: child.marker.clone(),
            roster: child.roster.clone(),
            program: command.program,
            argv: command.argv,
            env,
            cwd,
            channel: self.spec.mode == Mode::Process,
            data_limit: self.spec.data_limit_bytes,
            reply: Box::new(move |spawned| {
                let mut pool = shared.lock();
                shared.spawned(&mut pool, number, spawned, Instant::now());
                shared.settle(pool);
            }),
        });
    }

    fn spawned(&self, pool: &mut Pool, number: u64, spawned: io::Result<Spawned>, now: Instant) {
        let spawned = match spawned {
            Ok(spawned) => spawned,
            Err(error) => return self.not_spawned(pool, number, &error, now),
        };
        let ending = pool.ending;
        let Some(child) = pool.children.get_mut(&number) else {
            return; // a child in `Spawning` is never removed
        };
        child.pid = spawned.pid;
        self.watch(&spawned.pidfd, Part::Death.token(number), EventFlags::IN);
        child.pidfd = Some(spawned.pidfd);
        self.watch(&spawned.stdout, Part::Stdout.token(number), EventFlags::IN);
        child.stdout = Some(spawned.stdout);
        if let Some(stderr) = spawned.stderr {
            self.watch(&stderr, Part::Stderr.token(number), EventFlags::IN);
            child.stderr = Some(stderr);
        }
        if let Some(fd) = spawned.channel {
            self.watch(&fd, Part::Channel.token(number), EventFlags::IN);
            child.channel = Some(Channel::new(fd));
            let task = self.spec.task.name.as_str();
            let hello = ToChild::Hello {
                protocol: PROTOCOL_VERSION,
                task,
            };
            child.phase = Phase::Starting {
                until: now + self.spec.start_timeout,
            };
            self.send(child, number, hello.encode(&[]));
        } else {
            child.phase = Phase::Busy;
            if let Some(flight) = child.flight.as_mut() {
                flight.began = Some(now);
                flight.progress = now;
            }
            pool.next_sample = pool.next_sample.min(now + FIRST_SAMPLE);
        }
        if let (Some(fd), Some(stdin)) = (spawned.stdin, child.stdin_data.take()) {
            let mut stdin = Stdin::new(fd, stdin);
            if !stdin.pump() {
                self.watch(&stdin.fd, Part::Stdin.token(number), EventFlags::OUT);
                child.stdin = Some(stdin);
            }
        }
        let stopped = child.flight.as_ref().is_some_and(|f| f.stop.is_some());
        if ending || stopped {
            child.kill(now);
        }
        pool.tell_started(number);
    }

    fn not_spawned(&self, pool: &mut Pool, number: u64, error: &io::Error, now: Instant) {
        let Some(child) = pool.children.remove(&number) else {
            return;
        };
        let why = format!("the child could not be started: {error}");
        if let Some(flight) = child.flight {
            let failed = outcome_of(Err(TaskError::error(why)), flight.stop, None);
            pool.tell_unflown(&flight, now, failed);
            return;
        }
        pool.back_off(now);
        self.fail_one_waiting(pool, &why, now);
    }

    /// When no child gets as far as being ready, the jobs that wait for one learn why.
    fn fail_one_waiting(&self, pool: &mut Pool, why: &str, now: Instant) {
        if pool.has_proven_child() {
            return;
        }
        if let Some(waiting) = pool.waiting.pop_front() {
            let queued = now.saturating_duration_since(waiting.since);
            let failed = Outcome::Failed(Failure::new(FailureClass::Error, why));
            pool.tell_never_started(&waiting.work, queued, failed);
        }
    }

    fn watch(&self, fd: &impl AsFd, token: u64, flags: EventFlags) {
        if let Some(epoll) = self.epoll.get() {
            let _ = epoll::add(epoll, fd, EventData::new_u64(token), flags);
        }
    }

    pub(super) fn watch_again(&self, fd: &impl AsFd, token: u64, also_out: bool) {
        let flags = if also_out {
            EventFlags::IN | EventFlags::OUT
        } else {
            EventFlags::IN
        };
        if let Some(epoll) = self.epoll.get() {
            let _ = epoll::modify(epoll, fd, EventData::new_u64(token), flags);
        }
    }
}

// Children speak.
impl Shared {
    pub(super) fn writable(&self, pool: &mut Pool, number: u64, part: Part) {
        let Some(child) = pool.children.get_mut(&number) else {
            return;
        };
        match part {
            Part::Channel => {
                if let Some(channel) = child.channel.as_mut()
                    && channel.flush()
                {
                    self.watch_again(&channel.fd, Part::Channel.token(number), false);
                }
            }
            Part::Stdin => {
                if child.stdin.as_mut().is_some_and(Stdin::pump) {
                    child.stdin = None;
                }
            }
            Part::Stdout | Part::Stderr | Part::Death => {}
        }
    }

    pub(super) fn readable(
        &self,
        pool: &mut Pool,
        number: u64,
        part: Part,
        buffer: &mut [u8],
        now: Instant,
    ) {
        match part {
            Part::Channel => self.listen(pool, number, buffer, now),
            Part::Stdout | Part::Stderr => {
                if let Some(child) = pool.children.get_mut(&number) {
                    drain(child, part, buffer);
                }
            }
            Part::Stdin => self.writable(pool, number, part), // its reader is gone
            Part::Death => self.died(pool, number, buffer, now),
        }
    }

    fn listen(&self, pool: &mut Pool, number: u64, buffer: &mut [u8], now: Instant) {
        let Some(child) = pool.children.get_mut(&number) else {
            return;
        };
        let Some(channel) = child.channel.as_mut() else {
            return;
        };
        let (mut frames, mut wrong) = (VecDeque::new(), None);
        let decoder = &mut channel.decoder;
        let read = read_some(&channel.fd, buffer, |bytes| {
            if wrong.is_none() {
                wrong = decoder.push(bytes, &mut frames).err();
            }
        });
        let closed = read.unwrap_or(true);
        for frame in frames {
            if let Err(breach) = self.heard(pool, number, frame, buffer, now) {
                wrong = Some(breach);
                break;
            }
        }
        if closed && let Some(child) = pool.children.get_mut(&number) {
            child.channel = None;
            pool.idle.retain(|idle| *idle != number);
            // Most likely it is dying, and what it dies of says more. If not, it is ended for it.
            if !child.is_leaving() {
                child.rung = Rung::Termed {
                    until: now + LAST_WORDS,
                };
            }
        }
        if let Some(breach) = wrong {
            self.breach(pool, number, breach, now);
        }
        self.dispatch(pool, now);
    }

    pub(super) fn breach(&self, pool: &mut Pool, number: u64, breach: Breach, now: Instant) {
        pool.idle.retain(|idle| *idle != number);
        if let Some(child) = pool.children.get_mut(&number) {
            child.breach.get_or_insert(breach);
            child.kill(now);
        }
    }

    fn heard(
        &self,
        pool: &mut Pool,
        number: u64,
        frame: FromChild,
        buffer: &mut [u8],
        now: Instant,
    ) -> Result<(), Breach> {
        let Some(child) = pool.children.get_mut(&number) else {
            return Ok(());
        };
        match frame {
            FromChild::Ready => {
                if !matches!(child.phase, Phase::Starting { .. }) {
                    return Err(Breach::Unexpected("ready"));
                }
                child.phase = Phase::Idle {
                    since: now,
                    pinged: None,
                };
                if child.rung == Rung::Calm {
                    pool.idle.push(number);
                }
            }
            FromChild::Pong => {
                if let Phase::Idle { since, pinged } = &mut child.phase {
                    (*since, *pinged) = (now, None);
                }
            }
            FromChild::Progress { lease, note } => progress(pool, number, lease, note, now),
            FromChild::Result { lease, result } => {
                let answer = result_of(result);
                self.answered(pool, number, lease, answer, buffer, now)?;
            }
            FromChild::Error {
                lease,
                invalid,
                message,
            } => {
                let error = if invalid {
                    TaskError::invalid(message)
                } else {
                    TaskError::error(message)
                };
                self.answered(pool, number, lease, Err(error), buffer, now)?;
            }
        }
        Ok(())
    }

    fn answered(
        &self,
        pool: &mut Pool,
        number: u64,
        lease: Lease,
        answer: Result<TaskOutput, TaskError>,
        buffer: &mut [u8],
        now: Instant,
    ) -> Result<(), Breach> {
        let Some(child) = pool.children.get_mut(&number) else {
            return Ok(());
        };
        let leaving = child.is_leaving();
        let Some(flight) = child.flight.as_mut() else {
            return Err(Breach::Unexpected("an answer"));
        };
        let ours = flight.work.lease;
        if lease != ours {
            return Err(Breach::OtherLease {
                theirs: lease,
                ours,
            });
        }
        if leaving {
            flight.answer.get_or_insert(answer);
            child.kill(now); // it has nothing more to say
            return Ok(());
        }
        drain(child, Part::Stdout, buffer);
        let Some(flight) = child.flight.take() else {
            return Ok(());
        };
        let usage = usage_of_answer(child, &flight, now);
        let ended = Ended {
            job: flight.work.job,
            lease,
            executor: child.executor(),
            queued: flight.queued(now),
            usage,
            log: child.log.take(),
            outcome: outcome_of(answer, flight.stop, flight.overrun.as_ref()),
            gone: Gone::proven(Proof::ChildAnswered { pid: child.pid }),
        };
        child.rung = Rung::Calm;
        child.served += 1;
        child.phase = Phase::Idle {
            since: now,
            pinged: None,
        };
        pool.failures = 0;
        pool.idle.push(number);
        pool.tell_end(ended);
        Ok(())
    }
}

fn progress(pool: &mut Pool, number: u64, lease: Lease, note: Bytes, now: Instant) {
    let child = pool.children.get_mut(&number);
    let Some(child) = child else { return };
    let flight = child.flight.as_mut().filter(|f| f.work.lease == lease);
    let Some(flight) = flight else {
        return; // late, by code that was not awaited
    };
    flight.progress = now;
    if note.len() > PROGRESS_BYTES_MAX || serde_json::from_slice::<IgnoredAny>(&note).is_err() {
        let line =
            format!("offloop: a progress note is not JSON of at most {PROGRESS_BYTES_MAX} bytes\n");
        child.log.push(line.as_bytes());
        return;
    }
    let job = flight.work.job;
    pool.news.push(LaneEvent::Progress { job, lease, note });
}

fn usage_of_answer(child: &mut Child, flight: &Flight, now: Instant) -> offloop_job::Usage {
    let wall = flight
        .began
        .map_or(Duration::ZERO, |began| now.saturating_duration_since(began));
    if wall > WORTH_A_LOOK
        && let Some(stat) = procfs::stat(child.pid)
    {
        child.cpu_below = child.cpu_below.max(procfs::ticks(stat.waited_ticks));
    }
    let cpu = child.cpu_now().saturating_sub(flight.cpu_from);
    flight.usage(now, cpu, procfs::resident_bytes(child.pid).unwrap_or(0))
}

/// Takes what a child printed, so that it never waits for a reader.
pub(super) fn drain(child: &mut Child, part: Part, buffer: &mut [u8]) {
    let fd: Option<OwnedFd> = match part {
        Part::Stdout => child.stdout.take(),
        Part::Stderr => child.stderr.take(),
        Part::Channel | Part::Stdin | Part::Death => None,
    };
    let Some(fd) = fd else { return };
    let capture = part == Part::Stdout && child.captures;
    let (log, said) = (&mut child.log, &mut child.said);
    let (printed, cut) = (&mut child.printed, &mut child.printed_cut);
    let read = read_some(&fd, buffer, |bytes| {
        log.push(bytes);
        if capture {
            let room = RESULT_BYTES_MAX - printed.len();
            *cut |= bytes.len() > room;
            printed.extend_from_slice(&bytes[..room.min(bytes.len())]);
        } else {
            said.push(bytes);
        }
    });
    if !read.unwrap_or(true) {
        match part {
            Part::Stdout => child.stdout = Some(fd),
            _ => child.stderr = Some(fd),
        }
    }
}

// Children go.
impl Shared {
    fn died(&self, pool: &mut Pool, number: u64, buffer: &mut [u8], now: Instant) {
        self.listen(pool, number, buffer, now); // its last words
        pool.idle.retain(|idle| *idle != number);
        let Some(child) = pool.children.get_mut(&number) else {
            return;
        };
        if child.pidfd.take().is_none() {
            return; // told already
        }
        if child.rung == Rung::Calm {
            child.rung = Rung::Killed { at: now }; // the undertaker's clock starts
        }
        child.phase = Phase::Dead;
        let Some(shared) = self.me.upgrade() else {
            return;
        };
        self.host.bury(Burial {
            pid: child.pid,
            marker: child.marker.clone(),
            roster: child.roster.clone(),
            reply: Box::new(move |buried| {
                let mut pool = shared.lock();
                shared.buried(&mut pool, number, buried, Instant::now());
                shared.settle(pool);
                shared.ring(); // its thread leaves with the last child
            }),
        });
    }

    fn buried(&self, pool: &mut Pool, number: u64, buried: Buried, now: Instant) {
        let mut buffer = vec![0; READ_BYTES];
        let Some(child) = pool.children.get_mut(&number) else {
            return;
        };
        // Nobody can write any more: this finds the end.
        for part in [Part::Stdout, Part::Stderr] {
            drain(child, part, &mut buffer);
        }
        match self.spec.mode {
            Mode::Process => self.warm_child_gone(pool, number, buried, now),
            Mode::Exec => self.command_gone(pool, number, buried, now),
        }
    }

    fn warm_child_gone(&self, pool: &mut Pool, number: u64, buried: Buried, now: Instant) {
        let Some(mut child) = pool.children.remove(&number) else {
            return;
        };
        let exit = exit_of(buried.exit);
        let breach = child.breach.as_ref().map(ToString::to_string);
        let said = child.log.quote();
        let asked = child.flight.as_ref().is_some_and(|f| f.stop.is_some());
        if child.served == 0 && !asked && !pool.ending {
            pool.back_off(now);
        }
        let Some(flight) = child.flight.take() else {
            if child.served == 0 && !pool.ending {
                let how = breach.unwrap_or_else(|| format!("ended by {}", exit_words(exit)));
                let why = quoted(format!("the child could not start: it {how}"), &said);
                self.fail_one_waiting(pool, &why, now);
            }
            self.dispatch(pool, now);
            self.fill(pool, now);
            return;
        };
        let cpu = buried.spent.cpu.saturating_sub(flight.cpu_from);
        // The highest of its whole life, which is the job's only if that was its first.
        let rss = if child.served == 0 {
            buried.spent.max_rss_bytes
        } else {
            0
        };
        let ended = Ended {
            job: flight.work.job,
            lease: flight.work.lease,
            executor: child.executor(),
            queued: flight.queued(now),
            usage: flight.usage(now, cpu, rss),
            log: child.log.take(),
            outcome: of_dead_child(flight, exit, breach, &said),
            gone: Gone::proven(Proof::Reaped { pid: child.pid }),
        };
        pool.tell_end(ended);
        self.fill(pool, now);
    }
}

// Time passes.
impl Shared {
    pub(super) fn tick(&self, pool: &mut Pool, now: Instant) {
        let mut breaches = Vec::new();
        for (number, child) in &mut pool.children {
            let number = *number;
            match child.rung {
                Rung::Asked { until } if now >= until => child.term(now + self.spec.term_grace),
                Rung::Termed { until } if now >= until => {
                    let asked = child.flight.as_ref().is_some_and(|f| f.stop.is_some());
                    if self.spec.mode == Mode::Process && child.channel.is_none() && !asked {
                        child.breach.get_or_insert(Breach::Closed);
                    }
                    child.kill(now);
                }
                _ => {}
            }
            if let Err(overrun) = child.check(now) {
                let why = Stopped::Limit(overrun.class);
                self.stop_flight(child, number, why, Some(overrun), now);
            }
            match child.phase {
                Phase::Starting { until } if now >= until && !child.is_leaving() => {
                    breaches.push((number, Breach::NotReady));
                }
                Phase::Idle {
                    pinged: Some(at), ..
                } if now >= at + PONG_WITHIN => {
                    breaches.push((number, Breach::Silent));
                }
                Phase::Idle {
                    since,
                    pinged: None,
                } if now >= since + PING_EVERY => {
                    child.phase = Phase::Idle {
                        since,
                        pinged: Some(now),
                    };
                    let ping = ToChild::Ping.encode(&[]);
                    if self.send(child, number, ping) == Sent::Refused {
                        breaches.push((number, Breach::Closed));
                    }
                }
                _ => {}
            }
        }
        for (number, breach) in breaches {
            self.breach(pool, number, breach, now);
        }
        self.fill(pool, now);
    }
}
