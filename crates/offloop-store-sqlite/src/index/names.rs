//! Texts that rows name by a number, and the counts of pack rows by label.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use offloop_job::{Collection, TaskName};

/// Nodes and lanes by number.
#[derive(Default)]
pub(crate) struct Words {
    texts: HashMap<u32, Arc<str>>,
    ids: HashMap<Arc<str>, u32>,
}

impl Words {
    pub(crate) fn add(&mut self, id: u32, text: &str) {
        let text: Arc<str> = text.into();
        self.texts.insert(id, Arc::clone(&text));
        self.ids.insert(text, id);
    }

    pub(crate) fn id(&self, text: &str) -> Option<u32> {
        self.ids.get(text).copied()
    }

    pub(crate) fn text(&self, id: u32) -> &str {
        self.texts.get(&id).map_or("", |text| text)
    }

    pub(crate) fn next_id(&self) -> u32 {
        self.texts.len() as u32 + 1
    }
}

/// How many rows of a pack have which label. Kept on file too, so that a start need not count.
#[derive(Default)]
pub(crate) struct Labels {
    counts: BTreeMap<Collection, BTreeMap<TaskName, u64>>,
    changed: BTreeSet<(Collection, TaskName)>,
}

impl Labels {
    pub(crate) fn set(&mut self, collection: Collection, label: TaskName, count: u64) {
        let labels = self.counts.entry(collection).or_default();
        labels.insert(label, count);
    }

    pub(crate) fn change(&mut self, collection: &Collection, label: &TaskName, by: i64) {
        let labels = self.counts.entry(collection.clone()).or_default();
        let count = labels.entry(label.clone()).or_default();
        *count = count.saturating_add_signed(by);
        self.changed.insert((collection.clone(), label.clone()));
    }

    pub(crate) fn of(&self, collection: &Collection) -> impl Iterator<Item = (&TaskName, u64)> {
        let labels = self.counts.get(collection).into_iter().flatten();
        labels
            .map(|(label, count)| (label, *count))
            .filter(|entry| entry.1 > 0)
    }

    /// What has changed since the last call, with its count now.
    pub(crate) fn take_changed(&mut self) -> Vec<(Collection, TaskName, u64)> {
        let changed = std::mem::take(&mut self.changed);
        let counts = &self.counts;
        changed
            .into_iter()
            .map(|(collection, label)| {
                let count = counts
                    .get(&collection)
                    .and_then(|labels| labels.get(&label));
                let count = count.copied().unwrap_or(0);
                (collection, label, count)
            })
            .collect()
    }
}
