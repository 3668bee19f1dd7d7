//! The model's twin of `src/wide.rs`: rayon's own threads are not in the model, their admission is.

use std::sync::Arc;
use std::time::Duration;

use offloop_lane::{TaskError, TaskOutput};

#[derive(Debug, Default)]
pub(crate) struct Crew;

impl Crew {
    #[expect(clippy::unused_self, reason = "the twin of a method")]
    pub(crate) fn cpu(&self) -> Duration {
        Duration::ZERO
    }
}

pub(crate) fn run(
    _crew: &Arc<Crew>,
    _lane: &Arc<str>,
    _executor: &str,
    _cores: u16,
    code: impl FnOnce() -> Result<TaskOutput, TaskError> + Send,
) -> Result<TaskOutput, TaskError> {
    code()
}
