//! Phase 1: finds photos and reads their heads. One row per photo, in the commit that asks for its
//! conversion.
//!
//! A re-scan writes only what changed (size, mtime, inode) and marks what has vanished. Must never:
//! decode a pixel, follow a link, or let one bad path stop the rest.

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::path::Path;
use std::sync::Arc;

use offloop::job::limits::PAGE_ROWS_MAX;
use offloop::store::RecordScan;
use offloop::{
    JobOptions, NewJob, OnConflict, RecordWrite, RuntimeHandle, TaskContext, TaskError, TaskOutput,
    Unique, UniqueKey, UniqueScope, block_on,
};
use serde::{Deserialize, Serialize};

use super::Library;
use super::rows::{Fingerprint, Row, Status};
use crate::probe::{ProbeError, Prober};
use crate::walk::{Entry, Found, Here, Next, OpenError, Root, WalkEnd, WalkLimits, walk};

/// What a scan is asked for.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct ScanRequest {
    /// Absolute.
    pub(crate) path: String,
}

/// What a scan has seen so far.
#[derive(Clone, Debug, Default, Serialize)]
pub(crate) struct Tally {
    pub(crate) files: u64,
    pub(crate) photos: u64,
    pub(crate) new: u64,
    pub(crate) changed: u64,
    pub(crate) unchanged: u64,
    /// Not followed, not readable, not files: each with its reason, the first 100.
    pub(crate) problems: u64,
    pub(crate) problem_list: Vec<String>,
    pub(crate) missing: u64,
}

/// Rows and jobs in one commit.
const BATCH: usize = 256;
const PROBLEMS_LISTED_MAX: usize = 100;
/// Files whose name says "photo" get a row even when their bytes do not.
const EXTENSIONS: [&str; 22] = [
    "jpg", "jpeg", "jpe", "png", "webp", "gif", "tif", "tiff", "bmp", "heic", "heif", "avif",
    "cr2", "cr3", "nef", "arw", "dng", "raf", "orf", "rw2", "pef", "srw",
];

struct Scan<'a> {
    library: &'a Library,
    server: &'a RuntimeHandle,
    context: &'a TaskContext,
    root: &'a str,
    /// Of every row below the root: hash of its key to hash of its fingerprint and whether it is
    /// missing. What is left at the end has vanished.
    known: HashMap<u64, (u64, bool)>,
    hasher: RandomState,
    prober: Prober,
    tally: Tally,
    jobs: Vec<NewJob>,
    records: Vec<RecordWrite>,
    failed: Option<TaskError>,
}

/// The task `photos.scan`.
pub(crate) fn run(library: &Arc<Library>, context: &TaskContext) -> Result<TaskOutput, TaskError> {
    let request: ScanRequest = offloop::payload(context)?;
    let server = library.server()?;
    let root = request.path.trim_end_matches('/');
    let folder = Root::open(Path::new(&request.path))
        .map_err(|error| TaskError::invalid(format!("path: {error}")))?;
    let mut scan = Scan {
        library,
        server,
        context,
        root,
        known: HashMap::new(),
        hasher: RandomState::new(),
        prober: Prober::new(),
        tally: Tally::default(),
        jobs: Vec::new(),
        records: Vec::new(),
        failed: None,
    };
    scan.load_known()?;
    let end = walk(&folder, WalkLimits::default(), &mut |found, here| {
        scan.visit(found, here)
    })
    .map_err(|error| TaskError::error(error.to_string()))?;
    if let Some(error) = scan.failed.take() {
        return Err(error);
    }
    scan.flush()?;
    match end {
        WalkEnd::Complete => scan.mark_vanished()?,
        WalkEnd::Stopped => return Err(TaskError::stopped()),
        WalkEnd::TooManyEntries => {
            return Err(TaskError::invalid(format!(
                "path: holds more than {} entries, the limit; scan its folders one by one",
                WalkLimits::default().entries_max
            )));
        }
    }
    scan.report();
    let result = serde_json::to_vec(&scan.tally).unwrap_or_default();
    Ok(TaskOutput::json(result))
}

impl Scan<'_> {
    /// Calls `each` with every row below the root.
    fn each_row(&self, each: &mut dyn FnMut(&[u8], &str, &Row)) -> Result<(), TaskError> {
        let prefix = format!("{}/", self.root);
        let mut after = Some(bytes::Bytes::from(prefix.clone()));
        loop {
            let scan = RecordScan {
                collection: self.library.names.collection.clone(),
                label: None,
                after: after.take(),
                limit: u32::from(PAGE_ROWS_MAX) * 8,
            };
            let page = block_on(self.server.records(scan))
                .map_err(|error| TaskError::error(error.to_string()))?;
            for record in &page.records {
                if !record.key.starts_with(prefix.as_bytes()) {
                    return Ok(());
                }
                if let Ok(row) = serde_json::from_slice(&record.value) {
                    each(&record.key, record.label.as_str(), &row);
                }
            }
            if self.context.should_stop() {
                return Err(TaskError::stopped());
            }
            match page.next {
                Some(next) => after = Some(next),
                None => return Ok(()),
            }
        }
    }

    fn load_known(&mut self) -> Result<(), TaskError> {
        let mut known = HashMap::new();
        self.each_row(&mut |key, label, row| {
            let missing = label == Status::Missing.as_str();
            let entry = (self.hasher.hash_one(row.file), missing);
            known.insert(self.hasher.hash_one(key), entry);
        })?;
        self.known = known;
        Ok(())
    }

    fn visit(&mut self, found: Found, here: Option<Here<'_>>) -> Next {
        if self.context.should_stop() {
            return Next::Stop;
        }
        match found {
            Found::Problem { path, problem } => self.problem(&path.to_text(), &problem.to_string()),
            Found::File(entry) => {
                self.tally.files += 1;
                if let Some(here) = here {
                    self.file(&entry, &here);
                }
                if self.tally.files.is_multiple_of(1_000) {
                    self.report();
                }
            }
        }
        if self.records.len() >= BATCH
            && let Err(error) = self.flush()
        {
            self.failed = Some(error);
            return Next::Stop;
        }
        Next::Continue
    }

    fn problem(&mut self, path: &str, why: &str) {
        self.tally.problems += 1;
        if self.tally.problem_list.len() < PROBLEMS_LISTED_MAX {
            self.tally.problem_list.push(format!("{path}: {why}"));
        }
        self.context.log(&format!("{path}: {why}"));
    }

    fn file(&mut self, entry: &Entry, here: &Here<'_>) {
        let file = Fingerprint {
            bytes: entry.bytes,
            mtime_ns: entry.mtime_ns,
            inode: entry.inode,
        };
        let mut row = Row::new(self.root, &entry.path, file);
        let known = self.known.remove(&self.hasher.hash_one(&row.key()[..]));
        if known == Some((self.hasher.hash_one(file), false)) {
            self.tally.photos += 1;
            self.tally.unchanged += 1;
            return;
        }
        let probe = match here.open() {
            Ok(opened) => self.prober.probe(&opened.file),
            Err(OpenError::Io { cause, .. }) => Err(ProbeError::Io(cause)),
            Err(error) => return self.problem(&row.path, &error.to_string()),
        };
        let status = match probe {
            Ok(probe) => {
                row.describe(&probe);
                if probe.format.convertible() {
                    Status::Pending
                } else {
                    let message = format!("no decoder for {} files", probe.format.name());
                    row = row.failed("unsupported", &message);
                    Status::Failed
                }
            }
            Err(ProbeError::Io(error)) => {
                self.problem(&row.path, &error.to_string());
                if !looks_like_photo(&row.path) {
                    return;
                }
                row = row.failed("io", &error.to_string());
                Status::Failed
            }
            Err(_) if !looks_like_photo(&row.path) => return,
            Err(error) => {
                row = row.failed("corrupt", &error.to_string());
                Status::Failed
            }
        };
        self.tally.photos += 1;
        if known.is_some() {
            self.tally.changed += 1;
        } else {
            self.tally.new += 1;
        }
        self.records.push(row.write(&self.library.names, status));
        if status == Status::Pending {
            self.jobs.extend(self.job(&row));
        }
    }

    /// The conversion of one photo. While it waits, a second one for the same photo is not made.
    fn job(&self, row: &Row) -> Option<NewJob> {
        let unique = Unique {
            key: UniqueKey::parse(&row.id()).ok()?,
            scope: UniqueScope::UntilStarted,
            on_conflict: OnConflict::Keep,
        };
        let mut options = JobOptions {
            unique: Some(unique),
            ..self.library.job_options()
        };
        options.queue = self.library.queue.clone();
        Some(NewJob {
            task: self.library.names.convert.clone(),
            payload: row.encode(),
            options,
            idempotency: None,
        })
    }

    fn flush(&mut self) -> Result<(), TaskError> {
        if self.records.is_empty() {
            return Ok(());
        }
        let (jobs, records) = (
            std::mem::take(&mut self.jobs),
            std::mem::take(&mut self.records),
        );
        // A full disk or a busy store passes; a scan of a million files should not start again.
        let mut tries = 0;
        loop {
            match block_on(self.server.enqueue_with(jobs.clone(), records.clone())) {
                Ok(_) => return Ok(()),
                Err(error) => {
                    tries += 1;
                    if tries > 20 || self.context.should_stop() {
                        return Err(TaskError::error(error.to_string()));
                    }
                    self.context.log(&format!("trying again: {error}"));
                    std::thread::sleep(std::time::Duration::from_millis(100 * tries));
                }
            }
        }
    }

    /// Rows that the walk did not meet. Their thumbnails go with them.
    fn mark_vanished(&mut self) -> Result<(), TaskError> {
        self.known.retain(|_, (_, missing)| !*missing);
        if self.known.is_empty() {
            return Ok(());
        }
        let mut vanished = Vec::new();
        self.each_row(&mut |key, _, row| {
            if self.known.contains_key(&self.hasher.hash_one(key)) {
                vanished.push(row.clone());
            }
        })?;
        for row in vanished {
            self.library.thumbs.remove(&row.id());
            self.tally.missing += 1;
            self.records
                .push(row.write(&self.library.names, Status::Missing));
            if self.records.len() >= BATCH {
                self.flush()?;
            }
        }
        self.flush()
    }

    fn report(&self) {
        let note = serde_json::json!({
            "files": self.tally.files,
            "photos": self.tally.photos,
            "new": self.tally.new,
            "changed": self.tally.changed,
            "unchanged": self.tally.unchanged,
            "problems": self.tally.problems,
        });
        let _ = self.context.progress(note.to_string()); // a note of 200 bytes fits
    }
}

fn looks_like_photo(path: &str) -> bool {
    let extension = path
        .rsplit_once('.')
        .map(|(_, extension)| extension.to_ascii_lowercase());
    extension.is_some_and(|extension| EXTENSIONS.contains(&extension.as_str()))
}
