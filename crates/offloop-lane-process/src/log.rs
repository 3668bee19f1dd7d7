//! What is kept of a child's output: the first and the last part, whatever it prints.

use bytes::Bytes;
use offloop_job::LogTail;
use offloop_job::limits::{LOG_HEAD_BYTES_MAX, LOG_TAIL_BYTES_MAX};

/// Lines of the log that a failure's message repeats.
const QUOTE_BYTES_MAX: usize = 1_024;

#[derive(Debug, Default)]
pub(crate) struct Log {
    head: Vec<u8>,
    tail: Vec<u8>,
    dropped: u64,
}

impl Log {
    pub(crate) fn push(&mut self, mut bytes: &[u8]) {
        #[cfg(feature = "sabotage")]
        if crate::sabotage::is("log") && self.tail.len() < crate::sabotage::LOG_BYTES {
            self.tail.extend_from_slice(bytes);
            return;
        }
        let room = LOG_HEAD_BYTES_MAX - self.head.len();
        if room > 0 {
            let (first, rest) = bytes.split_at(room.min(bytes.len()));
            self.head.extend_from_slice(first);
            bytes = rest;
        }
        if bytes.len() >= LOG_TAIL_BYTES_MAX {
            let skip = bytes.len() - LOG_TAIL_BYTES_MAX;
            self.dropped += (self.tail.len() + skip) as u64;
            self.tail.clear();
            bytes = &bytes[skip..];
        }
        self.tail.extend_from_slice(bytes);
        // Cut in large steps: moving 48 KiB for each short line would be quadratic.
        if self.tail.len() > 2 * LOG_TAIL_BYTES_MAX {
            self.cut();
        }
    }

    fn cut(&mut self) {
        #[cfg(feature = "sabotage")]
        if crate::sabotage::is("log") {
            return;
        }
        let over = self.tail.len().saturating_sub(LOG_TAIL_BYTES_MAX);
        self.tail.drain(..over);
        self.dropped += over as u64;
    }

    pub(crate) fn take(&mut self) -> LogTail {
        self.cut();
        let log = std::mem::take(self);
        LogTail {
            head: Bytes::from(log.head),
            tail: Bytes::from(log.tail),
            dropped_bytes: log.dropped,
        }
    }

    /// The end of it, for a message.
    pub(crate) fn quote(&self) -> String {
        let all = if self.tail.is_empty() {
            &self.head
        } else {
            &self.tail
        };
        let from = all.len().saturating_sub(QUOTE_BYTES_MAX);
        String::from_utf8_lossy(&all[from..]).trim().to_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_keeps_its_start_and_its_end_and_counts_the_rest() {
        for chunk in [1, 7, 4_096, 65_536, 200_000] {
            let text: Vec<u8> = (0..300_000_u32).map(|n| (n % 251) as u8).collect();
            let mut log = Log::default();
            text.chunks(chunk).for_each(|part| log.push(part));
            let kept = log.take();
            assert_eq!(kept.head, text[..LOG_HEAD_BYTES_MAX], "by {chunk}");
            assert_eq!(
                kept.tail,
                text[300_000 - LOG_TAIL_BYTES_MAX..],
                "by {chunk}"
            );
            let total = kept.head.len() + kept.tail.len() + kept.dropped_bytes as usize;
            assert_eq!(total, 300_000, "by {chunk}");
        }
    }
}
