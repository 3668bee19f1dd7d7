//! Forgetting finished jobs and old idempotency keys, a bounded piece at a time.

use offloop_job::limits::IDEMPOTENCY_KEEP;
use offloop_job::{JobState, Timestamp};
use offloop_store::{PruneReport, PruneRule};

use super::Desk;
use crate::errors::Failure;
use crate::index::Row;
use crate::meta;

/// Place in the history by time of end.
type Place = (u64, Row);

/// Between the two ages of a rule only one kind goes. Where the last call stopped there, so that
/// the rows that stay are not looked at in every call.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Walk {
    after: Place,
    rule: Option<(u64, u64)>,
}

/// Ends up to here are too old: `None` if none can be.
pub(super) fn cutoff(now: Timestamp, kept_for: std::time::Duration) -> Option<u64> {
    let kept_for = u64::try_from(kept_for.as_millis()).ok()?;
    now.as_millis().checked_sub(kept_for)
}

impl Desk<'_> {
    pub(super) fn prune(&mut self, rule: PruneRule) -> Result<PruneReport, Failure> {
        let mut budget = rule.rows_per_call as usize;
        let mut report = PruneReport::default();
        let completed = cutoff(rule.now, rule.completed_for);
        let others = cutoff(rule.now, rule.others_for);
        let all = completed.min(others);
        let some = completed.max(others);

        // By their own time, whatever the ages say.
        for row in self.kept_until(rule.now, budget)? {
            self.forget(row)?;
            report.deleted += 1;
            budget -= 1;
        }
        report.more |= budget == 0;
        // Older than both ages: everything goes.
        if let Some(all) = all {
            let rows = self.finished_between((0, 0), all, budget)?;
            report.more |= rows.len() == budget && budget > 0;
            budget -= rows.len();
            for (_, row, _) in rows {
                self.forget(row)?;
                report.deleted += 1;
            }
        }
        // Between the two ages: only the kind that is kept for less.
        if let Some(some) = some
            && some > all.unwrap_or(0)
            && budget > 0
        {
            let completed_go = completed > others;
            report.deleted += self.prune_between(&rule, all, some, completed_go, &mut budget)?;
            report.more |= budget == 0;
        }
        // Over the count: the oldest go.
        let over = self.index.finished_rows.saturating_sub(rule.rows_max);
        let piece = budget.min(usize::try_from(over).unwrap_or(usize::MAX));
        if !report.more && piece > 0 {
            for row in self.oldest(piece)? {
                self.forget(row)?;
                report.deleted += 1;
            }
        }
        report.more |= over > piece as u64;
        if report.deleted > 0 {
            meta::write(self.conn, meta::LAST_ROW, self.index.last_row)?;
        }
        report.more |= self.prune_keys(rule)?;
        report.more |= self.prune_usage(rule.now)?;
        self.index.forget_buckets(rule.now);
        self.prune_periods(rule.now)?;
        report.more |= self.prune_groups(&rule)?;
        Ok(report)
    }

    fn prune_between(
        &mut self,
        rule: &PruneRule,
        all: Option<u64>,
        some: u64,
        completed_go: bool,
        budget: &mut usize,
    ) -> Result<u64, Failure> {
        let ages = (
            rule.completed_for.as_millis() as u64,
            rule.others_for.as_millis() as u64,
        );
        if self.pruned.rule != Some(ages) {
            self.pruned = Walk {
                after: (0, 0),
                rule: Some(ages),
            };
        }
        let from = self.pruned.after.max((all.unwrap_or(0), 0));
        let rows = self.finished_between(from, some, *budget)?;
        *budget -= rows.len();
        let mut deleted = 0;
        for (at, row, state) in rows {
            self.pruned.after = (at, row);
            if (state == JobState::Completed as i64) == completed_go {
                self.forget(row)?;
                deleted += 1;
            }
        }
        Ok(deleted)
    }

    /// Rows whose own time has passed.
    fn kept_until(&self, now: Timestamp, limit: usize) -> Result<Vec<Row>, Failure> {
        let sql = "SELECT id FROM history WHERE keep_until <= ?1 ORDER BY keep_until LIMIT ?2";
        let mut query = self.conn.prepare_cached(sql)?;
        let rows = query.query_map((now.as_millis() as i64, limit as i64), |row| row.get(0))?;
        Ok(rows.collect::<Result<_, _>>()?)
    }

    /// The oldest ends of all.
    fn oldest(&self, limit: usize) -> Result<Vec<Row>, Failure> {
        let sql = "SELECT id FROM ( \
                   SELECT * FROM (SELECT finished_at, id FROM history WHERE keep_until IS NULL \
                   ORDER BY finished_at, id LIMIT ?1) UNION ALL \
                   SELECT * FROM (SELECT finished_at, id FROM history WHERE keep_until IS NOT NULL \
                   ORDER BY finished_at, id LIMIT ?1)) ORDER BY finished_at, id LIMIT ?1";
        let mut query = self.conn.prepare_cached(sql)?;
        let rows = query.query_map([limit as i64], |row| row.get(0))?;
        Ok(rows.collect::<Result<_, _>>()?)
    }

    /// Ends after `after` and up to `to`, the oldest first, of those under the rule.
    fn finished_between(
        &self,
        after: Place,
        to: u64,
        limit: usize,
    ) -> Result<Vec<(u64, Row, i64)>, Failure> {
        let sql = "SELECT finished_at, id, state FROM history WHERE keep_until IS NULL \
                   AND finished_at BETWEEN ?1 AND ?3 AND (finished_at > ?1 OR id > ?2) ORDER BY finished_at, id LIMIT ?4";
        let mut query = self.conn.prepare_cached(sql)?;
        let parameters = (after.0 as i64, after.1 as i64, to as i64, limit as i64);
        let rows = query.query_map(parameters, |row| {
            Ok((row.get(0)?, row.get(1)?, row.get(2)?))
        })?;
        Ok(rows.collect::<Result<_, _>>()?)
    }

    /// Walks the keys in their own order, a piece per call: an index by age would cost every insert.
    fn prune_keys(&mut self, rule: PruneRule) -> Result<bool, Failure> {
        let Some(forgotten) = cutoff(rule.now, IDEMPOTENCY_KEEP) else {
            return Ok(false);
        };
        let limit = rule.rows_per_call as usize;
        let sql = "SELECT key, at FROM idempotency WHERE key > ?1 ORDER BY key LIMIT ?2";
        let mut query = self.conn.prepare_cached(sql)?;
        let after = (&*self.pruned_keys, limit as i64);
        let keys = query.query_map(after, |row| Ok((row.get(0)?, row.get(1)?)))?;
        let keys: Vec<(Box<str>, u64)> = keys.collect::<Result<_, _>>()?;
        let more = keys.len() == limit && limit > 0;
        for (key, at) in &keys {
            if *at <= forgotten {
                let sql = "DELETE FROM idempotency WHERE key = ?1";
                self.conn.prepare_cached(sql)?.execute([key])?;
            }
        }
        let last = keys.into_iter().next_back().map(|entry| entry.0);
        self.pruned_keys = last.filter(|_| more).unwrap_or_default();
        Ok(more)
    }
}
