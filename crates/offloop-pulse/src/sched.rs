//! How long threads waited for a processor: time that a poll took and its code did not.
//!
//! On a machine that is overloaded every poll looks long. What the kernel counts as waiting in its
//! run queue (`/proc/PID/task/TID/schedstat`, second field; the kernel's `scheduler/sched-stats.rst`)
//! is taken off, so that code is not blamed for its neighbours.

use std::collections::HashMap;
use std::fs::File;
use std::io::Read as _;
use std::os::unix::fs::FileExt as _;
use std::sync::Arc;
use std::time::Duration;

use crate::slot::Slot;

/// Processor time and time in the run queue, both since the thread began.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Sched {
    ran_ns: u64,
    waited_ns: u64,
}

fn parse(text: &[u8]) -> Option<Sched> {
    let text = std::str::from_utf8(text).ok()?;
    let mut words = text.split_ascii_whitespace();
    Some(Sched {
        ran_ns: words.next()?.parse().ok()?,
        waited_ns: words.next()?.parse().ok()?,
    })
}

/// Of the calling thread; `None` where the kernel does not count it.
pub(crate) fn waited_here() -> Option<u64> {
    let mut text = [0; 96];
    let len = File::open("/proc/thread-self/schedstat")
        .and_then(|mut file| file.read(&mut text))
        .ok()?;
    Some(parse(&text[..len])?.waited_ns)
}

/// One thread as it was at the last look.
#[derive(Debug)]
struct Thread {
    seen: Sched,
    word: u64,
    /// Time in the run queue before the poll that is under way began.
    before_ns: u64,
    /// The same before its loop fell silent.
    before_silence_ns: u64,
    /// It waits for a processor at this moment, and since the last look at least.
    waits_since_ns: Option<u64>,
}

/// The threads of all loops.
#[derive(Debug, Default)]
pub(crate) struct Threads(HashMap<u32, (Option<File>, Thread)>);

impl Threads {
    /// Looks at threads; with each, whether its loop has a silent worker. `now_ns` counts from any
    /// start.
    pub(crate) fn look(&mut self, slots: &[(Arc<Slot>, bool)], now_ns: u64) {
        self.0
            .retain(|thread, _| slots.iter().any(|(slot, _)| slot.thread() == *thread));
        for (slot, silent) in slots {
            let word = slot.word();
            let id = slot.thread();
            let (file, thread) = self.0.entry(id).or_insert_with(|| {
                let file = File::open(format!("/proc/self/task/{id}/schedstat")).ok();
                let seen = file.as_ref().and_then(read).unwrap_or_default();
                (file, Thread::new(seen, word))
            });
            if let Some(now) = file.as_ref().and_then(read) {
                thread.turn(now, word, *silent, now_ns, || is_runnable(id));
            }
            slot.set_waited_before(thread.before_ns);
        }
    }

    /// At most so long the thread's poll under way has waited for a processor.
    pub(crate) fn waited(&self, slot: &Slot, now_ns: u64) -> Duration {
        let thread = self.0.get(&slot.thread());
        thread.map_or(Duration::ZERO, |(_, thread)| {
            thread.since(thread.before_ns, now_ns)
        })
    }

    /// At most so long the thread has since its loop fell silent.
    pub(crate) fn waited_silent(&self, slot: &Slot, now_ns: u64) -> Duration {
        let thread = self.0.get(&slot.thread());
        thread.map_or(Duration::ZERO, |(_, thread)| {
            thread.since(thread.before_silence_ns, now_ns)
        })
    }
}

fn read(file: &File) -> Option<Sched> {
    let mut text = [0; 96];
    let len = file.read_at(&mut text, 0).ok()?;
    parse(&text[..len])
}

impl Thread {
    fn new(seen: Sched, word: u64) -> Self {
        Self {
            seen,
            word,
            before_ns: seen.waited_ns,
            before_silence_ns: seen.waited_ns,
            waits_since_ns: None,
        }
    }

    fn since(&self, before_ns: u64, now_ns: u64) -> Duration {
        let still = self
            .waits_since_ns
            .map_or(0, |since| now_ns.saturating_sub(since));
        Duration::from_nanos(self.seen.waited_ns.saturating_sub(before_ns) + still)
    }

    fn turn(
        &mut self,
        now: Sched,
        word: u64,
        silent: bool,
        now_ns: u64,
        is_runnable: impl FnOnce() -> bool,
    ) {
        if !silent {
            self.before_silence_ns = now.waited_ns;
        }
        if word == 0 {
            self.before_ns = now.waited_ns;
        } else if word != self.word {
            // It began after the last look.
            self.before_ns = self.seen.waited_ns;
        }
        // The kernel adds a wait up when it ends. Until then: at rest, and not asleep.
        let rests = (silent || word != 0) && word == self.word && now == self.seen;
        self.waits_since_ns = match self.waits_since_ns {
            _ if !rests || !is_runnable() => None,
            Some(since) => Some(since),
            None => Some(now_ns),
        };
        (self.seen, self.word) = (now, word);
    }
}

/// Running or waiting for a processor; not asleep and not in a call that waits.
fn is_runnable(id: u32) -> bool {
    let mut text = [0; 128];
    let read =
        File::open(format!("/proc/self/task/{id}/stat")).and_then(|mut file| file.read(&mut text));
    let text = &text[..read.unwrap_or(0)];
    // The name in brackets may hold anything; the state follows the last one.
    let close = text.iter().rposition(|byte| *byte == b')');
    close.is_some_and(|at| text.get(at + 2) == Some(&b'R'))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn this_thread_can_tell_unless_the_kernel_does_not_count() {
        if std::path::Path::new("/proc/thread-self/schedstat").exists() {
            assert!(waited_here().is_some());
        }
        assert!(is_runnable(
            rustix::thread::gettid().as_raw_nonzero().get() as u32
        ));
    }

    #[test]
    fn a_wait_counts_for_the_poll_that_it_fell_into() {
        const MS: u64 = 1_000_000;
        let sched = |ran: u64, waited: u64| Sched {
            ran_ns: ran * MS,
            waited_ns: waited * MS,
        };
        // At ms, ran ms, waited ms, word, runnable; then: waited ms of the poll under way at most.
        let rows = [
            (0, 1, 100, 0, false, 0),
            (20, 5, 100, 7, true, 0),    // began since the last look
            (40, 15, 110, 7, true, 10),  // the same poll
            (60, 15, 110, 7, true, 10),  // gets nothing since this look
            (100, 15, 110, 7, true, 50), // nor until here
            (120, 16, 169, 7, true, 69), // the kernel has added it up
            (140, 30, 170, 8, true, 1),  // another poll: what came before it is not its own
            (160, 30, 170, 8, false, 1), // sleeps in a call: its own fault
            (200, 30, 170, 8, false, 1),
            (220, 31, 170, 0, false, 0),
        ];
        let mut thread = Thread::new(sched(1, 100), 0);
        for (at, ran, waited, word, runnable, want) in rows {
            thread.turn(sched(ran, waited), word, false, at * MS, || runnable);
            let got = thread.since(thread.before_ns, at * MS);
            assert_eq!(got, Duration::from_millis(want), "at {at} ms");
        }
    }

    proptest! {
        #[test]
        fn odd_files_are_no_panic(text in prop::collection::vec(any::<u8>(), 0..100)) {
            let _ = parse(&text);
        }

        #[test]
        fn what_the_kernel_writes_is_read(ran: u64, waited: u64, slices: u64) {
            let text = format!("{ran} {waited} {slices}\n");
            let sched = Sched { ran_ns: ran, waited_ns: waited };
            prop_assert_eq!(parse(text.as_bytes()), Some(sched));
        }
    }
}
