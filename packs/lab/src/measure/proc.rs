//! What a server and its children hold, read from /proc: threads, memory, processor time.

use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use offloop::pulse::processes::{Process, tree};

/// Each look reads one small file for every process of the machine.
const EVERY: Duration = Duration::from_millis(200);

/// Processor time of a tree so far, to 10 ms.
pub(super) fn cpu_time(root: u32) -> Duration {
    let all = tree(root);
    all.iter()
        .map(|process| process.cpu + process.reaped_cpu)
        .sum()
}

/// The most that was seen at once.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Peak {
    pub(super) threads: u64,
    pub(super) rss_bytes: u64,
}

/// Looks at a tree five times a second until it is asked.
pub(super) struct Watch {
    stop: Sender<()>,
    thread: JoinHandle<Peak>,
}

impl Watch {
    pub(super) fn begin(root: u32) -> Self {
        let (stop, stopped) = channel();
        let thread = thread::spawn(move || look(root, &stopped));
        Self { stop, thread }
    }

    pub(super) fn end(self) -> Peak {
        drop(self.stop);
        self.thread.join().unwrap_or_default()
    }
}

fn look(root: u32, stopped: &Receiver<()>) -> Peak {
    let mut peak = Peak::default();
    loop {
        let now = tree(root);
        let sum = |of: fn(&Process) -> u64| now.iter().map(of).sum::<u64>();
        peak.threads = peak.threads.max(sum(|process| process.threads));
        peak.rss_bytes = peak.rss_bytes.max(sum(|process| process.resident_bytes));
        if stopped.recv_timeout(EVERY) != Err(RecvTimeoutError::Timeout) {
            return peak;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thread_more_is_seen() {
        let watch = Watch::begin(std::process::id());
        let before = watch.end();
        assert!(before.threads >= 1 && before.rss_bytes > 0, "{before:?}");
        let (stop, stopped) = channel::<()>();
        let more: Vec<_> = (0..16)
            .map(|_| thread::spawn(|| thread::park_timeout(Duration::from_secs(60))))
            .collect();
        drop((stop, stopped));
        let after = Watch::begin(std::process::id()).end();
        // Other tests of this process may have ended theirs meanwhile.
        assert!(after.threads + 8 >= before.threads, "{before:?} {after:?}");
        assert!(after.threads >= 16, "{after:?}");
        for thread in more {
            thread.thread().unpark();
            thread.join().unwrap();
        }
    }
}
