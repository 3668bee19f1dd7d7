//! Phase 2: converts one photo. One decode, two thumbnails, the row in the commit that ends the
//! job.
//!
//! Must never: hold memory that the gate did not admit, or leave half a file under a final name.

use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use offloop::{
    FailureClass, FinalEnd, JobState, RecordWrite, TaskContext, TaskError, TaskHook, TaskOutput,
};

use super::Library;
use super::rows::{Fingerprint, Names, Row, Status};
use crate::budget::predict;
use crate::convert::{ConvertError, Recipe, Thumbnails, convert};
use crate::probe::{ProbeError, Prober};
use crate::walk::{OpenError, OpenedFile, RelPath, Root, RootError};

/// Where thumbnails are: `thumbs/ab/abcdef...-500.jpg`.
#[derive(Clone, Debug)]
pub(crate) struct Thumbs {
    folder: PathBuf,
}

impl Thumbs {
    pub(crate) fn new(folder: PathBuf) -> Self {
        Self { folder }
    }

    /// `id`: 32 hexadecimal digits, checked by the caller. `size`: 500 or 160.
    pub(crate) fn path(&self, id: &str, size: u32) -> PathBuf {
        self.folder.join(&id[..2]).join(format!("{id}-{size}.jpg"))
    }

    pub(crate) fn remove(&self, id: &str) {
        for size in [500, 160] {
            let _ = std::fs::remove_file(self.path(id, size)); // it may never have been there
        }
    }

    /// Written beside, flushed, renamed: a thumbnail is whole or not there. The lease in the name
    /// keeps two attempts apart.
    pub(crate) fn store(
        &self,
        id: &str,
        lease: u64,
        thumbnails: &Thumbnails,
    ) -> std::io::Result<()> {
        for (size, thumbnail) in [(500, &thumbnails.large), (160, &thumbnails.small)] {
            let to = self.path(id, size);
            if let Some(folder) = to.parent() {
                std::fs::create_dir_all(folder)?;
            }
            let beside = to.with_extension(format!("{lease}.part"));
            let written = write_and_flush(&beside, &thumbnail.jpeg)
                .and_then(|()| std::fs::rename(&beside, &to));
            if written.is_err() {
                let _ = std::fs::remove_file(&beside);
                return written;
            }
        }
        Ok(())
    }
}

fn write_and_flush(path: &Path, bytes: &[u8]) -> std::io::Result<()> {
    use std::io::Write as _;
    let mut file = std::fs::File::create(path)?;
    file.write_all(bytes)?;
    file.sync_data()
}

/// The task `photos.convert` on a thread of the pack's own lane.
pub(crate) fn run(library: &Library, context: &TaskContext) -> Result<TaskOutput, TaskError> {
    let mut row = Row::of_job(context)?;
    let opened = match open(&row)? {
        Opened::File(opened) => opened,
        Opened::Vanished => {
            library.thumbs.remove(&row.id());
            return Ok(done(vec![row.write(&library.names, Status::Missing)]));
        }
    };
    row.file = Fingerprint {
        bytes: opened.bytes,
        mtime_ns: opened.mtime_ns,
        inode: opened.inode,
    };
    let _shown = library.converting(&row);
    let thumbnails = thumbnails(library, context, &mut row, opened)?;
    library
        .thumbs
        .store(&row.id(), context.work().lease.0, &thumbnails)
        .map_err(|error| TaskError::error(format!("io: cannot write the thumbnails: {error}")))?;
    row.thumbnail = Some((thumbnails.large.width, thumbnails.large.height));
    (row.class, row.message) = (None, None);
    library.count_done();
    Ok(done(vec![row.write(&library.names, Status::Done)]))
}

fn done(records: Vec<RecordWrite>) -> TaskOutput {
    TaskOutput {
        result: None,
        records,
    }
}

pub(super) enum Opened {
    File(OpenedFile),
    Vanished,
}

/// Opens the photo again, link by link: it may be another file since the scan.
pub(super) fn open(row: &Row) -> Result<Opened, TaskError> {
    let path = RelPath::from_text(&row.path)
        .ok_or_else(|| TaskError::invalid("io: the path in the payload is not below its root"))?;
    let vanished = |error: &std::io::Error| error.kind() == std::io::ErrorKind::NotFound;
    let root = match Root::open(Path::new(&row.root)) {
        Ok(root) => root,
        Err(RootError::Open { cause, .. }) if vanished(&cause) => return Ok(Opened::Vanished),
        Err(error) => return Err(TaskError::error(format!("io: {error}"))),
    };
    match root.open_file(&path) {
        Ok(opened) => Ok(Opened::File(opened)),
        Err(OpenError::Io { cause, .. }) if vanished(&cause) => Ok(Opened::Vanished),
        Err(OpenError::Io { cause, .. }) => Err(TaskError::error(format!("io: {cause}"))),
        Err(error) => Err(TaskError::invalid(format!("io: {error}"))),
    }
}

fn thumbnails(
    library: &Library,
    context: &TaskContext,
    row: &mut Row,
    mut opened: OpenedFile,
) -> Result<Thumbnails, TaskError> {
    let probe = Prober::new()
        .probe(&opened.file)
        .map_err(|error| match error {
            ProbeError::Io(error) => TaskError::error(format!("io: {error}")),
            other => TaskError::invalid(format!("corrupt: {other}")),
        })?;
    row.describe(&probe);
    let recipe = Recipe::default();
    let refuse = |error: &ConvertError| match error {
        ConvertError::Cancelled => TaskError::stopped(),
        other => TaskError::invalid(format!("{}: {other}", other.class())),
    };
    let need = predict(&probe, opened.bytes, recipe.large_edge, &library.limits)
        .map_err(|error| refuse(&error.into()))?;
    if need.bytes > library.gate.total() {
        return Err(TaskError::invalid(format!(
            "too_large: converting it would take {} bytes of memory; the limit is {} (packs.photos.memory)",
            need.bytes,
            library.gate.total()
        )));
    }
    let should_stop = || context.should_stop();
    let _pass = library
        .gate
        .enter(need.bytes, &should_stop)
        .ok_or_else(TaskError::stopped)?;
    let mut bytes = Vec::with_capacity(opened.bytes as usize);
    // A file that grows while it is read must not pass what was admitted.
    let mut limited = (&mut opened.file).take(opened.bytes);
    limited
        .read_to_end(&mut bytes)
        .map_err(|error| TaskError::error(format!("io: {error}")))?;
    convert(&bytes, &probe, &recipe, &library.limits, &should_stop).map_err(|error| refuse(&error))
}

/// Writes the row of a conversion that will not run again.
#[derive(Debug)]
pub(crate) struct FailedRow {
    pub(crate) names: Arc<Names>,
}

impl TaskHook for FailedRow {
    fn on_final(&self, end: &FinalEnd<'_>) -> Vec<RecordWrite> {
        let Ok(row) = serde_json::from_slice::<Row>(end.payload) else {
            return Vec::new(); // not a job of ours: somebody enqueued it by hand
        };
        let (class, message) = match end.failure {
            Some(failure) => photo_class(failure.class, &failure.message),
            None if end.state == JobState::Cancelled => {
                ("cancelled", "the conversion was cancelled")
            }
            None => ("expired", "the conversion was not started in time"),
        };
        vec![
            row.failed(class, message)
                .write(&self.names, Status::Failed),
        ]
    }
}

/// `corrupt: message` as the task wrote it, or the class of the job.
fn photo_class(class: FailureClass, message: &str) -> (&str, &str) {
    match message.split_once(": ") {
        Some((own @ ("corrupt" | "unsupported" | "too_large" | "io"), rest)) => (own, rest),
        _ => (class.as_str(), message),
    }
}
