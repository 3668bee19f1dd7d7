//! What doors and configuration ask about schedules.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use offloop_job::limits::{PAGE_ROWS_MAX, SCHEDULES_MAX};
use offloop_job::{NewJob, OptionProblem, ScheduleName, ScheduleSpec, Timestamp};
use offloop_schedule::{Plan, by_hand};
use offloop_store::{
    Fired, InsertRefusal, LedgerAsk, LedgerPage, LedgerRow, Next, Origin, PutOutcome, PutSchedule,
    ScheduleRow, StoreError,
};

use super::run::{enqueued, refusal};
use super::table::SilentSchedule;
use crate::RuntimeHandle;
use crate::path::enqueue::EnqueueError;
use crate::{payload, redact};

/// Tries of a change that others overtake.
const TRIES: usize = 16;

/// Why a schedule is not taken, or not found.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ScheduleError {
    /// Its jobs could not be taken in here.
    #[error(transparent)]
    Job(#[from] EnqueueError),
    /// Its task does not take the payload.
    #[error("{0}")]
    Payload(InsertRefusal),
    /// Each with its field. Never empty.
    #[error("{}", .0.iter().map(ToString::to_string).collect::<Vec<_>>().join("; "))]
    Spec(Vec<OptionProblem>),
    #[error("no schedule is called `{name}`")]
    Unknown { name: ScheduleName },
    #[error("schedule `{name}` is declared in the configuration; change it there, and start anew")]
    Declared { name: ScheduleName },
    #[error("{SCHEDULES_MAX} schedules are there, the limit; delete one first")]
    Full,
    #[error("others change schedule `{name}` all the time; try again")]
    Contended { name: ScheduleName },
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// What became of a put.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SchedulePut {
    Created,
    Changed,
    /// It was so already.
    Unchanged,
}

/// One due time to come, and when it is fired: later by its part of the jitter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NextDue {
    pub due_at: Timestamp,
    pub planned_at: Timestamp,
    /// The due time on the clock of the schedule's zone, as RFC 3339.
    pub local: String,
}

/// What reconciling with the configuration did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DeclaredSchedules {
    pub created: usize,
    pub changed: usize,
    pub deleted: usize,
}

/// As the audit log calls them.
const fn actor_of(origin: Origin) -> &'static str {
    match origin {
        Origin::Api => "api",
        Origin::File => "config",
    }
}

/// A job as the schedule will ask for it.
fn job_of(spec: &ScheduleSpec) -> NewJob {
    NewJob {
        task: spec.task.clone(),
        payload: spec.payload.clone(),
        options: spec.options.clone(),
        idempotency: None,
    }
}

impl RuntimeHandle {
    /// Whether such a schedule could be taken here.
    pub fn check_schedule(
        &self,
        name: &ScheduleName,
        spec: &ScheduleSpec,
    ) -> Result<(), ScheduleError> {
        self.plan(name, spec, self.now()).map(drop)
    }

    fn plan(
        &self,
        name: &ScheduleName,
        spec: &ScheduleSpec,
        created_at: Timestamp,
    ) -> Result<Plan, ScheduleError> {
        let plan = Plan::new(name, spec, created_at).map_err(ScheduleError::Spec)?;
        self.check(&job_of(spec))?;
        Ok(plan)
    }

    /// The same, and whether its task takes the payload.
    async fn plan_of_fit(
        &self,
        name: &ScheduleName,
        spec: &ScheduleSpec,
        created_at: Timestamp,
    ) -> Result<Plan, ScheduleError> {
        let plan = self.plan(name, spec, created_at)?;
        let refusals = payload::refusals(&self.0, &[job_of(spec)]).await;
        match refusals.into_iter().flatten().next() {
            Some(refusal) => Err(ScheduleError::Payload(refusal)),
            None => Ok(plan),
        }
    }

    /// Makes or changes a schedule. Its next due time stays if its times are the same.
    pub async fn put_schedule(
        &self,
        name: ScheduleName,
        spec: ScheduleSpec,
    ) -> Result<(ScheduleRow, SchedulePut), ScheduleError> {
        self.put(name, Arc::new(spec), Origin::Api).await
    }

    async fn put(
        &self,
        name: ScheduleName,
        spec: Arc<ScheduleSpec>,
        origin: Origin,
    ) -> Result<(ScheduleRow, SchedulePut), ScheduleError> {
        for _ in 0..TRIES {
            let old = self.0.engine.schedule(name.clone()).await?;
            if let Some(old) = &old
                && old.origin == Origin::File
                && origin == Origin::Api
            {
                return Err(ScheduleError::Declared { name });
            }
            let now = self.now();
            let created_at = old.as_ref().map_or(now, |old| old.created_at);
            let plan = self.plan_of_fit(&name, &spec, created_at).await?;
            if let Some(old) = &old
                && old.spec == spec
                && old.origin == origin
            {
                return Ok((old.clone(), SchedulePut::Unchanged));
            }
            let next = match &old {
                Some(old) if old.spec.same_times(&spec) => Next::Keep,
                _ => Next::Set(plan.next_after(now)),
            };
            let how = match &old {
                Some(_) => SchedulePut::Changed,
                None => SchedulePut::Created,
            };
            let expect = old.map(|old| old.revision);
            let put = PutSchedule {
                name: name.clone(),
                spec: Arc::clone(&spec),
                origin,
                expect,
                next,
                actor: actor_of(origin).into(),
            };
            if let Some(row) = self.put_at(now, put).await? {
                return Ok((row, how));
            }
        }
        Err(ScheduleError::Contended { name })
    }

    /// `None`: somebody was faster.
    async fn put_at(
        &self,
        now: Timestamp,
        put: PutSchedule,
    ) -> Result<Option<ScheduleRow>, ScheduleError> {
        match self.0.engine.put_schedule(now, put).await? {
            PutOutcome::Put(row) => {
                self.0.schedules.table().set(row.clone(), now);
                self.0.schedules.bell.notify_one();
                Ok(Some(row))
            }
            PutOutcome::Conflict => Ok(None),
            PutOutcome::Full => Err(ScheduleError::Full),
        }
    }

    /// Paused, its due times are skipped. Resumed, it goes on; a schedule whose next due time a clock
    /// that ran ahead has set begins anew from now.
    pub async fn pause_schedule(
        &self,
        name: ScheduleName,
        paused: bool,
    ) -> Result<ScheduleRow, ScheduleError> {
        for _ in 0..TRIES {
            let old = self.schedule(name.clone()).await?;
            let now = self.now();
            let plan = Plan::new(&name, &old.spec, old.created_at).map_err(ScheduleError::Spec)?;
            let coming = plan.next_after(now);
            let ahead = old
                .next_due
                .is_some_and(|next| coming.is_some_and(|due| due < next));
            if old.spec.paused == paused && (paused || !ahead) {
                return Ok(old);
            }
            let put = PutSchedule {
                name: name.clone(),
                spec: Arc::new(ScheduleSpec {
                    paused,
                    ..ScheduleSpec::clone(&old.spec)
                }),
                origin: old.origin,
                expect: Some(old.revision),
                next: if ahead && !paused {
                    Next::Set(coming)
                } else {
                    Next::Keep
                },
                actor: actor_of(Origin::Api).into(),
            };
            if let Some(row) = self.put_at(now, put).await? {
                return Ok(row);
            }
        }
        Err(ScheduleError::Contended { name })
    }

    /// Forgets a schedule and its ledger; its jobs go on.
    pub async fn delete_schedule(&self, name: ScheduleName) -> Result<(), ScheduleError> {
        if self.schedule(name.clone()).await?.origin == Origin::File {
            return Err(ScheduleError::Declared { name });
        }
        self.forget_schedule(name, Origin::Api).await
    }

    async fn forget_schedule(&self, name: ScheduleName, by: Origin) -> Result<(), ScheduleError> {
        let (now, actor) = (self.now(), actor_of(by).into());
        let gone = self.0.engine.delete_schedule(now, name.clone(), actor);
        let gone = gone.await?;
        self.0.schedules.table().remove(&name);
        gone.map(drop).ok_or(ScheduleError::Unknown { name })
    }

    pub async fn schedule(&self, name: ScheduleName) -> Result<ScheduleRow, ScheduleError> {
        let row = self.0.engine.schedule(name.clone()).await?;
        row.ok_or(ScheduleError::Unknown { name })
    }

    /// By name, those after `after`, at most `limit` (500).
    pub async fn schedules(
        &self,
        after: Option<ScheduleName>,
        limit: u16,
    ) -> Result<Vec<ScheduleRow>, ScheduleError> {
        Ok(self.0.engine.schedules(after, limit).await?)
    }

    /// As it may be shown: without the payload, where its task keeps that to itself.
    pub fn shown_schedule(&self, mut row: ScheduleRow) -> ScheduleRow {
        if self.0.defaults_of(&row.spec.task).redact.payload {
            row.spec = Arc::new(ScheduleSpec {
                payload: redact::payload(),
                ..ScheduleSpec::clone(&row.spec)
            });
        }
        row
    }

    /// What became of its due times, the newest first.
    pub async fn ledger(&self, ask: LedgerAsk) -> Result<LedgerPage, ScheduleError> {
        let name = ask.name.clone();
        let page = self.0.engine.ledger(ask).await?;
        if page.rows.is_none() {
            return Err(ScheduleError::Unknown { name });
        }
        Ok(page)
    }

    /// The next due times of a schedule that is, or is not yet.
    pub fn next_dues(
        &self,
        name: &ScheduleName,
        spec: &ScheduleSpec,
        row: Option<&ScheduleRow>,
        count: usize,
    ) -> Result<Vec<NextDue>, ScheduleError> {
        let now = self.now();
        let plan = self.plan(name, spec, row.map_or(now, |row| row.created_at))?;
        let mut next = match row {
            Some(row) => row.next_due,
            None => plan.next_after(now),
        };
        let mut dues = Vec::with_capacity(count);
        while let Some(due_at) = next.filter(|_| dues.len() < count) {
            dues.push(NextDue {
                due_at,
                planned_at: plan.planned(due_at),
                local: plan.local(due_at),
            });
            next = plan.next_after(due_at);
        }
        Ok(dues)
    }

    /// Fires a schedule now, whatever its times and rules say. The row says what became of it.
    pub async fn trigger_schedule(&self, name: ScheduleName) -> Result<LedgerRow, ScheduleError> {
        let row = self.schedule(name.clone()).await?;
        if let Some(why) = refusal(&self.0, &row) {
            let (field, message) = ("task", why);
            return Err(ScheduleError::Spec(vec![OptionProblem { field, message }]));
        }
        // Two in one millisecond would be one due time.
        for later in 0..TRIES as u64 {
            let now = self.now().plus(Duration::from_millis(later));
            let firing = by_hand(&row, now);
            let fired = self.0.engine.fire(now, vec![firing]).await?.pop();
            match fired {
                Some(Fired::Done(rows)) => {
                    let Some(done) = rows.into_iter().next() else {
                        continue;
                    };
                    self.0
                        .hub
                        .publish(enqueued(&row, &done).into_iter().collect());
                    return Ok(done);
                }
                Some(Fired::Stale(_)) | None => return Err(ScheduleError::Unknown { name }),
                Some(Fired::Live(_)) => {}
            }
        }
        Err(ScheduleError::Contended { name })
    }

    /// Schedules from which nothing comes although it should.
    pub fn silent_schedules(&self) -> Vec<SilentSchedule> {
        self.0.schedules.silent(self.now())
    }

    /// How many schedules there are.
    pub fn schedule_count(&self) -> usize {
        self.0.schedules.table().len()
    }

    /// Brings the schedules of the configuration in step with what it says now: new ones are made,
    /// changed ones changed, and those that it had before and has no more are deleted. Those that were
    /// made otherwise stay; one of the same name becomes the configuration's.
    ///
    /// Whoever paused one by hand finds it paused after a start; `paused = true` pauses it anyway.
    pub async fn reconcile_schedules(
        &self,
        declared: Vec<(ScheduleName, ScheduleSpec)>,
    ) -> Result<DeclaredSchedules, ScheduleError> {
        let mut report = DeclaredSchedules::default();
        let names: HashSet<_> = declared.iter().map(|(name, _)| name.clone()).collect();
        for (name, mut spec) in declared {
            if let Some(old) = self.0.engine.schedule(name.clone()).await? {
                spec.paused |= old.spec.paused;
            }
            match self.put(name, Arc::new(spec), Origin::File).await?.1 {
                SchedulePut::Created => report.created += 1,
                SchedulePut::Changed => report.changed += 1,
                SchedulePut::Unchanged => {}
            }
        }
        let mut after = None;
        loop {
            let page = self.0.engine.schedules(after, PAGE_ROWS_MAX).await?;
            after = page.last().map(|row| row.name.clone());
            for row in page {
                if row.origin == Origin::File && !names.contains(&row.name) {
                    self.forget_schedule(row.name, Origin::File).await?;
                    report.deleted += 1;
                }
            }
            if after.is_none() {
                if report != DeclaredSchedules::default() {
                    tracing::info!(?report, "schedules follow the configuration");
                }
                return Ok(report);
            }
        }
    }
}
