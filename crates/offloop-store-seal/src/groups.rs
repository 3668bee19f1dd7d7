//! Groups: their jobs, and what they keep of failures.

use std::sync::Arc;

use offloop_job::{Group, GroupId, JobId, NewGroup, NewJob, Timestamp};
use offloop_store::{
    Advanced, BackendError, Doomed, GroupChange, GroupCreated, GroupListRequest, GroupOrder,
    GroupPage, GroupStore, Heard, MemberPage, MemberRequest, Reply, StoreError,
};

use crate::cipher::Kind;
use crate::engine::{SealedStore, Seals};
use crate::jobs::follow;

/// Messages of failures are cut short there, so some cannot be opened any more.
fn group(seals: &Seals, group: &mut Group) {
    for failure in &mut group.failures.first {
        seals.message(&mut failure.message);
    }
}

impl GroupStore for SealedStore {
    /// Whole or not at all, as a group is: without a key nothing is made.
    fn create_group(
        &self,
        now: Timestamp,
        mut group: NewGroup,
        mut jobs: Vec<NewJob>,
    ) -> Reply<GroupCreated> {
        let then = group.then.as_mut().map(|then| &mut then.job);
        for job in jobs.iter_mut().chain(then) {
            if let Err(error) = self.seals.job(job, None) {
                let cause = BackendError::new(error);
                let operation = "seal a payload of the group";
                return Box::pin(async move { Err(StoreError::Backend { operation, cause }) });
            }
        }
        self.inner.create_group(now, group, jobs)
    }

    fn seal_group(&self, order: GroupOrder) -> Reply<GroupChange> {
        self.inner.seal_group(order)
    }

    fn cancel_group(&self, order: GroupOrder) -> Reply<GroupChange> {
        self.inner.cancel_group(order)
    }

    fn advance(&self, now: Timestamp, limit: u16) -> Reply<Advanced> {
        self.inner.advance(now, limit)
    }

    fn doomed(&self, now: Timestamp, limit: u16) -> Reply<Vec<Doomed>> {
        let (jobs, seals) = (self.inner.doomed(now, limit), Arc::clone(&self.seals));
        Box::pin(async move {
            let mut jobs = jobs.await?;
            for job in &mut jobs {
                seals.content(Kind::Payload, &mut job.payload);
            }
            Ok(jobs)
        })
    }

    fn unheard(&self, limit: u16) -> Reply<Vec<JobId>> {
        self.inner.unheard(limit)
    }

    fn heard(&self, now: Timestamp, mut ends: Vec<Heard>) -> Reply<()> {
        for end in &mut ends {
            follow(&self.seals, &mut end.follow);
        }
        self.inner.heard(now, ends)
    }

    fn stirred(&self) -> bool {
        self.inner.stirred()
    }

    fn group(&self, id: GroupId) -> Reply<Option<Group>> {
        let (found, seals) = (self.inner.group(id), Arc::clone(&self.seals));
        Box::pin(async move {
            let mut found = found.await?;
            if let Some(found) = &mut found {
                group(&seals, found);
            }
            Ok(found)
        })
    }

    fn groups(&self, ask: GroupListRequest) -> Reply<GroupPage> {
        let (page, seals) = (self.inner.groups(ask), Arc::clone(&self.seals));
        Box::pin(async move {
            let mut page = page.await?;
            for found in &mut page.groups {
                group(&seals, found);
            }
            Ok(page)
        })
    }

    fn members(&self, ask: MemberRequest) -> Reply<MemberPage> {
        self.inner.members(ask)
    }
}
