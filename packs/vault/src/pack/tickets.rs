//! Where requests wait with their bodies until a thread takes them, and where passwords find
//! company: bcrypt of one cost is run up to four at a time on a core.
//!
//! Must never: let a request be run twice, delay one that is alone, or keep a body whose caller has
//! gone.

use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use bytes::Bytes;
use offloop::http::Collected;
use tokio::sync::{Notify, oneshot};

use crate::error::VaultError;
use crate::ops::{Op, Passwords, RawAsk, Reply};
use crate::password::Ask;
use crate::wipe::wipe;
use crate::{bcrypt, seal};

/// A body that is looked at for company has at most so many bytes: one password fits many times.
const COMPANY_BYTES_MAX: usize = 16 << 10;
/// Tickets that are looked at for company.
const COMPANY_LOOKS_MAX: usize = 16;
/// The first byte of a ticket's payload. No JSON begins with it.
const MARK: u8 = 0;
const PAYLOAD_BYTES: usize = 17;

pub(super) type Told = Result<Reply, VaultError>;

/// What a request brought.
#[derive(Debug)]
pub(super) struct Request {
    pub(super) body: Collected,
    /// `None`: the body is JSON.
    pub(super) raw: Option<RawAsk>,
}

impl Drop for Request {
    /// Wipes the body where nobody else holds its memory.
    fn drop(&mut self) {
        if let Ok(mut bytes) = std::mem::take(&mut self.body.bytes).try_into_mut() {
            wipe(&mut bytes);
        }
    }
}

enum State {
    Waiting(Request),
    /// Read while it waited, and found not to fit the run that was looking.
    Read(Result<Passwords, VaultError>),
    Taken,
}

/// What a thread takes.
pub(super) enum Taken {
    Request(Request),
    Read(Result<Passwords, VaultError>),
}

/// One request.
pub(super) struct Ticket {
    op: Op,
    number: u64,
    /// Drawn, so that no call from outside names somebody else's ticket.
    secret: u64,
    state: Mutex<State>,
    tell: Mutex<Option<oneshot::Sender<Told>>>,
    /// Its caller left.
    gone: AtomicBool,
    /// Told once when it becomes a guest.
    joined: Notify,
}

impl std::fmt::Debug for Ticket {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Ticket")
            .field("number", &self.number)
            .finish_non_exhaustive()
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Ticket {
    pub(super) fn payload(&self) -> Bytes {
        let mut payload = Vec::with_capacity(PAYLOAD_BYTES);
        payload.push(MARK);
        payload.extend_from_slice(&self.number.to_be_bytes());
        payload.extend_from_slice(&self.secret.to_be_bytes());
        payload.into()
    }

    /// Once; whoever comes later finds nothing.
    pub(super) fn take(&self) -> Option<Taken> {
        match std::mem::replace(&mut *lock(&self.state), State::Taken) {
            State::Waiting(request) => Some(Taken::Request(request)),
            State::Read(read) => Some(Taken::Read(read)),
            State::Taken => None,
        }
    }

    pub(super) fn answer(&self, told: Told) {
        if let Some(tell) = lock(&self.tell).take() {
            let _ = tell.send(told); // its caller may have left
        }
    }

    pub(super) fn is_gone(&self) -> bool {
        self.gone.load(Ordering::Relaxed)
    }

    /// Waits until another's run has it.
    pub(super) async fn joined(&self) {
        self.joined.notified().await;
    }

    /// Takes the password if it is one of bcrypt at this cost.
    fn join(&self, cost: u8) -> Option<Ask> {
        let mut state = lock(&self.state);
        let read = match std::mem::replace(&mut *state, State::Taken) {
            State::Taken => return None,
            State::Read(read) => read,
            State::Waiting(request) if request.body.bytes.len() > COMPANY_BYTES_MAX => {
                *state = State::Waiting(request);
                return None;
            }
            State::Waiting(request) => Passwords::read(self.op, &request.body.bytes),
        };
        match read {
            Ok(Passwords::One(ask)) if ask.bcrypt_cost() == Some(cost) => {
                self.joined.notify_one();
                Some(ask)
            }
            other => {
                *state = State::Read(other);
                None
            }
        }
    }
}

/// All requests that wait or run.
#[derive(Debug)]
pub(crate) struct Desk {
    numbers: AtomicU64,
    tickets: Mutex<HashMap<u64, Arc<Ticket>>>,
    /// Of passwords, in the order of their coming.
    waiting: Mutex<VecDeque<Weak<Ticket>>>,
    threads: usize,
    /// Threads that run passwords now.
    busy: AtomicUsize,
    /// Passwords that were run in the company of another, since the start.
    shared: AtomicU64,
}

/// A caller's hold on its ticket. Dropped, it has left.
#[derive(Debug)]
pub(super) struct Place<'a> {
    desk: &'a Desk,
    pub(super) ticket: Arc<Ticket>,
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.ticket.gone.store(true, Ordering::Relaxed);
        drop(self.ticket.take()); // a body that nobody took is wiped now
        lock(&self.desk.tickets).remove(&self.ticket.number);
    }
}

/// A thread that runs passwords.
#[derive(Debug)]
pub(super) struct Busy<'a>(&'a AtomicUsize);

impl Drop for Busy<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Desk {
    pub(super) fn new(threads: u16) -> Self {
        Self {
            numbers: AtomicU64::new(1),
            tickets: Mutex::default(),
            waiting: Mutex::default(),
            threads: usize::from(threads),
            busy: AtomicUsize::new(0),
            shared: AtomicU64::new(0),
        }
    }

    pub(super) fn put(
        &self,
        op: Op,
        request: Request,
    ) -> Result<(Place<'_>, oneshot::Receiver<Told>), seal::SealError> {
        let mut secret = [0; 8];
        seal::random(&mut secret)?;
        let (tell, told) = oneshot::channel();
        let ticket = Arc::new(Ticket {
            op,
            number: self.numbers.fetch_add(1, Ordering::Relaxed),
            secret: u64::from_be_bytes(secret),
            state: Mutex::new(State::Waiting(request)),
            tell: Mutex::new(Some(tell)),
            gone: AtomicBool::new(false),
            joined: Notify::new(),
        });
        lock(&self.tickets).insert(ticket.number, Arc::clone(&ticket));
        if op.is_password() {
            let mut waiting = lock(&self.waiting);
            // What was run or left is swept away here, at the price of a look per newcomer.
            while waiting.front().is_some_and(is_over) {
                waiting.pop_front();
            }
            waiting.push_back(Arc::downgrade(&ticket));
        }
        Ok((Place { desk: self, ticket }, told))
    }

    /// The ticket that a payload names; `None` for one whose caller has left.
    pub(super) fn find(&self, payload: &[u8]) -> Option<Arc<Ticket>> {
        let (number, secret) = payload.get(1..PAYLOAD_BYTES)?.split_at_checked(8)?;
        let number = u64::from_be_bytes(number.try_into().ok()?);
        let secret = u64::from_be_bytes(secret.try_into().ok()?);
        let ticket = lock(&self.tickets).get(&number).cloned()?;
        (ticket.secret == secret).then_some(ticket)
    }

    /// Whether a payload is a ticket's, and not a body by itself.
    pub(super) fn is_ticket(payload: &[u8]) -> bool {
        payload.len() == PAYLOAD_BYTES && payload[0] == MARK
    }

    pub(super) fn busy(&self) -> Busy<'_> {
        self.busy.fetch_add(1, Ordering::Relaxed);
        Busy(&self.busy)
    }

    /// Passwords that wait for a thread and can share a run at this cost: at most three, and none
    /// that an idle thread is about to take.
    pub(super) fn company(&self, cost: u8) -> Vec<(Arc<Ticket>, Ask)> {
        let mut waiting = lock(&self.waiting);
        waiting.retain(|ticket| !is_over(ticket));
        let busy = self.busy.load(Ordering::Relaxed);
        let idle = self.threads.saturating_sub(busy);
        let most = waiting.len().saturating_sub(idle);
        let most = most.min(bcrypt::LANES_MAX - 1);
        let first = waiting.iter().take(COMPANY_LOOKS_MAX);
        let first: Vec<_> = first.filter_map(Weak::upgrade).collect();
        drop(waiting);
        let mut found = Vec::new();
        for ticket in first {
            if found.len() == most {
                break;
            }
            if let Some(ask) = ticket.join(cost) {
                found.push((ticket, ask));
            }
        }
        self.shared.fetch_add(found.len() as u64, Ordering::Relaxed);
        found
    }

    /// Passwords that were run in the company of another.
    pub(super) fn shared(&self) -> u64 {
        self.shared.load(Ordering::Relaxed)
    }

    #[cfg(test)]
    pub(super) fn is_empty(&self) -> bool {
        lock(&self.tickets).is_empty()
    }
}

fn is_over(ticket: &Weak<Ticket>) -> bool {
    let is_taken = |ticket: Arc<Ticket>| matches!(*lock(&ticket.state), State::Taken);
    ticket.upgrade().is_none_or(is_taken)
}

#[cfg(test)]
mod tests;
