//! The reject file of a load: one line of JSON for each refused row, exactly once, whatever crashes.
//!
//! A batch's lines are written and flushed before the batch is committed. So at any crash each
//! committed batch has its lines, and lines whose record is not in a committed range are leftovers
//! of a batch that will be read again: [`RejectLog::open`] drops those.
//!
//! Must never: hold lines back behind a commit; keep two lines of one record.

use std::borrow::Cow;
use std::collections::HashMap;
use std::fmt;
use std::fs::{File, OpenOptions};
use std::io::{self, BufRead, BufReader, BufWriter, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use serde::{Deserialize, Serialize};

use crate::rows::{Batch, RAW_BYTES_MAX, Reject, Row};
use crate::sink::{Hand, Ranges};

/// A row that passed the reader and was refused by the place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SinkReject {
    pub row: u64,
    pub offset: u64,
    /// Where the place names one.
    pub column: Option<String>,
    /// In the place's own words.
    pub message: String,
    /// Its fields, written again, the first [`RAW_BYTES_MAX`] bytes.
    pub raw: Vec<u8>,
    pub raw_bytes: u64,
}

impl SinkReject {
    /// `message` about `row`.
    pub fn of(row: Row<'_>, column: Option<String>, message: impl Into<String>) -> Self {
        let (mut raw, mut raw_bytes) = (Vec::new(), 0);
        for (at, field) in row.fields().enumerate() {
            let field = field.unwrap_or_default();
            let quoted = field.iter().any(|byte| b",\"\r\n".contains(byte));
            let mut put = |bytes: &[u8]| {
                raw_bytes += bytes.len() as u64;
                let room = RAW_BYTES_MAX.saturating_sub(raw.len());
                raw.extend_from_slice(&bytes[..bytes.len().min(room)]);
            };
            if at > 0 {
                put(b",");
            }
            if quoted {
                put(b"\"");
                for (part, text) in field.split(|byte| *byte == b'"').enumerate() {
                    if part > 0 {
                        put(b"\"\"");
                    }
                    put(text);
                }
                put(b"\"");
            } else {
                put(field);
            }
        }
        Self {
            row: row.number(),
            offset: row.offset(),
            column,
            message: message.into(),
            raw,
            raw_bytes,
        }
    }
}

impl fmt::Display for SinkReject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "row {} (byte {})", self.row, self.offset)?;
        if let Some(column) = &self.column {
            write!(f, ", column `{column}`")?;
        }
        write!(f, ": {}", self.message)
    }
}

/// The same line as [`Reject`]'s, with the reason `sink`.
#[derive(Serialize)]
struct SinkLine<'a> {
    row: u64,
    offset: u64,
    column: Option<&'a str>,
    reason: &'static str,
    message: &'a str,
    raw: Cow<'a, str>,
    raw_bytes: u64,
}

/// What a line is known by.
#[derive(Deserialize)]
struct Known {
    offset: u64,
}

/// One load's reject file. Cheap to clone.
#[derive(Debug, Clone)]
pub struct RejectLog {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    path: PathBuf,
    hand: Hand<()>,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// Opened by the first reject.
    file: Option<File>,
    /// Where the lines of batches lie that were kept and not yet told to be committed.
    kept: HashMap<(u64, u64), (u64, u64)>,
    /// There are lines that a later try of their batch replaced: empty now.
    has_blanks: bool,
}

impl RejectLog {
    /// The file `path`, which need not exist, cleared of what is in no stored range. Writes happen
    /// on `hand`'s thread.
    pub async fn open(path: PathBuf, stored: Ranges, hand: Hand<()>) -> io::Result<Self> {
        let inner = Arc::new(Inner {
            path,
            hand: hand.clone(),
            state: Mutex::default(),
        });
        let there = Arc::clone(&inner);
        ask(&hand, move || there.settle(&stored)).await?;
        Ok(Self { inner })
    }

    /// Exists once a row was refused.
    pub fn path(&self) -> &Path {
        &self.inner.path
    }

    /// Writes the lines of `batch`, the reader's and `more`, and flushes them to the disk.
    pub(crate) async fn keep(&self, batch: Arc<Batch>, more: Vec<SinkReject>) -> io::Result<()> {
        let range = (batch.from(), batch.to());
        let was_kept = self.inner.lock().kept.contains_key(&range);
        if batch.rejects().is_empty() && more.is_empty() && !was_kept {
            return Ok(());
        }
        let inner = Arc::clone(&self.inner);
        ask(&self.inner.hand, move || {
            inner.write(range, batch.rejects(), &more)
        })
        .await
    }

    /// The batch is committed: its lines stay.
    pub(crate) fn committed(&self, from: u64, to: u64) {
        self.inner.lock().kept.remove(&(from, to));
    }

    /// The load ends or pauses: drops the lines of batches that were not committed.
    pub(crate) async fn close(&self, stored: Ranges) -> io::Result<()> {
        let is_clean = {
            let state = self.inner.lock();
            !state.has_blanks && state.kept.is_empty()
        };
        if is_clean {
            return Ok(());
        }
        let inner = Arc::clone(&self.inner);
        ask(&self.inner.hand, move || inner.settle(&stored)).await
    }
}

async fn ask(
    hand: &Hand<()>,
    deed: impl FnOnce() -> io::Result<()> + Send + 'static,
) -> io::Result<()> {
    let done = hand.ask(move |()| deed()).await;
    done.unwrap_or_else(|_| Err(io::Error::other("the writer's thread has ended")))
}

impl Inner {
    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self, range: (u64, u64), refused: &[Reject], more: &[SinkReject]) -> io::Result<()> {
        let lines = lines(refused, more)?;
        let mut state = self.lock();
        let before = state.kept.remove(&range);
        if state.file.is_none() {
            let mut open = OpenOptions::new();
            let file = open
                .create(true)
                .truncate(false)
                .write(true)
                .open(&self.path)?;
            sync_folder(&self.path)?;
            state.file = Some(file);
        }
        state.has_blanks |= before.is_some();
        let Some(file) = state.file.as_mut() else {
            return Ok(());
        };
        if let Some((from, to)) = before {
            blank(file, from, to)?;
        }
        let from = file.seek(SeekFrom::End(0))?;
        file.write_all(&lines)?;
        file.sync_data()?;
        state.kept.insert(range, (from, from + lines.len() as u64));
        Ok(())
    }

    /// Keeps the lines of stored ranges alone.
    fn settle(&self, stored: &Ranges) -> io::Result<()> {
        let mut state = self.lock();
        state.file = None;
        state.kept.clear();
        state.has_blanks = false;
        let file = match File::open(&self.path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(error) => return Err(error),
        };
        let mut all_stay = true;
        each_line(&file, |line| {
            all_stay &= stays(line, stored);
            Ok(())
        })?;
        if all_stay {
            return Ok(());
        }
        let beside = self.path.with_extension("new");
        let mut out = BufWriter::new(File::create(&beside)?);
        each_line(&file, |line| {
            if stays(line, stored) {
                out.write_all(line)?;
            }
            Ok(())
        })?;
        out.into_inner()?.sync_data()?;
        std::fs::rename(&beside, &self.path)?;
        sync_folder(&self.path)
    }
}

/// A torn line is a crash's, an empty one a replaced one's; their batches are not committed.
fn stays(line: &[u8], stored: &Ranges) -> bool {
    line.ends_with(b"\n")
        && serde_json::from_slice::<Known>(line).is_ok_and(|known| stored.contains(known.offset))
}

/// Makes the lines between two places empty, so that no record has two.
fn blank(file: &mut File, from: u64, to: u64) -> io::Result<()> {
    file.seek(SeekFrom::Start(from))?;
    io::copy(&mut io::repeat(b'\n').take(to - from), file)?;
    Ok(())
}

/// Calls `deed` with the bytes of each line, its line end included.
fn each_line(file: &File, mut deed: impl FnMut(&[u8]) -> io::Result<()>) -> io::Result<()> {
    let mut from = BufReader::new(file);
    from.seek(SeekFrom::Start(0))?;
    let mut line = Vec::new();
    while from.read_until(b'\n', &mut line)? > 0 {
        deed(&line)?;
        line.clear();
    }
    Ok(())
}

fn lines(refused: &[Reject], more: &[SinkReject]) -> io::Result<Vec<u8>> {
    let mut out = Vec::new();
    for reject in refused {
        serde_json::to_writer(&mut out, reject)?;
        out.push(b'\n');
    }
    for reject in more {
        let line = SinkLine {
            row: reject.row,
            offset: reject.offset,
            column: reject.column.as_deref(),
            reason: "sink",
            message: &reject.message,
            raw: String::from_utf8_lossy(&reject.raw),
            raw_bytes: reject.raw_bytes,
        };
        serde_json::to_writer(&mut out, &line)?;
        out.push(b'\n');
    }
    Ok(out)
}

/// A new name is durable when its folder is.
pub(crate) fn sync_folder(path: &Path) -> io::Result<()> {
    match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => File::open(folder)?.sync_all(),
        _ => File::open(".")?.sync_all(),
    }
}
