//! Limits at run time: set, shown, and those that the configuration declares.
//!
//! Engines hold jobs back; nothing here does. Must never: check a limit that a door has checked.

use std::collections::{BTreeMap, HashMap, HashSet};

use offloop_job::limits::PAGE_ROWS_MAX;
use offloop_job::{Limit, LimitTarget, QueueName};
use offloop_store::{
    AuditAsk, AuditPage, LimitChange, LimitPage, LimitSet, LimitStatus, LimitsAsk, Origin,
    StoreError,
};

use crate::handle::{QueryError, RuntimeHandle, Shared};

/// Who changed what the configuration declares.
const BY_CONFIGURATION: &str = "config";

impl RuntimeHandle {
    /// Sets or removes a limit, for the next claim on. `actor`: who asks, for the audit log.
    pub async fn set_limit(
        &self,
        target: LimitTarget,
        limit: Option<Limit>,
        actor: &str,
    ) -> Result<LimitSet, StoreError> {
        let change = LimitChange {
            now: self.now(),
            target,
            limit,
            origin: Origin::Api,
            actor: actor.into(),
        };
        let set = self.0.engine.set_limit(change).await?;
        self.0.wake();
        Ok(set)
    }

    /// One page of all limits.
    pub async fn limits(
        &self,
        after: Option<LimitTarget>,
        limit: u16,
    ) -> Result<LimitPage, QueryError> {
        let ask = LimitsAsk {
            now: self.now(),
            only: None,
            after,
            limit,
        };
        self.0.engine.limits(ask).await
    }

    /// One limit, with what it does now.
    pub async fn limit(&self, target: LimitTarget) -> Result<Option<LimitStatus>, QueryError> {
        let ask = LimitsAsk {
            now: self.now(),
            only: Some(target),
            after: None,
            limit: 1,
        };
        let page = self.0.engine.limits(ask).await?;
        Ok(page.limits.into_iter().next())
    }

    /// What holds each queue's jobs back, but for limits of keys: its own limit, and those of the tasks
    /// that have unfinished jobs in it. A queue without any is left out.
    pub async fn limits_by_queue(
        &self,
    ) -> Result<BTreeMap<QueueName, Vec<LimitStatus>>, QueryError> {
        let mut of_queues: BTreeMap<_, Vec<_>> = BTreeMap::new();
        let mut of_tasks = HashMap::new();
        let mut after = None;
        // By the targets' order: queues, then tasks, then keys, of which there may be very many.
        'pages: loop {
            let page = self.limits(after, PAGE_ROWS_MAX).await?;
            for status in page.limits {
                match status.target.clone() {
                    LimitTarget::Queue(queue) => of_queues.insert(queue, vec![status]).map(drop),
                    LimitTarget::Task(task) => of_tasks.insert(task, status).map(drop),
                    LimitTarget::Key(_) | LimitTarget::TaskKey { .. } => break 'pages,
                };
            }
            after = page.next;
            if after.is_none() {
                break;
            }
        }
        if of_tasks.is_empty() {
            return Ok(of_queues);
        }
        let mut lines = self.0.engine.backlog().await?;
        lines.sort_by(|a, b| (&a.queue, &a.task).cmp(&(&b.queue, &b.task)));
        for line in lines {
            let counts = line.counts;
            let live = counts.waiting + counts.scheduled + counts.ready + counts.running > 0;
            if let Some(status) = of_tasks.get(&line.task).filter(|_| live) {
                let held = of_queues.entry(line.queue).or_default();
                held.push(status.clone());
            }
        }
        Ok(of_queues)
    }

    /// What operators changed, the newest first.
    pub async fn audit(&self, ask: AuditAsk) -> Result<AuditPage, QueryError> {
        self.0.engine.audit(ask).await
    }
}

/// Declared limits win over those that are stored for the same target; what was declared before and is
/// no more is removed, and what was set otherwise stays.
pub(crate) async fn declare(shared: &Shared) -> Result<(), StoreError> {
    for (target, limit) in &shared.declared_limits {
        let change = LimitChange {
            now: shared.clock.now(),
            target: target.clone(),
            limit: Some(*limit),
            origin: Origin::File,
            actor: BY_CONFIGURATION.into(),
        };
        if let LimitSet::Full { limit } = shared.engine.set_limit(change).await? {
            tracing::error!(%target, limit, "a declared limit is not in force: there are too many");
        }
    }
    forget_undeclared(shared).await
}

async fn forget_undeclared(shared: &Shared) -> Result<(), StoreError> {
    let declared: HashSet<_> = shared.declared_limits.iter().map(|one| &one.0).collect();
    let mut after = None;
    loop {
        let now = shared.clock.now();
        let ask = LimitsAsk {
            now,
            only: None,
            after,
            limit: PAGE_ROWS_MAX,
        };
        let page = shared.engine.limits(ask).await?;
        for status in page.limits {
            if status.origin != Origin::File || declared.contains(&status.target) {
                continue;
            }
            tracing::info!(target = %status.target, "a limit that is not declared any more is removed");
            let change = LimitChange {
                now,
                target: status.target,
                limit: None,
                origin: Origin::File,
                actor: BY_CONFIGURATION.into(),
            };
            shared.engine.set_limit(change).await?;
        }
        after = page.next;
        if after.is_none() {
            return Ok(());
        }
    }
}
