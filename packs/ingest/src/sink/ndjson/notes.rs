//! The notes of an NDJSON file: one line for each batch, and one for each load that ended.
//!
//! Must never: believe a torn line.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::load::LoadId;
use crate::sink::{Note, Resumed, Totals};

/// Ended loads that are remembered: a load that is sent again within that many is not stored twice.
const ENDED_MAX: usize = 1_000;

/// One line.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Line {
    /// None in the first line, which holds the length alone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    load: Option<LoadId>,
    /// Length of the rows' file behind it.
    pub(super) len: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    note: Option<Note>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    finished: Option<Totals>,
}

impl Line {
    pub(super) fn note(load: LoadId, len: u64, note: Note) -> Self {
        Self {
            load: Some(load),
            len,
            note: Some(note),
            finished: None,
        }
    }

    pub(super) fn finished(load: LoadId, len: u64, totals: Totals) -> Self {
        Self {
            load: Some(load),
            len,
            note: None,
            finished: Some(totals),
        }
    }

    pub(super) fn text(&self) -> serde_json::Result<Vec<u8>> {
        let mut text = serde_json::to_vec(self)?;
        text.push(b'\n');
        Ok(text)
    }
}

/// All that the lines say.
#[derive(Debug, Default)]
pub(super) struct Notes {
    open: BTreeMap<LoadId, Vec<Line>>,
    /// In the order of their ends.
    ended: Vec<Line>,
    /// Of the rows' file, behind the last line.
    pub(super) len: u64,
}

impl Notes {
    /// No load yet, behind `len` bytes of rows that are nobody's.
    pub(super) fn behind(len: u64) -> Self {
        Self {
            len,
            ..Self::default()
        }
    }

    pub(super) fn read(text: &[u8]) -> Self {
        let mut notes = Self::default();
        for line in text.split_inclusive(|byte| *byte == b'\n') {
            let whole = line.ends_with(b"\n");
            match serde_json::from_slice::<Line>(line) {
                Ok(line) if whole => notes.add(line),
                // What follows a torn line was never answered for.
                _ => break,
            }
        }
        notes
    }

    pub(super) fn add(&mut self, line: Line) {
        self.len = self.len.max(line.len);
        let Some(load) = line.load.clone() else {
            return;
        };
        if line.finished.is_some() {
            self.open.remove(&load);
            self.ended.push(line);
            if self.ended.len() > ENDED_MAX {
                self.ended.remove(0);
            }
        } else {
            self.open.entry(load).or_default().push(line);
        }
    }

    pub(super) fn of(&self, load: &LoadId) -> Resumed {
        let ended = self
            .ended
            .iter()
            .rev()
            .find(|line| line.load.as_ref() == Some(load));
        let open = self.open.get(load).into_iter().flatten();
        Resumed {
            notes: open.filter_map(|line| line.note.clone()).collect(),
            finished: ended.and_then(|line| line.finished),
        }
    }

    /// As a file of lines, without what ended long ago. The first line holds the length, so that
    /// it survives the loads that made it, and stands before the first row is written.
    pub(super) fn text(&self) -> serde_json::Result<Vec<u8>> {
        let first = Line {
            load: None,
            len: self.len,
            note: None,
            finished: None,
        };
        let mut text = first.text()?;
        for line in self.ended.iter().chain(self.open.values().flatten()) {
            text.extend(line.text()?);
        }
        Ok(text)
    }
}
