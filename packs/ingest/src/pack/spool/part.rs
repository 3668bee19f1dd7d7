//! One body while it comes: written, flushed, and at its end whole or taken away.
//!
//! Must never: leave a body behind that nobody can go on with.

use std::fs::{self, File};
use std::io::{self, Write as _};
use std::os::unix::fs::FileExt as _;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use tokio::sync::watch;

use super::super::digest::Sums;
use super::{About, SpoolError, State, lock, name, remove};
use crate::load::LoadId;
use crate::sink::Hand;

/// Read at a time for a digest of a file.
const SUM_BYTES: usize = 1 << 20;

/// A part and the right to write it.
#[derive(Debug)]
pub(in crate::pack) struct Part {
    pub(in crate::pack) load: LoadId,
    pub(in crate::pack) about: About,
    pub(in crate::pack) offset: u64,
    pub(super) file: Arc<File>,
    pub(super) hand: Hand<()>,
    pub(super) folder: PathBuf,
    pub(super) most: u64,
    pub(super) state: Arc<Mutex<State>>,
    /// Whole.
    pub(super) is_settled: bool,
    /// It is no writer any more.
    pub(super) has_left: bool,
    /// Somebody else wants it.
    pub(in crate::pack) wanted: watch::Receiver<bool>,
}

impl Drop for Part {
    /// A body that nobody can go on with goes with its request, however that ended.
    fn drop(&mut self) {
        if self.has_left {
            return;
        }
        if self.is_settled || self.about.resumable {
            lock(&self.state).writers.remove(&self.load);
            return;
        }
        let gone = self.removal();
        match tokio::runtime::Handle::try_current() {
            Ok(runtime) => drop(runtime.spawn(async move { drop(gone.await) })),
            Err(_ending) => lock(&self.state)
                .writers
                .remove(&self.load)
                .map_or((), drop), // the next start sweeps
        }
    }
}

impl Part {
    /// More of the body. What does not fit is not begun.
    pub(in crate::pack) async fn write(&mut self, bytes: Bytes) -> Result<(), SpoolError> {
        let len = bytes.len() as u64;
        let (file, offset) = (Arc::clone(&self.file), self.offset);
        let (state, most) = (Arc::clone(&self.state), self.most);
        // Counted there: an asker who leaves before it is begun has counted nothing.
        let written = self.hand.ask(move |()| {
            {
                let mut state = lock(&state);
                let used = state.used;
                if used + len > most {
                    return Err(SpoolError::Full { used, most });
                }
                state.used += len;
            }
            let written = (&*file).write_all(&bytes);
            if written.is_err() {
                let _shorter = file.set_len(offset); // the first error is the one to tell
                let mut state = lock(&state);
                state.used = state.used.saturating_sub(len);
            }
            Ok(written?)
        });
        written.await.map_err(|_| SpoolError::Ending)??;
        self.offset += len;
        Ok(())
    }

    /// How many bytes all of it has, from now on.
    pub(in crate::pack) async fn announce(&mut self, length: u64) -> Result<(), SpoolError> {
        self.about.length = Some(length);
        let text = serde_json::to_vec(&self.about).map_err(io::Error::from)?;
        let (to, draft) = (
            name(&self.folder, &self.load, "json"),
            name(&self.folder, &self.load, "draft"),
        );
        let noted = self.hand.ask(move |()| {
            let mut file = File::create(&draft)?;
            file.write_all(&text)?;
            file.sync_all()?;
            fs::rename(draft, to)
        });
        Ok(noted.await.map_err(|_| SpoolError::Ending)??)
    }

    /// Back to what it was at `offset`.
    pub(in crate::pack) async fn rewind(&mut self, offset: u64) -> Result<(), SpoolError> {
        let file = Arc::clone(&self.file);
        let cut = self.hand.ask(move |()| {
            file.set_len(offset)?;
            file.sync_all()
        });
        cut.await.map_err(|_| SpoolError::Ending)??;
        let mut state = lock(&self.state);
        state.used = state.used.saturating_sub(self.offset - offset);
        drop(state);
        self.offset = offset;
        Ok(())
    }

    /// Sums all of it, some at a time: others write in between.
    pub(in crate::pack) async fn sum(&self, mut sums: Sums) -> Result<Sums, SpoolError> {
        let path = name(&self.folder, &self.load, "part");
        let file = Arc::new(File::open(path)?);
        let mut at = 0;
        while at < self.offset {
            let file = Arc::clone(&file);
            let summed = self.hand.ask(move |()| {
                let mut buffer = vec![0; SUM_BYTES];
                let len = file.read_at(&mut buffer, at)?;
                sums.update(&buffer[..len]);
                io::Result::Ok((sums, len))
            });
            let (back, len) = summed.await.map_err(|_| SpoolError::Ending)??;
            if len == 0 {
                return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into());
            }
            (sums, at) = (back, at + len as u64);
        }
        Ok(sums)
    }

    /// Takes it away, behind what is being written of it; then it has no writer.
    fn removal(&self) -> impl Future<Output = Result<(), SpoolError>> + Send + use<> {
        let (hand, folder, load) = (self.hand.clone(), self.folder.clone(), self.load.clone());
        let state = Arc::clone(&self.state);
        async move {
            let (own, counted) = (load.clone(), Arc::clone(&state));
            let gone = hand.ask(move |()| remove(&folder, &own, "part", &counted));
            let gone = gone.await;
            lock(&state).writers.remove(&load);
            Ok(gone.map_err(|_| SpoolError::Ending)??)
        }
    }

    /// Takes it away.
    pub(in crate::pack) async fn discard(mut self) -> Result<(), SpoolError> {
        // To its end, also if whoever asks is gone meanwhile: until then the name is taken.
        let gone = tokio::spawn(self.removal());
        // It leaves by that; by now another one may have its place.
        self.has_left = true;
        gone.await.map_err(|_| SpoolError::Ending)?
    }

    /// What was written is on disk.
    pub(in crate::pack) async fn flush(&self) -> Result<(), SpoolError> {
        let file = Arc::clone(&self.file);
        let flushed = self.hand.ask(move |()| file.sync_all()).await;
        Ok(flushed.map_err(|_| SpoolError::Ending)??)
    }

    /// The body is whole: on disk under its last name.
    pub(in crate::pack) async fn complete(mut self) -> Result<(), SpoolError> {
        self.flush().await?;
        // From here on the body may be whole, whatever becomes of the answer.
        self.is_settled = true;
        let (from, to) = (
            name(&self.folder, &self.load, "part"),
            name(&self.folder, &self.load, "spool"),
        );
        let folder = self.folder.clone();
        let named = self.hand.ask(move |()| {
            fs::rename(from, to)?;
            File::open(folder)?.sync_all()
        });
        Ok(named.await.map_err(|_| SpoolError::Ending)??)
    }
}
