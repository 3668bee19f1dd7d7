//! Reads a folder of keys, as strictly as `ssh` reads its own.
//!
//! Who may read a key file may forge; who may write its folder may put a key of their own there. So
//! files are the server's user's alone (mode 0600 or stricter), the folder is writable by nobody
//! else, links are not followed, and sizes are bounded. Every file is opened below the folder's
//! descriptor and judged by its own.
//!
//! Must never: give out half of a folder, name a byte of a file in an error, or follow a link.

use std::fs::File;
use std::io::Read as _;
use std::os::fd::{AsFd as _, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags, Stat, fstat, open, openat, statat};
use zeroize::Zeroizing;

use super::{FILES_MAX, KeyName, KeySet, Material, VERSION_MAX, Version};
use crate::seal::{KEY_BYTES, SealingKey};
use crate::sign::SigningKey;

/// The largest key that is taken, RSA-4096, has 3.3 KB.
pub const FILE_BYTES_MAX: u64 = 16 << 10;
/// Of a key that seals: 32 bytes.
pub const SEALING_LABEL: &str = "OFFLOOP SEALING KEY";
/// Of a key that signs: PKCS#8, RFC 5958.
pub const SIGNING_LABEL: &str = "PRIVATE KEY";
/// So often a folder may change under the reading before it is given up.
const TRIES_MAX: usize = 5;

/// A folder that cannot be taken as it is.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FolderError {
    #[error("cannot read the key folder {folder}: {cause}")]
    Folder {
        folder: PathBuf,
        cause: std::io::Error,
    },
    #[error("the key folder {folder} {problem}")]
    FolderMode { folder: PathBuf, problem: String },
    #[error("the key file {file} {problem}")]
    File { file: String, problem: String },
    #[error("the key folder {folder} has more than {FILES_MAX} key files")]
    TooMany { folder: PathBuf },
    #[error("the key folder {folder} changed again and again while it was read")]
    Unsteady { folder: PathBuf },
}

/// What a file's name says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileName {
    pub name: KeyName,
    pub version: u32,
    pub retired: bool,
}

impl FileName {
    /// `NAME.vN.pem` or `NAME.vN.retired.pem`; N from 1, without leading zeros.
    pub fn parse(text: &str) -> Option<Self> {
        let stem = text.strip_suffix(".pem")?;
        let (stem, retired) = match stem.strip_suffix(".retired") {
            Some(stem) => (stem, true),
            None => (stem, false),
        };
        let (name, version) = stem.split_once(".v")?;
        let digits = version.bytes().all(|byte| byte.is_ascii_digit());
        if !digits || version.starts_with('0') {
            return None;
        }
        let version = version.parse().ok().filter(|v| *v <= VERSION_MAX)?;
        let name = KeyName::parse(name).ok()?;
        Some(Self {
            name,
            version,
            retired,
        })
    }
}

impl std::fmt::Display for FileName {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let retired = if self.retired { ".retired" } else { "" };
        write!(f, "{}.v{}{retired}.pem", self.name, self.version)
    }
}

/// Enough of a file to see that it is another one, or was written again.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Seen {
    name: String,
    inode: u64,
    bytes: i64,
    /// Of its contents, and of its name, mode and owner.
    modified: (i64, i64),
    changed: (i64, i64),
}

/// How a folder looked at one moment: two that are equal hold the same keys.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Fingerprint(Vec<Seen>);

fn folder_error(folder: &Path, cause: impl Into<std::io::Error>) -> FolderError {
    FolderError::Folder {
        folder: folder.into(),
        cause: cause.into(),
    }
}

fn file_error(file: &str, problem: impl Into<String>) -> FolderError {
    FolderError::File {
        // A name of a file may hold anything.
        file: file.escape_debug().to_string(),
        problem: problem.into(),
    }
}

/// Opens the folder and judges it.
fn enter(folder: &Path) -> Result<OwnedFd, FolderError> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let fd = open(folder, flags, Mode::empty()).map_err(|error| folder_error(folder, error))?;
    let stat = fstat(&fd).map_err(|error| folder_error(folder, error))?;
    if let Some(problem) = owner_problem(&stat) {
        let folder = folder.into();
        return Err(FolderError::FolderMode { folder, problem });
    }
    if stat.st_mode & 0o022 != 0 {
        return Err(FolderError::FolderMode {
            folder: folder.into(),
            problem: format!(
                "may be written by others (mode {:o}); do `chmod 700` on it",
                stat.st_mode & 0o7777
            ),
        });
    }
    Ok(fd)
}

fn owner_problem(stat: &Stat) -> Option<String> {
    let own = rustix::process::geteuid().as_raw();
    (stat.st_uid != own && stat.st_uid != 0).then(|| {
        format!(
            "belongs to the user {}; it must be this server's ({own}) or root's",
            stat.st_uid
        )
    })
}

/// Key files in the order of their names. What does not end in `.pem`, or begins with a dot, is
/// somebody else's.
fn list(folder: &Path, fd: &OwnedFd) -> Result<Vec<String>, FolderError> {
    let mut names = Vec::new();
    let entries = Dir::read_from(fd).map_err(|error| folder_error(folder, error))?;
    for entry in entries {
        let entry = entry.map_err(|error| folder_error(folder, error))?;
        let name = entry.file_name().to_string_lossy().into_owned();
        let is_key = Path::new(&name)
            .extension()
            .is_some_and(|kind| kind == "pem");
        if name.starts_with('.') || !is_key {
            continue;
        }
        if names.len() == FILES_MAX {
            let folder = folder.into();
            return Err(FolderError::TooMany { folder });
        }
        names.push(name);
    }
    names.sort_unstable();
    Ok(names)
}

fn look(fd: &OwnedFd, name: &str) -> Result<Seen, FolderError> {
    let stat = statat(fd, name, AtFlags::SYMLINK_NOFOLLOW)
        .map_err(|error| file_error(name, format!("cannot be looked at: {error}")))?;
    Ok(Seen {
        name: name.into(),
        inode: stat.st_ino,
        bytes: stat.st_size,
        modified: (stat.st_mtime, stat.st_mtime_nsec as i64),
        changed: (stat.st_ctime, stat.st_ctime_nsec as i64),
    })
}

/// How the folder looks now. Costs a system call per file.
pub fn fingerprint(folder: &Path) -> Result<Fingerprint, FolderError> {
    let fd = enter(folder)?;
    let names = list(folder, &fd)?;
    let seen = names.iter().map(|name| look(&fd, name));
    Ok(Fingerprint(seen.collect::<Result<_, _>>()?))
}

/// Reads every key, and how the folder looked before and after: the same, or it is read again.
pub fn load(folder: &Path) -> Result<(KeySet, Fingerprint), FolderError> {
    for _ in 0..TRIES_MAX {
        let before = fingerprint(folder)?;
        let read = read_all(folder, &before);
        // A file that came or went explains a failure as well.
        if fingerprint(folder)? == before {
            return Ok((read?, before));
        }
    }
    let folder = folder.into();
    Err(FolderError::Unsteady { folder })
}

fn read_all(folder: &Path, seen: &Fingerprint) -> Result<KeySet, FolderError> {
    let fd = enter(folder)?;
    let mut set = KeySet::default();
    for Seen { name, .. } in &seen.0 {
        let parsed = FileName::parse(name).ok_or_else(|| {
            file_error(
                name,
                "has no name of the form NAME.vN.pem or NAME.vN.retired.pem, such as documents.v1.pem",
            )
        })?;
        let text = read(&fd, name)?;
        let version = Version {
            number: parsed.version,
            retired: parsed.retired,
            material: material(&text).map_err(|problem| file_error(name, problem))?,
        };
        set.add(parsed.name, version)
            .map_err(|problem| file_error(name, problem))?;
    }
    Ok(set)
}

/// A file of the folder, once it is judged.
fn read(folder: &OwnedFd, name: &str) -> Result<Zeroizing<Vec<u8>>, FolderError> {
    // Not blocking: a named pipe must not hold the server up.
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let fd = openat(folder.as_fd(), name, flags, Mode::empty()).map_err(|error| {
        let problem = if error == rustix::io::Errno::LOOP {
            "is a link; keys are plain files".into()
        } else {
            format!("cannot be opened: {error}")
        };
        file_error(name, problem)
    })?;
    let stat = fstat(&fd).map_err(|error| file_error(name, format!("cannot be read: {error}")))?;
    if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
        return Err(file_error(name, "is no plain file"));
    }
    if let Some(problem) = owner_problem(&stat) {
        return Err(file_error(name, problem));
    }
    if stat.st_mode & 0o077 != 0 {
        let problem = format!(
            "may be read or written by others (mode {:o}); do `chmod 600` on it",
            stat.st_mode & 0o7777
        );
        return Err(file_error(name, problem));
    }
    // A file may grow while it is read: what is read is bounded, not what was promised.
    let mut text = Zeroizing::new(Vec::with_capacity(FILE_BYTES_MAX as usize + 1));
    File::from(fd)
        .take(FILE_BYTES_MAX + 1)
        .read_to_end(&mut text)
        .map_err(|error| file_error(name, format!("cannot be read: {error}")))?;
    if text.len() as u64 > FILE_BYTES_MAX {
        let problem = format!("has more than {FILE_BYTES_MAX} bytes");
        return Err(file_error(name, problem));
    }
    Ok(text)
}

/// A key from its PEM text. The error says nothing of the text.
pub fn material(text: &[u8]) -> Result<Material, String> {
    let (label, der) = pem_rfc7468::decode_vec(text).map_err(|_| {
        format!("is no PEM text; a key begins with -----BEGIN {SIGNING_LABEL}----- or -----BEGIN {SEALING_LABEL}-----")
    })?;
    let der = Zeroizing::new(der);
    match label {
        SEALING_LABEL => {
            let key: Result<&[u8; KEY_BYTES], _> = der.as_slice().try_into();
            let key = key
                .map_err(|_| format!("holds {} bytes; a sealing key has {KEY_BYTES}", der.len()))?;
            let key = SealingKey::new(key).map_err(|error| error.to_string())?;
            Ok(Material::Seal(Box::new(key)))
        }
        SIGNING_LABEL => {
            let key = SigningKey::from_pkcs8(&der).map_err(|error| error.to_string())?;
            Ok(Material::Sign(key))
        }
        "RSA PRIVATE KEY" | "EC PRIVATE KEY" | "ENCRYPTED PRIVATE KEY" | "OPENSSH PRIVATE KEY" => {
            Err(format!(
                "is labelled {label}; write it as unencrypted PKCS#8 with `openssl pkcs8 -topk8 -nocrypt`"
            ))
        }
        _ => Err(format!(
            "is labelled otherwise than {SIGNING_LABEL} or {SEALING_LABEL}"
        )),
    }
}
