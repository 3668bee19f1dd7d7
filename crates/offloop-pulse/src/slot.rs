//! What each thread is doing: one word per thread, written by it, read by the pulse.
//!
//! A word holds the name and the start of the poll, so that a reader never sees one poll's name
//! with another's start. Marks nest: the inner one shows until it ends.
//!
//! Must never: lock or allocate in a poll that is short.

use std::cell::Cell;
use std::future::poll_fn;
use std::marker::PhantomData;
use std::pin::pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, LazyLock, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::runtime::{Handle, Id};

use crate::name::Name;
use crate::{polls, sched};

/// Low bits of a word: the name. The others: microseconds since [`EPOCH`], enough for 8 years.
const NAME_BITS: u32 = 16;

static EPOCH: LazyLock<Instant> = LazyLock::new(Instant::now);
static SLOTS: Mutex<Vec<Arc<Slot>>> = Mutex::new(Vec::new());

/// One thread's word.
#[derive(Debug)]
pub(crate) struct Slot {
    word: AtomicU64,
    /// The kernel's number of the thread.
    thread: u32,
    /// How long it had waited for a processor before the poll under way began, in nanoseconds; the
    /// pulse writes it.
    waited_before: AtomicU64,
    /// The runtime that this thread works for; set rarely.
    home: Mutex<Option<Id>>,
}

impl Slot {
    fn new() -> Self {
        Self {
            word: AtomicU64::new(0),
            thread: rustix::thread::gettid()
                .as_raw_nonzero()
                .get()
                .unsigned_abs(),
            waited_before: AtomicU64::new(0),
            home: Mutex::new(None),
        }
    }

    pub(crate) fn thread(&self) -> u32 {
        self.thread
    }

    pub(crate) fn word(&self) -> u64 {
        self.word.load(Ordering::Acquire)
    }

    pub(crate) fn set_waited_before(&self, nanos: u64) {
        self.waited_before.store(nanos, Ordering::Relaxed);
    }

    pub(crate) fn home(&self) -> Option<Id> {
        *lock(&self.home)
    }
}

/// A poll that is under way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Doing {
    pub(crate) home: Id,
    pub(crate) name: Name,
    /// Since it began.
    pub(crate) age: Duration,
    /// Of which its thread may have waited for a processor.
    pub(crate) waited: Duration,
    /// Tells this poll from every other one: its thread and its word.
    pub(crate) key: (usize, u64),
}

/// The thread's own end of its slot.
struct Local {
    slot: Arc<Slot>,
    home: Cell<Option<Id>>,
}

thread_local! {
    static LOCAL: Local = Local::new();
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn micros_now() -> u64 {
    EPOCH.elapsed().as_micros() as u64
}

impl Local {
    fn new() -> Self {
        let slot = Arc::new(Slot::new());
        lock(&SLOTS).push(Arc::clone(&slot));
        let local = Self {
            slot,
            home: Cell::new(None),
        };
        local.live_in(Handle::try_current().ok().map(|handle| handle.id()));
        local
    }

    fn live_in(&self, home: Option<Id>) {
        if self.home.get() != home {
            self.home.set(home);
            *lock(&self.slot.home) = home;
        }
    }
}

impl Drop for Local {
    fn drop(&mut self) {
        lock(&SLOTS).retain(|slot| !Arc::ptr_eq(slot, &self.slot));
    }
}

/// This thread works for that runtime: what a no-op tells when it runs.
pub(crate) fn at_home(id: Id) {
    let _ = LOCAL.try_with(|local| local.live_in(Some(id))); // the thread ends
}

/// A marked stretch of code on this thread, until it is dropped.
#[derive(Debug)]
#[must_use = "the mark ends when this is dropped"]
pub struct Entered {
    name: Name,
    began: u64,
    before: u64,
    // A mark belongs to its thread.
    _not_send: PhantomData<*const ()>,
}

/// Marks code that runs on a loop without a pause. About 50 ns, together with its end.
pub fn enter(name: Name) -> Entered {
    let began = micros_now();
    let word = (began << NAME_BITS) | u64::from(name.number());
    let before = LOCAL.try_with(|local| local.slot.word.swap_own(word));
    Entered {
        name,
        began,
        before: before.unwrap_or(0),
        _not_send: PhantomData,
    }
}

/// A swap of a word that one thread alone writes: a load and a store, without a bus lock.
trait SwapOwn {
    fn swap_own(&self, word: u64) -> u64;
}

impl SwapOwn for AtomicU64 {
    fn swap_own(&self, word: u64) -> u64 {
        let before = self.load(Ordering::Relaxed);
        self.store(word, Ordering::Release);
        before
    }
}

impl Drop for Entered {
    fn drop(&mut self) {
        let took = micros_now().saturating_sub(self.began);
        let home = LOCAL.try_with(|local| {
            local.slot.word.swap_own(self.before);
            local.home.get()
        });
        if took >= polls::LONG_US
            && let Ok(Some(home)) = home
        {
            was_long(home, self.name, took);
        }
    }
}

/// Marks every poll of a future.
pub async fn doing<F: Future>(name: Name, future: F) -> F::Output {
    let mut future = pin!(future);
    poll_fn(|context| {
        let _entered = enter(name);
        future.as_mut().poll(context)
    })
    .await
}

/// Notes a poll, unless the time may have gone by while its thread waited for a processor.
#[cold]
fn was_long(home: Id, name: Name, took_us: u64) {
    let before = LOCAL.try_with(|local| local.slot.waited_before.load(Ordering::Relaxed));
    let waited = sched::waited_here().unwrap_or(0);
    let waited_us = waited.saturating_sub(before.unwrap_or(0)) / 1_000;
    if took_us.saturating_sub(waited_us) >= polls::LONG_US {
        polls::note(home, name, Duration::from_micros(took_us), Instant::now());
    }
}

/// The threads of loops, and what they do.
#[derive(Debug, Default)]
pub(crate) struct Threads {
    slots: Vec<(Arc<Slot>, bool)>,
    sched: sched::Threads,
}

impl Threads {
    /// Looks at all threads of these loops; with each, whether it has a silent worker. Answers
    /// their polls under way.
    pub(crate) fn look(&mut self, loops: &[(Id, bool)]) -> Vec<Doing> {
        self.slots.clear();
        for slot in lock(&SLOTS).iter() {
            let mine = slot.home();
            let mine = loops.iter().find(|(home, _)| Some(*home) == mine);
            if let Some((_, silent)) = mine {
                self.slots.push((Arc::clone(slot), *silent));
            }
        }
        let now = micros_now();
        self.sched.look(&self.slots, now * 1_000);
        let slots = self.slots.iter();
        slots
            .filter_map(|(slot, _)| self.doing(slot, now))
            .collect()
    }

    fn doing(&self, slot: &Arc<Slot>, now: u64) -> Option<Doing> {
        let word = slot.word();
        let age = Duration::from_micros(now.saturating_sub(word >> NAME_BITS));
        Some(Doing {
            home: slot.home()?,
            name: Name::from_number(word as u16)?,
            age,
            waited: self.sched.waited(slot, now * 1_000).min(age),
            key: (Arc::as_ptr(slot) as usize, word),
        })
    }

    /// At most so long one of a loop's threads has waited for a processor since the loop fell silent.
    pub(crate) fn waited_silent(&self, home: Id) -> Duration {
        let now = micros_now() * 1_000;
        let mine = self
            .slots
            .iter()
            .filter(|(slot, _)| slot.home() == Some(home));
        let waited = mine.map(|(slot, _)| self.sched.waited_silent(slot, now));
        waited.max().unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn runtime() -> tokio::runtime::Runtime {
        tokio::runtime::Builder::new_current_thread()
            .build()
            .unwrap()
    }

    fn mine(home: Id) -> Vec<String> {
        let found = Threads::default().look(&[(home, false)]);
        found
            .iter()
            .map(|doing| doing.name.text().to_string())
            .collect()
    }

    #[test]
    fn the_inner_mark_shows_until_it_ends_and_then_the_outer_one() {
        let runtime = runtime();
        let id = runtime.handle().id();
        runtime.block_on(async {
            let outer = enter(Name::section("outer"));
            assert_eq!(mine(id), ["outer"]);
            {
                let _inner = enter(Name::section("inner"));
                assert_eq!(mine(id), ["inner"]);
            }
            assert_eq!(mine(id), ["outer"]);
            drop(outer);
            assert!(mine(id).is_empty());
        });
    }

    #[test]
    fn a_future_is_marked_in_its_polls_and_not_between_them() {
        let runtime = runtime();
        let id = runtime.handle().id();
        let seen = runtime.block_on(doing(Name::section("polled"), async {
            let first = mine(id);
            tokio::task::yield_now().await;
            (first, mine(id))
        }));
        assert_eq!(seen.0, ["polled"]);
        assert_eq!(seen.1, ["polled"]);
        assert!(mine(id).is_empty());
    }

    #[test]
    fn a_panic_takes_its_mark_along() {
        let runtime = runtime();
        let id = runtime.handle().id();
        runtime.block_on(async {
            let joined = tokio::spawn(doing(Name::section("panics"), async { panic!("boom") }));
            assert!(joined.await.is_err());
        });
        assert!(mine(id).is_empty());
    }

    #[test]
    fn a_thread_that_ended_leaves_nothing_behind() {
        let count = || {
            lock(&SLOTS)
                .iter()
                .filter(|slot| slot.word.load(Ordering::Relaxed) == u64::MAX)
                .count()
        };
        std::thread::spawn(move || {
            drop(enter(Name::section("short")));
            LOCAL.with(|local| local.slot.word.store(u64::MAX, Ordering::Relaxed));
            assert_eq!(count(), 1);
        })
        .join()
        .unwrap();
        assert_eq!(count(), 0);
    }

    #[test]
    fn a_thread_without_a_loop_blocks_none() {
        std::thread::spawn(|| {
            let _entered = enter(Name::section("no loop here"));
            let slot = LOCAL.with(|local| Arc::clone(&local.slot));
            assert!(slot.word() != 0 && slot.home().is_none());
        })
        .join()
        .unwrap();
    }
}
