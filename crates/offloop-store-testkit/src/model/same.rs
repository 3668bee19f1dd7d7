//! Which job and which lease of the engine is which of the oracle: ids differ in their random
//! part after a restart, leases may skip numbers.

use std::collections::BTreeMap;

use offloop_job::{Job, JobId, JobSummary, Lease};
use offloop_store::{
    Claimed, EndIdleOutcome, InsertOutcome, InsertRefusal, Overdue, ReviveOutcome,
};

/// An answer of the engine in the oracle's words, or why it cannot be.
pub(super) type Told<T> = Result<T, String>;

#[derive(Debug, Default)]
pub(super) struct Names {
    /// Engine to oracle.
    ids: BTreeMap<JobId, JobId>,
    leases: BTreeMap<Lease, Lease>,
    /// Oracle to engine.
    own_ids: BTreeMap<JobId, JobId>,
    own_leases: BTreeMap<Lease, Lease>,
}

impl Names {
    /// The engine's id of an oracle's job; any other id is the same for both.
    pub(super) fn own_id(&self, id: JobId) -> JobId {
        self.own_ids.get(&id).copied().unwrap_or(id)
    }

    pub(super) fn own_lease(&self, lease: Lease) -> Lease {
        self.own_leases.get(&lease).copied().unwrap_or(lease)
    }

    fn id(&self, id: JobId) -> Told<JobId> {
        let known = self.ids.get(&id).copied();
        known.ok_or_else(|| format!("the engine names job {id}, which it never made"))
    }

    fn lease(&self, lease: Lease) -> Told<Lease> {
        let known = self.leases.get(&lease).copied();
        known.ok_or_else(|| format!("the engine names lease {lease}, which it never gave"))
    }

    /// New jobs are learned one by one, so that a batch may name its own.
    pub(super) fn inserted(
        &mut self,
        ours: &[InsertOutcome],
        theirs: Vec<InsertOutcome>,
    ) -> Told<Vec<InsertOutcome>> {
        for (ours, theirs) in ours.iter().zip(&theirs) {
            if let (InsertOutcome::Created { id: own, .. }, InsertOutcome::Created { id, .. }) =
                (ours, theirs)
            {
                if self.ids.keys().next_back() >= Some(id) {
                    return Err(format!("the new id {id} is not above all others"));
                }
                self.ids.insert(*id, *own);
                self.own_ids.insert(*own, *id);
            }
        }
        theirs
            .into_iter()
            .map(|outcome| self.outcome(outcome))
            .collect()
    }

    fn outcome(&self, outcome: InsertOutcome) -> Told<InsertOutcome> {
        use InsertRefusal::{IdempotencyMismatch, UniqueConflict};
        Ok(match outcome {
            InsertOutcome::Created {
                id,
                state,
                replaced,
            } => InsertOutcome::Created {
                id: self.id(id)?,
                state,
                replaced: replaced.map(|id| self.id(id)).transpose()?,
            },
            InsertOutcome::Existing { id, same } => InsertOutcome::Existing {
                id: self.id(id)?,
                same,
            },
            InsertOutcome::Refused(refusal) => InsertOutcome::Refused(match refusal {
                UniqueConflict { holder } => UniqueConflict {
                    holder: self.id(holder)?,
                },
                IdempotencyMismatch { holder } => IdempotencyMismatch {
                    holder: self.id(holder)?,
                },
                full @ (InsertRefusal::QueueFull { .. }
                | InsertRefusal::Draining { .. }
                | InsertRefusal::Payload { .. }
                | InsertRefusal::NotAdmitted(_)) => full,
            }),
        })
    }

    /// New leases are learned by their jobs.
    pub(super) fn claimed(&mut self, ours: &[Claimed], theirs: Vec<Claimed>) -> Told<Vec<Claimed>> {
        for (ours, theirs) in ours.iter().zip(&theirs) {
            if self.leases.keys().next_back() >= Some(&theirs.lease) {
                return Err(format!(
                    "the new lease {} is not above all others",
                    theirs.lease
                ));
            }
            self.leases.insert(theirs.lease, ours.lease);
            self.own_leases.insert(ours.lease, theirs.lease);
        }
        self.running(theirs)
    }

    pub(super) fn running(&self, theirs: Vec<Claimed>) -> Told<Vec<Claimed>> {
        let told = |claimed: Claimed| {
            Ok(Claimed {
                id: self.id(claimed.id)?,
                lease: self.lease(claimed.lease)?,
                ..claimed
            })
        };
        theirs.into_iter().map(told).collect()
    }

    pub(super) fn ended(&self, theirs: Vec<EndIdleOutcome>) -> Told<Vec<EndIdleOutcome>> {
        let told = |outcome| match outcome {
            EndIdleOutcome::Running { lease, node } => {
                let lease = self.lease(lease)?;
                Ok(EndIdleOutcome::Running { lease, node })
            }
            other => Ok(other),
        };
        theirs.into_iter().map(told).collect()
    }

    pub(super) fn revived(&self, theirs: Vec<ReviveOutcome>) -> Told<Vec<ReviveOutcome>> {
        let told = |outcome| match outcome {
            ReviveOutcome::UniqueConflict { holder } => {
                let holder = self.id(holder)?;
                Ok(ReviveOutcome::UniqueConflict { holder })
            }
            other => Ok(other),
        };
        theirs.into_iter().map(told).collect()
    }

    pub(super) fn overdue(&self, theirs: Vec<Overdue>) -> Told<Vec<Overdue>> {
        let told = |late: Overdue| {
            let id = self.id(late.id)?;
            Ok(Overdue { id, ..late })
        };
        theirs.into_iter().map(told).collect()
    }

    pub(super) fn summaries(&self, theirs: Vec<JobSummary>) -> Told<Vec<JobSummary>> {
        theirs.into_iter().map(|row| self.summary(row)).collect()
    }

    fn summary(&self, theirs: JobSummary) -> Told<JobSummary> {
        if theirs.created_at != theirs.id.created() {
            return Err(format!("created_at is not the id's: {theirs:?}"));
        }
        let id = self.id(theirs.id)?;
        Ok(JobSummary {
            id,
            created_at: id.created(),
            ..theirs
        })
    }

    pub(super) fn job(&self, theirs: Option<Job>) -> Told<Option<Job>> {
        let Some(mut job) = theirs else {
            return Ok(None);
        };
        job.summary = self.summary(job.summary)?;
        for attempt in &mut job.attempts {
            attempt.lease = self.lease(attempt.lease)?;
        }
        Ok(Some(job))
    }
}
