//! The engine itself: which tasks, by which keys, and which leases are theirs.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use offloop_job::{Failure, FailureClass, Job, JobSummary, Lease, LogTail, NewJob, TaskName};
use offloop_store::{
    AuditAsk, AuditPage, AuditStore, Capability, Claimed, Engine, LimitChange, LimitPage, LimitSet,
    LimitStore, LimitsAsk, Reply, Wake, WakeHook,
};

use crate::cipher::{self, Cipher, CipherError, Kind, SHUT};

/// What the calls of one engine share.
pub(crate) struct Seals {
    pub(crate) cipher: Arc<dyn Cipher>,
    /// Task to key.
    keys: HashMap<TaskName, Box<str>>,
    /// Leases of these tasks that are out, with their key: what comes under them names no task.
    leases: Mutex<HashMap<Lease, Box<str>>>,
}

impl Seals {
    pub(crate) fn key(&self, task: &TaskName) -> Option<&str> {
        self.keys.get(task.as_str()).map(AsRef::as_ref)
    }

    fn leases(&self) -> MutexGuard<'_, HashMap<Lease, Box<str>>> {
        self.leases.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn key_of(&self, lease: Lease) -> Option<Box<str>> {
        self.leases().get(&lease).cloned()
    }

    pub(crate) fn forget(&self, lease: Lease) {
        self.leases().remove(&lease);
    }

    pub(crate) fn seal(&self, key: &str, kind: Kind, plain: &[u8]) -> Result<Bytes, CipherError> {
        cipher::seal(&*self.cipher, key, None, kind, plain, None)
    }

    /// Seals a new job's payload. One with an idempotency key is sealed to the same form again, so that
    /// the request is known when it is repeated.
    pub(crate) fn job(&self, job: &mut NewJob, version: Option<u32>) -> Result<(), CipherError> {
        let Some(key) = self.key(&job.task) else {
            return Ok(());
        };
        let same = job.idempotency.as_ref().map(|key| key.as_str().as_bytes());
        let plain = &job.payload;
        job.payload = cipher::seal(&*self.cipher, key, version, Kind::Payload, plain, same)?;
        Ok(())
    }

    /// Opened, or as it is: sealed if it cannot be opened.
    pub(crate) fn content(&self, kind: Kind, content: &mut Bytes) {
        match cipher::open(&*self.cipher, kind, content) {
            Some(Ok(plain)) => *content = plain,
            Some(Err(error)) => tracing::warn!(%error, "sealed content cannot be opened"),
            None => {}
        }
    }

    fn log(&self, part: &mut Bytes) {
        match cipher::open(&*self.cipher, Kind::Log, part) {
            Some(Ok(plain)) => *part = plain,
            Some(Err(_)) => *part = Bytes::from_static(SHUT.as_bytes()),
            None => {}
        }
    }

    pub(crate) fn message(&self, message: &mut Box<str>) {
        match cipher::open(&*self.cipher, Kind::Message, message.as_bytes()) {
            Some(Ok(plain)) => *message = String::from_utf8_lossy(&plain).into(),
            Some(Err(_)) => *message = SHUT.into(),
            None => {}
        }
    }

    fn failure(&self, failure: &mut Option<Failure>) {
        if let Some(failure) = failure {
            self.message(&mut failure.message);
        }
    }

    pub(crate) fn summary(&self, summary: &mut JobSummary) {
        self.failure(&mut summary.failure);
    }

    pub(crate) fn whole(&self, job: &mut Job) {
        self.content(Kind::Payload, &mut job.payload);
        self.summary(&mut job.summary);
        for attempt in &mut job.attempts {
            self.failure(&mut attempt.failure);
            self.log(&mut attempt.log.head);
            self.log(&mut attempt.log.tail);
        }
        if let Some(progress) = &mut job.progress {
            self.content(Kind::Note, &mut progress.note);
        }
        if let Some(result) = &mut job.result {
            self.content(Kind::Result, result);
        }
        if let Some(checkpoint) = &mut job.checkpoint {
            self.content(Kind::Checkpoint, checkpoint);
        }
    }

    /// A job that was given out.
    pub(crate) fn claimed(&self, claimed: &mut Claimed) {
        if let Some(key) = self.key(&claimed.task) {
            self.leases().insert(claimed.lease, key.into());
        }
        self.content(Kind::Payload, &mut claimed.payload);
        if let Some(checkpoint) = &mut claimed.checkpoint {
            self.content(Kind::Checkpoint, checkpoint);
        }
        if claimed.inputs.iter().any(|input| input.result.is_some()) {
            let mut inputs = claimed.inputs.to_vec();
            for result in inputs.iter_mut().filter_map(|input| input.result.as_mut()) {
                self.content(Kind::Result, result);
            }
            claimed.inputs = inputs.into();
        }
    }

    /// What an attempt leaves on record beside its result.
    pub(crate) fn report(
        &self,
        key: &str,
        failure: &mut Option<Failure>,
        log: &mut LogTail,
    ) -> Result<(), CipherError> {
        if let Some(failure) = failure
            .as_mut()
            .filter(|failure| !failure.message.is_empty())
        {
            let sealed = self.seal(key, Kind::Message, failure.message.as_bytes())?;
            failure.message = String::from_utf8_lossy(&sealed).into();
        }
        for part in [&mut log.head, &mut log.tail] {
            if !part.is_empty() {
                *part = self.seal(key, Kind::Log, part)?;
            }
        }
        Ok(())
    }
}

/// For the record, in place of what cannot be sealed.
pub(crate) fn unsealable(error: &CipherError) -> Failure {
    let message = format!("what it answered cannot be kept, because it cannot be sealed: {error}");
    Failure::new(FailureClass::Invalid, message)
}

/// An engine that keeps what chosen tasks work on in sealed form.
#[derive(Clone)]
pub struct SealedStore {
    pub(crate) inner: Arc<dyn Engine>,
    pub(crate) seals: Arc<Seals>,
}

impl fmt::Debug for SealedStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SealedStore")
            .field("inner", &self.inner)
            .field("tasks", &self.seals.keys)
            .finish_non_exhaustive()
    }
}

impl SealedStore {
    /// `keys`: task to key. Sealed content of other tasks is opened all the same: their jobs of before
    /// stay readable when a task is sealed no more.
    ///
    /// - Errors: the first task whose key is not there.
    pub fn new(
        inner: Arc<dyn Engine>,
        cipher: Arc<dyn Cipher>,
        keys: impl IntoIterator<Item = (TaskName, Box<str>)>,
    ) -> Result<Self, CipherError> {
        let keys: HashMap<_, _> = keys.into_iter().collect();
        for (task, key) in &keys {
            let sealed = cipher.seal(key, None, b"", b"", None);
            sealed.map_err(|error| CipherError(format!("tasks.{task}.encrypt: {error}")))?;
        }
        let seals = Arc::new(Seals {
            cipher,
            keys,
            leases: Mutex::default(),
        });
        Ok(Self { inner, seals })
    }
}

impl Engine for SealedStore {
    fn capability(&self) -> Capability {
        self.inner.capability()
    }
}

impl Wake for SealedStore {
    fn set_hook(&self, hook: WakeHook) {
        self.inner.set_hook(hook);
    }
}

impl LimitStore for SealedStore {
    fn set_limit(&self, change: LimitChange) -> Reply<LimitSet> {
        self.inner.set_limit(change)
    }

    fn limits(&self, ask: LimitsAsk) -> Reply<LimitPage> {
        self.inner.limits(ask)
    }
}

impl AuditStore for SealedStore {
    fn audit(&self, ask: AuditAsk) -> Reply<AuditPage> {
        self.inner.audit(ask)
    }
}
