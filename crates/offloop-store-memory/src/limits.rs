//! What limits hold back, counted anew each time; and the log of their changes.

use offloop_job::limits::LIMITS_MAX;
use offloop_job::{JobState, LimitTarget, Timestamp, targets_of};
use offloop_store::{
    AUDIT_ENTRIES_MAX, AuditAsk, AuditEntry, AuditPage, BlockedBy, LimitChange, LimitPage,
    LimitSet, LimitStatus, LimitsAsk, Origin,
};

use crate::state::State;
use crate::turns::Flow;

impl State {
    /// Why no job of the flow may start now: what holds it longest.
    pub(crate) fn held_back(&self, flow: &Flow, now: Timestamp) -> Option<BlockedBy> {
        if self.limits.is_empty() {
            return None;
        }
        let blocks = targets(flow).into_iter();
        let blocks = blocks.filter_map(|target| self.blocked(&target, now));
        blocks.max_by_key(|block| match block {
            BlockedBy::Concurrency => Timestamp::MAX,
            BlockedBy::Rate(until) => *until,
        })
    }

    fn blocked(&self, target: &LimitTarget, now: Timestamp) -> Option<BlockedBy> {
        let limit = self.limits.holding(target)?;
        if let Some(most) = limit.concurrency
            && self.running_under(target) >= u64::from(most)
        {
            return Some(BlockedBy::Concurrency);
        }
        let bucket = self.buckets.get(target).copied().unwrap_or_default();
        bucket.opens_at(&limit.rate?, now).map(BlockedBy::Rate)
    }

    /// For a target that is for each key: of all keys that it governs.
    fn running_under(&self, target: &LimitTarget) -> u64 {
        let running = self
            .jobs
            .values()
            .filter(|row| row.state == JobState::Running);
        let under = running.filter(|row| {
            let mut own = targets(&row.flow()).into_iter();
            own.any(|own| own == *target || self.limits.governs(target, &own))
        });
        under.count() as u64
    }

    /// A job that starts takes its cost from every rate that holds for it.
    pub(crate) fn take_cost(&mut self, flow: &Flow, cost: u32, now: Timestamp) {
        for target in targets(flow) {
            let limit = self.limits.holding(&target);
            if let Some(rate) = limit.and_then(|limit| limit.rate) {
                let bucket = self.buckets.entry(target).or_default();
                *bucket = bucket.take(&rate, now, cost);
            }
        }
    }

    /// Whether the end of one running job of the flow lets another one start.
    pub(crate) fn end_frees(&self, flow: &Flow) -> bool {
        let mut targets = targets(flow).into_iter();
        targets.any(|target| {
            let limit = self.limits.holding(&target);
            let most = limit.and_then(|limit| limit.concurrency);
            most.is_some_and(|most| self.running_under(&target) >= u64::from(most))
        })
    }

    pub(crate) fn set_limit(&mut self, change: LimitChange) -> LimitSet {
        let LimitChange {
            now,
            target,
            limit,
            origin,
            actor,
        } = change;
        let before = self.limits.get(&target).copied();
        if before == limit {
            if limit.is_some() && origin == Origin::File {
                self.declared_limits.insert(target);
            }
            return LimitSet::Done { before };
        }
        if before.is_none() && self.limits.len() >= LIMITS_MAX {
            return LimitSet::Full { limit: LIMITS_MAX };
        }
        if limit.is_some() && origin == Origin::File {
            self.declared_limits.insert(target.clone());
        } else {
            self.declared_limits.remove(&target);
        }
        let rates: Vec<_> = self.buckets.keys().map(|own| self.rate_of(own)).collect();
        self.limits.set(target.clone(), limit);
        let after: Vec<_> = self.buckets.keys().map(|own| self.rate_of(own)).collect();
        let mut same = rates.into_iter().zip(after).map(|(one, two)| one == two);
        self.buckets.retain(|_, _| same.next() == Some(true));
        self.note_change(AuditEntry {
            at: now,
            actor,
            subject: target.to_string().into(),
            action: if limit.is_some() {
                "limit.set"
            } else {
                "limit.remove"
            }
            .into(),
            before: before.map(|limit| limit.to_string().into()),
            after: limit.map(|limit| limit.to_string().into()),
        });
        self.wake = true;
        LimitSet::Done { before }
    }

    fn rate_of(&self, target: &LimitTarget) -> Option<offloop_job::Rate> {
        self.limits.holding(target).and_then(|limit| limit.rate)
    }

    pub(crate) fn limit_page(&self, ask: &LimitsAsk) -> LimitPage {
        let mut found = self.limits.after(ask.after.as_ref());
        let mut found = found.by_ref().filter(|(target, _)| {
            let only = ask.only.as_ref();
            only.is_none_or(|only| only == *target)
        });
        let rows = found.by_ref().take(usize::from(ask.limit.max(1)));
        let limits: Vec<_> = rows
            .map(|(target, limit)| LimitStatus {
                target: target.clone(),
                limit: *limit,
                origin: if self.declared_limits.contains(target) {
                    Origin::File
                } else {
                    Origin::Api
                },
                running: self.running_under(target),
                blocked: (!target.is_each())
                    .then(|| self.blocked(target, ask.now))
                    .flatten(),
            })
            .collect();
        let last = limits.last().filter(|_| found.next().is_some());
        let next = last.map(|status| status.target.clone());
        LimitPage { limits, next }
    }

    /// Buckets that nothing is left of.
    pub(crate) fn forget_buckets(&mut self, now: Timestamp) {
        self.buckets.retain(|_, bucket| !bucket.is_empty(now));
    }

    /// An entry of the audit log, with the change that it tells of.
    pub(crate) fn note_change(&mut self, entry: AuditEntry) {
        self.audit_number += 1;
        self.audit.push_back((self.audit_number, entry.bounded()));
        if self.audit.len() as u64 > AUDIT_ENTRIES_MAX {
            self.audit.pop_front();
        }
    }

    pub(crate) fn audit_page(&self, ask: &AuditAsk) -> AuditPage {
        let newest = self.audit.iter().rev();
        let mut found = newest.filter(|(number, entry)| {
            ask.before.is_none_or(|before| *number < before)
                && ask
                    .subject
                    .as_ref()
                    .is_none_or(|subject| *subject == entry.subject)
        });
        let entries: Vec<_> = found
            .by_ref()
            .take(usize::from(ask.limit.max(1)))
            .cloned()
            .collect();
        let last = entries.last().filter(|_| found.next().is_some());
        let next = last.map(|entry| entry.0);
        AuditPage { entries, next }
    }
}

fn targets((queue, task, key): &Flow) -> Vec<LimitTarget> {
    targets_of(queue, task, key.as_ref())
}
