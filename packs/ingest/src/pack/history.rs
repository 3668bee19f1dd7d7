//! Loads that have ended, over restarts: the newest of them, and their reject files.
//!
//! Must never: hold more than its bound, or take away a reject file of a load that runs.

use std::collections::VecDeque;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use offloop::runtime::EnqueueError;
use offloop::store::RecordScan;
use offloop::{RecordWrite, RuntimeHandle, TaskName};
use serde_json::Value;

use crate::load::LoadId;

pub(super) const COLLECTION: &str = "ingest.loads";
const PAGE: u32 = 1_000;

/// One load that has ended.
#[derive(Clone, Debug)]
pub(super) struct Entry {
    pub(super) load: LoadId,
    ended_ms: u64,
    pub(super) view: Value,
}

#[derive(Debug)]
pub(super) struct History {
    rows: TaskName,
    rejects: PathBuf,
    most: usize,
    /// The latest last.
    entries: Mutex<VecDeque<Entry>>,
}

impl History {
    pub(super) const fn new(rows: TaskName, rejects: PathBuf, most: usize) -> Self {
        Self {
            rows,
            rejects,
            most,
            entries: Mutex::new(VecDeque::new()),
        }
    }

    fn entries(&self) -> MutexGuard<'_, VecDeque<Entry>> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What earlier servers knew.
    pub(super) async fn open(&self, server: &RuntimeHandle) -> Result<(), EnqueueError> {
        let mut found = Vec::new();
        let mut after = None;
        loop {
            let scan = RecordScan {
                collection: self.rows.clone(),
                label: None,
                after,
                limit: PAGE,
            };
            let page = server.records(scan).await?;
            found.extend(page.records.iter().filter_map(|record| {
                let view: Value = serde_json::from_slice(&record.value).ok()?;
                Some(Entry {
                    load: LoadId::parse(std::str::from_utf8(&record.key).ok()?).ok()?,
                    ended_ms: view["ended_ms"].as_u64()?,
                    view,
                })
            }));
            after = page.next;
            if after.is_none() {
                break;
            }
        }
        found.sort_by_key(|entry| entry.ended_ms);
        *self.entries() = found.into();
        self.shrink(server).await
    }

    /// A load has ended, or waits for its job.
    pub(super) async fn keep(&self, server: &RuntimeHandle, load: &LoadId, mut view: Value) {
        let now = server.now();
        view["ended_ms"] = now.as_millis().into();
        let key = if view["state"] == "waiting" {
            "spooled_at"
        } else {
            "ended_at"
        };
        view[key] = offloop::wire::format_time(now).into();
        let row = self.write(load, Some(&view));
        let entry = Entry {
            load: load.clone(),
            ended_ms: now.as_millis(),
            view,
        };
        {
            let mut entries = self.entries();
            // Its job may have been faster than who made it.
            let is_late = entry.view["state"] == "waiting"
                && entries.iter().any(|known| {
                    known.load == *load
                        && known.view["state"] != "waiting"
                        && known.view["job"] == entry.view["job"]
                });
            if is_late {
                return;
            }
            entries.retain(|known| known.load != *load);
            entries.push_back(entry);
        }
        let kept = server.write_records(vec![row]).await;
        let shrunk = self.shrink(server).await;
        if let Err(error) = kept.and(shrunk) {
            tracing::warn!(%error, %load, "what a load did is known until a restart only");
        }
    }

    fn write(&self, load: &LoadId, view: Option<&Value>) -> RecordWrite {
        let label = view.and_then(|view| TaskName::parse(view["state"].as_str()?).ok());
        RecordWrite {
            collection: self.rows.clone(),
            key: Bytes::copy_from_slice(load.as_str().as_bytes()),
            label,
            value: view.map(|view| view.to_string().into()).unwrap_or_default(),
        }
    }

    async fn shrink(&self, server: &RuntimeHandle) -> Result<(), EnqueueError> {
        let over: Vec<_> = {
            let mut entries = self.entries();
            let over = entries.len().saturating_sub(self.most);
            entries.drain(..over).collect()
        };
        if over.is_empty() {
            return Ok(());
        }
        for entry in &over {
            let file = reject_file(&self.rejects, &entry.load);
            match std::fs::remove_file(file) {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                    tracing::warn!(%error, load = %entry.load, "a reject file cannot be taken away");
                }
                _ => {}
            }
        }
        let writes = over.iter().map(|entry| self.write(&entry.load, None));
        server.write_records(writes.collect()).await
    }

    pub(super) fn get(&self, load: &LoadId) -> Option<Value> {
        let entries = self.entries();
        let found = entries.iter().rev().find(|entry| entry.load == *load);
        found.map(|entry| entry.view.clone())
    }

    /// The latest first, behind `after`.
    pub(super) fn list(&self, after: Option<&LoadId>, most: usize) -> Vec<Entry> {
        let entries = self.entries();
        let mut newest = entries.iter().rev();
        if let Some(after) = after {
            newest.find(|entry| entry.load == *after);
        }
        newest.take(most).cloned().collect()
    }
}

/// Where a load's refused rows are.
pub(super) fn reject_file(folder: &Path, load: &LoadId) -> PathBuf {
    folder.join(format!("{load}.rejects.ndjson"))
}
