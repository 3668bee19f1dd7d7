//! Children come: ordered from the host, and put on the books when they run.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::io;
use std::time::{Duration, Instant};

use offloop_job::limits::RESULT_BYTES_MAX;
use offloop_lane::{TaskError, outcome_of};
use rustix::event::epoll::EventFlags;

use super::channel::{Channel, Stdin};
use super::child::{Child, Phase};
use super::exits::ExitReason;
use super::part::Part;
use super::recycle::RecycleAt;
use super::state::Pool;
use super::{Resolved, Shared};
use crate::frame::{FEATURES, PROTOCOL_VERSION, ToChild};
use crate::host::{SpawnOrder, Spawned};
use crate::shim::CHANNEL_FD;
use crate::spec::{Mode, ProcessSpec, Wire};
use crate::sys::CpuClock;

/// From the start of a command to the first look at what it holds.
const FIRST_SAMPLE: Duration = Duration::from_millis(3);

impl Shared {
    /// Orders warm children up to the pool's size.
    pub(super) fn fill(&self, pool: &mut Pool, now: Instant) {
        if self.spec.mode == Mode::Exec || pool.closed {
            return;
        }
        self.retire_due(pool, now);
        let allowed = pool.starts_allowed(now);
        if allowed == 0 {
            return;
        }
        pool.no_start_before = None;
        let Some(command) = self.command.get() else {
            return;
        };
        let (mut staying, mut due) = (0, 0);
        for child in pool.children.values() {
            let stays = !child.is_leaving();
            staying += usize::from(stays || child.is_undecided(now));
            due += usize::from(stays && child.due.is_some());
        }
        let retiring_max = Pool::retiring_max(self.slots());
        // Each that is to be replaced has its replacement before it goes.
        let wanted = self.slots() + usize::from(self.spec.spare) + due.min(retiring_max);
        // Trees that do not want to die take room, or a pool of them would grow without end.
        let most = 2 * (self.slots() + 1) + retiring_max;
        let missing = wanted.saturating_sub(staying);
        let room = most.saturating_sub(pool.children.len());
        for _ in 0..missing.min(room).min(allowed) {
            let (marker, roster) = self.host.next_marker();
            let number = pool.add(Child::new(marker, roster, Phase::Spawning));
            if let Some(child) = pool.children.get_mut(&number) {
                child.recycle_at = RecycleAt::of(&self.spec.recycle, number);
            }
            let mut env = self.base_env();
            if self.spec.wire == Wire::Frames {
                env.insert("OFFLOOP_FD".into(), CHANNEL_FD.to_string().into());
            }
            self.order(pool, number, command.clone(), env, self.spec.cwd.clone());
        }
    }

    pub(super) fn base_env(&self) -> BTreeMap<OsString, OsString> {
        let mut env: BTreeMap<_, _> = self.host.environment().iter().cloned().collect();
        // Each takes every core for itself else: with one job per core that is cores squared.
        let threads = ["OMP", "OPENBLAS", "MKL", "NUMEXPR"];
        let one = |name| (OsString::from(format!("{name}_NUM_THREADS")), "1".into());
        env.extend(threads.map(one));
        env.insert("OFFLOOP_TASK".into(), self.spec.task.name.as_str().into());
        let declared = self.spec.env.iter();
        env.extend(declared.map(|(name, value)| (name.into(), value.clone())));
        env
    }

    pub(super) fn order(
        &self,
        pool: &Pool,
        number: u64,
        command: Resolved,
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
            channel: self.is_framed(),
            data_limit: self.spec.data_limit_bytes,
            budgets: self.spec.budgets,
            sandbox: self.spec.sandbox.clone(),
            reply: Box::new(move |spawned| {
                let mut pool = shared.lock();
                shared.spawned(&mut pool, number, spawned, Instant::now());
                shared.settle(pool);
            }),
        });
    }

    fn spawned(&self, pool: &mut Pool, number: u64, spawned: io::Result<Spawned>, now: Instant) {
        let mut spawned = match spawned {
            Ok(spawned) => spawned,
            Err(error) => return self.not_spawned(pool, number, &error, now),
        };
        let ending = pool.ending;
        let Some(child) = pool.children.get_mut(&number) else {
            return; // a child in `Spawning` is never removed
        };
        child.pid = spawned.pid;
        child.channel = channel_of(&self.spec, &mut spawned);
        child.group = spawned.group;
        self.watch(&spawned.pidfd, Part::Death.token(number), EventFlags::IN);
        child.pidfd = Some(spawned.pidfd);
        child.born = Some(now);
        child.cpu_clock = CpuClock::of(spawned.pid);
        if let Some(stdout) = spawned.stdout {
            self.watch(&stdout, Part::Stdout.token(number), EventFlags::IN);
            child.stdout = Some(stdout);
        }
        if let Some(stderr) = spawned.stderr {
            self.watch(&stderr, Part::Stderr.token(number), EventFlags::IN);
            child.stderr = Some(stderr);
        }
        if let Some(channel) = &child.channel {
            let token = Part::Channel.token(number);
            self.watch(channel.reader(), token, EventFlags::IN);
            child.phase = Phase::Starting {
                until: now + self.spec.start_timeout,
            };
            let hello = ToChild::Hello {
                protocol: PROTOCOL_VERSION,
                task: self.spec.task.name.as_str(),
                features: FEATURES,
            };
            self.send(child, number, &hello, None);
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
}

impl Shared {
    /// A socket of its own for frames; else the standard streams.
    fn is_framed(&self) -> bool {
        self.spec.mode == Mode::Process && self.spec.wire == Wire::Frames
    }

    fn not_spawned(&self, pool: &mut Pool, number: u64, error: &io::Error, now: Instant) {
        let Some(child) = pool.children.remove(&number) else {
            return;
        };
        pool.exits.count(ExitReason::NotStarted);
        let why = format!("the child could not be started: {error}");
        if let Some(flight) = child.flight {
            let failed = outcome_of(
                Err(TaskError::error(why)),
                RESULT_BYTES_MAX,
                flight.stop,
                None,
            );
            pool.tell_unflown(&flight, now, failed);
            return;
        }
        pool.start_failed(0, &why, now);
        self.fail_waiting(pool, &why, now);
    }
}

fn channel_of(spec: &ProcessSpec, spawned: &mut Spawned) -> Option<Channel> {
    match (spec.mode, spec.wire) {
        (Mode::Exec, _) => None,
        (Mode::Process, Wire::Frames) => spawned.channel.take().map(Channel::frames),
        (Mode::Process, Wire::Lines) => {
            let (to, from) = (spawned.stdin.take()?, spawned.stdout.take()?);
            Some(Channel::lines(to, from))
        }
    }
}
