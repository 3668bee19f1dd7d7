//! Limits and the audit log, as rows.

use offloop_job::limits::LIMITS_MAX;
use offloop_job::{Limit, LimitTarget};
use offloop_store::{
    AUDIT_ENTRIES_MAX, AuditEntry, LimitChange, LimitPage, LimitSet, LimitsAsk, Origin,
};

use super::Desk;
use crate::errors::Failure;
use crate::tables::{ms, size};

impl Desk<'_> {
    pub(super) fn set_limit(&mut self, change: &LimitChange) -> Result<LimitSet, Failure> {
        let LimitChange { target, limit, .. } = change;
        let table = &self.index.gates.table;
        let before = table.get(target).copied();
        let declared = limit.is_some() && change.origin == Origin::File;
        if before == *limit {
            if declared && self.index.gates.declared.insert(target.clone()) {
                self.write_limit(target, limit.as_ref(), declared)?;
            }
            return Ok(LimitSet::Done { before });
        }
        if before.is_none() && table.len() >= LIMITS_MAX {
            return Ok(LimitSet::Full { limit: LIMITS_MAX });
        }
        self.write_limit(target, limit.as_ref(), declared)?;
        self.index.set_limit(target, *limit);
        if declared {
            self.index.gates.declared.insert(target.clone());
        } else {
            self.index.gates.declared.remove(target);
        }
        let text = |limit: Limit| limit.to_string().into();
        self.note_change(AuditEntry {
            at: change.now,
            actor: change.actor.clone(),
            subject: target.to_string().into(),
            action: if limit.is_some() {
                "limit.set"
            } else {
                "limit.remove"
            }
            .into(),
            before: before.map(text),
            after: limit.map(text),
        })?;
        self.wake = true;
        Ok(LimitSet::Done { before })
    }

    fn write_limit(
        &self,
        target: &LimitTarget,
        limit: Option<&Limit>,
        declared: bool,
    ) -> Result<(), Failure> {
        let target = target.to_string();
        let Some(limit) = limit else {
            let sql = "DELETE FROM limits WHERE target = ?1";
            self.conn.prepare_cached(sql)?.execute([target])?;
            return Ok(());
        };
        let sql = "INSERT OR REPLACE INTO limits VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)";
        let rate = limit.rate.as_ref();
        self.conn.prepare_cached(sql)?.execute((
            target,
            limit.concurrency,
            rate.map(|rate| rate.units),
            rate.map(|rate| rate.per.as_millis() as i64),
            rate.map(|rate| rate.burst),
            limit.weight,
            declared,
        ))?;
        Ok(())
    }

    pub(super) fn limits(&self, ask: &LimitsAsk) -> LimitPage {
        let table = &self.index.gates.table;
        let status = |(target, limit)| self.index.limit_status(target, limit, ask.now);
        if let Some(only) = &ask.only {
            let found = table.get(only).map(|limit| status((only, limit)));
            let limits = found.into_iter().collect();
            return LimitPage { limits, next: None };
        }
        let mut found = table.after(ask.after.as_ref());
        let rows = found.by_ref().take(usize::from(ask.limit.max(1)));
        let limits: Vec<_> = rows.map(status).collect();
        let last = limits.last().filter(|_| found.next().is_some());
        let next = last.map(|status| status.target.clone());
        LimitPage { limits, next }
    }

    /// What was taken from rates in this transaction. Before the commit.
    pub(super) fn flush_buckets(&mut self) -> Result<(), Failure> {
        for (target, bucket) in self.index.gates.take_changed() {
            let target = target.to_string();
            let Some(bucket) = bucket else {
                let sql = "DELETE FROM buckets WHERE target = ?1";
                self.conn.prepare_cached(sql)?.execute([target])?;
                continue;
            };
            let sql = "INSERT OR REPLACE INTO buckets VALUES (?1, ?2, ?3)";
            let row = (target, ms(bucket.at), size(bucket.level));
            self.conn.prepare_cached(sql)?.execute(row)?;
        }
        Ok(())
    }

    /// An entry of the audit log, in the commit of the change that it tells of.
    pub(super) fn note_change(&self, entry: AuditEntry) -> Result<(), Failure> {
        let entry = entry.bounded();
        let sql = "INSERT INTO audit (at, actor, subject, action, before, after) \
                   VALUES (?1, ?2, ?3, ?4, ?5, ?6)";
        self.conn.prepare_cached(sql)?.execute((
            ms(entry.at),
            &*entry.actor,
            &*entry.subject,
            &*entry.action,
            entry.before.as_deref(),
            entry.after.as_deref(),
        ))?;
        let sql = "DELETE FROM audit WHERE id <= ?1";
        let forgotten = self.conn.last_insert_rowid() - AUDIT_ENTRIES_MAX as i64;
        self.conn.prepare_cached(sql)?.execute([forgotten])?;
        Ok(())
    }
}
