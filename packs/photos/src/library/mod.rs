//! The pack: rows, tasks, routes and a page around the engine. Built on the facade alone.
//!
//! `scan` finds photos and asks for conversions, `work` converts, `routes` answers; `rows` is what
//! they keep, `gate` what holds them within their memory.

mod gate;
mod magick;
mod routes;
mod rows;
mod scan;
mod work;

pub use rows::Status;

use std::collections::{HashSet, VecDeque};
use std::fmt;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use offloop::http::PackRoutes;
use offloop::lane_cpu::{CpuLane, default_threads};
use offloop::{JobOptions, Pack, PackError, QueueName, RuntimeHandle, Setup, TaskError, TaskInfo};

use crate::budget::Limits;
use gate::Gate;
use rows::{Names, Row};
use work::{FailedRow, Thumbs};

/// How the pack converts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Converter {
    /// In this process, by the pack's own decoders.
    #[default]
    Builtin,
    /// ImageMagick, one process per photo.
    Magick,
}

/// What an operator may set.
#[derive(Clone, Debug, Default)]
pub struct PhotosOptions {
    /// Conversions at a time, 1 to 4,096; default half the processors, at least 1.
    pub concurrency: Option<u16>,
    /// Memory of all conversions together; default 512 MiB.
    pub memory_bytes: Option<u64>,
    /// Wall clock of one conversion; default 60 s.
    pub timeout: Option<Duration>,
    pub converter: Converter,
}

const MEMORY_DEFAULT: u64 = 512 << 20;
const TIMEOUT_DEFAULT: Duration = Duration::from_secs(60);
/// The window of the rate.
const RATE_WINDOW: Duration = Duration::from_secs(30);
/// Conversions remembered for the rate.
const RATE_MARKS_MAX: usize = 100_000;

/// What the pack's tasks, hooks and routes share.
pub(crate) struct Library {
    pub(crate) names: Arc<Names>,
    pub(crate) queue: QueueName,
    pub(crate) thumbs: Thumbs,
    pub(crate) limits: Limits,
    pub(crate) gate: Gate,
    pub(crate) concurrency: u16,
    pub(crate) converter: Converter,
    timeout: Duration,
    server: OnceLock<RuntimeHandle>,
    /// Keys of photos that are being converted now.
    converting: Mutex<HashSet<bytes::Bytes>>,
    /// When conversions ended, lately.
    marks: Mutex<VecDeque<Instant>>,
}

impl fmt::Debug for Library {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Library")
            .field("concurrency", &self.concurrency)
            .finish_non_exhaustive()
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Library {
    /// The server, once it runs.
    pub(crate) fn server(&self) -> Result<&RuntimeHandle, TaskError> {
        self.server
            .get()
            .ok_or_else(|| TaskError::error("the photo pack is still starting"))
    }

    /// Of a conversion. Three tries: what fails by itself fails at once (`invalid`).
    pub(crate) fn job_options(&self) -> JobOptions {
        let mut options = JobOptions {
            timeout: Some(self.timeout),
            ..JobOptions::default()
        };
        options.retry.max_attempts = 3;
        options
    }

    pub(crate) fn converting(&self, row: &Row) -> Converting<'_> {
        let key = row.key();
        lock(&self.converting).insert(key.clone());
        Converting { library: self, key }
    }

    pub(crate) fn converting_now(&self) -> HashSet<bytes::Bytes> {
        lock(&self.converting).clone()
    }

    pub(crate) fn count_done(&self) {
        let mut marks = lock(&self.marks);
        if marks.len() == RATE_MARKS_MAX {
            marks.pop_front();
        }
        marks.push_back(Instant::now());
    }

    /// Conversions per second, over the last 30 s or since the first one in it.
    pub(crate) fn rate(&self) -> f64 {
        let now = Instant::now();
        let mut marks = lock(&self.marks);
        while marks.front().is_some_and(|mark| now - *mark > RATE_WINDOW) {
            marks.pop_front();
        }
        let Some(first) = marks.front() else {
            return 0.0;
        };
        marks.len() as f64 / (now - *first).as_secs_f64().max(1.0)
    }
}

/// A conversion that is shown as running while this lives.
#[derive(Debug)]
pub(crate) struct Converting<'a> {
    library: &'a Library,
    key: bytes::Bytes,
}

impl Drop for Converting<'_> {
    fn drop(&mut self) {
        lock(&self.library.converting).remove(&self.key);
    }
}

/// The photo pack.
#[derive(Debug)]
pub struct PhotosPack {
    options: PhotosOptions,
    library: Option<Arc<Library>>,
}

impl PhotosPack {
    pub const fn new(options: PhotosOptions) -> Self {
        Self {
            options,
            library: None,
        }
    }

    fn library(&self, data: &Path) -> Result<Library, offloop::job::NameError> {
        let concurrency = self
            .options
            .concurrency
            .unwrap_or(default_threads().div_ceil(2));
        Ok(Library {
            names: Arc::new(Names::new()?),
            queue: QueueName::parse("photos")?,
            thumbs: Thumbs::new(data.join("photos").join("thumbs")),
            limits: Limits::default(),
            gate: Gate::new(self.options.memory_bytes.unwrap_or(MEMORY_DEFAULT)),
            concurrency: concurrency.max(1),
            converter: self.options.converter,
            timeout: self.options.timeout.unwrap_or(TIMEOUT_DEFAULT),
            server: OnceLock::new(),
            converting: Mutex::default(),
            marks: Mutex::default(),
        })
    }
}

impl Pack for PhotosPack {
    fn name(&self) -> &'static str {
        "photos"
    }

    fn install(&mut self, setup: &mut Setup<'_>) -> Result<(), PackError> {
        let fail = |message: String| PackError {
            pack: "photos",
            message,
        };
        let library = self.library(setup.data());
        let library = Arc::new(library.map_err(|error| fail(error.to_string()))?);
        let info = |name: &offloop::TaskName, about: &str, timeout| TaskInfo {
            name: name.clone(),
            timeout,
            about: about.into(),
        };

        let scans = Arc::clone(&library);
        let about = "finds photos below a folder and reads their heads";
        let day = Some(Duration::from_secs(24 * 3600));
        let lane = CpuLane::builder("photos-scan").threads(1).ahead(0).task(
            info(&library.names.scan, about, day),
            Arc::new(move |context| scan::run(&scans, context)),
        );
        setup.lane(Arc::new(lane.build()));

        let convert = info(
            &library.names.convert,
            "makes the thumbnails of one photo",
            None,
        );
        match self.options.converter {
            Converter::Builtin => {
                let photos = Arc::clone(&library);
                let lane = CpuLane::builder("photos")
                    .threads(library.concurrency)
                    .ahead(16)
                    .task(
                        convert,
                        Arc::new(move |context| work::run(&photos, context)),
                    );
                setup.lane(Arc::new(lane.build()));
            }
            Converter::Magick => {
                setup.lane(magick::lane(&library, convert, setup.host(), setup.data())?);
            }
        }
        let hook = FailedRow {
            names: Arc::clone(&library.names),
        };
        setup.hook(library.names.convert.clone(), Arc::new(hook));
        self.library = Some(library);
        Ok(())
    }

    fn open(mut self: Box<Self>, server: &RuntimeHandle) -> Result<PackRoutes, PackError> {
        let missing = || PackError {
            pack: "photos",
            message: "was opened before it was installed".into(),
        };
        let library = self.library.take().ok_or_else(missing)?;
        // Rows and jobs change in one commit: there is nothing to reconcile.
        let _ = library.server.set(server.clone()); // opened once
        Ok(routes::routes(library))
    }
}
