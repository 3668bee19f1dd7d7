//! Answers to a bulk enqueue: one line per line, or one summary.

use offloop_job::JobId;
use serde::{Deserialize, Serialize};

use crate::problem::Problem;

/// What became of one line. One of `id`, `existing` and `error` is there.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BulkLine {
    /// 1 for the first line of the request; blank lines count.
    pub line: u64,
    /// As if the line had been sent alone: 201, 200 (was there already), 4xx, 5xx.
    pub status: u16,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
    /// The job that was there already, by its unique or its idempotency key.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub existing: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<Problem>,
}

/// The compact answer (`?answer=summary`).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct BulkSummary {
    pub accepted: u64,
    pub existing: u64,
    pub refused: u64,
    /// The first 100 refusals.
    pub errors: Vec<BulkErrors>,
}

/// One refused line of a summary.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BulkErrors {
    pub line: u64,
    pub error: Problem,
}

/// Appends `{"line":7,"status":201,"id":".."}` and a line's end.
pub fn write_created_line(out: &mut Vec<u8>, line: u64, id: JobId) {
    out.extend_from_slice(b"{\"line\":");
    write_number(out, line);
    out.extend_from_slice(b",\"status\":201,\"id\":\"");
    out.extend_from_slice(id.encode(&mut [0; 36]).as_bytes());
    out.extend_from_slice(b"\"}\n");
}

/// Appends any answer and a line's end.
pub fn write_line(out: &mut Vec<u8>, line: &BulkLine) {
    let _ = serde_json::to_writer(&mut *out, line); // a Vec takes everything
    out.push(b'\n');
}

pub(crate) fn write_number(out: &mut Vec<u8>, number: u64) {
    let mut text = [0_u8; 20];
    let (mut at, mut rest) = (text.len(), number);
    loop {
        at -= 1;
        text[at] = b'0' + (rest % 10) as u8;
        rest /= 10;
        if rest == 0 {
            break;
        }
    }
    out.extend_from_slice(&text[at..]);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_quick_line_is_the_line() {
        for line in [1, 10, 98_765, u64::MAX] {
            let id = JobId::from_parts(line >> 4, 7);
            let (mut quick, mut slow) = (Vec::new(), Vec::new());
            write_created_line(&mut quick, line, id);
            let answer = BulkLine {
                line,
                status: 201,
                id: Some(id.to_string()),
                existing: None,
                error: None,
            };
            write_line(&mut slow, &answer);
            assert_eq!(
                String::from_utf8(quick).unwrap(),
                String::from_utf8(slow).unwrap()
            );
        }
    }
}
