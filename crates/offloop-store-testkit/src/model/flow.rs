//! Groups and dependencies in the world of the model.

use std::fmt::Debug;

use offloop_job::{GroupId, GroupState};
use offloop_store::{
    DoomedWhy, EndIdle, Engine, GroupListRequest, IdleEnd, MemberRequest, News, Reply,
};

use super::draw;
use super::plan::Flow;
use super::same::Told;
use super::world::{PAGES_MAX, World, by_id, same, wait};
use crate::groups::order;

impl World<'_> {
    pub(super) fn flow(&mut self, flow: &Flow) -> Told<()> {
        match flow {
            Flow::Create {
                rule,
                hold,
                deadline,
                then,
                jobs,
            } => {
                let deadline = deadline.map(|shift| draw::shifted(self.now, shift));
                let group = draw::new_group(*rule, *hold, deadline, *then);
                let jobs: Vec<_> = jobs.iter().map(|ask| self.asked_for(ask)).collect();
                let own = jobs.iter().map(|job| self.names.own_job(job.clone()));
                let own = own.collect();
                let create =
                    |engine: &dyn Engine, jobs| engine.create_group(self.now, group.clone(), jobs);
                let (ours, theirs) = self.both(jobs, own, create)?;
                let theirs = self.names.group_created(&ours, theirs)?;
                self.groups.push(ours.id);
                self.made(&ours.members);
                same(&ours, &theirs)
            }
            Flow::Seal(back) => {
                let now = self.now;
                self.change(*back, |engine, id| engine.seal_group(order(now, id)))
            }
            Flow::Cancel(back) => {
                let now = self.now;
                self.change(*back, |engine, id| engine.cancel_group(order(now, id)))
            }
            Flow::Advance => self.advance(),
            Flow::Doomed => self.doomed(),
            Flow::Look(back) => self.look_at_group(self.group(*back)),
            Flow::List(state, limit) => {
                self.list_groups(state.and_then(GroupState::from_code), *limit)
            }
        }
    }

    fn group(&self, back: u16) -> GroupId {
        let at = self.groups.len().checked_sub(usize::from(back) + 1);
        at.map_or(GroupId::from_parts(1, 1), |at| self.groups[at])
    }

    fn change<T: PartialEq + Debug>(
        &self,
        back: u16,
        ask: impl Fn(&dyn Engine, GroupId) -> Reply<T>,
    ) -> Told<()> {
        let id = self.group(back);
        let (ours, theirs) = self.both(id, self.names.own_group(id), ask)?;
        same(&ours, &theirs)
    }

    /// To the end: how it is cut into pieces is the engine's own affair.
    pub(super) fn advance(&mut self) -> Told<()> {
        let (mut ours, mut theirs) = self.both((), (), |engine, ()| engine.advance(self.now, 8))?;
        for _ in 0..PAGES_MAX {
            if !theirs.more {
                break;
            }
            let engine = self.engine.as_deref().ok_or("no engine")?;
            let next = wait(engine.advance(self.now, 8))?;
            theirs.news.extend(next.news);
            theirs.more = next.more;
        }
        let theirs = self.names.advanced(&ours, theirs)?;
        for news in &ours.news {
            if let News::Created { id, .. } = news {
                self.ids.push(*id);
            }
        }
        // After a restart there are fewer news; what they tell of is compared by itself.
        if theirs.news.len() != ours.news.len() {
            return Err(format!("\n  oracle {ours:?}\n  engine {theirs:?}"));
        }
        ours.more = false;
        same(&ours, &theirs)
    }

    fn doomed(&mut self) -> Told<()> {
        self.advance()?;
        let ask = |engine: &dyn Engine, ()| engine.doomed(self.now, u16::MAX);
        let (ours, theirs) = self.both((), (), ask)?;
        let (ours, theirs) = (by_id(ours, |one| one.id), self.names.doomed(theirs)?);
        same(&ours, &by_id(theirs, |one| one.id))?;
        let ends: Vec<_> = ours
            .iter()
            .map(|doomed| EndIdle {
                id: doomed.id,
                why: match doomed.why {
                    DoomedWhy::Group(_) => IdleEnd::Cancel,
                    DoomedWhy::Dependency => IdleEnd::Dependency,
                },
                records: vec![],
                follow: vec![],
            })
            .collect();
        let theirs = ends.iter().map(|end| EndIdle {
            id: self.names.own_id(end.id),
            ..end.clone()
        });
        let theirs = theirs.collect();
        let end = |engine: &dyn Engine, ends| engine.end_idle(self.now, ends);
        let (ours, theirs) = self.both(ends, theirs, end)?;
        same(&ours, &self.names.ended(theirs)?)
    }

    fn look_at_group(&self, id: GroupId) -> Told<()> {
        let own = self.names.own_group(id);
        let (ours, theirs) = self.both(id, own, |engine, id| engine.group(id))?;
        same(&ours, &self.names.group(theirs)?)?;
        let ours = Self::member_pages(&self.oracle, id)?;
        let engine = self.engine.as_deref().ok_or("no engine")?;
        let theirs = Self::member_pages(engine, own)?;
        same(&ours, &self.names.members(theirs)?)
    }

    fn member_pages(
        engine: &dyn Engine,
        group: GroupId,
    ) -> Told<Vec<(offloop_job::JobId, Option<offloop_job::JobState>)>> {
        let (mut rows, mut cursor) = (vec![], None);
        for _ in 0..PAGES_MAX {
            let page = wait(engine.members(MemberRequest {
                group,
                limit: 3,
                cursor,
            }))?;
            rows.extend(page.members);
            cursor = page.next;
            if cursor.is_none() {
                return Ok(rows);
            }
        }
        Err("the members never end".to_owned())
    }

    fn list_groups(&self, state: Option<GroupState>, limit: u16) -> Told<()> {
        let pages = |engine: &dyn Engine| -> Told<Vec<GroupId>> {
            let (mut rows, mut cursor) = (vec![], None);
            for _ in 0..PAGES_MAX {
                let page = wait(engine.groups(GroupListRequest {
                    state,
                    limit,
                    cursor,
                }))?;
                rows.extend(page.groups.into_iter().map(|group| group.id));
                cursor = page.next;
                if cursor.is_none() {
                    return Ok(rows);
                }
            }
            Err("the groups never end".to_owned())
        };
        let engine = self.engine.as_deref().ok_or("no engine")?;
        let ours = pages(&self.oracle)?;
        let ours: Vec<_> = ours
            .into_iter()
            .map(|id| self.names.own_group(id))
            .collect();
        same(&ours, &pages(engine)?)
    }

    /// All that can be seen of groups.
    pub(super) fn flows(&self) -> Told<()> {
        self.list_groups(None, 50)?;
        for id in &self.groups {
            self.look_at_group(*id)?;
        }
        let ask = |engine: &dyn Engine, ()| engine.doomed(self.now, u16::MAX);
        let (ours, theirs) = self.both((), (), ask)?;
        let theirs = self.names.doomed(theirs)?;
        same(&by_id(ours, |one| one.id), &by_id(theirs, |one| one.id))
    }
}
