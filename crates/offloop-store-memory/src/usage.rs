//! What attempts cost, one entry per hour, name and class.

use std::collections::{BTreeMap, BTreeSet};

use offloop_job::{FailureClass, JobOptions, TaskName, Timestamp};
use offloop_store::{
    AttemptReport, USAGE_NAMES_MAX, USAGE_ROWS_MAX, UsageAsk, UsageBy, UsageRow, UsageSum,
    UsageSums, usage_hour, usage_hour_start, usage_kept_from,
};

use crate::state::State;

/// By what, in which hour, for which name, ended in which class.
pub(crate) type Place = (UsageBy, u64, Option<Box<str>>, Option<FailureClass>);

impl State {
    /// Counts an attempt that was settled and not handed back.
    pub(crate) fn spend(&mut self, task: &TaskName, options: &JobOptions, report: &AttemptReport) {
        self.spend_for(UsageBy::Task, task.as_str(), report);
        self.spend_for(UsageBy::Queue, options.queue.as_str(), report);
        let mut counted = BTreeSet::new();
        for tag in &options.tags {
            if counted.insert(tag) {
                self.spend_for(UsageBy::Tag, tag.as_str(), report);
            }
        }
    }

    fn spend_for(&mut self, by: UsageBy, name: &str, report: &AttemptReport) {
        let hour = usage_hour(report.ended_at);
        let of_hour = (by, hour, None, None)..(by, hour + 1, None, None);
        let places = self.usage.range(of_hour);
        let names: BTreeSet<&str> = places.filter_map(|place| place.0.2.as_deref()).collect();
        let fits = names.contains(name) || names.len() < USAGE_NAMES_MAX;
        let name = fits.then(|| name.into());
        let class = report.failure.as_ref().map(|failure| failure.class);
        let place = (by, hour, name, class);
        let sum = self.usage.entry(place).or_default();
        sum.add(&UsageSum::of(report));
    }

    pub(crate) fn usage(&self, ask: UsageAsk) -> UsageSums {
        let since = usage_hour(ask.since);
        let mut found: BTreeMap<Option<Box<str>>, UsageRow> = BTreeMap::new();
        for ((by, hour, name, class), sum) in &self.usage {
            if *by == ask.by && *hour >= since {
                let row = found.entry(name.clone()).or_default();
                row.name.clone_from(name);
                row.add(*class, sum);
            }
        }
        let mut rows: Vec<_> = found.into_values().collect();
        rows.sort_by_key(|row| std::cmp::Reverse(row.total.wall_us)); // stable: then by name
        let limit = usize::from(ask.limit.clamp(1, USAGE_ROWS_MAX));
        let truncated = rows.len() > limit;
        rows.truncate(limit);
        UsageSums {
            since: usage_hour_start(since),
            rows,
            truncated,
        }
    }

    pub(crate) fn forget_usage(&mut self, now: Timestamp) {
        let kept_from = usage_kept_from(now);
        self.usage.retain(|place, _| place.1 >= kept_from);
    }
}
