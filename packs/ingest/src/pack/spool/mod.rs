//! Bodies on disk: those that wait for their job, and those that come in parts.
//!
//! `LOAD.part` grows, `LOAD.json` says what it is for, `LOAD.spool` is whole: flushed, then renamed,
//! then its folder flushed. What a crash leaves is a part that can be gone on with, or a whole one
//! whose job is made at the next start; one that nobody can go on with is taken away there.
//!
//! Must never: pass its bound; let two requests write one part; call a part whole that is not on
//! disk.

mod part;

use std::collections::HashMap;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use offloop::runtime::clock::{Clock as _, SystemClock};
use serde::{Deserialize, Serialize};
use tokio::sync::watch;

use super::digest::Given;
use crate::load::LoadId;
use crate::sink::Hand;
pub(super) use part::Part;

/// Threads that write: one that flushes holds up a part of the senders only.
const HANDS: usize = 4;
/// Bodies on disk, whole or not: each takes some files.
const BODIES_MAX: usize = 10_000;
/// Who takes over a part waits for its writer so long.
const LET_GO_WITHIN: Duration = Duration::from_secs(5);

/// What a body is for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct About {
    pub(super) target: String,
    pub(super) tenant: Option<String>,
    /// Of all of it, where the sender has said so.
    pub(super) length: Option<u64>,
    /// It comes in parts: what was sent of it outlives its connection.
    #[serde(default = "yes")]
    pub(super) resumable: bool,
    /// Digests of all of it.
    #[serde(default)]
    pub(super) repr: Vec<Given>,
}

const fn yes() -> bool {
    true
}

/// Why a body is not kept.
#[derive(Debug, thiserror::Error)]
pub(super) enum SpoolError {
    #[error(
        "the spool is full: {used} of {most} bytes, ingest.spool_limit; come again when loads have ended"
    )]
    Full { used: u64, most: u64 },
    #[error("{BODIES_MAX} bodies are in the spool, as many as may be")]
    TooMany,
    #[error("`{tenant}` sends {limit} bodies now, ingest.tenant_loads; come again later")]
    TenantFull { tenant: String, limit: usize },
    #[error("{limit} bodies are being sent, ingest.loads; come again later")]
    SendersFull { limit: usize },
    #[error(
        "the load `{load}` is in the spool already; HEAD /v1/ingest/uploads/{load} tells how far it has come"
    )]
    Exists { load: LoadId },
    #[error(
        "there is no upload `{load}`: it never was, was deleted, or was left alone for too long"
    )]
    Unknown { load: LoadId },
    #[error("another request sends the same body")]
    Busy,
    #[error("the disk is full")]
    DiskFull,
    #[error("the spool cannot be written")]
    Io(#[source] io::Error),
    #[error("the server is ending")]
    Ending,
}

impl From<io::Error> for SpoolError {
    fn from(error: io::Error) -> Self {
        if error.kind() == io::ErrorKind::StorageFull {
            Self::DiskFull
        } else {
            Self::Io(error)
        }
    }
}

/// What it may hold.
#[derive(Clone, Copy, Debug)]
pub(super) struct SpoolRule {
    pub(super) most: u64,
    /// A whole body whose job does not come, and a part that does not grow, go after so long.
    pub(super) keep: Duration,
    pub(super) keep_parts: Duration,
    pub(super) senders: usize,
    pub(super) tenant_senders: usize,
}

#[derive(Debug, Default)]
struct State {
    used: u64,
    bodies: usize,
    /// Parts that are being written: on whose account, and how to ask the writer to let go.
    writers: HashMap<LoadId, (Option<String>, watch::Sender<bool>)>,
}

#[derive(Debug)]
pub(super) struct Spool {
    folder: PathBuf,
    rule: SpoolRule,
    hands: Vec<Hand<()>>,
    next: AtomicUsize,
    state: Arc<Mutex<State>>,
    /// Held while the two files of a body come or go: a name may be used again.
    files: Arc<Mutex<()>>,
}

fn lock<T>(state: &Mutex<T>) -> MutexGuard<'_, T> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

fn name(folder: &Path, load: &LoadId, kind: &str) -> PathBuf {
    folder.join(format!("{load}.{kind}"))
}

/// Flushed, then under its last name. From another file system it is copied, under a name that the sweep
/// knows until it is whole.
fn bring(from: &Path, to: &Path) -> io::Result<()> {
    File::open(from)?.sync_all()?;
    match fs::rename(from, to) {
        Err(error) if error.kind() == io::ErrorKind::CrossesDevices => {}
        done => return done,
    }
    let part = to.with_extension("part");
    fs::copy(from, &part)?;
    File::open(&part)?.sync_all()?;
    fs::rename(part, to)?;
    fs::remove_file(from)
}

fn missing_is_fine(done: io::Result<()>) -> io::Result<()> {
    match done {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

impl Spool {
    pub(super) fn open(folder: &Path, rule: SpoolRule) -> io::Result<Self> {
        fs::create_dir_all(folder)?;
        let hands = (0..HANDS).map(|_| Hand::new("ingest-spool", ()));
        let spool = Self {
            folder: folder.to_owned(),
            rule,
            hands: hands.collect::<Result<_, _>>()?,
            next: AtomicUsize::new(0),
            state: Arc::default(),
            files: Arc::default(),
        };
        spool.settle()?;
        Ok(spool)
    }

    pub(super) fn hand(&self) -> Hand<()> {
        let turn = self.next.fetch_add(1, Ordering::Relaxed);
        self.hands[turn % self.hands.len()].clone()
    }

    /// Asks whoever writes `load` to let go, and waits for it; then the caller is its writer.
    async fn take_over(
        &self,
        load: &LoadId,
        tenant: Option<&str>,
    ) -> Result<watch::Receiver<bool>, SpoolError> {
        let until = tokio::time::Instant::now() + LET_GO_WITHIN;
        loop {
            let mut gone = {
                let mut state = lock(&self.state);
                match state.writers.get(load) {
                    None => {
                        self.has_room(&state, tenant)?;
                        let (want, wanted) = watch::channel(false);
                        let entry = (tenant.map(str::to_owned), want);
                        state.writers.insert(load.clone(), entry);
                        return Ok(wanted);
                    }
                    Some((_, want)) => {
                        want.send_replace(true);
                        want.subscribe()
                    }
                }
            };
            let let_go = async { while gone.changed().await.is_ok() {} };
            let waited = tokio::time::timeout_at(until, let_go).await;
            waited.map_err(|_still_writing| SpoolError::Busy)?;
        }
    }

    fn has_room(&self, state: &State, tenant: Option<&str>) -> Result<(), SpoolError> {
        let limit = self.rule.senders;
        if state.writers.len() >= limit {
            return Err(SpoolError::SendersFull { limit });
        }
        let limit = self.rule.tenant_senders;
        let is_same = |other: &&(Option<String>, _)| other.0.as_deref() == tenant;
        if let Some(tenant) = tenant
            && state.writers.values().filter(is_same).count() >= limit
        {
            let tenant = tenant.to_owned();
            return Err(SpoolError::TenantFull { tenant, limit });
        }
        Ok(())
    }

    /// A new body. Whoever still sends one of that name, which its sender may have given up, is cut.
    pub(super) async fn create(&self, load: &LoadId, about: About) -> Result<Part, SpoolError> {
        {
            let state = lock(&self.state);
            if state.bodies >= BODIES_MAX {
                return Err(SpoolError::TooMany);
            }
            let (used, most) = (state.used, self.rule.most);
            if used.saturating_add(about.length.unwrap_or(0)) > most {
                return Err(SpoolError::Full { used, most });
            }
        }
        let wanted = self.take_over(load, about.tenant.as_deref()).await?;
        let (folder, id, text) = (
            self.folder.clone(),
            load.clone(),
            serde_json::to_vec(&about).map_err(io::Error::from)?,
        );
        let hand = self.hand();
        let files = Arc::clone(&self.files);
        let made = hand.ask(move |()| {
            if name(&folder, &id, "spool").exists() {
                return Err(SpoolError::Exists { load: id });
            }
            let part = name(&folder, &id, "part");
            if part.exists() {
                return Err(SpoolError::Exists { load: id });
            }
            let draft = name(&folder, &id, "draft");
            let mut beside = File::create(&draft)?;
            beside.write_all(&text)?;
            beside.sync_all()?;
            // What it is for comes first: there is no body that does not say it.
            let alone = lock(&files);
            fs::rename(draft, name(&folder, &id, "json"))?;
            let file = OpenOptions::new()
                .create_new(true)
                .append(true)
                .open(part)?;
            drop(alone);
            File::open(&folder)?.sync_all()?;
            Ok(file)
        });
        let part = |file| self.part(load, about, 0, file, hand.clone(), wanted);
        match made.await {
            Ok(Ok(file)) => {
                lock(&self.state).bodies += 1;
                Ok(part(file))
            }
            failed => {
                lock(&self.state).writers.remove(load);
                Err(failed.map_or(SpoolError::Ending, |done| match done {
                    Ok(_) => SpoolError::Ending,
                    Err(error) => error,
                }))
            }
        }
    }

    fn part(
        &self,
        load: &LoadId,
        about: About,
        offset: u64,
        file: File,
        hand: Hand<()>,
        wanted: watch::Receiver<bool>,
    ) -> Part {
        Part {
            load: load.clone(),
            about,
            offset,
            file: Arc::new(file),
            hand,
            folder: self.folder.clone(),
            most: self.rule.most,
            state: Arc::clone(&self.state),
            is_settled: false,
            has_left: false,
            wanted,
        }
    }

    /// A whole body that another pack has on disk: moved here, unless one of that name is here already.
    pub(super) async fn adopt(
        &self,
        load: &LoadId,
        about: &About,
        from: &Path,
    ) -> Result<bool, SpoolError> {
        let len = about.length.unwrap_or(0);
        {
            let mut state = lock(&self.state);
            if state.bodies >= BODIES_MAX {
                return Err(SpoolError::TooMany);
            }
            let (used, most) = (state.used, self.rule.most);
            if used.saturating_add(len) > most {
                return Err(SpoolError::Full { used, most });
            }
            state.used += len;
            state.bodies += 1;
        }
        let text = serde_json::to_vec(about).map_err(io::Error::from)?;
        let (folder, from) = (self.folder.clone(), from.to_owned());
        let (to, beside) = (self.whole(load), name(&self.folder, load, "json"));
        let hand = self.hand();
        let moved = hand.ask(move |()| {
            if to.exists() {
                return Ok(false);
            }
            let mut note = File::create(beside)?;
            note.write_all(&text)?;
            note.sync_all()?;
            bring(&from, &to)?;
            File::open(&folder)?.sync_all()?;
            Ok::<_, io::Error>(true)
        });
        let moved = moved.await.map_err(|_| SpoolError::Ending);
        let moved = moved.and_then(|moved| Ok(moved?));
        if !matches!(moved, Ok(true)) {
            let mut state = lock(&self.state);
            state.used = state.used.saturating_sub(len);
            state.bodies = state.bodies.saturating_sub(1);
        }
        moved
    }

    /// A part as it was left.
    pub(super) async fn resume(&self, load: &LoadId) -> Result<Part, SpoolError> {
        let about = self.about(load)?;
        if !name(&self.folder, load, "part").exists() {
            return Err(SpoolError::Unknown { load: load.clone() });
        }
        let wanted = self.take_over(load, about.tenant.as_deref()).await?;
        let opened = OpenOptions::new()
            .append(true)
            .open(name(&self.folder, load, "part"));
        let found = opened.and_then(|file| Ok((file.metadata()?.len(), file)));
        match found {
            Ok((offset, file)) => Ok(self.part(load, about, offset, file, self.hand(), wanted)),
            Err(error) => {
                lock(&self.state).writers.remove(load);
                Err(match error.kind() {
                    io::ErrorKind::NotFound => SpoolError::Unknown { load: load.clone() },
                    _ => error.into(),
                })
            }
        }
    }

    pub(super) fn about(&self, load: &LoadId) -> Result<About, SpoolError> {
        match fs::read(name(&self.folder, load, "json")) {
            Ok(text) => Ok(serde_json::from_slice(&text).map_err(io::Error::from)?),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                Err(SpoolError::Unknown { load: load.clone() })
            }
            Err(error) => Err(error.into()),
        }
    }

    /// Since the body grew; nothing where it is not known.
    pub(super) fn age(&self, load: &LoadId) -> Duration {
        let now = Duration::from_millis(SystemClock.now().as_millis());
        let about = fs::metadata(name(&self.folder, load, "part"));
        let changed = about.and_then(|about| about.modified()).ok();
        let changed = changed.and_then(|time| time.duration_since(std::time::UNIX_EPOCH).ok());
        changed.map_or(Duration::ZERO, |changed| now.saturating_sub(changed))
    }

    /// The file of a whole body.
    pub(super) fn whole(&self, load: &LoadId) -> PathBuf {
        name(&self.folder, load, "spool")
    }

    /// Loads whose bodies are whole.
    pub(super) fn all_whole(&self) -> io::Result<Vec<LoadId>> {
        let mut found = Vec::new();
        for entry in fs::read_dir(&self.folder)? {
            let path = entry?.path();
            let stem = path.file_stem().and_then(|stem| stem.to_str());
            if path.extension().is_some_and(|kind| kind == "spool")
                && let Some(Ok(load)) = stem.map(LoadId::parse)
            {
                found.push(load);
            }
        }
        Ok(found)
    }

    /// Takes a whole body away.
    pub(super) fn remove(&self, load: &LoadId) -> io::Result<()> {
        let _alone = lock(&self.files);
        remove(&self.folder, load, "spool", &self.state)
    }

    /// All bodies: load, kind of file, bytes, age.
    fn bodies(&self) -> io::Result<Vec<(LoadId, &'static str, u64, Duration)>> {
        let now = Duration::from_millis(SystemClock.now().as_millis());
        let mut found = Vec::new();
        for entry in fs::read_dir(&self.folder)? {
            let entry = entry?;
            let path = entry.path();
            let kind = match path.extension().and_then(|kind| kind.to_str()) {
                Some("spool") => "spool",
                Some("part") => "part",
                Some("json") => "json",
                Some("draft") => "draft",
                _ => continue,
            };
            let stem = path.file_stem().and_then(|stem| stem.to_str());
            // What is gone by now is none.
            let (Some(Ok(load)), Ok(about)) = (stem.map(LoadId::parse), entry.metadata()) else {
                continue;
            };
            let changed = about.modified()?.duration_since(std::time::UNIX_EPOCH);
            let age = now.saturating_sub(changed.unwrap_or_default());
            found.push((load, kind, about.len(), age));
        }
        Ok(found)
    }

    /// Counts what is there, and takes away what nobody can go on with; nobody writes yet.
    fn settle(&self) -> io::Result<()> {
        for (load, kind, len, _) in self.bodies()? {
            let is_there = |kind| name(&self.folder, &load, kind).exists();
            let is_lost = match kind {
                "part" => self.is_lost(&load),
                "json" => !is_there("part") && !is_there("spool"),
                _ => false,
            };
            if kind == "draft" {
                missing_is_fine(fs::remove_file(name(&self.folder, &load, kind)))?;
            } else if is_lost {
                tracing::info!(%load, "a body that was cut by the server's end is taken away");
                missing_is_fine(fs::remove_file(name(&self.folder, &load, kind)))?;
                missing_is_fine(fs::remove_file(name(&self.folder, &load, "json")))?;
            } else if kind != "json" {
                let mut state = lock(&self.state);
                state.used += len;
                state.bodies += 1;
            }
        }
        Ok(())
    }

    /// Of a part: what it is for is not known, or nobody can go on with it.
    fn is_lost(&self, load: &LoadId) -> bool {
        self.about(load).map_or(true, |about| !about.resumable)
    }

    /// Whole bodies that are old enough to go, if no job waits for them.
    pub(super) fn old(&self) -> io::Result<Vec<LoadId>> {
        let bodies = self.bodies()?.into_iter();
        let old = bodies.filter(|body| body.1 == "spool" && body.3 > self.rule.keep);
        Ok(old.map(|body| body.0).collect())
    }

    /// Takes away what is too old. Bodies that are written, and those that `is_needed`, stay.
    pub(super) fn sweep(&self, is_needed: &dyn Fn(&LoadId) -> bool) -> io::Result<()> {
        for (load, kind, _, age) in self.bodies()? {
            let has = |kind| name(&self.folder, &load, kind).exists();
            let goes = match kind {
                "spool" => age > self.rule.keep,
                "part" => age > self.rule.keep_parts,
                // Of a body that is gone.
                _ => age > self.rule.keep_parts && !has("part") && !has("spool"),
            };
            if !goes || is_needed(&load) || lock(&self.state).writers.contains_key(&load) {
                continue;
            }
            tracing::info!(%load, "a body that nobody came for is taken away");
            match kind {
                "json" | "draft" => {
                    missing_is_fine(fs::remove_file(name(&self.folder, &load, kind)))?;
                }
                kind => remove(&self.folder, &load, kind, &self.state)?,
            }
        }
        Ok(())
    }
}

/// Takes a file of a body away with what it is for.
fn remove(folder: &Path, load: &LoadId, kind: &str, state: &Mutex<State>) -> io::Result<()> {
    let path = name(folder, load, kind);
    if let Ok(about) = fs::metadata(&path) {
        missing_is_fine(fs::remove_file(&path))?;
        let mut state = lock(state);
        state.used = state.used.saturating_sub(about.len());
        state.bodies = state.bodies.saturating_sub(1);
    }
    if kind == "spool" && name(folder, load, "part").exists() {
        return Ok(()); // it is the next one's by now
    }
    missing_is_fine(fs::remove_file(name(folder, load, "json")))
}
