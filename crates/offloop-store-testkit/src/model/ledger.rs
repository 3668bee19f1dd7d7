//! Every attempt that was settled, one by one: what sums of usage must come to.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use offloop_job::{FailureClass, JobState, Timestamp};
use offloop_store::{
    AttemptReport, Claimed, Settled, USAGE_KEEP, UsageAsk, UsageBy, UsageRow, UsageSum, UsageSums,
};

/// Whole hours are forgotten, and asked for.
const HOUR_MS: u64 = 3_600_000;

#[derive(Debug, Default)]
pub(super) struct Ledger(Vec<(Claimed, AttemptReport)>);

impl Ledger {
    /// Of what was answered: a job that is ready again was handed back.
    pub(super) fn write(&mut self, claimed: &Claimed, report: AttemptReport, settled: Settled) {
        if matches!(settled, Settled::Done(state) if state != JobState::Ready) {
            self.0.push((claimed.clone(), report));
        }
    }

    pub(super) fn forget(&mut self, now: Timestamp) {
        let kept_from = now
            .as_millis()
            .saturating_sub(USAGE_KEEP.as_millis() as u64)
            / HOUR_MS;
        self.0
            .retain(|(_, report)| report.ended_at.as_millis() / HOUR_MS >= kept_from);
    }

    /// From the first attempt's hour on.
    pub(super) fn ask(&self, by: UsageBy) -> UsageAsk {
        let first = self.0.iter().map(|(_, report)| report.ended_at).min();
        UsageAsk {
            by,
            since: first.unwrap_or_default(),
            limit: 1_000,
        }
    }

    pub(super) fn sums(&self, by: UsageBy) -> UsageSums {
        let mut rows: BTreeMap<String, Vec<&AttemptReport>> = BTreeMap::new();
        for (claimed, report) in &self.0 {
            let names: BTreeSet<String> = match by {
                UsageBy::Task => [claimed.task.to_string()].into(),
                UsageBy::Queue => [claimed.options.queue.to_string()].into(),
                UsageBy::Tag => claimed
                    .options
                    .tags
                    .iter()
                    .map(ToString::to_string)
                    .collect(),
            };
            for name in names {
                rows.entry(name).or_default().push(report);
            }
        }
        let mut rows: Vec<_> = rows
            .iter()
            .map(|(name, reports)| row(name, reports))
            .collect();
        rows.sort_by(|one, other| {
            let wall = other.total.wall_us.cmp(&one.total.wall_us);
            wall.then_with(|| one.name.cmp(&other.name))
        });
        let since = self.ask(by).since.as_millis() / HOUR_MS * HOUR_MS;
        UsageSums {
            since: Timestamp::from_millis(since),
            rows,
            truncated: false,
        }
    }
}

fn row(name: &str, reports: &[&AttemptReport]) -> UsageRow {
    let us = |span: Duration| span.as_micros() as u64;
    let class = |report: &AttemptReport| report.failure.as_ref().map(|failure| failure.class);
    let ended = |wanted| reports.iter().filter(|one| class(one) == wanted).count() as u64;
    let sum = |part: fn(&AttemptReport) -> u64| reports.iter().map(|one| part(one)).sum();
    let failed = FailureClass::ALL.map(|class| (class, ended(Some(class))));
    let cpu: Vec<_> = reports.iter().filter_map(|one| one.usage.cpu).collect();
    UsageRow {
        name: Some(name.into()),
        completed: ended(None),
        failed: failed.into_iter().filter(|entry| entry.1 > 0).collect(),
        total: UsageSum {
            attempts: reports.len() as u64,
            wall_us: us(reports.iter().map(|one| one.usage.wall).sum()),
            cpu_us: (!cpu.is_empty()).then(|| us(cpu.iter().sum())),
            wait_us: us(reports.iter().map(|one| one.wait).sum()),
            max_rss_bytes: reports
                .iter()
                .filter_map(|one| one.usage.max_rss_bytes)
                .max(),
            bytes_in: sum(|one| one.usage.bytes_in),
            bytes_out: sum(|one| one.usage.bytes_out),
        },
    }
}
