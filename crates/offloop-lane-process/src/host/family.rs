//! What this process knows of its children. One per process, because children, adoption and
//! reaping are facts of a process and not of a host.

use std::collections::HashSet;
use std::sync::{LazyLock, Mutex, MutexGuard, PoisonError};

use super::tag::Tag;

#[derive(Debug, Default)]
pub(super) struct Family {
    /// Children that a spawner started, until they are reaped.
    pub(super) known: HashSet<i32>,
    /// Markers of the trees that are not yet buried.
    live: HashSet<String>,
    /// Their tags.
    live_tags: HashSet<Tag>,
}

impl Family {
    pub(super) fn is_live(&self, marker: &str) -> bool {
        self.live.contains(marker)
    }

    pub(super) fn is_live_tag(&self, tag: Tag) -> bool {
        self.live_tags.contains(&tag)
    }

    pub(super) fn born(&mut self, pid: i32, marker: &str) {
        self.known.insert(pid);
        self.live.insert(marker.to_owned());
        self.live_tags.extend(Tag::of(marker));
    }

    pub(super) fn buried(&mut self, pid: i32, marker: &str) {
        self.known.remove(&pid);
        self.live.remove(marker);
        if let Some(tag) = Tag::of(marker) {
            self.live_tags.remove(&tag);
        }
    }
}

static FAMILY: LazyLock<Mutex<Family>> = LazyLock::new(Mutex::default);

/// Held while a child is started, so that nobody takes it for an adopted one.
pub(super) fn lock() -> MutexGuard<'static, Family> {
    FAMILY.lock().unwrap_or_else(PoisonError::into_inner)
}
