//! Groups that are not over, jobs that wait, and what ends have left to do. Read from the rows at
//! start, as all of the index.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};

use offloop_job::{Group, GroupId, GroupState, JobId, JobState};
use offloop_store::News;

use super::Row;

/// News that nobody asked for; the oldest go first.
const NEWS_MAX: usize = 8_192;

/// A group's number: [`GroupId::order`].
pub(crate) type GroupRow = u64;

/// A decided group whose members are looked through for those that have not ended.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Sweep {
    /// Members up to this one were looked at.
    pub(crate) at: Row,
    /// Since its start this walk has named somebody.
    pub(crate) found: bool,
    /// A whole walk named nobody: who is left runs and is being stopped.
    pub(crate) clean: bool,
}

/// A job whose many dependents are told piece by piece.
#[derive(Clone, Copy, Debug)]
pub(crate) struct FanOut {
    pub(crate) id: JobId,
    pub(crate) end: JobState,
}

#[derive(Default)]
pub(crate) struct Groups {
    /// Those that are open, or have members that have not ended.
    held: HashMap<GroupRow, Group>,
    /// Live members of those.
    members: HashMap<Row, GroupRow>,
    deadlines: BTreeSet<(u64, GroupRow)>,
    /// Whose rows are to be written before the commit.
    changed: BTreeSet<GroupRow>,
    pub(crate) sweeps: BTreeMap<GroupRow, Sweep>,
    /// Waiting jobs, with their edges.
    pub(crate) waiting: HashMap<Row, u32>,
    /// Jobs that others wait for, with their edges.
    pub(crate) parents: HashMap<Row, u32>,
    pub(crate) fan_outs: VecDeque<FanOut>,
    pub(crate) barred: BTreeMap<Row, JobId>,
    /// Ends that nobody was asked about.
    pub(crate) unheard: std::collections::BTreeSet<offloop_job::JobId>,
    news: VecDeque<News>,
}

impl Groups {
    pub(crate) fn add(&mut self, group: Group) {
        let row = group.id.order();
        if group.state == GroupState::Open {
            let deadline = group.deadline.map(|at| (at.as_millis(), row));
            self.deadlines.extend(deadline);
        } else {
            self.sweeps.insert(row, Sweep::default());
        }
        self.held.insert(row, group);
    }

    /// A group that is not over.
    pub(crate) fn group(&self, id: GroupId) -> Option<&Group> {
        self.held.get(&id.order()).filter(|group| group.id == id)
    }

    /// To change it: its row is written before the commit.
    pub(crate) fn change(&mut self, id: GroupId) -> Option<&mut Group> {
        let group = self.held.get_mut(&id.order())?;
        self.changed.insert(id.order());
        (group.id == id).then_some(group)
    }

    /// It was decided: its time does not matter any more, and its members must end.
    pub(crate) fn decided(&mut self, id: GroupId) {
        let row = id.order();
        let deadline = self.held.get(&row).and_then(|group| group.deadline);
        if let Some(at) = deadline {
            self.deadlines.remove(&(at.as_millis(), row));
        }
        self.sweeps.insert(row, Sweep::default());
    }

    /// It was not made after all.
    pub(crate) fn forget(&mut self, id: GroupId) {
        if let Some(group) = self.held.remove(&id.order())
            && let Some(at) = group.deadline
        {
            self.deadlines.remove(&(at.as_millis(), id.order()));
        }
        self.changed.remove(&id.order());
    }

    /// A member was added after all, or may be idle again.
    pub(crate) fn sweep_again(&mut self, id: GroupId) {
        if let Some(sweep) = self.sweeps.get_mut(&id.order()) {
            *sweep = Sweep::default();
        }
    }

    /// A live job is one of its members.
    pub(crate) fn add_member(&mut self, id: GroupId, job: Row) {
        if self.held.contains_key(&id.order()) {
            self.members.insert(job, id.order());
        }
    }

    pub(crate) fn remove_member(&mut self, job: Row) {
        self.members.remove(&job);
    }

    /// Its group is decided: it must end, and is not handed out.
    pub(crate) fn is_doomed(&self, job: Row) -> bool {
        let group = self
            .members
            .get(&job)
            .and_then(|group| self.held.get(group));
        group.is_some_and(|group| group.state != GroupState::Open)
    }

    pub(crate) fn over_at(&self, now: u64) -> Option<GroupId> {
        let (at, row) = *self.deadlines.first()?;
        let group = self.held.get(&row).filter(|_| at <= now)?;
        Some(group.id)
    }

    pub(crate) fn next_deadline(&self) -> Option<u64> {
        self.deadlines.first().map(|first| first.0)
    }

    /// What is to be written; those that are over are forgotten.
    pub(crate) fn take_changed(&mut self) -> Vec<Group> {
        let changed = std::mem::take(&mut self.changed);
        let rows = changed.into_iter().filter_map(|row| {
            let group = self.held.get(&row)?.clone();
            if group.state != GroupState::Open && group.tally.left() == 0 {
                self.held.remove(&row);
                self.sweeps.remove(&row);
            }
            Some(group)
        });
        rows.collect()
    }

    /// One dependent fewer.
    pub(crate) fn forget_edge(&mut self, parent: Row) {
        if let Some(edges) = self.parents.get_mut(&parent) {
            *edges = edges.saturating_sub(1);
            if *edges == 0 {
                self.parents.remove(&parent);
            }
        }
    }

    /// Its dependents are still being told of an end that it had.
    pub(crate) fn is_fanning_out(&self, id: JobId) -> bool {
        self.fan_outs.iter().any(|fan_out| fan_out.id == id)
    }

    pub(crate) fn tell(&mut self, news: News) {
        if self.news.len() == NEWS_MAX {
            self.news.pop_front();
        }
        self.news.push_back(news);
    }

    pub(crate) fn take_news(&mut self) -> Vec<News> {
        std::mem::take(&mut self.news).into()
    }

    /// There is something to do or to tell.
    pub(crate) fn stirs(&self) -> bool {
        !self.news.is_empty()
            || !self.fan_outs.is_empty()
            || !self.barred.is_empty()
            || !self.unheard.is_empty()
            || self.sweeps.values().any(|sweep| !sweep.clean)
    }
}
