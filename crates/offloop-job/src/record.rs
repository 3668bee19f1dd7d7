//! Rows of a pack, kept beside the jobs so that both change in one commit.

use bytes::Bytes;

use crate::TaskName;
use crate::limits::{RECORD_KEY_BYTES_MAX, RECORD_VALUE_BYTES_MAX};

/// A pack's table: named like a task.
pub type Collection = TaskName;

/// What a row is found by, in byte order. At most 4,352 bytes.
pub type RecordKey = Bytes;

/// One row to write: as a whole, the last writer wins.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RecordWrite {
    pub collection: Collection,
    pub key: RecordKey,
    /// The row's status, which counts and lists go by. `None` deletes the row.
    pub label: Option<TaskName>,
    /// The pack's own encoding, at most 64 KiB.
    pub value: Bytes,
}

impl RecordWrite {
    /// What is wrong with it, if anything.
    pub fn problem(&self) -> Option<String> {
        if self.key.is_empty() || self.key.len() > RECORD_KEY_BYTES_MAX {
            return Some(format!(
                "a record's key has {} bytes; give 1 to {RECORD_KEY_BYTES_MAX}",
                self.key.len()
            ));
        }
        (self.value.len() > RECORD_VALUE_BYTES_MAX).then(|| {
            format!(
                "a record's value has {} bytes; the limit is {RECORD_VALUE_BYTES_MAX}",
                self.value.len()
            )
        })
    }
}
