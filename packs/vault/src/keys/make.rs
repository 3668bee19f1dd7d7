//! Makes keys, adds versions, retires them: what `offloop vault` does to a folder.
//!
//! Every change is one rename or link, so a server that reads at the same moment sees it done or
//! not begun. Nothing is ever overwritten or deleted.
//!
//! Must never: print or return a private key.

use std::fs::{self, File, OpenOptions};
use std::io::Write as _;
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use zeroize::Zeroizing;

use super::folder::{self, FileName, FolderError, SEALING_LABEL, SIGNING_LABEL};
use super::{Key, KeyName, KeySet, VERSION_MAX};
use crate::seal;
use crate::sign::{self, KeyKind};

/// What a new key is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Algorithm {
    /// Seals and opens.
    Aes256,
    Ed25519,
    P256,
    Rsa2048,
    Rsa3072,
    Rsa4096,
}

impl Algorithm {
    pub const ALL: [Self; 6] = [
        Self::Aes256,
        Self::Ed25519,
        Self::P256,
        Self::Rsa2048,
        Self::Rsa3072,
        Self::Rsa4096,
    ];

    pub const fn name(self) -> &'static str {
        match self {
            Self::Aes256 => "aes256",
            Self::Ed25519 => "ed25519",
            Self::P256 => "p256",
            Self::Rsa2048 => "rsa2048",
            Self::Rsa3072 => "rsa3072",
            Self::Rsa4096 => "rsa4096",
        }
    }

    pub fn of_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|known| known.name() == name)
    }

    /// A new private key as PEM.
    fn generate(self) -> Result<Zeroizing<String>, MakeError> {
        let (label, der) = match self {
            Self::Aes256 => {
                let mut key = Zeroizing::new(vec![0; seal::KEY_BYTES]);
                seal::random(&mut key).map_err(|_| MakeError::Generate)?;
                (SEALING_LABEL, key)
            }
            Self::Ed25519 => (SIGNING_LABEL, signing(KeyKind::Ed25519, 0)?),
            Self::P256 => (SIGNING_LABEL, signing(KeyKind::P256, 0)?),
            Self::Rsa2048 => (SIGNING_LABEL, signing(KeyKind::Rsa, 2_048)?),
            Self::Rsa3072 => (SIGNING_LABEL, signing(KeyKind::Rsa, 3_072)?),
            Self::Rsa4096 => (SIGNING_LABEL, signing(KeyKind::Rsa, 4_096)?),
        };
        let text = pem_rfc7468::encode_string(label, pem_rfc7468::LineEnding::LF, &der);
        text.map(Zeroizing::new).map_err(|_| MakeError::Generate)
    }
}

fn signing(kind: KeyKind, bits: usize) -> Result<Zeroizing<Vec<u8>>, MakeError> {
    sign::generate(kind, bits).map_err(|_| MakeError::Generate)
}

/// A change that was not made.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum MakeError {
    #[error(transparent)]
    Folder(#[from] FolderError),
    #[error("the key {name} is there already; `offloop vault rotate {name}` adds a version")]
    Exists { name: KeyName },
    #[error("the key {name} is not there; `offloop vault keygen {name}` makes it")]
    Unknown { name: KeyName },
    #[error("the key {name} has no version {version}")]
    NoVersion { name: KeyName, version: u32 },
    #[error("version {version} of {name} is retired already")]
    Retired { name: KeyName, version: u32 },
    #[error(
        "version {version} of {name} is the one in use; `offloop vault rotate {name}` first, or give --force to leave {name} without one"
    )]
    Active { name: KeyName, version: u32 },
    #[error("the key {name} has {VERSION_MAX} versions, and no room for another")]
    Full { name: KeyName },
    #[error("the key could not be generated")]
    Generate,
    #[error("cannot write {path}: {cause}")]
    Write {
        path: PathBuf,
        cause: std::io::Error,
    },
}

fn write_error(path: &Path) -> impl FnOnce(std::io::Error) -> MakeError + '_ {
    move |cause| MakeError::Write {
        path: path.into(),
        cause,
    }
}

/// Writes a file of one's own, whole or not at all, over nothing that is there.
fn put(folder: &Path, name: &FileName, text: &str) -> Result<(), MakeError> {
    let path = folder.join(name.to_string());
    let beside = folder.join(format!(".{name}.{}.part", std::process::id()));
    let written = (|| {
        let mut file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&beside)?;
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        fs::hard_link(&beside, &path)
    })();
    let _ = fs::remove_file(&beside); // it may never have been there
    written.map_err(write_error(&path))?;
    sync(folder)
}

fn sync(folder: &Path) -> Result<(), MakeError> {
    File::open(folder)
        .and_then(|folder| folder.sync_all())
        .map_err(write_error(folder))
}

/// Makes the folder, for this user alone, if it is not there.
fn prepare(folder: &Path) -> Result<(), MakeError> {
    let made = fs::DirBuilder::new().mode(0o700).create(folder);
    match made {
        Err(cause) if cause.kind() != std::io::ErrorKind::AlreadyExists => {
            Err(write_error(folder)(cause))
        }
        _ => Ok(()),
    }
}

/// Makes a key with its version 1. The folder is made if it is not there.
pub fn keygen(folder: &Path, name: &KeyName, algorithm: Algorithm) -> Result<u32, MakeError> {
    prepare(folder)?;
    let (set, _) = folder::load(folder)?;
    if set.get(name.as_str()).is_some() {
        return Err(MakeError::Exists { name: name.clone() });
    }
    let file = FileName {
        name: name.clone(),
        version: 1,
        retired: false,
    };
    put(folder, &file, &algorithm.generate()?)?;
    Ok(1)
}

fn known<'a>(set: &'a KeySet, name: &KeyName) -> Result<&'a Key, MakeError> {
    let unknown = || MakeError::Unknown { name: name.clone() };
    set.get(name.as_str()).ok_or_else(unknown)
}

/// Adds a version with a new key of the same kind; it seals and signs from then on.
pub fn rotate(folder: &Path, name: &KeyName) -> Result<u32, MakeError> {
    let (set, _) = folder::load(folder)?;
    let newest = known(&set, name)?.versions.last();
    let newest = newest.ok_or_else(|| MakeError::Unknown { name: name.clone() })?;
    if newest.number == VERSION_MAX {
        return Err(MakeError::Full { name: name.clone() });
    }
    // An imported RSA key may have an odd size; its next version has the next usual one.
    let algorithm = newest.material.algorithm();
    let algorithm = Algorithm::of_name(&algorithm).unwrap_or(Algorithm::Rsa4096);
    let file = FileName {
        name: name.clone(),
        version: newest.number + 1,
        retired: false,
    };
    put(folder, &file, &algorithm.generate()?)?;
    Ok(file.version)
}

/// Marks a version as retired: it opens and checks nothing any more. Its file stays, under another
/// name. The version in use is retired by `force` alone.
pub fn retire(folder: &Path, name: &KeyName, version: u32, force: bool) -> Result<(), MakeError> {
    let (set, _) = folder::load(folder)?;
    let key = known(&set, name)?;
    let name = || name.clone();
    let found = key.version(version).ok_or_else(|| MakeError::NoVersion {
        name: name(),
        version,
    })?;
    if found.retired {
        let name = name();
        return Err(MakeError::Retired { name, version });
    }
    if !force && key.active().is_some_and(|active| active.number == version) {
        let name = name();
        return Err(MakeError::Active { name, version });
    }
    let mut file = FileName {
        name: name(),
        version,
        retired: false,
    };
    let from = folder.join(file.to_string());
    file.retired = true;
    let to = folder.join(file.to_string());
    fs::rename(&from, &to).map_err(write_error(&to))?;
    sync(folder)
}
