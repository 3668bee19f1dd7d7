//! All connections that are open: counted, swept, ended.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::watch;
use tokio::task::AbortHandle;

use super::state::{Clock, ConnState, Overdue, Rules};

/// Why a connection was not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Full {
    Door,
    Address,
}

#[derive(Debug)]
struct Entry {
    state: Arc<ConnState>,
    task: AbortHandle,
}

#[derive(Debug, Default)]
struct Open {
    next: u64,
    entries: HashMap<u64, Entry>,
    by_address: HashMap<IpAddr, usize>,
}

/// Shared by the accept loop, the sweeper and every connection's task.
#[derive(Debug)]
pub(crate) struct Registry {
    clock: Clock,
    open: Mutex<Open>,
    /// How many are open.
    count: watch::Sender<usize>,
    total_max: usize,
    address_max: usize,
}

impl Registry {
    pub(crate) fn new(clock: Clock, total_max: usize, address_max: usize) -> Self {
        let (count, _) = watch::channel(0);
        Self {
            clock,
            open: Mutex::default(),
            count,
            total_max,
            address_max,
        }
    }

    fn lock(&self) -> MutexGuard<'_, Open> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn len(&self) -> usize {
        *self.count.borrow()
    }

    pub(crate) fn full(&self, address: IpAddr) -> Option<Full> {
        let open = self.lock();
        if open.entries.len() >= self.total_max {
            return Some(Full::Door);
        }
        let here = open.by_address.get(&address).copied().unwrap_or(0);
        (here >= self.address_max).then_some(Full::Address)
    }

    /// Starts a connection's task. `start` gets what the task must hold until it ends.
    pub(crate) fn enter(
        self: &Arc<Self>,
        address: IpAddr,
        state: Arc<ConnState>,
        start: impl FnOnce(Leave) -> AbortHandle,
    ) {
        let mut open = self.lock();
        let id = open.next;
        open.next += 1;
        *open.by_address.entry(address).or_default() += 1;
        let leave = Leave {
            registry: Arc::clone(self),
            id,
            address,
        };
        // The task cannot leave before it has entered: leaving takes the lock that is held here.
        let task = start(leave);
        open.entries.insert(id, Entry { state, task });
        self.count.send_replace(open.entries.len());
    }

    /// Ends what is overdue.
    pub(crate) fn sweep(&self, rules: &Rules) -> Vec<Overdue> {
        let now = self.clock.ms();
        let mut ended = Vec::new();
        for entry in self.lock().entries.values() {
            if let Some(why) = entry.state.overdue(now, rules) {
                entry.task.abort();
                ended.push(why);
            }
        }
        ended
    }

    /// Ends all of them; how many there were.
    pub(crate) fn abort_all(&self) -> usize {
        let open = self.lock();
        for entry in open.entries.values() {
            entry.task.abort();
        }
        open.entries.len()
    }

    /// Waits until none is open.
    pub(crate) async fn emptied(&self) {
        let mut count = self.count.subscribe();
        let _ = count.wait_for(|count| *count == 0).await; // the sender is in `self`
    }
}

/// Dropped at the end of a connection's task, however it ends.
#[derive(Debug)]
pub(crate) struct Leave {
    registry: Arc<Registry>,
    id: u64,
    address: IpAddr,
}

impl Drop for Leave {
    fn drop(&mut self) {
        let mut open = self.registry.lock();
        open.entries.remove(&self.id);
        if let Some(here) = open.by_address.get_mut(&self.address) {
            *here -= 1;
            if *here == 0 {
                open.by_address.remove(&self.address);
            }
        }
        self.registry.count.send_replace(open.entries.len());
    }
}
