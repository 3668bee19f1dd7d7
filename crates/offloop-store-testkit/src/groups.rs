//! Groups and dependencies of an engine under test, in the words of the cases.

use offloop_job::{
    After, Group, GroupId, GroupRule, GroupState, JobId, JobState, NewGroup, NewJob, OnFailure,
    Parent, Then, ThenOn, Timestamp,
};
use offloop_store::{
    Advanced, Doomed, DoomedWhy, EndIdle, EndIdleOutcome, GroupChange, GroupCreated,
    GroupListRequest, GroupOrder, Heard, IdleEnd, MemberRequest, News,
};

use crate::store::{Store, created, wait};
use crate::{Draft, job};

/// Pieces after which a case gives up.
const PIECES_MAX: usize = 10_000;

pub(crate) fn order(now: Timestamp, id: GroupId) -> GroupOrder {
    GroupOrder {
        now,
        id,
        actor: Some("test".into()),
    }
}

impl Store<'_> {
    pub fn group_of(&self, now: Timestamp, group: NewGroup, jobs: Vec<NewJob>) -> GroupCreated {
        wait(self.engine().create_group(now, group, jobs))
    }

    /// A group of `count` jobs of task `t`, all created.
    pub fn group_with(
        &self,
        now: Timestamp,
        group: NewGroup,
        count: usize,
    ) -> (GroupId, Vec<JobId>) {
        let made = self.group_of(now, group, vec![job("t"); count]);
        assert_eq!(made.state, GroupState::Open);
        (made.id, made.members.iter().map(created).collect())
    }

    pub fn seal(&self, now: Timestamp, id: GroupId) -> GroupChange {
        wait(self.engine().seal_group(order(now, id)))
    }

    pub fn cancel_group(&self, now: Timestamp, id: GroupId) -> GroupChange {
        wait(self.engine().cancel_group(order(now, id)))
    }

    pub fn find_group(&self, id: GroupId) -> Option<Group> {
        wait(self.engine().group(id))
    }

    pub fn group(&self, id: GroupId) -> Group {
        self.find_group(id)
            .unwrap_or_else(|| panic!("{id} is not there"))
    }

    pub fn group_state(&self, id: GroupId) -> GroupState {
        self.group(id).state
    }

    /// Every page of the list, newest first.
    pub fn group_ids(&self, state: Option<GroupState>, limit: u16) -> Vec<GroupId> {
        let (mut found, mut cursor) = (vec![], None);
        for _ in 0..PIECES_MAX {
            let page = wait(self.engine().groups(GroupListRequest {
                state,
                limit,
                cursor,
            }));
            assert!(page.groups.len() <= usize::from(limit));
            found.extend(page.groups.iter().map(|group| group.id));
            cursor = page.next;
            if cursor.is_none() {
                return found;
            }
        }
        panic!("the list of groups never ends");
    }

    pub fn members(&self, group: GroupId, limit: u16) -> Vec<(JobId, Option<JobState>)> {
        let (mut found, mut cursor) = (vec![], None);
        for _ in 0..PIECES_MAX {
            let page = wait(self.engine().members(MemberRequest {
                group,
                limit,
                cursor,
            }));
            assert!(page.members.len() <= usize::from(limit));
            found.extend(page.members);
            cursor = page.next;
            if cursor.is_none() {
                return found;
            }
        }
        panic!("the list of members never ends");
    }

    pub fn advance(&self, now: Timestamp, limit: u16) -> Advanced {
        wait(self.engine().advance(now, limit))
    }

    /// Piece by piece to the end; what was told.
    pub fn news(&self, now: Timestamp) -> Vec<News> {
        let mut news = vec![];
        for _ in 0..PIECES_MAX {
            let advanced = self.advance(now, 16);
            news.extend(advanced.news);
            if !advanced.more {
                return news;
            }
        }
        panic!("advancing never ends");
    }

    /// By id.
    pub fn doomed(&self, now: Timestamp, limit: u16) -> Vec<Doomed> {
        let mut found = wait(self.engine().doomed(now, limit));
        assert!(found.len() <= usize::from(limit));
        found.sort_by_key(|doomed| doomed.id);
        found
    }

    pub fn doomed_ids(&self, now: Timestamp) -> Vec<JobId> {
        let found = self.doomed(now, 1_000);
        found.into_iter().map(|doomed| doomed.id).collect()
    }

    /// Ends whom others have doomed, as the runtime does, until nobody is left; who ran.
    pub fn end_doomed(&self, now: Timestamp) -> Vec<JobId> {
        let mut running = vec![];
        for _ in 0..PIECES_MAX {
            self.news(now);
            let unheard = self.unheard().into_iter().map(|id| Heard {
                id,
                records: vec![],
                follow: vec![],
            });
            wait(self.engine().heard(now, unheard.collect()));
            let found = self.doomed(now, 100);
            if found.is_empty() && !self.engine().stirred() {
                return running;
            }
            let ends = found.iter().map(|doomed| EndIdle {
                id: doomed.id,
                why: match doomed.why {
                    DoomedWhy::Group(_) => IdleEnd::Cancel,
                    DoomedWhy::Dependency => IdleEnd::Dependency,
                },
                records: vec![],
                follow: vec![],
            });
            let ended = self.end_idle(now, ends.collect());
            for (doomed, outcome) in found.iter().zip(ended) {
                match outcome {
                    EndIdleOutcome::Ended { .. } => {}
                    EndIdleOutcome::Running { .. } => running.push(doomed.id),
                    other => panic!("{doomed:?} could not be ended: {other:?}"),
                }
            }
        }
        panic!("somebody is doomed for ever");
    }
}

pub(crate) fn rule(rule: GroupRule) -> NewGroup {
    NewGroup {
        rule,
        ..NewGroup::default()
    }
}

pub(crate) fn held(rule: GroupRule) -> NewGroup {
    NewGroup {
        rule,
        hold: true,
        ..NewGroup::default()
    }
}

/// With a follow-up of task `then`.
pub(crate) fn then(rule: GroupRule, on: ThenOn) -> NewGroup {
    NewGroup {
        rule,
        then: Some(Then {
            on,
            job: job("then").payload("[1]"),
        }),
        ..NewGroup::default()
    }
}

/// A job of task `t` that waits for others.
pub(crate) fn after(parents: &[(JobId, OnFailure)]) -> NewJob {
    let after = parents.iter().map(|(id, on_failure)| After {
        parent: Parent::Job(*id),
        on_failure: *on_failure,
    });
    job("t").with(|options| options.after = after.collect())
}

/// A job of task `t` that waits for earlier ones of its batch.
pub(crate) fn behind(places: &[u16]) -> NewJob {
    let after = places.iter().map(|place| After {
        parent: Parent::Earlier(*place),
        on_failure: OnFailure::Fail,
    });
    job("t").with(|options| options.after = after.collect())
}

pub(crate) fn member_of(group: GroupId) -> NewJob {
    job("t").with(|options| options.group = Some(group))
}

impl Store<'_> {
    pub fn unheard(&self) -> Vec<JobId> {
        wait(self.engine().unheard(100))
    }

    /// A job of task `next` follows.
    pub fn hear(&self, now: Timestamp, id: JobId) {
        let end = Heard {
            id,
            records: vec![crate::record("k", "l", "1")],
            follow: vec![job("next")],
        };
        wait(self.engine().heard(now, vec![end]));
    }
}
