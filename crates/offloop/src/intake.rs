//! Whole bodies from one pack to another: who has them need not know who takes them.
//!
//! A pack that stores bodies offers an [`Intake`] while it is installed; any other holds the slot and
//! looks into it when the server runs, in whatever order they came. Must never: acknowledge a body that
//! is not on disk together with the job that goes on with it.

use std::fmt;
use std::path::Path;
use std::pin::Pin;
use std::sync::{Arc, OnceLock};

use offloop_job::JobId;

/// A body that is whole, as a file.
#[derive(Clone, Copy, Debug)]
pub struct WholeBody<'a> {
    /// The same for the same body, however often it is offered: 1 to 64 of `a-z`, `A-Z`, `0-9`, `_`, `-`.
    pub name: &'a str,
    /// What it is to go into.
    pub target: &'a str,
    /// On whose account: 1 to 128 bytes without control characters, as a job's `group_key`. `None`: nobody's,
    /// so that no limit of a tenant counts it.
    pub tenant: Option<&'a str>,
    /// Moved away when it is taken, best on the same file system. One that was taken before stays
    /// where it is, for its owner to delete.
    pub file: &'a Path,
}

/// Why a body was not taken.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum IntakeError {
    /// Not now: the same body may be offered again in a moment.
    #[error("{0}")]
    Full(String),
    /// Not ever.
    #[error("{0}")]
    Refused(String),
}

/// The job that goes on with the body.
pub type Taking<'a> = Pin<Box<dyn Future<Output = Result<JobId, IntakeError>> + Send + 'a>>;

/// Takes bodies into targets that the operator has declared.
pub trait Intake: Send + Sync + fmt::Debug {
    /// What is wrong with the name of a target, in a sentence; `None`: there is one of that name.
    fn problem(&self, target: &str) -> Option<String>;

    /// On disk with its job when answered. A name that was taken before is answered as it was then, and
    /// its content is not looked at again: the first body of a name is the one that counts.
    fn take<'a>(&'a self, body: WholeBody<'a>) -> Taking<'a>;
}

/// Where the server's intake is, once a pack has offered one. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct IntakeSlot(Arc<OnceLock<Arc<dyn Intake>>>);

impl IntakeSlot {
    pub fn get(&self) -> Option<&dyn Intake> {
        self.0.get().map(|intake| &**intake)
    }

    /// The first offer is the one that counts.
    pub(crate) fn offer(&self, intake: Arc<dyn Intake>) {
        let _late = self.0.set(intake);
    }
}
