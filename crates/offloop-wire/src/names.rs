//! Names that repeat from line to line: parsed once, then shared.

use offloop_job::{NameError, QueueName, TaskName};

/// Most batches name one task and one queue; a few names side by side are common too.
const KEPT: usize = 4;

/// The last few names that were read.
#[derive(Debug)]
pub(crate) struct NameCache<N> {
    seen: Vec<N>,
    /// Where the next new name goes.
    next: usize,
}

/// A name that is shared by clones.
pub(crate) trait SharedName: Clone {
    fn parse(text: &str) -> Result<Self, NameError>;
    fn as_str(&self) -> &str;
}

impl SharedName for TaskName {
    fn parse(text: &str) -> Result<Self, NameError> {
        Self::parse(text)
    }
    fn as_str(&self) -> &str {
        self.as_str()
    }
}

impl SharedName for QueueName {
    fn parse(text: &str) -> Result<Self, NameError> {
        Self::parse(text)
    }
    fn as_str(&self) -> &str {
        self.as_str()
    }
}

impl<N: SharedName> NameCache<N> {
    pub(crate) const fn new() -> Self {
        Self {
            seen: Vec::new(),
            next: 0,
        }
    }

    pub(crate) fn get(&mut self, text: &str) -> Result<N, NameError> {
        if let Some(name) = self.seen.iter().find(|name| name.as_str() == text) {
            return Ok(name.clone());
        }
        let name = N::parse(text)?;
        if self.seen.len() < KEPT {
            self.seen.push(name.clone());
        } else {
            self.seen[self.next] = name.clone();
            self.next = (self.next + 1) % KEPT;
        }
        Ok(name)
    }
}
