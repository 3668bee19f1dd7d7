//! The set of keys in force, and how it follows the folder.
//!
//! Work takes the set once and keeps it to its end. A look at the folder happens at most once a
//! second, on a thread of the pack's lanes; what changed is read whole, and put in force whole. A
//! folder that cannot be read leaves the old set in force, and says so.
//!
//! Must never: look at the folder on a door's thread.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::KeySet;
use super::folder::{self, Fingerprint, FolderError};
use crate::error::{Kind, VaultError};

/// So long a change may go unnoticed.
pub const LOOK_EVERY: Duration = Duration::from_secs(1);

#[derive(Debug)]
struct State {
    set: Arc<KeySet>,
    fingerprint: Fingerprint,
    looked: Instant,
    /// Sets that were put in force, the first included.
    loads: u64,
    problem: Option<String>,
}

/// The keys of one folder.
#[derive(Debug)]
pub struct Keyring {
    /// `None`: no folder is configured.
    inner: Option<(PathBuf, Mutex<State>)>,
}

/// What a look found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Looked {
    pub changed: bool,
    pub keys: usize,
    /// Why the folder is not in force as it is.
    pub problem: Option<String>,
}

impl Keyring {
    /// Without a folder: every use of a key is refused with what to configure.
    pub const fn none() -> Self {
        Self { inner: None }
    }

    /// Reads the folder; a server does not start with one that it cannot take.
    pub fn open(folder: &Path) -> Result<Self, FolderError> {
        let (set, fingerprint) = folder::load(folder)?;
        let state = State {
            set: Arc::new(set),
            fingerprint,
            looked: Instant::now(),
            loads: 1,
            problem: None,
        };
        Ok(Self {
            inner: Some((folder.into(), Mutex::new(state))),
        })
    }

    pub fn folder(&self) -> Option<&Path> {
        self.inner.as_ref().map(|(folder, _)| folder.as_path())
    }

    fn parts(&self) -> Result<(&Path, &Mutex<State>), VaultError> {
        let missing = || {
            let detail = "no key folder is configured: set `keys` under [packs.vault], and make a key with `offloop vault keygen`";
            VaultError::new(Kind::NoKeys, "", detail)
        };
        let (folder, state) = self.inner.as_ref().ok_or_else(missing)?;
        Ok((folder, state))
    }

    /// What to tell whoever needs keys, where no folder is configured.
    pub fn refusal(&self) -> Option<VaultError> {
        self.parts().err()
    }

    /// The set in force, after a look at the folder when the last one was a second ago.
    pub fn set(&self) -> Result<Arc<KeySet>, VaultError> {
        let (folder, state) = self.parts()?;
        let mut held = lock(state);
        if held.looked.elapsed() >= LOOK_EVERY {
            // Others go on with the old set meanwhile.
            held.looked = Instant::now();
            drop(held);
            look(folder, state);
            held = lock(state);
        }
        Ok(Arc::clone(&held.set))
    }

    /// The set in force, without a look. For doors.
    pub fn known(&self) -> Option<(Arc<KeySet>, u64, Option<String>)> {
        let (_, state) = self.inner.as_ref()?;
        let held = lock(state);
        Some((Arc::clone(&held.set), held.loads, held.problem.clone()))
    }

    /// Looks now.
    pub fn reload(&self) -> Result<Looked, VaultError> {
        let (folder, state) = self.parts()?;
        Ok(look(folder, state))
    }
}

fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

fn look(folder: &Path, state: &Mutex<State>) -> Looked {
    let known = lock(state).fingerprint.clone();
    let found = match folder::fingerprint(folder) {
        Ok(now) if now == known => Ok(None),
        Ok(_) => folder::load(folder).map(Some),
        Err(error) => Err(error),
    };
    let mut held = lock(state);
    held.looked = Instant::now();
    let mut changed = false;
    match found {
        Ok(None) => held.problem = None,
        Ok(Some((set, fingerprint))) => {
            changed = true;
            tracing::info!(folder = %folder.display(), keys = set.len(), "keys were read again");
            *held = State {
                set: Arc::new(set),
                fingerprint,
                looked: held.looked,
                loads: held.loads + 1,
                problem: None,
            };
        }
        Err(error) => {
            let problem = error.to_string();
            if held.problem.as_ref() != Some(&problem) {
                tracing::warn!(%problem, "the keys that were read before stay in force");
            }
            held.problem = Some(problem);
        }
    }
    Looked {
        changed,
        keys: held.set.len(),
        problem: held.problem.clone(),
    }
}
