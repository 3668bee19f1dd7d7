//! Wide jobs: a job with `cores` above 1 gets so many threads of its own for as long as it runs.
//!
//! Its code runs inside a private rayon pool, so that `rayon::join`, `par_iter` and
//! `rayon::scope` use those threads and no others. The pool is made for the job and joined after it:
//! a thread that was joined is proof that nothing of the job runs any more, what it spawned and
//! forgot included, and its processor time is the job's to the nanosecond.
//!
//! Must never: be shared by two jobs, or answer while one of its threads lives.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use offloop_lane::{TaskError, TaskOutput, contained, panicked};

use crate::inside;
use crate::meter::{cpu_time_of, own_cpu_time};

/// The threads of one wide job, for whoever meters it.
#[derive(Debug, Default)]
pub(crate) struct Crew {
    tids: Mutex<Vec<i32>>,
    /// Of threads that have ended.
    ended_nanos: AtomicU64,
    /// The first panic of what the job spawned and did not wait for.
    fault: Mutex<Option<TaskError>>,
}

impl Crew {
    /// Processor time of all of them until now.
    pub(crate) fn cpu(&self) -> Duration {
        let tids = self.tids.lock().unwrap_or_else(PoisonError::into_inner);
        let alive: Duration = tids.iter().filter_map(|tid| cpu_time_of(*tid)).sum();
        alive + Duration::from_nanos(self.ended_nanos.load(Ordering::Acquire))
    }

    fn enter(&self) {
        let mut tids = self.tids.lock().unwrap_or_else(PoisonError::into_inner);
        tids.push(rustix::thread::gettid().as_raw_nonzero().get());
    }

    fn leave(&self) {
        let tid = rustix::thread::gettid().as_raw_nonzero().get();
        let mut tids = self.tids.lock().unwrap_or_else(PoisonError::into_inner);
        let used = own_cpu_time().as_nanos() as u64;
        self.ended_nanos.fetch_add(used, Ordering::AcqRel);
        tids.retain(|own| *own != tid);
    }

    fn note_fault(&self, error: TaskError) {
        let mut fault = self.fault.lock().unwrap_or_else(PoisonError::into_inner);
        fault.get_or_insert(error);
    }
}

/// Runs `code` on `cores` threads of its own, and returns when they are gone.
pub(crate) fn run(
    crew: &Arc<Crew>,
    lane: &Arc<str>,
    executor: &str,
    cores: u16,
    code: impl FnOnce() -> Result<TaskOutput, TaskError> + Send,
) -> Result<TaskOutput, TaskError> {
    let mut threads: Vec<JoinHandle<()>> = Vec::with_capacity(usize::from(cores));
    let noted = crew.clone();
    let built = rayon::ThreadPoolBuilder::new()
        .num_threads(usize::from(cores))
        // Without one, rayon aborts the program when something spawned panics.
        .panic_handler(move |value| noted.note_fault(panicked(value)))
        .spawn_handler(|thread| {
            let name = format!("{executor}.{}", thread.index());
            let (crew, lane) = (crew.clone(), lane.clone());
            // It inherits the nice value of this thread.
            let handle = std::thread::Builder::new().name(name).spawn(move || {
                inside::enter(&lane);
                crew.enter();
                thread.run();
                crew.leave();
            })?;
            threads.push(handle);
            Ok(())
        })
        .build();
    let answer = match built {
        Ok(pool) => {
            let answer = pool.install(|| contained(code));
            drop(pool); // its threads leave when what was spawned in it is done
            answer
        }
        Err(error) => Err(TaskError::error(format!(
            "the system refuses to start the {cores} threads of a wide job: {error}"
        ))),
    };
    for thread in threads {
        let _ = thread.join(); // an error is a panic, and those were noted
    }
    let fault = crew
        .fault
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .take();
    fault.map_or(answer, Err)
}
