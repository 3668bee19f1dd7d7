//! Rows of packs, beside the jobs.

use std::collections::BTreeMap;

use offloop_job::{Collection, RecordWrite, TaskName, Timestamp};
use offloop_store::{LabelCount, Record, RecordPage, RecordScan};

use crate::state::State;

impl State {
    pub(crate) fn write_records(&mut self, now: Timestamp, writes: &[RecordWrite]) {
        for write in writes {
            let place = (write.collection.clone(), write.key.clone());
            let Some(label) = write.label.clone() else {
                self.records.remove(&place);
                continue;
            };
            let record = Record {
                key: write.key.clone(),
                label,
                value: write.value.clone(),
                updated_at: now,
            };
            self.records.insert(place, record);
        }
    }

    pub(crate) fn scan(&self, scan: &RecordScan) -> RecordPage {
        let mut found = self
            .records
            .iter()
            .filter(|((collection, _), _)| *collection == scan.collection)
            .map(|(_, record)| record)
            .filter(|record| scan.after.as_ref().is_none_or(|after| record.key > after))
            .filter(|record| {
                let label = scan.label.as_ref();
                label.is_none_or(|label| *label == record.label)
            })
            .cloned();
        let records: Vec<_> = found.by_ref().take(scan.limit as usize).collect();
        let last = records.last().filter(|_| found.next().is_some());
        let next = last.map(|record: &Record| record.key.clone());
        RecordPage { records, next }
    }

    pub(crate) fn label_counts(&self, collection: &Collection) -> Vec<LabelCount> {
        let mut counts: BTreeMap<TaskName, u64> = BTreeMap::new();
        for ((of, _), record) in &self.records {
            if of == collection {
                *counts.entry(record.label.clone()).or_default() += 1;
            }
        }
        let counts = counts.into_iter();
        counts
            .map(|(label, count)| LabelCount { label, count })
            .collect()
    }
}
