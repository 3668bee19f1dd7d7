//! Room on the disk: a low mark under which no new work is taken in, and a reserve so that running
//! jobs can end on a full disk.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// How old a reading may be while there is plenty of room; else it is taken for each transaction.
const READING_KEPT: Duration = Duration::from_millis(500);
const PLENTY_BYTES: u64 = 2 << 30;
const LOW_MARK_MIN: u64 = 4 << 20;
const LOW_MARK_MAX: u64 = 256 << 20;
/// Room for some ten thousand ends of jobs.
const RESERVE_BYTES: u64 = 4 << 20;
/// The log is moved into the file when it has this many pages: 16 MB, less on a small disk.
const LOG_PAGES_MAX: u64 = 4_000;
const LOG_PAGES_MIN: u64 = 250;
pub(crate) const PAGE_BYTES: u64 = 4_096;

/// What is known of the disk.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Room {
    pub(crate) free: u64,
    /// What is kept for the ends of running jobs.
    pub(crate) kept: u64,
    /// No new work is taken in.
    pub(crate) short: bool,
    /// It would be, if what is in the log were in the file.
    pub(crate) short_after_log: bool,
}

pub(crate) struct Disk {
    folder: PathBuf,
    room: Room,
    log_pages_max: u64,
    read_at: Option<Instant>,
}

impl Disk {
    pub(crate) fn new(folder: &Path) -> Self {
        Self {
            folder: folder.into(),
            room: Room::default(),
            log_pages_max: LOG_PAGES_MAX,
            read_at: None,
        }
    }

    pub(crate) const fn log_pages_max(&self) -> u64 {
        self.log_pages_max
    }

    /// Room on the disk while the log has so many pages, which the file may still grow by. One line
    /// in the program's log for each change.
    pub(crate) fn room(&mut self, log_pages: u32) -> Room {
        let plenty = self.room.free > PLENTY_BYTES;
        let fresh = self.read_at.is_some_and(|at| at.elapsed() < READING_KEPT);
        if plenty && fresh {
            return self.room;
        }
        self.read_at = Some(Instant::now());
        // A disk that cannot be asked is not called full: the write itself will say.
        let Ok(stat) = rustix::fs::statvfs(&self.folder) else {
            return self.room;
        };
        let total = stat.f_blocks.saturating_mul(stat.f_frsize);
        let free = stat.f_bavail.saturating_mul(stat.f_frsize);
        let kept = (total / 16).clamp(LOW_MARK_MIN, LOW_MARK_MAX);
        let was_short = self.room.short;
        // Ends later than it begins, so that it does not flicker at the mark.
        let limit = if was_short { kept / 4 * 5 } else { kept };
        let short = free < limit && !cfg!(feature = "sabotage");
        self.room = Room {
            free,
            kept,
            short,
            short_after_log: free < limit + u64::from(log_pages) * PAGE_BYTES,
        };
        self.log_pages_max = (total / PAGE_BYTES / 64).clamp(LOG_PAGES_MIN, LOG_PAGES_MAX);
        if short && !was_short {
            tracing::warn!(free, kept, "disk nearly full: no new jobs are taken in");
        } else if was_short && !short {
            tracing::info!(free, kept, "disk has room again: jobs are taken in");
        }
        if free > kept + 2 * RESERVE_BYTES {
            self.make_reserve();
        }
        self.room
    }

    fn reserve(&self) -> PathBuf {
        self.folder.join("offloop.reserve")
    }

    /// Written out, not sparse: it has to hold its blocks.
    fn make_reserve(&self) {
        let path = self.reserve();
        if path
            .metadata()
            .is_ok_and(|meta| meta.len() == RESERVE_BYTES)
        {
            return;
        }
        let fill = |mut file: File| -> std::io::Result<()> {
            let piece = vec![0; 1 << 20];
            for _ in 0..RESERVE_BYTES / piece.len() as u64 {
                file.write_all(&piece)?;
            }
            file.sync_data()
        };
        let mut open = OpenOptions::new();
        let file = open
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(&path);
        if file.and_then(fill).is_err() {
            let _ = std::fs::remove_file(&path);
        }
    }

    /// Gives the reserve up, so that what must be written can be. `false` if there was none.
    pub(crate) fn release_reserve(&mut self) -> bool {
        self.read_at = None;
        std::fs::remove_file(self.reserve()).is_ok()
    }
}
