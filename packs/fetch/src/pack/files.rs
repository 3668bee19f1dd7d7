//! Whole bodies on disk, named by what is in them: drafts that are flushed, then renamed, so that what has a
//! name is whole.
//!
//! A thread of its own does it: a flush may take as long as it likes without holding up a call.
//!
//! Must never: show a file before its last byte is on disk, or pass its bound.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, mpsc};
use std::time::Duration;

use tokio::sync::oneshot;

use crate::draft::Draft;
use crate::show::hex;

/// Bodies that wait for the disk.
const LINE: usize = 16;
const TIDY_EVERY: Duration = Duration::from_secs(2);
/// Files that are too old are looked for after so many writes.
const SWEEP_EVERY: u32 = 1_000;

/// Why a body is not kept.
#[derive(Debug, thiserror::Error)]
pub(super) enum KeepError {
    #[error("the folder of bodies is full: {used} of {most} bytes")]
    Full { used: u64, most: u64 },
    #[error("the body cannot be written")]
    Io(#[from] io::Error),
    #[error("the server is ending")]
    Ending,
}

struct Order {
    name: String,
    draft: Arc<Draft>,
    reply: oneshot::Sender<Result<(), KeepError>>,
}

/// The folder and who writes to it.
#[derive(Debug)]
pub(crate) struct Files {
    folder: PathBuf,
    orders: mpsc::SyncSender<Order>,
}

impl Files {
    /// `tidy`: called by the thread every few seconds while it has nothing to write.
    pub(super) fn open(
        folder: &Path,
        most: u64,
        keep: Duration,
        tidy: impl Fn() + Send + 'static,
    ) -> io::Result<Self> {
        let bodies = folder.join("bodies");
        fs::create_dir_all(&bodies)?;
        let (orders, line) = mpsc::sync_channel(LINE);
        let mut disk = Disk {
            folder: bodies.clone(),
            most,
            keep,
            used: 0,
            writes: 0,
        };
        disk.sweep()?;
        std::thread::Builder::new()
            .name("offloop-bodies".into())
            .spawn(move || disk.serve(&line, &tidy))?;
        Ok(Self {
            folder: bodies,
            orders,
        })
    }

    /// On disk when answered.
    pub(super) async fn keep(&self, sha256: &[u8; 32], draft: Arc<Draft>) -> Result<(), KeepError> {
        let (reply, told) = oneshot::channel();
        let mut order = Order {
            name: hex(sha256),
            draft,
            reply,
        };
        loop {
            match self.orders.try_send(order) {
                Ok(()) => break,
                Err(mpsc::TrySendError::Disconnected(_)) => return Err(KeepError::Ending),
                Err(mpsc::TrySendError::Full(back)) => order = back,
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        told.await.unwrap_or(Err(KeepError::Ending))
    }

    /// The file of a body; `None`: that is no name of one.
    pub(super) fn path(&self, name: &str) -> Option<PathBuf> {
        let plain = |byte: u8| matches!(byte, b'0'..=b'9' | b'a'..=b'f');
        (name.len() == 64 && name.bytes().all(plain)).then(|| place(&self.folder, name))
    }
}

fn place(folder: &Path, name: &str) -> PathBuf {
    folder.join(&name[..2]).join(name)
}

/// What the thread knows.
struct Disk {
    folder: PathBuf,
    most: u64,
    keep: Duration,
    used: u64,
    writes: u32,
}

impl Disk {
    fn serve(&mut self, line: &mpsc::Receiver<Order>, tidy: &dyn Fn()) {
        loop {
            let Order { name, draft, reply } = match line.recv_timeout(TIDY_EVERY) {
                Ok(order) => order,
                Err(mpsc::RecvTimeoutError::Timeout) => {
                    tidy();
                    continue;
                }
                Err(mpsc::RecvTimeoutError::Disconnected) => return,
            };
            self.writes += 1;
            if self.writes.is_multiple_of(SWEEP_EVERY)
                && let Err(error) = self.sweep()
            {
                tracing::warn!(%error, "old bodies cannot be taken away");
            }
            let _ = reply.send(self.keep_as(&name, &draft)); // who asked may be gone
        }
    }

    fn keep_as(&mut self, name: &str, draft: &Draft) -> Result<(), KeepError> {
        let to = place(&self.folder, name);
        if let Ok(there) = File::open(&to) {
            // What is there is whole; it is as young as its last use.
            there.set_modified(std::time::UNIX_EPOCH + self.clock())?;
            return Ok(());
        }
        let file = File::open(draft.path())?;
        let len = file.metadata()?.len();
        if self.used + len > self.most {
            let (used, most) = (self.used, self.most);
            return Err(KeepError::Full { used, most });
        }
        let folder = to.parent().unwrap_or(&self.folder);
        fs::create_dir_all(folder)?;
        file.sync_all()?;
        fs::rename(draft.path(), &to)?;
        File::open(folder)?.sync_all()?;
        self.used += len;
        Ok(())
    }

    /// Since 1970, by the machine's clock.
    #[expect(
        clippy::unused_self,
        reason = "a clock of one's own is one's own affair"
    )]
    fn clock(&self) -> Duration {
        use offloop::runtime::clock::{Clock as _, SystemClock};
        Duration::from_millis(SystemClock.now().as_millis())
    }

    /// Counts what is there; takes away what is old, and what a crash has left half done.
    fn sweep(&mut self) -> io::Result<()> {
        let mut used = 0;
        let now = self.clock();
        for entry in fs::read_dir(&self.folder)? {
            let path = entry?.path();
            if !path.is_dir() {
                fs::remove_file(&path)?; // no body is named so
                continue;
            }
            for file in fs::read_dir(&path)? {
                let file = file?;
                let data = file.metadata()?;
                let written = data.modified()?.duration_since(std::time::UNIX_EPOCH);
                if now.saturating_sub(written.unwrap_or_default()) > self.keep {
                    fs::remove_file(file.path())?;
                } else {
                    used += data.len();
                }
            }
        }
        self.used = used;
        Ok(())
    }
}
