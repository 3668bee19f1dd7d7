//! Groups: their members' ends, their decision, and who must end because of it.

use offloop_job::limits::{GROUP_MEMBERS_MAX, IDEMPOTENCY_KEEP, INPUT_BYTES_MAX, INPUTS_MAX};
use offloop_job::{
    Failures, FinalReason, Group, GroupId, GroupReason, GroupState, Input, JobId, JobState,
    NewGroup, NewJob, RequestKey, Tally, Then, Timestamp, group_verdict,
};
use offloop_store::{
    Advanced, Asked, Cursor, Doomed, DoomedWhy, FollowOf, GroupChange, GroupCreated,
    GroupListRequest, GroupOrder, GroupPage, Heard, InsertOutcome, InsertRefusal, MemberPage,
    MemberRequest, News,
};

use crate::insert::Room;
use crate::state::{GroupRequest, Row, State};

/// A group with what is not shown of it.
pub(crate) struct Kept {
    pub(crate) group: Group,
    then: Option<Then>,
    /// In the order in which they were added.
    members: Vec<JobId>,
}

impl State {
    pub(crate) fn create_group(
        &mut self,
        now: Timestamp,
        new: NewGroup,
        jobs: Vec<NewJob>,
    ) -> GroupCreated {
        let request = new.request.clone();
        if let Some(known) = request.as_ref().and_then(|key| self.known_group(now, key)) {
            return known;
        }
        let id = GroupId::new(self.ids.next_id(now));
        let then = new.then.as_ref();
        let group = Group {
            id,
            rule: new.rule,
            state: GroupState::Open,
            hold: new.hold,
            created_at: id.created(),
            deadline: new.deadline,
            decided_at: None,
            reason: None,
            tally: Tally::default(),
            failures: Failures::default(),
            then_on: then.map(|then| then.on),
            then_task: then.map(|then| then.job.task.clone()),
            then_job: None,
        };
        let kept = Kept {
            group,
            then: new.then,
            members: Vec::new(),
        };
        self.groups.insert(id, kept);
        let jobs = jobs.into_iter().map(|mut job| {
            job.options.group = Some(id);
            job
        });
        let members = self.insert_jobs(now, jobs.collect());
        let created = |outcome: &InsertOutcome| matches!(outcome, InsertOutcome::Created { .. });
        if !members.is_empty() && !new.hold && !members.iter().any(created) {
            self.groups.remove(&id);
            return GroupCreated {
                id,
                state: GroupState::Cancelled,
                members,
                asked: Asked::First,
            };
        }
        if let Some(RequestKey { key, fingerprint }) = request {
            let made = GroupRequest {
                at: now,
                fingerprint,
                made: id,
            };
            self.group_requests.insert(key, made);
        }
        self.judge(id, now);
        GroupCreated {
            id,
            state: self.groups[&id].group.state,
            members,
            asked: Asked::First,
        }
    }

    /// The answer to a request key that was used not long ago.
    fn known_group(&self, now: Timestamp, asked: &RequestKey) -> Option<GroupCreated> {
        let seen = self.group_requests.get(&asked.key)?;
        if now.since(seen.at) >= IDEMPOTENCY_KEEP {
            return None;
        }
        let state = self.groups.get(&seen.made).map(|kept| kept.group.state);
        Some(GroupCreated {
            id: seen.made,
            state: state.unwrap_or_default(),
            members: Vec::new(),
            asked: if seen.fingerprint == asked.fingerprint {
                Asked::Again
            } else {
                Asked::Otherwise
            },
        })
    }

    pub(crate) fn seal_group(&mut self, order: &GroupOrder) -> GroupChange {
        let (now, id) = (order.now, order.id);
        let Some(kept) = self.groups.get_mut(&id) else {
            return GroupChange::Unknown;
        };
        if kept.group.state != GroupState::Open {
            return GroupChange::Decided(kept.group.state);
        }
        let held = std::mem::replace(&mut kept.group.hold, false);
        self.judge(id, now);
        let state = self.groups[&id].group.state;
        if let Some(entry) = order.entry("group.seal", state).filter(|_| held) {
            self.note_change(entry);
        }
        GroupChange::Done(state)
    }

    pub(crate) fn cancel_group(&mut self, order: &GroupOrder) -> GroupChange {
        let (now, id) = (order.now, order.id);
        let Some(kept) = self.groups.get(&id) else {
            return GroupChange::Unknown;
        };
        if kept.group.state != GroupState::Open {
            return GroupChange::Decided(kept.group.state);
        }
        let state = GroupState::Cancelled;
        self.decide(id, state, GroupReason::Asked, now);
        if let Some(entry) = order.entry("group.cancel", state) {
            self.note_change(entry);
        }
        GroupChange::Done(state)
    }

    /// Everything is done at once here: what is left is deadlines, and what there is to tell.
    pub(crate) fn advance(&mut self, now: Timestamp) -> Advanced {
        let open = |kept: &&Kept| kept.group.state == GroupState::Open;
        let open = self.groups.values().filter(open);
        let over = open.filter(|kept| kept.group.deadline.is_some_and(|at| at <= now));
        let mut over: Vec<_> = over
            .map(|kept| (kept.group.deadline, kept.group.id))
            .collect();
        over.sort();
        for (_, id) in over {
            self.decide(id, GroupState::Failed, GroupReason::Deadline, now);
        }
        let left = self.groups.values().map(|kept| &kept.group);
        let left = left.filter(|group| group.state == GroupState::Open);
        Advanced {
            next_deadline: left.filter_map(|group| group.deadline).min(),
            news: std::mem::take(&mut self.news),
            more: false,
        }
    }

    /// Whether members may join, before anything is written.
    pub(crate) fn may_join(&self, group: Option<GroupId>) -> Result<(), InsertRefusal> {
        let Some(group) = group else { return Ok(()) };
        let Some(kept) = self.groups.get(&group) else {
            return Err(InsertRefusal::UnknownGroup { group });
        };
        let (state, limit) = (kept.group.state, GROUP_MEMBERS_MAX);
        if state != GroupState::Open {
            return Err(InsertRefusal::GroupDecided { group, state });
        }
        if kept.group.tally.total >= limit {
            return Err(InsertRefusal::GroupFull { group, limit });
        }
        Ok(())
    }

    pub(crate) fn join(&mut self, group: Option<GroupId>, id: JobId) {
        if let Some(kept) = group.and_then(|group| self.groups.get_mut(&group)) {
            kept.group.tally.total += 1;
            kept.members.push(id);
        }
    }

    /// Counts the end of a member. Once for each: a revived one has left.
    pub(crate) fn count_member(&mut self, id: JobId, now: Timestamp) {
        let Some(row) = self.jobs.get(&id) else {
            return;
        };
        let Some(group) = row.options.group else {
            return;
        };
        let Some(kept) = self.groups.get_mut(&group) else {
            return;
        };
        kept.group.tally.count(row.state);
        if kept.group.state == GroupState::Open && row.state != JobState::Completed {
            let own = row
                .failure
                .as_ref()
                .filter(|_| row.state == JobState::Failed);
            let class = own.map(|failure| failure.class);
            let class = class.filter(|_| row.reason != Some(FinalReason::Dependency));
            let message = own.map_or("", |failure| &*failure.message);
            kept.group.failures.note(id, row.state, class, message);
        }
        self.judge(group, now);
    }

    /// Asks the rule.
    fn judge(&mut self, id: GroupId, now: Timestamp) {
        let group = &self.groups[&id].group;
        if group.state != GroupState::Open {
            return;
        }
        let empty = group.tally.total == 0;
        if let Some(state) = group_verdict(group.rule, &group.tally, group.hold) {
            let why = if empty {
                GroupReason::Empty
            } else {
                GroupReason::Member
            };
            self.decide(id, state, why, now);
        }
    }

    fn decide(&mut self, id: GroupId, state: GroupState, why: GroupReason, now: Timestamp) {
        let Some(kept) = self.groups.get_mut(&id) else {
            return;
        };
        let group = &mut kept.group;
        group.state = state;
        group.decided_at = Some(now);
        group.reason = (state != GroupState::Completed).then_some(why);
        let then = kept.then.take().filter(|then| then.on.takes(state));
        self.news.push(News::Decided { group: id, state });
        let Some(Then { mut job, .. }) = then else {
            return;
        };
        job.options.follows = Some(id);
        let made = self.follow(now, job, FollowOf::Group(id), Room::Past);
        if let Some(kept) = self.groups.get_mut(&id) {
            kept.group.then_job = made;
        }
    }

    /// Takes a job in with something else's end.
    pub(crate) fn follow(
        &mut self,
        now: Timestamp,
        job: NewJob,
        of: FollowOf,
        room: Room,
    ) -> Option<JobId> {
        let (task, queue) = (job.task.clone(), job.options.queue.clone());
        match self.insert_one(now, job, &[], room) {
            InsertOutcome::Created { id, state, .. } => {
                let due_at = self.jobs[&id].due_at;
                self.news.push(News::Created {
                    id,
                    task,
                    queue,
                    state,
                    due_at,
                });
                Some(id)
            }
            InsertOutcome::Existing { id, .. } => Some(id),
            InsertOutcome::Refused(refusal) => {
                self.news.push(News::FollowRefused { of, task, refusal });
                None
            }
        }
    }

    fn is_decided(&self, row: &Row) -> Option<GroupId> {
        let id = row.options.group?;
        let kept = self.groups.get(&id)?;
        (kept.group.state != GroupState::Open).then_some(id)
    }

    /// Must not be handed out.
    pub(crate) fn is_doomed(&self, row: &Row) -> bool {
        self.is_decided(row).is_some()
    }

    pub(crate) fn doomed(&self, limit: u16) -> Vec<Doomed> {
        let live = self.jobs.values().filter(|row| !row.state.is_final());
        let idle = live.filter(|row| row.state != JobState::Running || !row.cancelling);
        let doomed = idle.filter_map(|row| {
            let why = match self.is_decided(row) {
                Some(group) => DoomedWhy::Group(group),
                None if row.barred_by.is_some() => DoomedWhy::Dependency,
                None => return None,
            };
            Some(Doomed {
                id: row.id,
                task: row.task.clone(),
                queue: row.options.queue.clone(),
                payload: row.payload.clone(),
                why,
            })
        });
        doomed.take(usize::from(limit)).collect()
    }

    pub(crate) fn stirs(&self) -> bool {
        !self.news.is_empty() || !self.unheard.is_empty() || !self.doomed(1).is_empty()
    }

    pub(crate) fn heard(&mut self, now: Timestamp, end: Heard) {
        if !self.unheard.remove(&end.id) {
            return;
        }
        self.write_records(now, &end.records);
        for job in end.follow {
            self.follow(now, job, FollowOf::Job(end.id), Room::Checked);
        }
    }

    pub(crate) fn group(&self, id: GroupId) -> Option<Group> {
        self.groups.get(&id).map(|kept| kept.group.clone())
    }

    pub(crate) fn list_groups(&self, ask: &GroupListRequest) -> GroupPage {
        let before: Option<GroupId> = ask.cursor.as_ref().and_then(|at| at.0.parse().ok());
        let rows = self.groups.values().rev().map(|kept| &kept.group);
        let mut found = rows
            .filter(|group| before.is_none_or(|before| group.id < before))
            .filter(|group| ask.state.is_none_or(|state| group.state == state))
            .cloned();
        let groups: Vec<Group> = found.by_ref().take(usize::from(ask.limit)).collect();
        let last = groups.last().filter(|_| found.next().is_some());
        let next = last.map(|last| Cursor(last.id.to_string().into()));
        GroupPage { groups, next }
    }

    pub(crate) fn members(&self, ask: &MemberRequest) -> MemberPage {
        let after: Option<JobId> = ask.cursor.as_ref().and_then(|at| at.0.parse().ok());
        let kept = self.groups.get(&ask.group);
        let members = kept
            .into_iter()
            .flat_map(|kept| kept.members.iter().copied());
        let mut found = members
            .filter(|id| after.is_none_or(|after| *id > after))
            .map(|id| (id, self.jobs.get(&id).map(|row| row.state)));
        let members: Vec<_> = found.by_ref().take(usize::from(ask.limit)).collect();
        let last = members.last().filter(|_| found.next().is_some());
        let next = last.map(|last| Cursor(last.0.to_string().into()));
        MemberPage { members, next }
    }

    /// What a job is handed of those that it waited for.
    pub(crate) fn inputs(&self, row: &Row) -> Vec<Input> {
        let parents = row.waited_for().map(|(parent, _)| parent);
        let group = row.options.follows.and_then(|id| self.groups.get(&id));
        let members = group
            .into_iter()
            .flat_map(|kept| kept.members.iter().copied());
        let mut room = INPUT_BYTES_MAX;
        let ids = parents.chain(members.take(INPUTS_MAX));
        ids.map(|id| self.input(id, &mut room)).collect()
    }

    fn input(&self, id: JobId, room: &mut usize) -> Input {
        let row = self.jobs.get(&id);
        let state = row.map(|row| row.state);
        let failed = state != Some(JobState::Completed);
        let failure = row.and_then(|row| row.failure.as_ref()).filter(|_| failed);
        let whole = row.and_then(|row| row.result.clone());
        let result = whole.clone().filter(|result| result.len() <= *room);
        *room -= result.as_ref().map_or(0, bytes::Bytes::len);
        Input {
            id,
            state,
            class: failure.map(|failure| failure.class),
            omitted: whole.is_some() && result.is_none(),
            result,
        }
    }
}
