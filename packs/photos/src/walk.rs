//! Walks a folder of photos and opens what it found, by directory descriptors.
//!
//! Place: phase 1 asks [`walk`] for entries and [`Root::open_file`] for their bytes; phase 2 opens
//! the same way, later. Everything that is not a regular file or a folder is a [`Problem`] with
//! its path, and the walk goes on.
//! Must never: follow a symbolic link below the root, wait on a FIFO or a device, hold more than
//! the descriptors and names of one line of folders, or leave the root by any name.

use std::ffi::{CStr, OsStr};
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags, fstat, openat, statat};
use rustix::io::Errno;

/// Bounds of one walk.
#[derive(Debug, Clone, Copy)]
pub struct WalkLimits {
    /// Folders below the root. One descriptor is open per level.
    pub depth_max: u16,
    /// Entries of all kinds.
    pub entries_max: u64,
    /// Bytes of a relative path.
    pub path_bytes_max: u16,
}

impl Default for WalkLimits {
    fn default() -> Self {
        Self {
            depth_max: 64,
            entries_max: 50_000_000,
            path_bytes_max: 4095,
        }
    }
}

/// A regular file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    pub path: RelPath,
    pub bytes: u64,
    pub mtime_ns: i64,
    pub inode: u64,
}

/// Why a path below the root was passed over.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Problem {
    #[error("a symbolic link: not followed")]
    Symlink,
    #[error("not a regular file ({kind})")]
    Special { kind: &'static str },
    #[error("permission denied")]
    Denied,
    #[error("deeper than {limit} folders")]
    TooDeep { limit: u16 },
    #[error("path longer than {limit} bytes")]
    PathTooLong { limit: u16 },
    #[error("vanished while the folder was read")]
    Vanished,
    #[error("{message}")]
    Unreadable { message: String },
}

/// What the walk hands over, in no particular order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Found {
    File(Entry),
    Problem { path: RelPath, problem: Problem },
}

/// How a walk ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WalkEnd {
    Complete,
    /// The visitor asked to stop.
    Stopped,
    /// `entries_max` was reached: what was not seen must not be taken for vanished.
    TooManyEntries,
}

/// Why a root could not be opened.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RootError {
    #[error("`{path}` is not a folder that can be read")]
    Open {
        path: String,
        #[source]
        cause: io::Error,
    },
}

/// Why a file below the root could not be opened.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OpenError {
    #[error("the path leaves the root or is not a file name")]
    BadPath,
    #[error("not a regular file any more")]
    NotRegular,
    #[error("`{path}` cannot be opened")]
    Io {
        path: RelPath,
        #[source]
        cause: io::Error,
    },
}

/// A path below the root: raw bytes without leading slash, `.` or `..`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RelPath(Box<[u8]>);

impl RelPath {
    /// `None` for an absolute, empty or climbing path.
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let clean = |part: &[u8]| !matches!(part, b"" | b"." | b"..") && !part.contains(&0);
        bytes
            .split(|&b| b == b'/')
            .all(clean)
            .then(|| Self(bytes.into()))
    }

    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// Text that names exactly one path: valid UTF-8 as it is; `%` and every byte that is not
    /// part of valid, printable UTF-8 as `%XX`. [`RelPath::from_text`] is its inverse.
    pub fn to_text(&self) -> String {
        use std::fmt::Write as _;
        let mut text = String::with_capacity(self.0.len());
        for chunk in self.0.utf8_chunks() {
            for c in chunk.valid().chars() {
                if c == '%' || c.is_control() {
                    let mut utf8 = [0; 4];
                    for byte in c.encode_utf8(&mut utf8).bytes() {
                        let _ = write!(text, "%{byte:02X}");
                    }
                } else {
                    text.push(c);
                }
            }
            for byte in chunk.invalid() {
                let _ = write!(text, "%{byte:02X}");
            }
        }
        text
    }

    /// Reads [`RelPath::to_text`] back.
    pub fn from_text(text: &str) -> Option<Self> {
        let mut bytes = Vec::with_capacity(text.len());
        let mut rest = text.as_bytes();
        while let Some((&first, tail)) = rest.split_first() {
            if first == b'%' {
                let (digits, tail) = tail.split_at_checked(2)?;
                let digits = std::str::from_utf8(digits).ok()?;
                bytes.push(u8::from_str_radix(digits, 16).ok()?);
                rest = tail;
            } else {
                bytes.push(first);
                rest = tail;
            }
        }
        Self::from_bytes(&bytes)
    }

    fn child(&self, name: &[u8]) -> Self {
        if self.0.is_empty() {
            Self(name.into())
        } else {
            Self([&self.0, name].join(&b'/').into())
        }
    }
}

impl std::fmt::Display for RelPath {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.to_text())
    }
}

const FOLDER: OFlags = OFlags::RDONLY
    .union(OFlags::DIRECTORY)
    .union(OFlags::NOFOLLOW)
    .union(OFlags::CLOEXEC);
/// NONBLOCK: opening a FIFO that took a file's place must not wait for a writer.
const FILE: OFlags = OFlags::RDONLY
    .union(OFlags::NOFOLLOW)
    .union(OFlags::NONBLOCK)
    .union(OFlags::NOCTTY)
    .union(OFlags::CLOEXEC);

/// An open root folder.
#[derive(Debug)]
pub struct Root {
    folder: OwnedFd,
}

/// A regular file opened below a root, with what its descriptor says about it.
#[derive(Debug)]
pub struct OpenedFile {
    pub file: File,
    pub bytes: u64,
    pub mtime_ns: i64,
    pub inode: u64,
}

impl Root {
    /// Opens the root. The root itself may be reached through a symbolic link: the operator named
    /// it; only what lies below is not trusted.
    pub fn open(path: &Path) -> Result<Self, RootError> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        match rustix::fs::open(path, flags, Mode::empty()) {
            Ok(folder) => Ok(Self { folder }),
            Err(errno) => Err(RootError::Open {
                path: path.display().to_string(),
                cause: errno.into(),
            }),
        }
    }

    /// Opens a file for reading, one name at a time, following nothing, and proves by `fstat` that
    /// it is a regular file: what was walked and what is read cannot be swapped for a device.
    pub fn open_file(&self, path: &RelPath) -> Result<OpenedFile, OpenError> {
        let io = |errno: Errno| OpenError::Io {
            path: path.clone(),
            cause: errno.into(),
        };
        let mut parts: Vec<&[u8]> = path.0.split(|&b| b == b'/').collect();
        let name = parts.pop().ok_or(OpenError::BadPath)?;
        let mut holder: Option<OwnedFd> = None;
        for part in parts {
            let at = holder.as_ref().unwrap_or(&self.folder).as_fd();
            let next = openat(at, OsStr::from_bytes(part), FOLDER, Mode::empty()).map_err(io)?;
            holder = Some(next);
        }
        let at = holder.as_ref().unwrap_or(&self.folder).as_fd();
        open_regular(at, OsStr::from_bytes(name)).map_err(|refused| match refused {
            Refused::NotRegular => OpenError::NotRegular,
            Refused::Errno(errno) => io(errno),
        })
    }
}

enum Refused {
    NotRegular,
    Errno(Errno),
}

fn open_regular<P: rustix::path::Arg>(
    at: rustix::fd::BorrowedFd<'_>,
    name: P,
) -> Result<OpenedFile, Refused> {
    let opened = openat(at, name, FILE, Mode::empty()).map_err(Refused::Errno)?;
    let stat = fstat(&opened).map_err(Refused::Errno)?;
    if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
        return Err(Refused::NotRegular);
    }
    Ok(OpenedFile {
        file: File::from(opened),
        bytes: u64::try_from(stat.st_size).unwrap_or(0),
        mtime_ns: mtime_ns(&stat),
        inode: stat.st_ino,
    })
}

fn mtime_ns(stat: &rustix::fs::Stat) -> i64 {
    stat.st_mtime
        .saturating_mul(1_000_000_000)
        .saturating_add(stat.st_mtime_nsec as i64)
}

/// A file's place inside its open folder, so that it can be opened without walking from the root.
#[derive(Debug)]
pub struct Here<'a> {
    folder: rustix::fd::BorrowedFd<'a>,
    name: &'a CStr,
    path: &'a RelPath,
}

impl Here<'_> {
    /// As [`Root::open_file`], with one system call less per folder.
    pub fn open(&self) -> Result<OpenedFile, OpenError> {
        open_regular(self.folder, self.name).map_err(|refused| match refused {
            Refused::NotRegular => OpenError::NotRegular,
            Refused::Errno(errno) => OpenError::Io {
                path: self.path.clone(),
                cause: errno.into(),
            },
        })
    }
}

/// What the visitor wants next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Next {
    Continue,
    Stop,
}

struct Level {
    dir: Dir,
    path: RelPath,
}

/// Walks everything below `root`, depth first, and hands each finding to `visit` as it is seen.
///
/// For files, [`Here`] opens the bytes from the folder at hand; it is `None` for problems.
pub fn walk(
    root: &Root,
    limits: WalkLimits,
    visit: &mut dyn FnMut(Found, Option<Here<'_>>) -> Next,
) -> Result<WalkEnd, RootError> {
    let top = RelPath(Box::from(&b""[..]));
    let mut levels = match Dir::read_from(&root.folder) {
        Ok(dir) => vec![Level { dir, path: top }],
        Err(errno) => {
            return Err(RootError::Open {
                path: ".".to_owned(),
                cause: errno.into(),
            });
        }
    };
    let mut seen = 0_u64;
    while let Some(level) = levels.last_mut() {
        let Some(read) = level.dir.read() else {
            levels.pop();
            continue;
        };
        let (found, here, deeper) = match read {
            Err(errno) => {
                // A folder that fails half-way is reported and left; its files stay unknown.
                let path = level.path.clone();
                levels.pop();
                (
                    Found::Problem {
                        path,
                        problem: problem_of(errno),
                    },
                    None,
                    None,
                )
            }
            Ok(entry) => {
                if matches!(entry.file_name().to_bytes(), b"." | b"..") {
                    continue;
                }
                seen += 1;
                if seen > limits.entries_max {
                    return Ok(WalkEnd::TooManyEntries);
                }
                let step = look(level, &entry, limits);
                match step {
                    Step::Report(found) => (found, None, None),
                    Step::Enter(dir, path) => {
                        if levels.len() > usize::from(limits.depth_max) {
                            let problem = Problem::TooDeep {
                                limit: limits.depth_max,
                            };
                            (Found::Problem { path, problem }, None, None)
                        } else {
                            levels.push(Level { dir, path });
                            continue;
                        }
                    }
                    Step::File(found) => (found, Some(entry), Some(levels.len() - 1)),
                }
            }
        };
        let next = match (&found, &here, deeper.and_then(|at| levels.get(at))) {
            (Found::File(file), Some(entry), Some(level)) => match level.dir.fd() {
                Ok(folder) => {
                    let path = file.path.clone();
                    let here = Here {
                        folder,
                        name: entry.file_name(),
                        path: &path,
                    };
                    visit(found, Some(here))
                }
                Err(_) => visit(found, None),
            },
            _ => visit(found, None),
        };
        if next == Next::Stop {
            return Ok(WalkEnd::Stopped);
        }
    }
    Ok(WalkEnd::Complete)
}

enum Step {
    Report(Found),
    File(Found),
    Enter(Dir, RelPath),
}

fn look(level: &Level, entry: &rustix::fs::DirEntry, limits: WalkLimits) -> Step {
    let name = entry.file_name();
    let path = level.path.child(name.to_bytes());
    let problem = |path, problem| Step::Report(Found::Problem { path, problem });
    if path.0.len() > usize::from(limits.path_bytes_max) {
        return problem(
            path,
            Problem::PathTooLong {
                limit: limits.path_bytes_max,
            },
        );
    }
    let folder = match level.dir.fd() {
        Ok(folder) => folder,
        Err(errno) => return problem(path, problem_of(errno)),
    };
    // The kind from the folder spares a stat for links and special files, not for files: their
    // size and time are the fingerprint.
    let (kind, stat) = match entry.file_type() {
        kind @ (FileType::Directory | FileType::Symlink) => (kind, None),
        _ => match statat(folder, name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => (FileType::from_raw_mode(stat.st_mode), Some(stat)),
            Err(errno) => return problem(path, problem_of(errno)),
        },
    };
    match (kind, stat) {
        (FileType::RegularFile, Some(stat)) => Step::File(Found::File(Entry {
            path,
            bytes: u64::try_from(stat.st_size).unwrap_or(0),
            mtime_ns: mtime_ns(&stat),
            inode: stat.st_ino,
        })),
        (FileType::Directory, _) => {
            let opened = openat(folder, name, FOLDER, Mode::empty()).and_then(Dir::new);
            match opened {
                Ok(dir) => Step::Enter(dir, path),
                Err(errno) => problem(path, problem_of(errno)),
            }
        }
        (FileType::Symlink, _) => problem(path, Problem::Symlink),
        (other, _) => problem(
            path,
            Problem::Special {
                kind: kind_name(other),
            },
        ),
    }
}

fn kind_name(kind: FileType) -> &'static str {
    match kind {
        FileType::Fifo => "FIFO",
        FileType::Socket => "socket",
        FileType::CharacterDevice => "character device",
        FileType::BlockDevice => "block device",
        _ => "unknown kind",
    }
}

fn problem_of(errno: Errno) -> Problem {
    match errno {
        Errno::ACCESS | Errno::PERM => Problem::Denied,
        Errno::NOENT => Problem::Vanished,
        Errno::LOOP => Problem::Symlink,
        other => Problem::Unreadable {
            message: io::Error::from(other).to_string(),
        },
    }
}
