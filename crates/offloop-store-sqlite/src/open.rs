//! Opening the file: folder, lock, version, repair after a crash, index.
//!
//! Must never: delete or replace what it cannot read. A file that is refused is left as it is.

use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use rusqlite::config::DbConfig;
use rusqlite::{Connection, ErrorCode, OpenFlags};

use crate::index::Index;
use crate::{SqliteOptions, schema};

/// 3.51.3 ended the WAL-reset race: before it, two connections could corrupt the file.
const SQLITE_OLDEST: i32 = 3_051_003;
/// Page cache of the writer.
const WRITER_CACHE_KIB: u32 = 32 << 10;
/// The log is cut to this when it starts over.
const WAL_KEPT_BYTES: u32 = 32 << 20;
/// A check of every page reads about 1 GB/s from the cache, 100 MB/s from a disk.
const CHECKED_BYTES_MAX: u64 = 64 << 20;
const BUSY_WAIT: Duration = Duration::from_secs(2);

/// Why the store did not open, and what to do.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OpenError {
    #[error("the data folder {} does not exist and neither does the one above it; create it, or give another with --data", path.display())]
    NoFolder { path: PathBuf },
    #[error("{} is not a folder; give a folder with --data", path.display())]
    NotAFolder { path: PathBuf },
    #[error("{} cannot be written; make the folder writable for this user, or give another with --data", path.display())]
    ReadOnly {
        path: PathBuf,
        #[source]
        cause: Option<io::Error>,
    },
    #[error("{} is in use by another server ({}); stop it, or give this one another folder with --data", path.display(), holder_text(*holder))]
    InUse { path: PathBuf, holder: Option<u32> },
    #[error("{} is damaged ({detail}); it was left as it is: put a backup in its place, or save what is left with `sqlite3 offloop.db .recover`", path.display())]
    Corrupt { path: PathBuf, detail: String },
    #[error(
        "the file is not one of ours (application id {application:#x}); give another folder with --data"
    )]
    Foreign { application: i64 },
    #[error("the file has version {found}, this program knows {known}; start the newer program")]
    Newer { found: i64, known: i64 },
    #[error(
        "this program was built with SQLite {found}; it needs 3.51.3 or newer, for a bug before it damages files"
    )]
    OldSqlite { found: &'static str },
    #[error("the disk under {} is full; free some space and start again", path.display())]
    DiskFull { path: PathBuf },
    #[error("cannot open {}", path.display())]
    Io {
        path: PathBuf,
        #[source]
        cause: io::Error,
    },
    #[error("SQLite failed while opening the store")]
    Sqlite {
        #[source]
        cause: rusqlite::Error,
    },
}

fn holder_text(holder: Option<u32>) -> String {
    holder.map_or("process unknown".into(), |pid| format!("process {pid}"))
}

impl From<rusqlite::Error> for OpenError {
    fn from(cause: rusqlite::Error) -> Self {
        Self::Sqlite { cause }
    }
}

/// The folder, locked against a second server for as long as this lives.
pub(crate) struct Folder {
    pub(crate) path: PathBuf,
    lock: File,
}

impl Folder {
    pub(crate) fn database(&self) -> PathBuf {
        self.path.join("offloop.db")
    }

    fn wal(&self) -> PathBuf {
        self.path.join("offloop.db-wal")
    }

    /// Creates the folder if only its last part is missing, and locks it.
    pub(crate) fn lock(path: &Path) -> Result<Self, OpenError> {
        if rusqlite::version_number() < SQLITE_OLDEST {
            let found = rusqlite::version();
            return Err(OpenError::OldSqlite { found });
        }
        match DirBuilder::new().mode(0o700).create(path) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Err(OpenError::NoFolder { path: path.into() });
            }
            Err(error) => return Err(file_error(path, error)),
        }
        if !path.is_dir() {
            return Err(OpenError::NotAFolder { path: path.into() });
        }
        let name = path.join("offloop.lock");
        let mut lock = private_file(&name).map_err(|error| file_error(path, error))?;
        let operation = rustix::fs::FlockOperation::NonBlockingLockExclusive;
        if let Err(error) = rustix::fs::flock(&lock, operation) {
            if error != rustix::io::Errno::WOULDBLOCK {
                return Err(file_error(&name, error.into()));
            }
            let mut text = String::new();
            let _ = lock.read_to_string(&mut text);
            return Err(OpenError::InUse {
                path: path.into(),
                holder: text.trim().parse().ok(),
            });
        }
        // Of use to a person only: an unwritten number refuses nobody.
        let _ = lock.set_len(0).and_then(|()| lock.seek(SeekFrom::Start(0)));
        let _ = writeln!(lock, "{}", std::process::id());
        let path = path.into();
        Ok(Self { path, lock })
    }

    pub(crate) fn unlock(&self) {
        let _ = rustix::fs::flock(&self.lock, rustix::fs::FlockOperation::Unlock);
    }
}

/// Opened for reading and writing by this user alone.
fn private_file(path: &Path) -> io::Result<File> {
    OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(path)
}

fn file_error(path: &Path, error: io::Error) -> OpenError {
    let path = path.to_path_buf();
    match error.kind() {
        io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => {
            OpenError::ReadOnly {
                path,
                cause: Some(error),
            }
        }
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => OpenError::DiskFull { path },
        io::ErrorKind::NotADirectory => OpenError::NotAFolder { path },
        _ => OpenError::Io { path, cause: error },
    }
}

/// A file that is sound, its log empty, its index read.
pub(crate) struct Opened {
    pub(crate) conn: Connection,
    pub(crate) index: Index,
    pub(crate) log: Log,
}

/// The write-ahead log: how long it is, and its flush.
///
/// SQLite commits with `synchronous=NORMAL`, which flushes only around checkpoints, and the writer
/// flushes the log itself before it answers: the promise of `FULL` (ADR 0002), and no flush for a
/// transaction that needs none.
pub(crate) struct Log {
    pages: Arc<AtomicU32>,
    file: File,
}

impl Log {
    /// Pages after the last commit.
    pub(crate) fn pages(&self) -> u32 {
        self.pages.load(Ordering::Relaxed)
    }

    /// It was moved; the next commit counts anew.
    pub(crate) fn start_over(&self) {
        self.pages.store(0, Ordering::Relaxed);
    }

    /// Everything that was committed is on disk when this returns.
    pub(crate) fn flush(&self) -> io::Result<()> {
        self.file.sync_data()
    }
}

/// How much of the file is checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Check {
    /// Every page of a small file; of a larger one what is read anyway.
    Quick,
    /// Every page.
    All,
}

pub(crate) fn open(
    folder: &Folder,
    options: &SqliteOptions,
    check: Check,
) -> Result<Opened, OpenError> {
    let path = folder.database();
    open_file(folder, &path, options, check).map_err(|error| explain(error, &path))
}

fn open_file(
    folder: &Folder,
    path: &Path,
    options: &SqliteOptions,
    check: Check,
) -> Result<Opened, OpenError> {
    // Ours to create, so that nobody else may read it: the log and its index take its mode.
    let bytes = private_file(path)
        .and_then(|file| file.metadata())
        .map_err(|error| file_error(path, error))?
        .len();
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let mut conn = Connection::open_with_flags(path, flags)?;
    prepare(&conn)?;
    schema::migrate(&conn)?;
    repair_log(&conn, &folder.wal())?;
    if check == Check::All || bytes <= CHECKED_BYTES_MAX {
        let found: String = conn.query_row("PRAGMA quick_check(1)", [], |row| row.get(0))?;
        if found != "ok" {
            return Err(OpenError::Corrupt {
                path: path.into(),
                detail: found,
            });
        }
    }
    let index = Index::load(&conn, options)?;
    let log = Log {
        pages: watch_log(&mut conn)?,
        // There since the repair, and the same file for as long as the connection is open. No lock
        // of SQLite is on it that closing another handle could drop.
        file: File::open(folder.wal()).map_err(|error| file_error(&folder.wal(), error))?,
    };
    Ok(Opened { conn, index, log })
}

fn prepare(conn: &Connection) -> Result<(), rusqlite::Error> {
    conn.busy_timeout(BUSY_WAIT)?;
    // A close after a failed write must not copy a log whose pages may not be on disk.
    conn.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true)?;
    conn.set_db_config(DbConfig::SQLITE_DBCONFIG_DEFENSIVE, true)?;
    conn.set_prepared_statement_cache_capacity(64);
    conn.execute_batch(&format!(
        "PRAGMA journal_mode = WAL; PRAGMA synchronous = NORMAL; PRAGMA wal_autocheckpoint = 0; \
         PRAGMA journal_size_limit = {WAL_KEPT_BYTES}; PRAGMA cache_size = -{WRITER_CACHE_KIB}; \
         PRAGMA temp_store = MEMORY; PRAGMA trusted_schema = OFF; PRAGMA foreign_keys = OFF;"
    ))
}

/// Writes the log once more, byte by byte, flushes it, and moves it into the file.
///
/// After a failed flush the kernel holds pages that it believes are on disk and are not
/// (reliability rule 5, "fsyncgate"). What is written again is flushed again, and after the
/// checkpoint nothing depends on the old log. The write lock is held meanwhile, so that a shell
/// beside us cannot append.
fn repair_log(conn: &Connection, wal: &Path) -> Result<(), OpenError> {
    conn.execute_batch("BEGIN IMMEDIATE")?;
    let rewritten = rewrite(wal).map_err(|error| file_error(wal, error));
    conn.execute_batch("ROLLBACK")?;
    rewritten?;
    match checkpoint(conn, "TRUNCATE") {
        Ok((false, _, _)) => Ok(()),
        Ok((true, _, _)) => {
            tracing::warn!("another program reads the store's file: its log could not be cut");
            Ok(())
        }
        // The log itself was flushed just now. Running jobs may need what little room there is.
        Err(error) if error.sqlite_error_code() == Some(ErrorCode::DiskFull) => {
            tracing::warn!("the disk is full: the log could not be moved into the file");
            Ok(())
        }
        Err(error) => Err(error.into()),
    }
}

fn rewrite(path: &Path) -> io::Result<()> {
    let file = match OpenOptions::new().read(true).write(true).open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
    };
    let mut piece = vec![0; 1 << 20];
    let mut at = 0;
    loop {
        let read = file.read_at(&mut piece, at)?;
        if read == 0 {
            break;
        }
        file.write_all_at(&piece[..read], at)?;
        at += read as u64;
    }
    if at > 0 { file.sync_data() } else { Ok(()) }
}

/// Whether somebody was in the way, pages in the log, pages moved.
pub(crate) fn checkpoint(conn: &Connection, mode: &str) -> rusqlite::Result<(bool, i64, i64)> {
    conn.query_row(&format!("PRAGMA wal_checkpoint({mode})"), [], |row| {
        Ok((row.get::<_, i64>(0)? != 0, row.get(1)?, row.get(2)?))
    })
}

/// Counts the log's pages. After the pragmas: they put a hook of their own in its place.
fn watch_log(conn: &mut Connection) -> rusqlite::Result<Arc<AtomicU32>> {
    let pages = Arc::new(AtomicU32::new(0));
    let counted = Arc::clone(&pages);
    conn.wal_hook(Some(move |_: &mut rusqlite::hooks::Wal, count| {
        counted.store(u32::try_from(count).unwrap_or(0), Ordering::Relaxed);
        Ok(())
    }))?;
    Ok(pages)
}

/// SQLite's codes that a person can act on.
fn explain(error: OpenError, path: &Path) -> OpenError {
    let path = path.to_path_buf();
    let OpenError::Sqlite { cause } = error else {
        return error;
    };
    match cause.sqlite_error_code() {
        Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase) => OpenError::Corrupt {
            path,
            detail: cause.to_string(),
        },
        Some(ErrorCode::ReadOnly | ErrorCode::PermissionDenied) => {
            OpenError::ReadOnly { path, cause: None }
        }
        Some(ErrorCode::DiskFull) => OpenError::DiskFull { path },
        _ => OpenError::Sqlite { cause },
    }
}
