//! Which job and which lease of the engine is which of the oracle: ids differ in their random
//! part after a restart, leases may skip numbers.

use std::collections::BTreeMap;

use offloop_job::{
    Failure, Group, GroupId, Input, Job, JobId, JobOptions, JobState, JobSummary, Lease, NewJob,
    Parent,
};
use offloop_store::{
    Advanced, AuditPage, Claimed, Doomed, DoomedWhy, EndIdleOutcome, FollowOf, GroupCreated,
    InsertOutcome, InsertRefusal, News, Overdue, ReviveOutcome,
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
    groups: BTreeMap<GroupId, GroupId>,
    own_groups: BTreeMap<GroupId, GroupId>,
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

    pub(super) fn id(&self, id: JobId) -> Told<JobId> {
        let known = self.ids.get(&id).copied();
        known.ok_or_else(|| format!("the engine names job {id}, which it never made"))
    }

    fn lease(&self, lease: Lease) -> Told<Lease> {
        let known = self.leases.get(&lease).copied();
        known.ok_or_else(|| format!("the engine names lease {lease}, which it never gave"))
    }

    /// A new job of both.
    pub(super) fn learn(&mut self, own: JobId, id: JobId) -> Told<()> {
        if self.ids.keys().next_back() >= Some(&id) {
            return Err(format!("the new id {id} is not above all others"));
        }
        self.ids.insert(id, own);
        self.own_ids.insert(own, id);
        Ok(())
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
                self.learn(*own, *id)?;
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
                other => self.refusal(other)?,
            }),
        })
    }

    /// Those that name no holder.
    fn refusal(&self, refusal: InsertRefusal) -> Told<InsertRefusal> {
        use InsertRefusal::{GroupDecided, GroupFull, UnknownGroup, UnknownParent};
        Ok(match refusal {
            UnknownParent { parent, place } => UnknownParent {
                parent: self.ids.get(&parent).copied().unwrap_or(parent),
                place,
            },
            UnknownGroup { group } => UnknownGroup {
                group: self.groups.get(&group).copied().unwrap_or(group),
            },
            GroupDecided { group, state } => GroupDecided {
                group: self.group_id(group)?,
                state,
            },
            GroupFull { group, limit } => GroupFull {
                group: self.group_id(group)?,
                limit,
            },
            other => other,
        })
    }

    fn group_id(&self, id: GroupId) -> Told<GroupId> {
        let known = self.groups.get(&id).copied();
        known.ok_or_else(|| format!("the engine names group {id}, which it never made"))
    }

    pub(super) fn own_group(&self, id: GroupId) -> GroupId {
        self.own_groups.get(&id).copied().unwrap_or(id)
    }

    /// Subjects name groups by ids of the engine's own.
    pub(super) fn audit(&self, mut theirs: AuditPage) -> Told<AuditPage> {
        for (_, entry) in &mut theirs.entries {
            if let Some(id) = entry.subject.strip_prefix("group:") {
                let id: GroupId = id.parse().map_err(|error| format!("{error:?}"))?;
                entry.subject = format!("group:{}", self.group_id(id)?).into();
            }
        }
        Ok(theirs)
    }

    pub(super) fn group_created(
        &mut self,
        ours: &GroupCreated,
        theirs: GroupCreated,
    ) -> Told<GroupCreated> {
        self.groups.insert(theirs.id, ours.id);
        self.own_groups.insert(ours.id, theirs.id);
        Ok(GroupCreated {
            id: ours.id,
            state: theirs.state,
            members: self.inserted(&ours.members, theirs.members)?,
            asked: theirs.asked,
        })
    }

    pub(super) fn group(&self, theirs: Option<Group>) -> Told<Option<Group>> {
        let Some(mut group) = theirs else {
            return Ok(None);
        };
        group.id = self.group_id(group.id)?;
        group.created_at = group.id.created();
        for failure in &mut group.failures.first {
            failure.job = self.id(failure.job)?;
            failure.message = self.text(&failure.message);
        }
        group.then_job = group.then_job.map(|id| self.id(id)).transpose()?;
        Ok(Some(group))
    }

    /// A message may name a job.
    pub(super) fn text(&self, text: &str) -> Box<str> {
        let words = text.split(' ').map(|word| {
            let bare = word.trim_end_matches(',');
            let known = bare.parse().ok().and_then(|id| self.ids.get(&id));
            known.map_or(word.into(), |id| word.replace(bare, &id.to_string()))
        });
        words.collect::<Vec<String>>().join(" ").into()
    }

    /// Jobs that came with something else are learned from what is told of them.
    pub(super) fn advanced(&mut self, ours: &Advanced, theirs: Advanced) -> Told<Advanced> {
        for (ours, theirs) in ours.news.iter().zip(&theirs.news) {
            if let (News::Created { id: own, .. }, News::Created { id, .. }) = (ours, theirs) {
                self.ids.insert(*id, *own);
                self.own_ids.insert(*own, *id);
            }
        }
        let news = theirs.news.into_iter().map(|news| self.news(news));
        Ok(Advanced {
            news: news.collect::<Told<_>>()?,
            ..theirs
        })
    }

    fn news(&self, news: News) -> Told<News> {
        Ok(match news {
            News::Created {
                id,
                task,
                queue,
                state,
                due_at,
            } => News::Created {
                id: self.id(id)?,
                task,
                queue,
                state,
                due_at,
            },
            News::Unblocked {
                id,
                task,
                queue,
                due_at,
            } => News::Unblocked {
                id: self.id(id)?,
                task,
                queue,
                due_at,
            },
            News::FollowRefused { of, task, refusal } => News::FollowRefused {
                of: match of {
                    FollowOf::Job(id) => FollowOf::Job(self.id(id)?),
                    FollowOf::Group(id) => FollowOf::Group(self.group_id(id)?),
                },
                task,
                refusal: match self.outcome(InsertOutcome::Refused(refusal))? {
                    InsertOutcome::Refused(refusal) => refusal,
                    other => return Err(format!("a refusal became {other:?}")),
                },
            },
            News::Decided { group, state } => News::Decided {
                group: self.group_id(group)?,
                state,
            },
        })
    }

    pub(super) fn doomed(&self, theirs: Vec<Doomed>) -> Told<Vec<Doomed>> {
        let told = |doomed: Doomed| {
            Ok(Doomed {
                id: self.id(doomed.id)?,
                why: match doomed.why {
                    DoomedWhy::Group(group) => DoomedWhy::Group(self.group_id(group)?),
                    DoomedWhy::Dependency => DoomedWhy::Dependency,
                },
                ..doomed
            })
        };
        theirs.into_iter().map(told).collect()
    }

    pub(super) fn members(
        &self,
        theirs: Vec<(JobId, Option<JobState>)>,
    ) -> Told<Vec<(JobId, Option<JobState>)>> {
        let told = |(id, state)| Ok((self.id(id)?, state));
        theirs.into_iter().map(told).collect()
    }

    /// What an engine is asked for, by the names that it knows.
    pub(super) fn own_job(&self, mut job: NewJob) -> NewJob {
        job.options = self.own_options(job.options);
        job
    }

    fn own_options(&self, mut options: JobOptions) -> JobOptions {
        options.group = options.group.map(|id| self.own_group(id));
        for after in &mut options.after {
            if let Parent::Job(id) = &mut after.parent {
                *id = self.own_id(*id);
            }
        }
        options
    }

    fn options(&self, mut options: JobOptions) -> Told<JobOptions> {
        options.group = options.group.map(|id| self.group_id(id)).transpose()?;
        options.follows = options.follows.map(|id| self.group_id(id)).transpose()?;
        for after in &mut options.after {
            if let Parent::Job(id) = &mut after.parent {
                *id = self.id(*id)?;
            }
        }
        Ok(options)
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
            let inputs = claimed.inputs.iter().cloned();
            let inputs = inputs.map(|input| {
                let id = self.id(input.id)?;
                Ok(Input { id, ..input })
            });
            Ok(Claimed {
                id: self.id(claimed.id)?,
                lease: self.lease(claimed.lease)?,
                options: self.options(JobOptions::clone(&claimed.options))?.into(),
                inputs: inputs.collect::<Told<Vec<_>>>()?.into(),
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
            ReviveOutcome::Counted { group } => {
                let group = self.group_id(group)?;
                Ok(ReviveOutcome::Counted { group })
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
        let failure = theirs.failure.map(|failure| Failure {
            message: self.text(&failure.message),
            ..failure
        });
        Ok(JobSummary {
            id,
            failure,
            created_at: id.created(),
            ..theirs
        })
    }

    pub(super) fn job(&self, theirs: Option<Job>) -> Told<Option<Job>> {
        let Some(mut job) = theirs else {
            return Ok(None);
        };
        job.summary = self.summary(job.summary)?;
        job.options = self.options(job.options)?;
        for attempt in &mut job.attempts {
            attempt.lease = self.lease(attempt.lease)?;
        }
        Ok(Some(job))
    }
}
