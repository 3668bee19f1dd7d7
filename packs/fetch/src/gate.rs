//! How many calls and connections a process has at a time, over all its lists.
//!
//! Whoever waits for a place waits in one line, each list with one call at a time: so lists take turns, and one of
//! a million calls does not hold up one of ten.
//!
//! Must never: give a place to who comes while others wait, or count a connection that is closed.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};

use tokio::sync::{AcquireError, OwnedSemaphorePermit, Semaphore};

/// Most that may be configured: of ports to one address there are not more.
pub const CONNECTIONS_MAX: u32 = 60_000;

/// The places of a process.
#[derive(Debug)]
pub(crate) struct Gate {
    places: Arc<Semaphore>,
    pub(crate) most: usize,
    open: Arc<AtomicUsize>,
}

/// A call's place, given back when it is dropped.
pub(crate) type Seat = OwnedSemaphorePermit;

/// A connection that counts.
#[derive(Debug)]
pub(crate) struct Counted(Arc<AtomicUsize>);

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::AcqRel);
    }
}

impl Gate {
    pub(crate) fn new(most: u32) -> Self {
        let most = most.clamp(1, CONNECTIONS_MAX) as usize;
        Self {
            places: Arc::new(Semaphore::new(most)),
            most,
            open: Arc::default(),
        }
    }

    /// A place, if nobody waits for one.
    pub(crate) fn try_enter(&self) -> Option<Seat> {
        Arc::clone(&self.places).try_acquire_owned().ok()
    }

    /// Connections that are open now.
    pub(crate) fn open(&self) -> usize {
        self.open.load(Ordering::Acquire)
    }

    /// Counts a connection that is about to be made. `room`: closes some that lie idle, or says that there are
    /// none. As there is a place for each call under way, what is over the most is idle.
    pub(crate) fn count(&self, mut room: impl FnMut() -> bool) -> Counted {
        self.open.fetch_add(1, Ordering::AcqRel);
        let counted = Counted(Arc::clone(&self.open));
        while self.open() > self.most && room() {}
        counted
    }
}

type Waiting = Pin<Box<dyn Future<Output = Result<Seat, AcquireError>> + Send>>;

/// One list's place in the line.
#[derive(Default)]
pub(crate) struct Turn(Option<Waiting>);

impl Turn {
    /// A place, or one in the line for it.
    pub(crate) fn poll(&mut self, gate: &Gate, cx: &mut Context<'_>) -> Poll<Seat> {
        loop {
            match &mut self.0 {
                None => match gate.try_enter() {
                    Some(seat) => return Poll::Ready(seat),
                    None => self.0 = Some(Box::pin(Arc::clone(&gate.places).acquire_owned())),
                },
                Some(waiting) => match waiting.as_mut().poll(cx) {
                    Poll::Ready(Ok(seat)) => {
                        self.0 = None;
                        return Poll::Ready(seat);
                    }
                    // The gate is never closed while somebody holds it.
                    Poll::Ready(Err(_)) | Poll::Pending => return Poll::Pending,
                },
            }
        }
    }

    /// Leaves the line: there is nothing to begin.
    pub(crate) fn leave(&mut self) {
        self.0 = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_long_list_and_a_short_one_take_turns() {
        let gate = Gate::new(2);
        let held = [gate.try_enter().unwrap(), gate.try_enter().unwrap()];
        let (mut long, mut short) = (Turn::default(), Turn::default());
        let mut order = Vec::new();
        let mut seats: Vec<_> = held.into_iter().collect();
        let mut cx = Context::from_waker(std::task::Waker::noop());
        for _ in 0..20 {
            // Both want a place always; one is given back.
            for (name, turn) in [("long", &mut long), ("short", &mut short)] {
                if let Poll::Ready(seat) = turn.poll(&gate, &mut cx) {
                    order.push(name);
                    seats.push(seat);
                }
            }
            drop(seats.remove(0));
        }
        assert!(
            order.len() > 10 && order.windows(2).all(|two| two[0] != two[1]),
            "{order:?}"
        );
        long.leave();
        short.leave();
        seats.clear();
        assert!(gate.try_enter().is_some(), "who leaves holds nothing");
    }

    #[test]
    fn no_more_connections_are_open_than_may_be_while_some_lie_idle() {
        let gate = Gate::new(2);
        let mut idle = vec![gate.count(|| false), gate.count(|| false)];
        let used = gate.count(|| idle.pop().is_some());
        assert_eq!((gate.open(), idle.len()), (2, 1));
        drop(used);
        assert_eq!(gate.open(), 1);
    }
}
