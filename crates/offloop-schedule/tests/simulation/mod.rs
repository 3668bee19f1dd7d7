//! One schedule kept over a long time by a clock that is moved by hand: the decisions and the memory
//! store as in life, without a server around them.

use std::sync::Arc;
use std::time::Duration;

use offloop_job::{ScheduleName, ScheduleSpec, Timestamp};
use offloop_schedule::{Plan, Seen, decide};
use offloop_store::{
    EndIdle, Fired, IdleEnd, JobStore as _, LedgerOutcome, LedgerRow, Next, Origin, PutOutcome,
    PutSchedule, Reply, ScheduleRow, ScheduleStore as _,
};
use offloop_store_memory::{MemoryOptions, MemoryStore};

pub(crate) struct Simulation {
    store: MemoryStore,
    row: ScheduleRow,
    pub(crate) plan: Plan,
    /// Every row that was written, in the order of writing.
    pub(crate) rows: Vec<LedgerRow>,
}

/// The memory store answers at once.
fn now_or_never<T>(mut reply: Reply<T>) -> T {
    let mut context = std::task::Context::from_waker(std::task::Waker::noop());
    match reply.as_mut().poll(&mut context) {
        std::task::Poll::Ready(answer) => answer.unwrap(),
        std::task::Poll::Pending => unreachable!("the memory store answers at once"),
    }
}

impl Simulation {
    pub(crate) fn start(spec: ScheduleSpec, at: Timestamp) -> Self {
        let name = ScheduleName::parse("s").unwrap();
        let plan = Plan::new(&name, &spec, at).unwrap();
        let store = MemoryStore::new(MemoryOptions::default());
        let put = PutSchedule {
            name,
            spec: Arc::new(spec),
            origin: Origin::Api,
            expect: None,
            next: Next::Set(plan.next_after(at)),
            actor: "test".into(),
        };
        let PutOutcome::Put(row) = now_or_never(store.put_schedule(at, put)) else {
            panic!("a new schedule is taken");
        };
        Self {
            store,
            row,
            plan,
            rows: Vec::new(),
        }
    }

    /// When it is looked at next.
    pub(crate) fn wakes_at(&self) -> Option<Timestamp> {
        self.row.next_due.map(|due| self.plan.planned(due))
    }

    /// One look at the clock; its jobs end before the next one.
    pub(crate) fn look(&mut self, now: Timestamp) {
        let turn = decide(Seen {
            row: &self.row,
            plan: &self.plan,
            now,
            live: false,
            refusal: None,
        });
        let Some(turn) = turn else { return };
        let mut fired = now_or_never(self.store.fire(now, vec![turn.firing]));
        let Some(Fired::Done(rows)) = fired.pop() else {
            panic!("the only node's turn is taken");
        };
        for row in &rows {
            if let LedgerOutcome::Fired { job, .. } = row.outcome {
                let end = EndIdle {
                    id: job,
                    why: IdleEnd::Cancel,
                    records: Vec::new(),
                    follow: Vec::new(),
                };
                now_or_never(self.store.end_idle(now, vec![end]));
                now_or_never(self.store.delete(vec![job]));
            }
        }
        self.rows.extend(rows);
        self.row = now_or_never(self.store.schedule(self.row.name.clone())).unwrap();
    }

    /// Looks at each of its times until then, each look `delay` late.
    pub(crate) fn run(&mut self, until: Timestamp, delay: impl Fn(Timestamp) -> Duration) {
        while let Some(at) = self.wakes_at().filter(|at| *at < until) {
            self.look(at.plus(delay(at)));
        }
    }
}
