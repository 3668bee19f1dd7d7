//! Bodies that go to disk while they come: however long, each holds a few pieces in memory.
//!
//! A draft is a file without a name of its own: whoever keeps it moves it away, and one that nobody keeps is
//! deleted with its guard. What a crash leaves is deleted at the next start: its call is made again.
//!
//! Must never: pass the bound of all drafts together, or write from more than a few threads.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::{Bytes, BytesMut};
use tokio::fs::File;
use tokio::io::AsyncWriteExt as _;
use tokio::sync::Semaphore;

/// Gathered before it is written: most bodies are written in one piece.
const PIECE_BYTES: usize = 128 << 10;
/// Writes at a time, each of which may hold a thread.
const WRITES_MAX: usize = 4;

/// Why a body could not be written.
#[derive(Debug, thiserror::Error)]
pub(crate) enum DraftError {
    #[error("bodies that are being received fill the disk's part for them: {used} of {most} bytes")]
    Full { used: u64, most: u64 },
    #[error("the body cannot be written: {0}")]
    Io(#[from] io::Error),
}

/// The folder of bodies that are being received. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Drafts(Arc<Folder>);

#[derive(Debug)]
struct Folder {
    path: PathBuf,
    most: u64,
    used: AtomicU64,
    next: AtomicU64,
    turns: Semaphore,
}

impl Drafts {
    /// `most`: bytes of all drafts together. The folder is this server's alone: what is in it is deleted.
    pub fn open(folder: impl Into<PathBuf>, most: u64) -> io::Result<Self> {
        let path = folder.into();
        std::fs::create_dir_all(&path)?;
        for left in std::fs::read_dir(&path)? {
            std::fs::remove_file(left?.path())?;
        }
        Ok(Self(Arc::new(Folder {
            path,
            most,
            used: AtomicU64::new(0),
            next: AtomicU64::new(0),
            turns: Semaphore::new(WRITES_MAX),
        })))
    }

    pub(crate) fn begin(&self) -> Writing {
        let number = self.0.next.fetch_add(1, Ordering::Relaxed);
        Writing {
            file: None,
            held: BytesMut::new(),
            draft: Draft {
                path: self.0.path.join(format!("{number}.draft")),
                bytes: 0,
                folder: Self(Arc::clone(&self.0)),
            },
        }
    }
}

/// A body on disk that nobody has kept yet. Dropped, it is gone, unless its file was moved away.
#[derive(Debug)]
pub struct Draft {
    path: PathBuf,
    /// That count for the bound.
    bytes: u64,
    folder: Drafts,
}

impl Draft {
    /// Written, not flushed: who keeps it flushes it.
    pub fn path(&self) -> &Path {
        &self.path
    }

    fn claim(&mut self, more: u64) -> Result<(), DraftError> {
        let Folder { used, most, .. } = &*self.folder.0;
        let add = |used: u64| used.checked_add(more).filter(|used| used <= most);
        let claimed = used.fetch_update(Ordering::Relaxed, Ordering::Relaxed, add);
        let most = *most;
        claimed.map_err(|used| DraftError::Full { used, most })?;
        self.bytes += more;
        Ok(())
    }
}

impl Drop for Draft {
    fn drop(&mut self) {
        let _moved = std::fs::remove_file(&self.path); // or never made
        self.folder.0.used.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

/// A draft that grows.
#[derive(Debug)]
pub(crate) struct Writing {
    /// Closed before its draft goes.
    file: Option<File>,
    held: BytesMut,
    draft: Draft,
}

impl Writing {
    pub(crate) async fn push(&mut self, data: &Bytes) -> Result<(), DraftError> {
        self.draft.claim(data.len() as u64)?;
        self.held.extend_from_slice(data);
        if self.held.len() >= PIECE_BYTES {
            self.write().await?;
        }
        Ok(())
    }

    async fn write(&mut self) -> Result<(), DraftError> {
        let folder = &self.draft.folder.0;
        // Never closed: without a turn it is written all the same.
        let _turn = folder.turns.acquire().await.ok();
        let file = match &mut self.file {
            Some(file) => file,
            None => self.file.insert(File::create(&self.draft.path).await?),
        };
        file.write_all(&self.held).await?;
        file.flush().await?; // to the kernel: the library holds back what it was given
        self.held.clear();
        Ok(())
    }

    pub(crate) async fn finish(mut self) -> Result<Draft, DraftError> {
        if self.file.is_none() || !self.held.is_empty() {
            self.write().await?;
        }
        Ok(self.draft)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn files(folder: &Path) -> usize {
        std::fs::read_dir(folder).unwrap().count()
    }

    #[tokio::test]
    async fn a_body_that_nobody_keeps_leaves_neither_file_nor_claim() {
        let folder = tempfile::tempdir().unwrap();
        let drafts = Drafts::open(folder.path(), 1 << 20).unwrap();
        let piece = Bytes::from(vec![7; 100 << 10]);
        for finished in [false, true] {
            let mut writing = drafts.begin();
            for _ in 0..3 {
                writing.push(&piece).await.unwrap();
            }
            assert_eq!(files(folder.path()), 1);
            if finished {
                let draft = writing.finish().await.unwrap();
                assert_eq!(draft.path().metadata().unwrap().len(), 300 << 10);
                drop(draft);
            } else {
                drop(writing);
            }
            assert_eq!(files(folder.path()), 0);
            assert_eq!(drafts.0.used.load(Ordering::Relaxed), 0);
        }
        drop(drafts.begin().finish().await.unwrap());
        std::fs::write(folder.path().join("0.draft"), "left by a crash").unwrap();
        Drafts::open(folder.path(), 1).unwrap();
        assert_eq!(files(folder.path()), 0);
    }

    #[tokio::test]
    async fn all_bodies_together_stay_within_their_part_of_the_disk() {
        let folder = tempfile::tempdir().unwrap();
        let drafts = Drafts::open(folder.path(), 250).unwrap();
        let piece = Bytes::from(vec![7; 100]);
        let (mut one, mut two) = (drafts.begin(), drafts.begin());
        one.push(&piece).await.unwrap();
        two.push(&piece).await.unwrap();
        let refused = two.push(&piece).await;
        assert!(
            matches!(
                refused,
                Err(DraftError::Full {
                    used: 200,
                    most: 250
                })
            ),
            "{refused:?}"
        );
        drop(one);
        two.push(&piece).await.unwrap();
    }
}
