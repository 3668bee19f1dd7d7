//! For those who must not say that an attempt is over before it is on disk: the end of one lease,
//! told after its commit.
//!
//! Must never: hold up the keeper, or keep what nobody waits for any more.

use std::collections::HashMap;
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};

use offloop_job::Lease;
use offloop_store::Settled;
use tokio::sync::oneshot;

use crate::handle::RuntimeHandle;
use crate::keeper::Attempted;

type Waiters = HashMap<Lease, oneshot::Sender<Settled>>;

#[derive(Debug, Default)]
pub(crate) struct Awaited(Mutex<Waiters>);

impl Awaited {
    fn lock(&self) -> MutexGuard<'_, Waiters> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A batch was committed.
    pub(crate) fn tell(&self, batch: &[Attempted], settled: &[Settled]) {
        let mut waiters = self.lock();
        if waiters.is_empty() {
            return;
        }
        for (over, settled) in batch.iter().zip(settled) {
            if let Some(waiter) = waiters.remove(&over.claimed.lease) {
                let _ = waiter.send(*settled); // its caller hung up
            }
        }
    }
}

/// Resolves to what the store answered; `None` if the server ended before.
#[derive(Debug)]
pub struct AwaitedEnd {
    awaited: Arc<Awaited>,
    lease: Lease,
    told: oneshot::Receiver<Settled>,
}

impl AwaitedEnd {
    pub(crate) fn new(awaited: &Arc<Awaited>, lease: Lease) -> Self {
        let (tell, told) = oneshot::channel();
        awaited.lock().insert(lease, tell);
        Self {
            awaited: Arc::clone(awaited),
            lease,
            told,
        }
    }
}

impl RuntimeHandle {
    /// Resolves once the end of this attempt is committed. Ask for it before the lane is told of the
    /// end; dropped, it is forgotten.
    pub fn settled(&self, lease: Lease) -> AwaitedEnd {
        AwaitedEnd::new(&self.0.settled, lease)
    }
}

impl Future for AwaitedEnd {
    type Output = Option<Settled>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Settled>> {
        Pin::new(&mut self.told).poll(cx).map(Result::ok)
    }
}

impl Drop for AwaitedEnd {
    fn drop(&mut self) {
        // A later asker for the same lease may have taken its place: that one is not closed.
        let mut waiters = self.awaited.lock();
        self.told.close();
        if waiters
            .get(&self.lease)
            .is_some_and(oneshot::Sender::is_closed)
        {
            waiters.remove(&self.lease);
        }
    }
}
