//! Admission by predicted memory: conversions wait until theirs fits, however many threads there
//! are. Size on disk and count of photos say nothing; the header does.

use std::sync::{Condvar, Mutex, PoisonError};
use std::time::Duration;

/// Bytes that conversions may use together.
#[derive(Debug)]
pub(crate) struct Gate {
    total: u64,
    used: Mutex<u64>,
    freed: Condvar,
}

/// How often a waiting conversion looks whether it should stop.
const LOOK: Duration = Duration::from_millis(50);

impl Gate {
    pub(crate) const fn new(total: u64) -> Self {
        Self {
            total,
            used: Mutex::new(0),
            freed: Condvar::new(),
        }
    }

    pub(crate) const fn total(&self) -> u64 {
        self.total
    }

    /// Waits for room. `None`: asked to stop. More than the whole is refused by the caller before.
    pub(crate) fn enter(&self, bytes: u64, should_stop: &dyn Fn() -> bool) -> Option<Pass<'_>> {
        let bytes = bytes.min(self.total);
        let mut used = self.used.lock().unwrap_or_else(PoisonError::into_inner);
        while *used + bytes > self.total {
            if should_stop() {
                return None;
            }
            let waited = self.freed.wait_timeout(used, LOOK);
            used = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
        *used += bytes;
        Some(Pass { gate: self, bytes })
    }
}

/// Room held; given back when dropped, also by a panic.
#[derive(Debug)]
pub(crate) struct Pass<'a> {
    gate: &'a Gate,
    bytes: u64,
}

impl Drop for Pass<'_> {
    fn drop(&mut self) {
        *self
            .gate
            .used
            .lock()
            .unwrap_or_else(PoisonError::into_inner) -= self.bytes;
        self.gate.freed.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU64, Ordering};

    #[test]
    fn conversions_together_never_pass_the_budget() {
        let gate = Arc::new(Gate::new(100));
        let (now, most) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
        let threads: Vec<_> = (0..8_u64)
            .map(|n| {
                let (gate, now, most) = (Arc::clone(&gate), Arc::clone(&now), Arc::clone(&most));
                std::thread::spawn(move || {
                    for turn in 0..200 {
                        let bytes = 20 + (n * 7 + turn) % 60;
                        let pass = gate.enter(bytes, &|| false).unwrap();
                        let held = now.fetch_add(bytes, Ordering::SeqCst) + bytes;
                        most.fetch_max(held, Ordering::SeqCst);
                        now.fetch_sub(bytes, Ordering::SeqCst);
                        drop(pass);
                    }
                })
            })
            .collect();
        for thread in threads {
            thread.join().unwrap();
        }
        assert!(most.load(Ordering::SeqCst) <= 100);
        assert_eq!(*gate.used.lock().unwrap(), 0);
    }

    #[test]
    fn a_conversion_that_waits_for_memory_can_be_stopped() {
        let gate = Gate::new(10);
        let _held = gate.enter(10, &|| false).unwrap();
        assert!(gate.enter(1, &|| true).is_none());
    }
}
