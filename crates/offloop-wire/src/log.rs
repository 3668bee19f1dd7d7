//! The end of an attempt's output, for screens that show many.

use offloop_job::LogTail;

const LINES_MAX: usize = 10;
const BYTES_MAX: usize = 2 << 10;

/// The last lines that are on record, as text. One that is longer than [`BYTES_MAX`] is shown by
/// its end.
pub(crate) fn last_lines(log: &LogTail) -> Vec<String> {
    let end = &log.tail[log.tail.len().saturating_sub(BYTES_MAX)..];
    let mut bytes = Vec::with_capacity(BYTES_MAX);
    // What is between the two parts is not kept: the start is then no neighbour of the end.
    if log.dropped_bytes == 0 || end.is_empty() {
        let room = BYTES_MAX - end.len();
        bytes.extend_from_slice(&log.head[log.head.len().saturating_sub(room)..]);
    }
    bytes.extend_from_slice(end);
    let cut = bytes.len() < log.head.len() + log.tail.len();
    let text = String::from_utf8_lossy(&bytes);
    let mut lines: Vec<&str> = text.lines().collect();
    if cut && lines.len() > 1 {
        lines.remove(0); // its start is missing
    }
    let first = lines.len().saturating_sub(LINES_MAX);
    lines[first..]
        .iter()
        .map(|line| (*line).to_owned())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn log(head: &str, tail: &str, dropped_bytes: u64) -> LogTail {
        LogTail {
            head: head.to_owned().into(),
            tail: tail.to_owned().into(),
            dropped_bytes,
        }
    }

    #[test]
    fn the_last_lines_are_whole_and_few() {
        let long = "x".repeat(3_000);
        let many: Vec<_> = (0..40).map(|n| format!("line {n}")).collect();
        let rows: [(LogTail, Vec<&str>); 7] = [
            (log("", "", 0), vec![]),
            (log("a\nb\n", "", 0), vec!["a", "b"]),
            (log("a\nb", "c\nd\n", 0), vec!["a", "bc", "d"]),
            (log("a\nb", "c\nd\n", 7), vec!["d"]),
            (log(&format!("{long}\nend"), "", 0), vec!["end"]),
            (log(&long, "", 0), vec![&long[..BYTES_MAX]]),
            (log("\u{fffd}", "", 0), vec!["\u{fffd}"]),
        ];
        for (log, want) in rows {
            assert_eq!(last_lines(&log), want, "{log:?}");
        }
        let last = last_lines(&log(&many.join("\n"), "", 0));
        assert_eq!(
            (last.len(), &*last[0], &*last[9]),
            (10, "line 30", "line 39")
        );
        let broken = LogTail {
            head: vec![0xff, b'\n', 0xc5].into(),
            ..LogTail::default()
        };
        assert_eq!(last_lines(&broken), ["\u{fffd}", "\u{fffd}"]);
    }
}
