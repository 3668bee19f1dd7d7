//! The two files, on their thread. See [`super`].

use std::collections::HashMap;
use std::fs::{File, OpenOptions};
use std::io::{self, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, flock};

use super::notes::{Line, Notes};
use crate::load::LoadId;
use crate::rejects::sync_folder;
use crate::rows::Batch;
use crate::sink::json::JsonRows;
use crate::sink::{BatchNote, Resumed, Stored, Totals};

/// Encoded rows are written when there are so many bytes of them.
const WRITE_BYTES: usize = 256 << 10;

#[derive(Debug)]
pub(super) enum Cause {
    Io(io::Error),
    TakenOver,
    Locked,
    Shorter { len: u64, noted: u64 },
}

impl From<io::Error> for Cause {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

impl From<serde_json::Error> for Cause {
    fn from(error: serde_json::Error) -> Self {
        Self::Io(error.into())
    }
}

/// Whether rows could be written, without a trace.
pub(super) fn look(path: &Path) -> io::Result<()> {
    match OpenOptions::new().append(true).open(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => crate::sink::may_make(path),
        opened => opened.map(drop),
    }
}

#[derive(Debug)]
pub(super) struct NdjsonFile {
    path: PathBuf,
    open: Option<Open>,
    /// Number of the run that may write, by load.
    runs: HashMap<LoadId, u64>,
    begun: u64,
}

#[derive(Debug)]
struct Open {
    /// Locked, so that nobody else writes.
    rows: File,
    notes_file: File,
    notes: Notes,
    scratch: Vec<u8>,
}

impl NdjsonFile {
    pub(super) fn new(path: PathBuf) -> Self {
        Self {
            path,
            open: None,
            runs: HashMap::new(),
            begun: 0,
        }
    }

    /// Number of the new run, and what is stored.
    pub(super) fn take_over(&mut self, load: &LoadId) -> Result<(u64, Resumed), Cause> {
        if self.open.is_none() {
            self.open = Some(Open::at(&self.path)?);
        }
        let resumed = match &self.open {
            Some(open) => open.notes.of(load),
            None => Resumed::default(),
        };
        self.begun += 1;
        self.runs.insert(load.clone(), self.begun);
        Ok((self.begun, resumed))
    }

    pub(super) fn append(
        &mut self,
        load: &LoadId,
        run: u64,
        rows: &JsonRows,
        batch: &Batch,
        stored: Stored,
    ) -> Result<(), Cause> {
        let open = self.of(load, run)?;
        let done = open.append(load, rows, batch, stored);
        if done.is_err() {
            // What is on the disk now is not known: the next load reads it again.
            self.open = None;
        }
        done
    }

    pub(super) fn finish(&mut self, load: &LoadId, run: u64, totals: Totals) -> Result<(), Cause> {
        let open = self.of(load, run)?;
        let line = Line::finished(load.clone(), open.notes.len, totals);
        let done = open.note(line);
        if done.is_err() {
            self.open = None;
        }
        self.runs.remove(load);
        done
    }

    fn of(&mut self, load: &LoadId, run: u64) -> Result<&mut Open, Cause> {
        if self.runs.get(load) != Some(&run) {
            return Err(Cause::TakenOver);
        }
        match &mut self.open {
            Some(open) => Ok(open),
            None => Err(io::Error::other("an earlier write failed; begin the load again").into()),
        }
    }
}

impl Open {
    fn at(path: &Path) -> Result<Self, Cause> {
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).truncate(false);
        let rows = options.open(path)?;
        match flock(&rows, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(rustix::io::Errno::WOULDBLOCK) => return Err(Cause::Locked),
            Err(errno) => return Err(io::Error::from(errno).into()),
        }
        let len = rows.metadata()?.len();
        let notes_path = beside(path, ".notes");
        let notes = match std::fs::read(&notes_path) {
            Ok(text) => Notes::read(&text),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                // What stands there already, stays there.
                Notes::behind(len)
            }
            Err(error) => return Err(error.into()),
        };
        let noted = notes.len;
        if len < noted {
            return Err(Cause::Shorter { len, noted });
        }
        rows.set_len(noted)?;
        rows.sync_all()?;
        let fresh_path = beside(path, ".notes.new");
        let mut notes_file = File::create(&fresh_path)?;
        notes_file.write_all(&notes.text()?)?;
        notes_file.sync_all()?;
        std::fs::rename(&fresh_path, &notes_path)?;
        sync_folder(path)?;
        Ok(Self {
            rows,
            notes_file,
            notes,
            scratch: Vec::new(),
        })
    }

    fn append(
        &mut self,
        load: &LoadId,
        rows: &JsonRows,
        batch: &Batch,
        stored: Stored,
    ) -> Result<(), Cause> {
        self.rows.seek(SeekFrom::Start(self.notes.len))?;
        let mut len = self.notes.len;
        let out = &mut self.scratch;
        out.clear();
        for row in batch.rows() {
            rows.write(row, out);
            out.push(b'\n');
            if out.len() >= WRITE_BYTES {
                self.rows.write_all(out)?;
                len += out.len() as u64;
                out.clear();
            }
        }
        self.rows.write_all(out)?;
        len += out.len() as u64;
        self.rows.sync_data()?;
        self.note(Line::note(load.clone(), len, BatchNote::of(batch, stored)))
    }

    fn note(&mut self, line: Line) -> Result<(), Cause> {
        self.notes_file.write_all(&line.text()?)?;
        self.notes_file.sync_data()?;
        self.notes.add(line);
        Ok(())
    }
}

fn beside(path: &Path, ending: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(ending);
    name.into()
}
