//! Schedules: the payload that they hold, and the jobs that they make.

use std::sync::Arc;

use offloop_job::{JobId, NewJob, ScheduleName, ScheduleSpec, Timestamp};
use offloop_store::{
    BackendError, Fired, Firing, LedgerAsk, LedgerPage, PutOutcome, PutSchedule, Reply,
    ScheduleRow, ScheduleStore, StoreError, What,
};

use crate::cipher::{CipherError, Kind};
use crate::engine::{SealedStore, Seals};

fn failed<T: 'static>(error: CipherError) -> Reply<T> {
    let cause = BackendError::new(error);
    let operation = "seal the payload of a schedule";
    Box::pin(async move { Err(StoreError::Backend { operation, cause }) })
}

fn row(seals: &Seals, row: &mut ScheduleRow) {
    let mut payload = row.spec.payload.clone();
    seals.content(Kind::Payload, &mut payload);
    if payload != row.spec.payload {
        let spec = ScheduleSpec::clone(&row.spec);
        row.spec = Arc::new(ScheduleSpec { payload, ..spec });
    }
}

fn entries(seals: &Seals, firing: &mut Firing) -> Result<(), CipherError> {
    let jobs = firing.entries.iter_mut();
    let mut jobs = jobs.filter_map(|entry| match &mut entry.what {
        What::Fire(job) => Some(&mut **job),
        _ => None,
    });
    jobs.try_for_each(|job: &mut NewJob| seals.job(job, None))
}

impl ScheduleStore for SealedStore {
    fn put_schedule(&self, now: Timestamp, mut put: PutSchedule) -> Reply<PutOutcome> {
        if let Some(key) = self.seals.key(&put.spec.task) {
            let payload = match self.seals.seal(key, Kind::Payload, &put.spec.payload) {
                Ok(payload) => payload,
                Err(error) => return failed(error),
            };
            let spec = ScheduleSpec::clone(&put.spec);
            put.spec = Arc::new(ScheduleSpec { payload, ..spec });
        }
        let (outcome, seals) = (self.inner.put_schedule(now, put), Arc::clone(&self.seals));
        Box::pin(async move {
            let mut outcome = outcome.await?;
            if let PutOutcome::Put(found) = &mut outcome {
                row(&seals, found);
            }
            Ok(outcome)
        })
    }

    fn delete_schedule(
        &self,
        now: Timestamp,
        name: ScheduleName,
        actor: Box<str>,
    ) -> Reply<Option<ScheduleRow>> {
        opened(self, self.inner.delete_schedule(now, name, actor))
    }

    fn schedule(&self, name: ScheduleName) -> Reply<Option<ScheduleRow>> {
        opened(self, self.inner.schedule(name))
    }

    fn schedules(&self, after: Option<ScheduleName>, limit: u16) -> Reply<Vec<ScheduleRow>> {
        let (rows, seals) = (self.inner.schedules(after, limit), Arc::clone(&self.seals));
        Box::pin(async move {
            let mut rows = rows.await?;
            for found in &mut rows {
                row(&seals, found);
            }
            Ok(rows)
        })
    }

    fn fire(&self, now: Timestamp, mut firings: Vec<Firing>) -> Reply<Vec<Fired>> {
        for firing in &mut firings {
            if let Err(error) = entries(&self.seals, firing) {
                return failed(error);
            }
        }
        let (fired, seals) = (self.inner.fire(now, firings), Arc::clone(&self.seals));
        Box::pin(async move {
            let mut fired = fired.await?;
            for one in &mut fired {
                if let Fired::Stale(Some(found)) = one {
                    row(&seals, found);
                }
            }
            Ok(fired)
        })
    }

    fn ledger(&self, ask: LedgerAsk) -> Reply<LedgerPage> {
        self.inner.ledger(ask)
    }

    fn live_jobs(&self, names: Vec<ScheduleName>) -> Reply<Vec<Vec<JobId>>> {
        self.inner.live_jobs(names)
    }

    fn prune_ledger(&self, now: Timestamp) -> Reply<bool> {
        self.inner.prune_ledger(now)
    }
}

fn opened(store: &SealedStore, found: Reply<Option<ScheduleRow>>) -> Reply<Option<ScheduleRow>> {
    let seals = Arc::clone(&store.seals);
    Box::pin(async move {
        let mut found = found.await?;
        if let Some(found) = &mut found {
            row(&seals, found);
        }
        Ok(found)
    })
}
