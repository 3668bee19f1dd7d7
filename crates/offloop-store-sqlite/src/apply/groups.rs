//! Groups: a member's end is counted in memory, each touched group's row is written once per
//! transaction, and a decision is made in the commit of the end that brings it.

use offloop_job::limits::GROUP_MEMBERS_MAX;
use offloop_job::{
    Failures, FinalReason, Group, GroupId, GroupReason, GroupState, JobId, JobState, NewGroup,
    NewJob, Tally, Then, ThenOn, Timestamp, group_verdict,
};
use offloop_store::{
    Advanced, Asked, Doomed, DoomedWhy, FollowOf, GroupChange, GroupCreated, GroupOrder,
    InsertOutcome, InsertRefusal, News, PruneRule, codec,
};
use rusqlite::OptionalExtension;

use super::Desk;
use super::insert::Room;
use super::prune::cutoff;
use super::requests::Whole;
use crate::errors::Failure;
use crate::index::{GroupRow, Row};
use crate::tables::{LiveRow, ms, options, payload_blob, read_blob};

/// Members that one call of `doomed` looks at.
const VISITED_MAX: usize = 4_096;

/// How a member ended, as far as its group asks.
pub(super) struct MemberEnd<'e> {
    pub(super) id: JobId,
    pub(super) state: JobState,
    pub(super) reason: Option<FinalReason>,
    pub(super) failure: Option<&'e offloop_job::Failure>,
}

impl Desk<'_> {
    pub(super) fn create_group(
        &mut self,
        now: Timestamp,
        new: &NewGroup,
        jobs: &[NewJob],
    ) -> Result<GroupCreated, Failure> {
        if let Some(known) = self.known_group(now, new)? {
            return Ok(known);
        }
        let id = GroupId::new(self.index.ids.next_id(now));
        self.index.last_row = id.order();
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
        self.write_group(&group)?;
        self.index.groups.add(group);
        if let Some(Then { job, .. }) = then {
            self.keep_then(id, job)?;
        }
        let mut members: Vec<InsertOutcome> = Vec::with_capacity(jobs.len());
        let refusal = self.no_room_for_all(jobs);
        for job in jobs {
            if let Some(refusal) = &refusal {
                members.push(InsertOutcome::Refused(refusal.clone()));
                continue;
            }
            let mut job = job.clone();
            job.options.group = Some(id);
            let outcome = self.insert_one(now, &job, &members, Room::Checked)?;
            members.push(outcome);
        }
        let created = |outcome: &InsertOutcome| matches!(outcome, InsertOutcome::Created { .. });
        if !members.is_empty() && !new.hold && !members.iter().any(created) {
            self.unmake(id)?;
            return Ok(GroupCreated {
                id,
                state: GroupState::Cancelled,
                members,
                asked: Asked::First,
            });
        }
        if let Some(request) = &new.request {
            let made = JobId::from_parts(id.order(), id.random());
            self.remember_whole(now, Whole::Group, request, made)?;
        }
        self.judge(now, id)?;
        let state = self.index.groups.group(id).map(|group| group.state);
        Ok(GroupCreated {
            id,
            state: state.unwrap_or_default(),
            members,
            asked: Asked::First,
        })
    }

    /// The answer to a request key that was used not long ago.
    fn known_group(&self, now: Timestamp, new: &NewGroup) -> Result<Option<GroupCreated>, Failure> {
        let Some(request) = &new.request else {
            return Ok(None);
        };
        let Some(seen) = self.whole_request(now, Whole::Group, request)? else {
            return Ok(None);
        };
        let id = GroupId::from_parts(seen.made.order(), seen.made.random());
        let (same, other) = (Asked::Again, Asked::Otherwise);
        Ok(Some(GroupCreated {
            id,
            state: self.group_state(id)?.unwrap_or_default(),
            members: Vec::new(),
            asked: if seen.same { same } else { other },
        }))
    }

    /// The follow-up is kept beside its group.
    fn keep_then(&self, id: GroupId, job: &NewJob) -> Result<(), Failure> {
        let options = &job.options;
        let sql = "INSERT INTO group_thens VALUES (?1, ?2, ?3, ?4, ?5, ?6)";
        self.conn.prepare_cached(sql)?.execute((
            id.order() as i64,
            options.queue.as_str(),
            options.priority,
            options.run_at.map(ms),
            codec::encode(options),
            &*job.payload,
        ))?;
        Ok(())
    }

    /// As if it had never been asked for.
    fn unmake(&mut self, id: GroupId) -> Result<(), Failure> {
        self.index.groups.forget(id);
        for sql in [
            "DELETE FROM groups WHERE id = ?1",
            "DELETE FROM group_thens WHERE grp = ?1",
        ] {
            self.conn
                .prepare_cached(sql)?
                .execute([id.order() as i64])?;
        }
        Ok(())
    }

    pub(super) fn seal_group(&mut self, order: &GroupOrder) -> Result<GroupChange, Failure> {
        let (now, id) = (order.now, order.id);
        if let Some(change) = self.not_open(id)? {
            return Ok(change);
        }
        let group = self.index.groups.change(id);
        let held = group.is_some_and(|group| std::mem::replace(&mut group.hold, false));
        self.judge(now, id)?;
        let state = self.index.groups.group(id).map(|group| group.state);
        let state = state.unwrap_or_default();
        if let Some(entry) = order.entry("group.seal", state).filter(|_| held) {
            self.note_change(entry)?;
        }
        Ok(GroupChange::Done(state))
    }

    pub(super) fn cancel_group(&mut self, order: &GroupOrder) -> Result<GroupChange, Failure> {
        let (now, id) = (order.now, order.id);
        if let Some(change) = self.not_open(id)? {
            return Ok(change);
        }
        let state = GroupState::Cancelled;
        self.decide(now, id, state, GroupReason::Asked)?;
        if let Some(entry) = order.entry("group.cancel", state) {
            self.note_change(entry)?;
        }
        Ok(GroupChange::Done(state))
    }

    fn not_open(&self, id: GroupId) -> Result<Option<GroupChange>, Failure> {
        Ok(match self.group_state(id)? {
            Some(GroupState::Open) => None,
            Some(state) => Some(GroupChange::Decided(state)),
            None => Some(GroupChange::Unknown),
        })
    }

    /// Of a group that may be over for long.
    pub(super) fn group_state(&self, id: GroupId) -> Result<Option<GroupState>, Failure> {
        if let Some(group) = self.index.groups.group(id) {
            return Ok(Some(group.state));
        }
        let sql = "SELECT rnd, state FROM groups WHERE id = ?1";
        let mut query = self.conn.prepare_cached(sql)?;
        let found = query.query_row([id.order() as i64], |row| {
            Ok((row.get::<_, u64>(0)?, row.get::<_, u8>(1)?))
        });
        let found = found.optional()?.filter(|found| found.0 == id.random());
        Ok(found.and_then(|found| GroupState::from_code(found.1)))
    }

    pub(super) fn advance(&mut self, now: Timestamp, limit: u16) -> Result<Advanced, Failure> {
        while let Some(id) = self.index.groups.over_at(now.as_millis()) {
            self.decide(now, id, GroupState::Failed, GroupReason::Deadline)?;
        }
        #[cfg(feature = "sabotage")]
        for (id, on, task, state) in crate::sabotage::owed() {
            let made = self.make_then(now, id, on, task, state)?;
            crate::sabotage::name_late(self.conn, id, made)?;
        }
        self.work_off(now, usize::from(limit))?;
        let flow = &mut self.index.groups;
        Ok(Advanced {
            more: !flow.fan_outs.is_empty(),
            next_deadline: flow.next_deadline().map(Timestamp::from_millis),
            news: flow.take_news(),
        })
    }

    /// Whether a member may join, before anything is written.
    pub(super) fn may_join(
        &self,
        group: Option<GroupId>,
    ) -> Result<Option<InsertRefusal>, Failure> {
        let Some(group) = group else { return Ok(None) };
        let limit = GROUP_MEMBERS_MAX;
        Ok(match self.group_state(group)? {
            None => Some(InsertRefusal::UnknownGroup { group }),
            Some(GroupState::Open) => {
                let held = self.index.groups.group(group);
                let full = held.is_some_and(|held| held.tally.total >= limit);
                full.then_some(InsertRefusal::GroupFull { group, limit })
            }
            Some(state) => Some(InsertRefusal::GroupDecided { group, state }),
        })
    }

    pub(super) fn join(&mut self, group: GroupId, id: JobId) -> Result<(), Failure> {
        let sql = "INSERT INTO group_members VALUES (?1, ?2, ?3)";
        let row = (group.order() as i64, id.order() as i64, id.random() as i64);
        self.conn.prepare_cached(sql)?.execute(row)?;
        if let Some(group) = self.index.groups.change(group) {
            group.tally.total += 1;
        }
        self.index.groups.add_member(group, id.order());
        self.index.groups.sweep_again(group);
        Ok(())
    }

    /// Counts the end of a member. Once for each: a revived one has left.
    pub(super) fn count_member(
        &mut self,
        now: Timestamp,
        group: GroupId,
        end: &MemberEnd<'_>,
    ) -> Result<(), Failure> {
        self.index.groups.remove_member(end.id.order());
        let Some(group) = self.index.groups.change(group) else {
            return Ok(());
        };
        group.tally.count(end.state);
        if group.state == GroupState::Open && end.state != JobState::Completed {
            let own = end.failure.filter(|_| end.state == JobState::Failed);
            let class = own.map(|failure| failure.class);
            let class = class.filter(|_| end.reason != Some(FinalReason::Dependency));
            let message = own.map_or("", |failure| &*failure.message);
            group.failures.note(end.id, end.state, class, message);
        }
        let id = group.id;
        self.judge(now, id)
    }

    /// Asks the rule.
    fn judge(&mut self, now: Timestamp, id: GroupId) -> Result<(), Failure> {
        let Some(group) = self.index.groups.group(id) else {
            return Ok(());
        };
        if group.state != GroupState::Open {
            return Ok(());
        }
        let why = if group.tally.total == 0 {
            GroupReason::Empty
        } else {
            GroupReason::Member
        };
        match group_verdict(group.rule, &group.tally, group.hold) {
            Some(state) => self.decide(now, id, state, why),
            None => Ok(()),
        }
    }

    fn decide(
        &mut self,
        now: Timestamp,
        id: GroupId,
        state: GroupState,
        why: GroupReason,
    ) -> Result<(), Failure> {
        let Some(group) = self.index.groups.change(id) else {
            return Ok(());
        };
        group.state = state;
        group.decided_at = Some(now);
        group.reason = (state != GroupState::Completed).then_some(why);
        let then = group.then_on.zip(group.then_task.clone());
        self.index.groups.decided(id);
        self.index.groups.tell(News::Decided { group: id, state });
        let Some((on, task)) = then else {
            return Ok(());
        };
        #[cfg(feature = "sabotage")]
        if crate::sabotage::puts_off((id, on, task.clone(), state)) {
            return Ok(());
        }
        let made = self.make_then(now, id, on, task, state)?;
        if let Some(group) = self.index.groups.change(id) {
            group.then_job = made;
        }
        Ok(())
    }

    /// The follow-up, if it is one for this end.
    fn make_then(
        &mut self,
        now: Timestamp,
        id: GroupId,
        on: ThenOn,
        task: offloop_job::TaskName,
        state: GroupState,
    ) -> Result<Option<JobId>, Failure> {
        let kept =
            "SELECT queue, priority, run_at, options, payload FROM group_thens WHERE grp = ?1";
        let mut query = self.conn.prepare_cached(kept)?;
        let job = query.query_row([id.order() as i64], |row| {
            let queue = row.get_ref(0)?.as_str()?;
            let queue = offloop_job::QueueName::parse(queue).map_err(|error| unreadable(&error));
            let text = row.get_ref(3)?.as_str_or_null()?;
            let mut options = options(&queue?, row.get(1)?, row.get(2)?, text)
                .map_err(|error| unreadable(&error))?;
            options.follows = Some(id);
            Ok(NewJob {
                task,
                payload: bytes::Bytes::copy_from_slice(row.get_ref(4)?.as_blob()?),
                options,
                idempotency: None,
            })
        });
        let job = job.optional()?;
        drop(query);
        let sql = "DELETE FROM group_thens WHERE grp = ?1";
        self.conn
            .prepare_cached(sql)?
            .execute([id.order() as i64])?;
        match job.filter(|_| on.takes(state)) {
            Some(job) => self.follow(now, &job, FollowOf::Group(id), Room::Past),
            None => Ok(None),
        }
    }

    /// Takes a job in with something else's end.
    pub(super) fn follow(
        &mut self,
        now: Timestamp,
        job: &NewJob,
        of: FollowOf,
        room: Room,
    ) -> Result<Option<JobId>, Failure> {
        let task = job.task.clone();
        Ok(match self.insert_one(now, job, &[], room)? {
            InsertOutcome::Created { id, state, .. } => {
                let due_at = job.options.due(now);
                self.index.groups.tell(News::Created {
                    id,
                    task,
                    queue: job.options.queue.clone(),
                    state,
                    due_at,
                });
                Some(id)
            }
            InsertOutcome::Existing { id, .. } => Some(id),
            InsertOutcome::Refused(refusal) => {
                self.index
                    .groups
                    .tell(News::FollowRefused { of, task, refusal });
                None
            }
        })
    }

    pub(super) fn doomed(&mut self, limit: u16) -> Result<Vec<Doomed>, Failure> {
        let limit = usize::from(limit);
        let mut found = Vec::new();
        let barred = self.index.groups.barred.keys().copied();
        for row in barred.take(limit).collect::<Vec<Row>>() {
            if let Some(live) = LiveRow::find(&mut self.hot, row)?
                && !self.index.groups.is_doomed(row)
            {
                found.push(self.named(row, live, DoomedWhy::Dependency)?);
            }
        }
        let mut visits = VISITED_MAX;
        let groups: Vec<GroupRow> = self.index.groups.sweeps.keys().copied().collect();
        for group in groups {
            if visits == 0 || found.len() >= limit {
                break;
            }
            self.sweep(group, limit, &mut visits, &mut found)?;
        }
        Ok(found)
    }

    /// Walks over the members of a decided group from where the last call stopped.
    fn sweep(
        &mut self,
        group: GroupRow,
        limit: usize,
        visits: &mut usize,
        found: &mut Vec<Doomed>,
    ) -> Result<(), Failure> {
        let sweep = self.index.groups.sweeps.get(&group).copied();
        let mut sweep = sweep.unwrap_or_default();
        let wanted = (*visits).min(limit - found.len());
        let sql = "SELECT job FROM group_members WHERE grp = ?1 AND job > ?2 ORDER BY job LIMIT ?3";
        while *visits > 0 && found.len() < limit {
            let mut query = self.conn.prepare_cached(sql)?;
            let page = (*visits).min(512);
            let rows = query.query_map((group as i64, sweep.at as i64, page as i64), |row| {
                row.get::<_, Row>(0)
            })?;
            let rows: Vec<Row> = rows.collect::<Result<_, _>>()?;
            drop(query);
            let last = rows.len() < page;
            for row in &rows {
                *visits -= 1;
                sweep.at = *row;
                if let Some(doomed) = self.unfinished_member(group, *row)? {
                    sweep.found = true;
                    found.push(doomed);
                    if found.len() == limit {
                        break;
                    }
                }
            }
            if last && rows.last().is_none_or(|row| *row == sweep.at) {
                sweep.clean = !sweep.found;
                (sweep.at, sweep.found) = (0, false);
                break;
            }
        }
        debug_assert!(wanted > 0, "asked for nothing");
        self.index.groups.sweeps.insert(group, sweep);
        Ok(())
    }

    /// Idle, or running and not told to stop.
    fn unfinished_member(&mut self, group: GroupRow, row: Row) -> Result<Option<Doomed>, Failure> {
        if self
            .index
            .running
            .get(&row)
            .is_some_and(|job| job.cancelling)
        {
            return Ok(None);
        }
        let Some(live) = LiveRow::find(&mut self.hot, row)? else {
            return Ok(None);
        };
        let own = live.options.as_deref().and_then(codec::group);
        match own.filter(|own| own.order() == group) {
            Some(id) => self.named(row, live, DoomedWhy::Group(id)).map(Some),
            None => Ok(None), // it was given a life of its own
        }
    }

    fn named(&mut self, row: Row, live: LiveRow, why: DoomedWhy) -> Result<Doomed, Failure> {
        let (task, queue) = self.index.task_and_queue(live.line);
        let payload = match live.payload {
            Some(payload) => Some(payload),
            None => read_blob(self.conn, payload_blob(row))?,
        };
        Ok(Doomed {
            id: JobId::from_parts(row, live.rnd),
            task,
            queue,
            payload: payload.unwrap_or_default(),
            why,
        })
    }

    /// Groups that changed in this transaction, each row once. Before the commit.
    pub(super) fn flush_groups(&mut self) -> Result<(), Failure> {
        for group in self.index.groups.take_changed() {
            self.write_group(&group)?;
        }
        Ok(())
    }

    fn write_group(&self, group: &Group) -> Result<(), Failure> {
        let Group { id, tally, .. } = group;
        let sql = "INSERT OR REPLACE INTO groups VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, \
                   ?11, ?12, ?13, ?14, ?15, ?16, ?17, ?18)";
        let failures = group.failures.encode();
        self.conn.prepare_cached(sql)?.execute(rusqlite::params![
            id.order() as i64,
            id.random() as i64,
            group.rule as u8,
            group.state as u8,
            group.hold,
            group.deadline.map(ms),
            group.decided_at.map(ms),
            group.reason.map(|reason| reason as u8),
            tally.total as i64,
            tally.completed as i64,
            tally.failed as i64,
            tally.cancelled as i64,
            tally.expired as i64,
            (!failures.is_empty()).then_some(failures),
            group.then_on.map(|on| on as u8),
            group.then_task.as_ref().map(offloop_job::TaskName::as_str),
            group.then_job.map(|job| job.order() as i64),
            group.then_job.map(|job| job.random() as i64),
        ])?;
        Ok(())
    }

    /// Decided groups go by the age of their decision, members first, a piece per call; whether
    /// there may be more.
    pub(super) fn prune_groups(&mut self, rule: &PruneRule) -> Result<bool, Failure> {
        let mut budget = rule.rows_per_call as usize;
        // A group that changed in this transaction has its new row only when it is written.
        self.flush_groups()?;
        let completed = cutoff(rule.now, rule.completed_for).map(|at| at as i64);
        let others = cutoff(rule.now, rule.others_for).map(|at| at as i64);
        let sql = "SELECT id FROM groups WHERE decided_at <= max(?1, ?2) \
                   AND decided_at <= iif(state = 1, ?1, ?2) \
                   AND completed + failed + cancelled + expired >= total ORDER BY decided_at LIMIT ?3";
        let mut query = self.conn.prepare_cached(sql)?;
        let ages = (completed.unwrap_or(-1), others.unwrap_or(-1), 16);
        let groups = query.query_map(ages, |row| row.get::<_, GroupRow>(0))?;
        let groups: Vec<GroupRow> = groups.collect::<Result<_, _>>()?;
        drop(query);
        let more = groups.len() == 16;
        for group in groups {
            let sql = "DELETE FROM group_members WHERE grp = ?1 AND job IN \
                       (SELECT job FROM group_members WHERE grp = ?1 ORDER BY job LIMIT ?2)";
            let mut delete = self.conn.prepare_cached(sql)?;
            let gone = delete.execute((group as i64, budget.max(1) as i64))?;
            if gone >= budget.max(1) {
                return Ok(true); // the rest with the next call
            }
            budget -= gone;
            let sql = "DELETE FROM groups WHERE id = ?1";
            self.conn.prepare_cached(sql)?.execute([group as i64])?;
        }
        Ok(more)
    }
}

fn unreadable(error: &dyn ToString) -> rusqlite::Error {
    let what = error.to_string().into();
    rusqlite::Error::FromSqlConversionFailure(0, rusqlite::types::Type::Text, what)
}
