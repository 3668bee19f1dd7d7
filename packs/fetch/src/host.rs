//! What is known of each host: its breaker, its budget of retries, its idle connections.
//!
//! Shared by all lists of calls of a process, so that what one has learned spares the others.
//!
//! Must never: grow without a bound, however many hosts are named.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use offloop::egress::Target;

use crate::breaker::{Breaker, BreakerRule, BreakerState};
use crate::budget::{Budget, BudgetRule};
use crate::conn::{Conn, Idle};

/// Hosts that are remembered; those that nobody uses go first.
const HOSTS_MAX: usize = 10_000;

/// Connections that are closed at once where room is needed, so that not each looks through all hosts.
const ROOM: usize = 16;
/// So long a connection that was looked at is not looked at again.
const FRESH: Duration = Duration::from_millis(1);

/// One scheme, host and port.
#[derive(Debug)]
pub(crate) struct Host {
    pub(crate) origin: Box<str>,
    pub(crate) breaker: Arc<Breaker>,
    budget: Mutex<Budget>,
    idle: Mutex<Vec<Idle>>,
    /// What went wrong last.
    last: Mutex<Option<Box<str>>>,
}

pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Host {
    fn new(origin: Box<str>, breaker: BreakerRule, budget: BudgetRule) -> Self {
        Self {
            origin,
            breaker: Arc::new(Breaker::new(breaker)),
            budget: Mutex::new(Budget::new(budget)),
            idle: Mutex::default(),
            last: Mutex::default(),
        }
    }

    pub(crate) fn remember(&self, what: &str) {
        let mut last = lock(&self.last);
        if last.as_deref() != Some(what) {
            *last = Some(what.into());
        }
    }

    /// A sentence about this host, with what went wrong last.
    pub(crate) fn says(&self, what: &str) -> String {
        match &*lock(&self.last) {
            Some(last) => format!("{} {what}; the last time: {last}", self.origin),
            None => format!("{} {what}", self.origin),
        }
    }

    pub(crate) fn earn(&self) {
        lock(&self.budget).earn();
    }

    /// Leave for one retry, or how long to wait for it.
    pub(crate) fn retry(&self, now: Duration) -> Result<(), Duration> {
        lock(&self.budget).take(now)
    }

    /// The connection that was used last, if one is alive: old ones are the first to be closed.
    pub(crate) async fn take(&self, now: Duration) -> Option<Conn> {
        loop {
            let Idle {
                mut conn,
                since,
                until,
            } = lock(&self.idle).pop()?;
            // One that was looked at a moment ago is as good as one that is looked at now.
            let is_fresh = now.saturating_sub(since) < FRESH;
            if now < until && (is_fresh || conn.is_idle().await) {
                return Some(conn);
            }
        }
    }

    /// Leaves a connection for the next one, while there is room.
    pub(crate) fn put(&self, conn: Conn, since: Duration, until: Duration, most: usize) {
        let mut idle = lock(&self.idle);
        if idle.len() < most {
            idle.push(Idle { conn, since, until });
        }
    }

    pub(crate) fn sweep(&self, now: Duration) {
        let mut idle = lock(&self.idle);
        idle.retain(|idle| now < idle.until);
        if idle.is_empty() {
            idle.shrink_to_fit();
        }
    }

    pub(crate) fn idle(&self) -> usize {
        lock(&self.idle).len()
    }

    /// Closes the connection that lay idle longest.
    fn close_oldest(&self) -> bool {
        let mut idle = lock(&self.idle);
        let is_some = !idle.is_empty();
        if is_some {
            idle.remove(0); // the last one in is the first one out: the oldest is the first
        }
        is_some
    }
}

/// All hosts.
#[derive(Debug)]
pub(crate) struct Hosts {
    all: Mutex<HashMap<Box<str>, Arc<Host>>>,
    breaker: BreakerRule,
    budget: BudgetRule,
}

impl Hosts {
    pub(crate) fn new(breaker: BreakerRule, budget: BudgetRule) -> Self {
        Self {
            all: Mutex::default(),
            breaker,
            budget,
        }
    }

    pub(crate) fn of(&self, target: &Target, now: Duration) -> Arc<Host> {
        let origin = origin(target);
        let mut all = lock(&self.all);
        if let Some(host) = all.get(&origin) {
            return Arc::clone(host);
        }
        if all.len() >= HOSTS_MAX {
            let is_needed = |host: &Arc<Host>| {
                Arc::strong_count(host) > 1 || host.breaker.state(now) == BreakerState::Open
            };
            all.retain(|_, host| is_needed(host));
        }
        let host = Host::new(origin.clone(), self.breaker, self.budget);
        let host = Arc::new(host);
        if all.len() < HOSTS_MAX {
            all.insert(origin, Arc::clone(&host));
        }
        host
    }

    /// Closes connections that lay idle for too long.
    pub(crate) fn sweep(&self, now: Duration) {
        for host in lock(&self.all).values() {
            host.sweep(now);
        }
    }

    pub(crate) fn idle(&self) -> usize {
        lock(&self.all).values().map(|host| host.idle()).sum()
    }

    /// Closes some connections that lie idle; `false`: there are none.
    pub(crate) fn make_room(&self) -> bool {
        let all = lock(&self.all);
        let closed = all.values().filter(|host| host.close_oldest());
        closed.take(ROOM).count() > 0
    }

    /// Hosts that are left alone or were, most often first.
    pub(crate) fn tripped(&self, now: Duration, most: usize) -> Vec<Tripped> {
        let all = lock(&self.all);
        let hosts = all.values().filter_map(|host| {
            let events = host.breaker.events();
            (events.opened > 0).then(|| Tripped {
                origin: host.origin.clone(),
                state: host.breaker.state(now),
                opened: events.opened,
            })
        });
        let mut hosts: Vec<_> = hosts.collect();
        hosts.sort_by(|a, b| b.opened.cmp(&a.opened).then(a.origin.cmp(&b.origin)));
        hosts.truncate(most);
        hosts
    }
}

/// A host whose breaker has opened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tripped {
    pub origin: Box<str>,
    pub state: BreakerState,
    /// Times.
    pub opened: u64,
}

pub(crate) fn origin(target: &Target) -> Box<str> {
    let scheme = if target.is_tls() { "https" } else { "http" };
    format!("{scheme}://{}", target.authority()).into()
}
