//! The hot path: sealed on the way in, opened on the way out.

use std::sync::Arc;

use offloop_job::{FinalReason, JobId, NewJob, NodeId, RecordWrite, Timestamp};
use offloop_store::{
    Checkpoint, CheckpointOutcome, ClaimRequest, Claimed, Claims, DeleteOutcome, EndIdle,
    EndIdleOutcome, InsertBatch, InsertOutcome, InsertRefusal, JobStore, ModeChange, Overdue,
    PayloadProblem, ProgressNote, Promoted, PruneReport, PruneRule, Reply, ReviveOutcome, Settled,
    Settlement, StoreError, Verdict,
};

use crate::cipher::{CipherError, Kind};
use crate::engine::{SealedStore, Seals, unsealable};

/// The refusal of a job whose key is not there.
fn refusal(job: &NewJob, error: &CipherError) -> InsertRefusal {
    InsertRefusal::Payload {
        task: job.task.clone(),
        problems: vec![PayloadProblem {
            pointer: String::new(),
            message: format!("cannot be sealed: {error}"),
        }],
    }
}

/// Jobs that come with an end: one that cannot be sealed is left out, never written in clear.
pub(crate) fn follow(seals: &Seals, jobs: &mut Vec<NewJob>) {
    jobs.retain_mut(|job| match seals.job(job, None) {
        Ok(()) => true,
        Err(error) => {
            tracing::error!(task = %job.task, %error, "a job that should follow an end cannot be sealed");
            false
        }
    });
}

fn settlement(seals: &Seals, end: &mut Settlement) {
    follow(seals, &mut end.follow);
    let Some(key) = seals.key_of(end.lease) else {
        return;
    };
    let mut sealed = seals.report(&key, &mut end.report.failure, &mut end.report.log);
    if let (
        Ok(()),
        Verdict::Completed {
            result: Some(result),
        },
    ) = (&sealed, &mut end.verdict)
    {
        match seals.seal(&key, Kind::Result, result) {
            Ok(bytes) => *result = bytes,
            Err(error) => sealed = Err(error),
        }
    }
    if let Err(error) = sealed {
        tracing::error!(job = %end.id, %error, "an answer cannot be sealed");
        end.report.failure = Some(unsealable(&error));
        end.report.log = offloop_job::LogTail::default();
        if matches!(end.verdict, Verdict::Completed { .. }) {
            let reason = FinalReason::NotRetryable;
            end.verdict = Verdict::GiveUp { reason };
        }
    }
}

impl SealedStore {
    /// A repeated request may have been sealed by an earlier version of its key: tried by those too.
    async fn by_earlier_versions(&self, now: Timestamp, job: NewJob) -> Option<InsertOutcome> {
        let key = self.seals.key(&job.task)?;
        for version in self.seals.cipher.versions(key).into_iter().skip(1) {
            let mut again = job.clone();
            self.seals.job(&mut again, Some(version)).ok()?;
            let batch = InsertBatch {
                now,
                jobs: vec![again],
                records: Vec::new(),
                request: None,
            };
            let outcome = self.inner.insert(batch).await.ok()?.pop()?;
            if !is_mismatch(&outcome) {
                return Some(outcome);
            }
        }
        None
    }
}

const fn is_mismatch(outcome: &InsertOutcome) -> bool {
    matches!(
        outcome,
        InsertOutcome::Refused(InsertRefusal::IdempotencyMismatch { .. })
    )
}

impl JobStore for SealedStore {
    fn insert(&self, batch: InsertBatch) -> Reply<Vec<InsertOutcome>> {
        if batch
            .jobs
            .iter()
            .all(|job| self.seals.key(&job.task).is_none())
        {
            return self.inner.insert(batch);
        }
        let InsertBatch {
            now,
            jobs: asked,
            records,
            request,
        } = batch;
        let whole = request.is_some() || asked.iter().any(|job| job.options.names_its_batch());
        let mut refused = Vec::with_capacity(asked.len());
        let mut jobs = Vec::with_capacity(asked.len());
        for job in &asked {
            let mut sealed = job.clone();
            let done = self.seals.job(&mut sealed, None);
            refused.push(done.err().map(|error| refusal(job, &error)));
            jobs.extend(
                refused
                    .last()
                    .is_some_and(Option::is_none)
                    .then_some(sealed),
            );
        }
        let first = refused.iter().flatten().next().cloned();
        if let Some(refusal) = first.filter(|_| whole) {
            // Places in the batch would lead elsewhere: all of it or nothing.
            let outcomes = vec![InsertOutcome::Refused(refusal); asked.len()];
            return Box::pin(async move { Ok(outcomes) });
        }
        // A batch's own key does not depend on how its jobs are sealed.
        let of_request = request.is_some();
        // Called now, not when somebody waits: calls keep their order.
        let call = self.inner.insert(InsertBatch {
            now,
            jobs,
            records,
            request,
        });
        let store = self.clone();
        Box::pin(async move {
            let mut outcomes = call.await?.into_iter();
            let mut all = Vec::with_capacity(asked.len());
            for (job, refused) in asked.into_iter().zip(refused) {
                let outcome = match refused {
                    Some(refusal) => InsertOutcome::Refused(refusal),
                    None => outcomes.next().ok_or(StoreError::Broken { cause: None })?,
                };
                if is_mismatch(&outcome) && !of_request {
                    let earlier = store.by_earlier_versions(now, job).await;
                    all.push(earlier.unwrap_or(outcome));
                } else {
                    all.push(outcome);
                }
            }
            Ok(all)
        })
    }

    fn claim(&self, ask: ClaimRequest) -> Reply<Claims> {
        let (claims, seals) = (self.inner.claim(ask), Arc::clone(&self.seals));
        Box::pin(async move {
            let mut claims = claims.await?;
            for claimed in &mut claims.jobs {
                seals.claimed(claimed);
            }
            Ok(claims)
        })
    }

    fn settle(&self, now: Timestamp, mut ends: Vec<Settlement>) -> Reply<Vec<Settled>> {
        for end in &mut ends {
            settlement(&self.seals, end);
        }
        let leases: Vec<_> = ends.iter().map(|end| end.lease).collect();
        let (settled, seals) = (self.inner.settle(now, ends), Arc::clone(&self.seals));
        Box::pin(async move {
            let settled = settled.await?;
            for lease in leases {
                seals.forget(lease);
            }
            Ok(settled)
        })
    }

    /// A note that cannot be sealed is left out.
    fn note_progress(&self, now: Timestamp, mut notes: Vec<ProgressNote>) -> Reply<()> {
        notes.retain_mut(|note| {
            let Some(key) = self.seals.key_of(note.lease) else {
                return true;
            };
            let sealed = self.seals.seal(&key, Kind::Note, &note.note);
            sealed.map(|sealed| note.note = sealed).is_ok()
        });
        self.inner.note_progress(now, notes)
    }

    /// One that cannot be sealed is not kept.
    fn checkpoint(&self, now: Timestamp, notes: Vec<Checkpoint>) -> Reply<Vec<CheckpointOutcome>> {
        let mut kept = Vec::with_capacity(notes.len());
        let mut sealed = Vec::with_capacity(notes.len());
        for mut note in notes {
            if let Some(key) = self.seals.key_of(note.lease) {
                match self.seals.seal(&key, Kind::Checkpoint, &note.data) {
                    Ok(data) => note.data = data,
                    Err(error) => {
                        tracing::error!(job = %note.id, %error, "a checkpoint cannot be sealed");
                        kept.push(false);
                        continue;
                    }
                }
            }
            kept.push(true);
            sealed.push(note);
        }
        let outcomes = self.inner.checkpoint(now, sealed);
        Box::pin(async move {
            let mut outcomes = outcomes.await?.into_iter();
            let stale = CheckpointOutcome::Stale;
            let mut told = |kept: bool| {
                if kept {
                    outcomes.next().unwrap_or(stale)
                } else {
                    stale
                }
            };
            Ok(kept.into_iter().map(&mut told).collect())
        })
    }

    fn promote(&self, now: Timestamp) -> Reply<Promoted> {
        self.inner.promote(now)
    }

    fn end_idle(&self, now: Timestamp, mut ends: Vec<EndIdle>) -> Reply<Vec<EndIdleOutcome>> {
        for end in &mut ends {
            follow(&self.seals, &mut end.follow);
        }
        self.inner.end_idle(now, ends)
    }

    fn overdue(&self, now: Timestamp, limit: u16) -> Reply<Vec<Overdue>> {
        let (jobs, seals) = (self.inner.overdue(now, limit), Arc::clone(&self.seals));
        Box::pin(async move {
            let mut jobs = jobs.await?;
            for job in &mut jobs {
                seals.content(Kind::Payload, &mut job.payload);
            }
            Ok(jobs)
        })
    }

    fn revive(&self, now: Timestamp, jobs: Vec<JobId>) -> Reply<Vec<ReviveOutcome>> {
        self.inner.revive(now, jobs)
    }

    fn delete(&self, jobs: Vec<JobId>) -> Reply<Vec<DeleteOutcome>> {
        self.inner.delete(jobs)
    }

    fn orphans(&self, alive: NodeId, limit: u16) -> Reply<Vec<Claimed>> {
        let (jobs, seals) = (self.inner.orphans(alive, limit), Arc::clone(&self.seals));
        Box::pin(async move {
            let mut jobs = jobs.await?;
            for claimed in &mut jobs {
                seals.claimed(claimed);
            }
            Ok(jobs)
        })
    }

    fn prune(&self, rule: PruneRule) -> Reply<PruneReport> {
        self.inner.prune(rule)
    }

    fn set_mode(&self, change: ModeChange) -> Reply<()> {
        self.inner.set_mode(change)
    }

    fn write_records(&self, now: Timestamp, writes: Vec<RecordWrite>) -> Reply<()> {
        self.inner.write_records(now, writes)
    }

    fn close(&self) -> Reply<()> {
        self.inner.close()
    }
}
