//! Room on the disk: a low mark under which no new work is taken in, and a reserve so that running
//! jobs can end on a full disk.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// How old a reading may be.
const READING_KEPT: Duration = Duration::from_millis(500);
const LOW_MARK_MIN: u64 = 4 << 20;
const LOW_MARK_MAX: u64 = 256 << 20;
/// Room for some ten thousand ends of jobs.
const RESERVE_BYTES: u64 = 4 << 20;

/// Free bytes and the bytes that are kept, as last read.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Room {
    pub(crate) free: u64,
    pub(crate) kept: u64,
    /// No new work is taken in.
    pub(crate) short: bool,
}

pub(crate) struct Disk {
    folder: PathBuf,
    room: Room,
    read_at: Option<Instant>,
    was_short: bool,
}

impl Disk {
    pub(crate) fn new(folder: &Path) -> Self {
        Self {
            folder: folder.into(),
            room: Room::default(),
            read_at: None,
            was_short: false,
        }
    }

    /// Room on the disk, at most half a second old. One line in the log for each change.
    pub(crate) fn room(&mut self) -> Room {
        let stale = self.read_at.is_none_or(|at| at.elapsed() > READING_KEPT);
        if !stale {
            return self.room;
        }
        self.read_at = Some(Instant::now());
        // A disk that cannot be asked is not called full: the write itself will say.
        let Ok(stat) = rustix::fs::statvfs(&self.folder) else {
            return self.room;
        };
        let total = stat.f_blocks.saturating_mul(stat.f_frsize);
        self.room = Room {
            free: stat.f_bavail.saturating_mul(stat.f_frsize),
            kept: (total / 16).clamp(LOW_MARK_MIN, LOW_MARK_MAX),
            short: self.was_short,
        };
        // Ends later than it begins, so that it does not flicker at the mark.
        let limit = if self.was_short {
            self.room.kept / 4 * 5
        } else {
            self.room.kept
        };
        let short = self.room.free < limit && !cfg!(feature = "sabotage");
        self.room.short = short;
        if short != self.was_short {
            self.was_short = short;
            let Room { free, kept, .. } = self.room;
            if short {
                tracing::warn!(free, kept, "disk nearly full: no new jobs are taken in");
            } else {
                tracing::info!(free, kept, "disk has room again: jobs are taken in");
            }
        }
        if self.room.free > self.room.kept + 2 * RESERVE_BYTES {
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
