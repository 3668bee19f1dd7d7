//! What a group reads of a topic, for the sinks whose place notes it.

use std::fmt;
use std::sync::Arc;

use crate::load::LoadId;

/// One partition of a topic, as a group reads it: an endless input whose offsets stand where a
/// load has bytes.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Stream {
    pub group: Arc<str>,
    pub topic: Arc<str>,
    pub partition: i32,
    /// The first offset, if the place knows nothing of it yet.
    pub begin: u64,
}

impl fmt::Display for Stream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            group,
            topic,
            partition,
            ..
        } = self;
        write!(f, "group `{group}` in {topic}[{partition}]")
    }
}

/// Whose rows a sink stores.
#[derive(Debug, Clone)]
pub(crate) enum Source {
    Load(LoadId),
    Stream(Stream),
}
