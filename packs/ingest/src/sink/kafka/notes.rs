//! The notes of a load into a topic: a file of its own, one line for each batch that the broker has.
//!
//! A topic has no commit that a note could share. So a note is written when the last report of its
//! batch came, and a crash before it costs messages that come twice, never one that does not come.
//!
//! Must never: believe a torn line; be written by two processes at once.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, flock};
use serde::{Deserialize, Serialize};

use crate::load::LoadId;
use crate::rejects::sync_folder;
use crate::sink::{Note, Resumed, Totals};

/// Files of loads that are kept; the oldest go.
const FILES_MAX: usize = 4_096;
const SUFFIX: &str = ".notes";

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Line {
    Begun {
        topic: String,
    },
    Note(Note),
    /// Where the topic of dead letters ended before the load's first: (partition, offset).
    Dead(Vec<(i32, i64)>),
    Finished(Totals),
}

/// One load's, locked while it is open.
#[derive(Debug)]
pub(super) struct Notes {
    file: File,
    path: PathBuf,
}

/// Why notes cannot be had.
#[derive(Debug)]
pub(super) enum NotesError {
    /// Another process has them.
    Locked,
    /// They are about another topic.
    Topic(String),
    Io(io::Error),
}

impl From<io::Error> for NotesError {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

/// What notes say.
#[derive(Debug)]
pub(super) struct Found {
    pub(super) notes: Notes,
    pub(super) resumed: Resumed,
    /// Where the dead letters ended before the load's first; `None`: it has none.
    pub(super) dead: Option<Vec<(i32, i64)>>,
}

impl Notes {
    /// Those of `load` in `folder`, which are made if there are none.
    pub(super) fn open(folder: &Path, load: &LoadId, topic: &str) -> Result<Found, NotesError> {
        let path = folder.join(format!("{load}{SUFFIX}"));
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).truncate(false);
        let mut file = options.open(&path)?;
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(rustix::io::Errno::WOULDBLOCK) => return Err(NotesError::Locked),
            Err(errno) => return Err(io::Error::from(errno).into()),
        }
        let mut text = Vec::new();
        file.read_to_end(&mut text)?;
        let (mut resumed, mut dead, mut whole) = (Resumed::default(), None, 0);
        for line in text.split_inclusive(|byte| *byte == b'\n') {
            let is_whole = line.ends_with(b"\n");
            match serde_json::from_slice(line) {
                // A crash's.
                _ if !is_whole => break,
                Err(_) => break,
                Ok(Line::Begun { topic: was }) if was != topic => {
                    return Err(NotesError::Topic(was));
                }
                Ok(Line::Begun { .. }) => {}
                Ok(Line::Dead(ends)) => dead = dead.or(Some(ends)),
                Ok(Line::Note(note)) => resumed.notes.push(note),
                Ok(Line::Finished(totals)) => resumed.finished = Some(totals),
            }
            whole += line.len() as u64;
        }
        file.set_len(whole)?;
        file.seek(SeekFrom::Start(whole))?;
        sync_folder(&path)?;
        let mut notes = Self { file, path };
        if whole == 0 {
            notes.write(&Line::Begun {
                topic: topic.to_owned(),
            })?;
        }
        Ok(Found {
            notes,
            resumed,
            dead,
        })
    }

    /// Before the first dead letter of the load.
    pub(super) fn dead(&mut self, ends: Vec<(i32, i64)>) -> io::Result<()> {
        self.write(&Line::Dead(ends))
    }

    /// Behind the last report of the batch.
    pub(super) fn note(&mut self, note: Note) -> io::Result<()> {
        self.write(&Line::Note(note))
    }

    /// Leaves the totals alone.
    pub(super) fn finish(&mut self, topic: &str, totals: Totals) -> io::Result<()> {
        self.write(&Line::Finished(totals))?;
        let lines = [
            Line::Begun {
                topic: topic.to_owned(),
            },
            Line::Finished(totals),
        ];
        let mut text = Vec::new();
        for line in &lines {
            serde_json::to_writer(&mut text, line)?;
            text.push(b'\n');
        }
        let beside = self.path.with_extension("new");
        let mut fresh = File::create(&beside)?;
        fresh.write_all(&text)?;
        fresh.sync_data()?;
        std::fs::rename(&beside, &self.path)?;
        sync_folder(&self.path)
    }

    fn write(&mut self, line: &Line) -> io::Result<()> {
        let mut text = serde_json::to_vec(line)?;
        text.push(b'\n');
        self.file.write_all(&text)?;
        self.file.sync_data()
    }
}

/// Drops the files of the loads that were written to the longest ago.
pub(super) fn prune(folder: &Path) -> io::Result<()> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(folder)? {
        let entry = entry?;
        let path = entry.path();
        if path
            .extension()
            .is_some_and(|end| end == "notes" || end == "new")
        {
            files.push((entry.metadata()?.modified()?, path));
        }
    }
    let Some(over) = files.len().checked_sub(FILES_MAX).filter(|over| *over > 0) else {
        return Ok(());
    };
    files.sort();
    for (_, path) in &files[..over] {
        std::fs::remove_file(path)?;
    }
    Ok(())
}
