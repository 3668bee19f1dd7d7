//! Plays a plan on the engine and on the oracle, and compares every answer.

use std::collections::BTreeSet;
use std::fmt::Debug;
use std::time::Duration;

use offloop_job::{GroupId, JobId, JobSummary, Mode, NewJob, QueueName, Timestamp};
use offloop_store::{
    AuditAsk, Checkpoint, ClaimRequest, Claimed, EndIdle, Engine, IdleEnd, InsertBatch,
    InsertOutcome, JobFilter, JobQuery as _, LimitsAsk, ListRequest, ModeChange, ProgressNote,
    PruneRule, Record, RecordScan, Reply, Settlement, UsageBy, Want,
};
use offloop_store_memory::{MemoryOptions, MemoryStore};

use super::draw;
use super::ledger::Ledger;
use super::plan::{Ask, Call, End, Plan, Row};
use super::same::{Names, Told};
use crate::store::node;
use crate::{Harness, Setup, T0, block_on};

/// Pages and pieces after which an engine is said to run for ever.
pub(super) const PAGES_MAX: usize = 10_000;

/// Both engines, and what was asked of them so far.
pub(super) struct World<'a> {
    pub(super) harness: &'a dyn Harness,
    pub(super) setup: Setup,
    /// `None` only if it did not come back.
    pub(super) engine: Option<Box<dyn Engine>>,
    pub(super) oracle: MemoryStore,
    pub(super) names: Names,
    pub(super) now: Timestamp,
    /// The furthest that the clock ever was.
    pub(super) latest: Timestamp,
    /// Oldest first, as the oracle knows them.
    pub(super) ids: Vec<JobId>,
    pub(super) attempts: Vec<Claimed>,
    pub(super) asked: Vec<NewJob>,
    pub(super) groups: Vec<GroupId>,
    pub(super) ledger: Ledger,
}

pub(super) fn play(harness: &dyn Harness, plan: &Plan) -> Told<()> {
    let setup = Setup {
        id_seed: 7,
        queue_jobs_max: plan.queue_jobs_max,
    };
    let mut world = World {
        harness,
        setup,
        engine: Some(harness.open(setup)),
        oracle: MemoryStore::new(MemoryOptions {
            id_seed: setup.id_seed,
            queue_jobs_max: setup.queue_jobs_max,
        }),
        names: Names::default(),
        now: Timestamp::from_millis(T0),
        latest: Timestamp::from_millis(T0),
        ids: vec![],
        attempts: vec![],
        asked: vec![],
        groups: vec![],
        ledger: Ledger::default(),
    };
    for (number, call) in plan.calls.iter().enumerate() {
        // What a call brought beside its answer is learned before anybody names it.
        let answer = world.call(call).and_then(|()| world.advance());
        answer.map_err(|wrong| format!("call {number}, {call:?}: {wrong}"))?;
    }
    let end = world.everything();
    end.map_err(|wrong| format!("looked at in the end: {wrong}"))
}

pub(super) fn wait<T>(reply: Reply<T>) -> Told<T> {
    block_on(reply).map_err(|error| format!("the engine failed: {error:?}"))
}

pub(super) fn same<T: PartialEq + Debug>(oracle: &T, engine: &T) -> Told<()> {
    if oracle == engine {
        return Ok(());
    }
    Err(format!("\n  oracle {oracle:?}\n  engine {engine:?}"))
}

/// An engine may ask to be asked again sooner than needed, but not later, nor at once.
fn hint(now: Timestamp, oracle: Option<Timestamp>, engine: Option<Timestamp>) -> Told<()> {
    let late = oracle.is_some_and(|by| engine.is_none_or(|engine| engine > by));
    if late || engine.is_some_and(|engine| engine <= now) {
        return Err(format!(
            "at {now} blocked until {oracle:?}, the engine says {engine:?}"
        ));
    }
    Ok(())
}

pub(super) fn by_id<T>(mut rows: Vec<T>, id: impl Fn(&T) -> JobId) -> Vec<T> {
    rows.sort_by_key(|row| id(row));
    rows
}

impl World<'_> {
    /// Asks the oracle by its names and the engine by its own, and waits for both.
    pub(super) fn both<A, T>(
        &self,
        ours: A,
        theirs: A,
        ask: impl Fn(&dyn Engine, A) -> Reply<T>,
    ) -> Told<(T, T)> {
        let Some(engine) = self.engine.as_deref() else {
            return Err("the engine did not come back".to_owned());
        };
        let ours = wait(ask(&self.oracle, ours))?;
        Ok((ours, wait(ask(engine, theirs))?))
    }

    /// The same question for both, and the same answer.
    pub(super) fn agree<T: PartialEq + Debug>(
        &self,
        ask: impl Fn(&dyn Engine) -> Reply<T>,
    ) -> Told<()> {
        let (ours, theirs) = self.both((), (), |engine, ()| ask(engine))?;
        same(&ours, &theirs)
    }

    fn call(&mut self, call: &Call) -> Told<()> {
        let now = self.now;
        match call {
            Call::Tick(shift) => {
                self.now = draw::shifted(now, *shift);
                self.latest = self.latest.max(self.now);
                Ok(())
            }
            Call::Insert(jobs, rows) => self.insert(jobs, rows),
            Call::Claim { node, wants } => self.claim(*node, wants),
            Call::Settle(ends) => self.settle(ends),
            Call::Note(notes) => self.note(notes),
            Call::Checkpoint(notes) => self.checkpoint(notes),
            Call::Promote => self.agree(|engine| engine.promote(now)),
            Call::EndIdle(ends) => self.end_idle(ends),
            Call::Overdue => self.overdue(),
            Call::Revive(jobs) => self.revive(jobs),
            Call::Delete(jobs) => self.delete(jobs),
            Call::Orphans { alive } => self.orphans(*alive),
            Call::Prune { .. } => self.prune(&draw::prune_rule(now, call)),
            Call::Mode(gate, mode) => {
                let change = ModeChange {
                    now,
                    gate: draw::gate(*gate),
                    mode: draw::mode(*mode),
                    actor: "somebody".into(),
                };
                self.agree(|engine| engine.set_mode(change.clone()))
            }
            Call::Write(rows) => {
                self.agree(|engine| engine.write_records(now, draw::records(rows)))
            }
            Call::Look(back) => self.look(self.id(*back)),
            Call::List { limit, .. } => self.list(&draw::filter(call), *limit),
            Call::Queues => self.queues(),
            Call::Record(collection, key) => {
                let place = || (draw::collection(*collection), draw::key(*key));
                self.agree(|engine| engine.record(place().0, place().1))
            }
            Call::Scan {
                collection,
                label,
                limit,
            } => self.scan(*collection, *label, *limit),
            Call::Count(collection) => self.count(*collection),
            Call::Usage { by, since, limit } => {
                let ask = draw::usage_ask(now, *by, *since, *limit);
                self.agree(|engine| engine.usage(ask))
            }
            Call::Limit { target, limit } => {
                let change = draw::limit_change(now, *target, limit.as_ref());
                self.agree(|engine| engine.set_limit(change.clone()))
            }
            Call::Limits => self.limits(),
            Call::Flow(flow) => self.flow(flow),
            Call::Timed(timed) => self.timed(timed),
            Call::Restart(in_order) => self.restart(*in_order),
        }
    }

    /// A job that was made, or one that never was.
    fn id(&self, back: u16) -> JobId {
        let at = self.ids.len().checked_sub(usize::from(back) + 1);
        at.map_or(JobId::from_parts(1, 1), |at| self.ids[at])
    }

    fn both_ids(&self, backs: &[u16]) -> (Vec<JobId>, Vec<JobId>) {
        let ours: Vec<_> = backs.iter().map(|back| self.id(*back)).collect();
        let theirs = ours.iter().map(|id| self.names.own_id(*id)).collect();
        (ours, theirs)
    }

    fn insert(&mut self, asks: &[Ask], rows: &[Row]) -> Told<()> {
        let mut jobs = vec![];
        for ask in asks {
            jobs.push(self.asked_for(ask));
        }
        let own = jobs.iter().map(|job| self.names.own_job(job.clone()));
        let batch = |jobs| InsertBatch {
            now: self.now,
            jobs,
            records: draw::records(rows),
            request: None,
        };
        let theirs = batch(own.collect());
        let insert = |engine: &dyn Engine, batch| engine.insert(batch);
        let (ours, theirs) = self.both(batch(jobs), theirs, insert)?;
        let theirs = self.names.inserted(&ours, theirs)?;
        self.made(&ours);
        same(&ours, &theirs)
    }

    pub(super) fn asked_for(&mut self, ask: &Ask) -> NewJob {
        let known = draw::Known {
            ids: &self.ids,
            groups: &self.groups,
        };
        let job = draw::job(ask, self.now, &self.asked, &known);
        self.asked.push(job.clone());
        job
    }

    pub(super) fn made(&mut self, outcomes: &[InsertOutcome]) {
        let made = outcomes.iter().filter_map(|outcome| match outcome {
            InsertOutcome::Created { id, .. } => Some(*id),
            _ => None,
        });
        self.ids.extend(made);
    }

    fn claim(&mut self, by: u8, wants: &[(Vec<u8>, u16)]) -> Told<()> {
        let now = self.now;
        let wants = wants.iter().map(|(tasks, limit)| Want {
            tasks: tasks.iter().map(|number| draw::task(*number)).collect(),
            limit: *limit,
        });
        let ask = ClaimRequest {
            now: self.now,
            node: node(&by.to_string()),
            wants: wants.collect(),
        };
        let (ours, theirs) = self.both(ask.clone(), ask, |engine, ask| engine.claim(ask))?;
        let jobs = self.names.claimed(&ours.jobs, theirs.jobs)?;
        self.attempts.extend_from_slice(&ours.jobs);
        same(&ours.jobs, &jobs)?;
        hint(now, ours.blocked_until, theirs.blocked_until)
    }

    fn settle(&mut self, ends: &[End]) -> Told<()> {
        let (mut ours, mut whose) = (vec![], vec![]);
        for end in ends {
            let at = self
                .attempts
                .len()
                .checked_sub(usize::from(end.attempt) + 1);
            let Some(claimed) = at.map(|at| &self.attempts[at]) else {
                continue;
            };
            ours.push(draw::settlement(claimed, end, self.now));
            whose.push(claimed.clone());
        }
        let theirs = ours.iter().map(|end| Settlement {
            id: self.names.own_id(end.id),
            lease: self.names.own_lease(end.lease),
            ..end.clone()
        });
        let theirs = theirs.collect();
        let reports: Vec<_> = ours.iter().map(|end| end.report.clone()).collect();
        let settle = |engine: &dyn Engine, ends| engine.settle(self.now, ends);
        let (ours, theirs) = self.both(ours, theirs, settle)?;
        for ((claimed, report), settled) in whose.iter().zip(reports).zip(&ours) {
            self.ledger.write(claimed, report, *settled);
        }
        same(&ours, &theirs)
    }

    fn note(&self, notes: &[(u16, u8)]) -> Told<()> {
        let mut ours = vec![];
        for (back, number) in notes {
            let at = self.attempts.len().checked_sub(usize::from(*back) + 1);
            ours.extend(at.map(|at| ProgressNote {
                id: self.attempts[at].id,
                lease: self.attempts[at].lease,
                note: number.to_string().into(),
            }));
        }
        let theirs = ours.iter().map(|note| ProgressNote {
            id: self.names.own_id(note.id),
            lease: self.names.own_lease(note.lease),
            ..note.clone()
        });
        let theirs = theirs.collect();
        let write = |engine: &dyn Engine, notes| engine.note_progress(self.now, notes);
        self.both(ours, theirs, write).map(|_| ())
    }

    fn checkpoint(&self, notes: &[(u16, u8, bool)]) -> Told<()> {
        let mut ours = vec![];
        for (back, number, advances) in notes {
            let at = self.attempts.len().checked_sub(usize::from(*back) + 1);
            ours.extend(at.map(|at| Checkpoint {
                id: self.attempts[at].id,
                lease: self.attempts[at].lease,
                data: number.to_string().into(),
                advances: *advances,
            }));
        }
        let theirs = ours.iter().map(|note| Checkpoint {
            id: self.names.own_id(note.id),
            lease: self.names.own_lease(note.lease),
            ..note.clone()
        });
        let theirs = theirs.collect();
        let write = |engine: &dyn Engine, notes| engine.checkpoint(self.now, notes);
        let (ours, theirs) = self.both(ours, theirs, write)?;
        same(&ours, &theirs)
    }

    fn end_idle(&self, ends: &[(u16, bool, Vec<Row>)]) -> Told<()> {
        let ours: Vec<_> = ends
            .iter()
            .map(|(back, expire, rows)| EndIdle {
                id: self.id(*back),
                why: if *expire {
                    IdleEnd::Expire
                } else {
                    IdleEnd::Cancel
                },
                records: draw::records(rows),
                follow: vec![],
            })
            .collect();
        let theirs = ours.iter().map(|end| EndIdle {
            id: self.names.own_id(end.id),
            ..end.clone()
        });
        let theirs = theirs.collect();
        let end = |engine: &dyn Engine, ends| engine.end_idle(self.now, ends);
        let (ours, theirs) = self.both(ours, theirs, end)?;
        same(&ours, &self.names.ended(theirs)?)
    }

    fn overdue(&self) -> Told<()> {
        let ask = |engine: &dyn Engine, ()| engine.overdue(self.now, u16::MAX);
        let (ours, theirs) = self.both((), (), ask)?;
        let theirs = self.names.overdue(theirs)?;
        same(&by_id(ours, |job| job.id), &by_id(theirs, |job| job.id))
    }

    fn revive(&self, backs: &[u16]) -> Told<()> {
        let (ours, theirs) = self.both_ids(backs);
        let revive = |engine: &dyn Engine, jobs| engine.revive(self.now, jobs);
        let (ours, theirs) = self.both(ours, theirs, revive)?;
        same(&ours, &self.names.revived(theirs)?)
    }

    fn delete(&self, backs: &[u16]) -> Told<()> {
        let (ours, theirs) = self.both_ids(backs);
        let (ours, theirs) = self.both(ours, theirs, |engine, jobs| engine.delete(jobs))?;
        same(&ours, &theirs)
    }

    fn orphans(&self, alive: u8) -> Told<()> {
        let ask = |engine: &dyn Engine, ()| engine.orphans(node(&alive.to_string()), u16::MAX);
        let (ours, theirs) = self.both((), (), ask)?;
        let theirs = self.names.running(theirs)?;
        same(&by_id(ours, |job| job.id), &by_id(theirs, |job| job.id))
    }

    /// To the end: how it is cut into pieces is the engine's own affair.
    fn prune(&mut self, rule: &PruneRule) -> Told<()> {
        self.ledger.forget(rule.now);
        let (mut ours, mut theirs) = (0, 0);
        for _ in 0..PAGES_MAX {
            let (our, their) = self.both((), (), |engine, ()| engine.prune(*rule))?;
            (ours, theirs) = (ours + our.deleted, theirs + their.deleted);
            if !our.more && !their.more {
                return same(&ours, &theirs);
            }
        }
        Err("pruning never ends".to_owned())
    }

    fn look(&self, id: JobId) -> Told<()> {
        let own = self.names.own_id(id);
        let (ours, theirs) = self.both(id, own, |engine, id| engine.job(id))?;
        same(&ours, &self.names.job(theirs)?)
    }

    fn list(&self, filter: &JobFilter, limit: u16) -> Told<()> {
        let ours = self.pages(&self.oracle, filter, limit)?;
        let engine = self.engine.as_deref().ok_or("no engine")?;
        let theirs = self.pages(engine, filter, limit)?;
        same(&ours, &self.names.summaries(theirs)?)
    }

    fn pages(&self, engine: &dyn Engine, filter: &JobFilter, limit: u16) -> Told<Vec<JobSummary>> {
        let (mut rows, mut cursor) = (vec![], None);
        for _ in 0..PAGES_MAX {
            let page = wait(engine.jobs(ListRequest {
                now: self.now,
                filter: filter.clone(),
                limit,
                cursor,
            }))?;
            rows.extend(page.jobs);
            cursor = page.next;
            if cursor.is_none() {
                return Ok(rows);
            }
        }
        Err("the list never ends".to_owned())
    }

    /// An engine may also show queues that hold nothing.
    fn queues(&self) -> Told<()> {
        let ask = |engine: &dyn Engine, ()| engine.queues(self.now);
        let (ours, mut theirs) = self.both((), (), ask)?;
        let must: BTreeSet<QueueName> = ours.iter().map(|queue| queue.name.clone()).collect();
        theirs.retain(|queue| {
            must.contains(&queue.name)
                || queue.mode != Mode::Open
                || queue.oldest_ready.is_some()
                || queue.counts != offloop_store::QueueCounts::default()
        });
        theirs.sort_by(|one, other| one.name.cmp(&other.name));
        same(&ours, &theirs)?;
        self.agree(|engine| engine.task_modes())
    }

    fn scan(&self, collection: u8, label: Option<u8>, limit: u32) -> Told<()> {
        let scan = |engine: &dyn Engine| -> Told<Vec<Record>> {
            let (mut rows, mut after) = (vec![], None);
            for _ in 0..PAGES_MAX {
                let page = wait(engine.records(RecordScan {
                    collection: draw::collection(collection),
                    label: label.map(draw::label),
                    after,
                    limit,
                }))?;
                rows.extend(page.records);
                after = page.next;
                if after.is_none() {
                    return Ok(rows);
                }
            }
            Err("the scan never ends".to_owned())
        };
        let engine = self.engine.as_deref().ok_or("no engine")?;
        same(&scan(&self.oracle)?, &scan(engine)?)
    }

    fn count(&self, collection: u8) -> Told<()> {
        let ask = |engine: &dyn Engine, ()| engine.record_counts(draw::collection(collection));
        let (ours, mut theirs) = self.both((), (), ask)?;
        theirs.sort_by(|one, other| one.label.cmp(&other.label));
        same(&ours, &theirs)
    }

    /// All of them, page by page, and the log of their changes.
    fn limits(&self) -> Told<()> {
        let mut after = None;
        for _ in 0..PAGES_MAX {
            let ask = LimitsAsk {
                now: self.now,
                only: None,
                after,
                limit: 3,
            };
            let (ours, theirs) = self.both((), (), |engine, ()| engine.limits(ask.clone()))?;
            same(&ours, &theirs)?;
            after = ours.next;
            if after.is_none() {
                break;
            }
        }
        let ask = AuditAsk {
            subject: None,
            before: None,
            limit: 500,
        };
        let ask = |engine: &dyn Engine, ()| engine.audit(ask.clone());
        let (ours, theirs) = self.both((), (), ask)?;
        same(&ours, &self.names.audit(theirs)?)
    }

    /// A promotion need not outlive the process, so both promote again, at the latest time that
    /// either knows.
    fn restart(&mut self, in_order: bool) -> Told<()> {
        let Some(engine) = self.engine.take() else {
            return Ok(());
        };
        if in_order {
            wait(engine.close())?;
        }
        self.setup.id_seed += 1;
        self.engine = self.harness.reopen(engine, self.setup);
        self.oracle.forget_turns();
        self.now = self.latest;
        let promote = |engine: &dyn Engine, ()| engine.promote(self.now);
        let (ours, theirs) = self.both((), (), promote)?;
        same(&ours.next_due, &theirs.next_due)?;
        self.everything()
    }

    /// All that can be seen.
    fn everything(&self) -> Told<()> {
        self.list(&JobFilter::default(), 100)?;
        for id in &self.ids {
            self.look(*id)?;
        }
        self.queues()?;
        self.limits()?;
        self.flows()?;
        self.schedules()?;
        self.overdue()?;
        self.orphans(u8::MAX)?;
        for collection in 0..2 {
            self.scan(collection, None, 100)?;
            self.count(collection)?;
        }
        // Neither engine is asked what is right here: the attempts themselves are added up.
        for by in UsageBy::ALL {
            let engine = self.engine.as_deref().ok_or("no engine")?;
            let ask = self.ledger.ask(by);
            same(&self.ledger.sums(by), &wait(engine.usage(ask))?)?;
            same(&self.ledger.sums(by), &wait(self.oracle.usage(ask))?)?;
        }
        let later = self.latest.plus(Duration::from_secs(1));
        self.agree(|engine| engine.promote(later))
    }
}
