//! What the runtime brings to the pulse: how full its lanes are, how long its tasks wait and run.
//!
//! Called on the pulse's thread. Must never: wait, or keep the runtime alive.

use std::sync::{Arc, Weak};
use std::time::Instant;

use offloop_pulse::{LaneSample, Source, TaskSample};

use crate::handle::Shared;

#[derive(Debug)]
struct Shown(Weak<Shared>);

/// Shows lanes and tasks until the runtime is gone.
pub(crate) fn show(shared: &Arc<Shared>) {
    let shown = Shown(Arc::downgrade(shared));
    shared.pulse.source(Box::new(shown));
}

impl Source for Shown {
    fn lanes(&mut self) -> Option<Vec<LaneSample>> {
        let shared = self.0.upgrade()?;
        let lanes = shared.lanes.iter().map(|lane| {
            let status = lane.status();
            LaneSample {
                name: lane.name().into(),
                running: status.running,
                slots: u32::from(lane.slots().running),
                queued: status.queued,
                stuck: status.stuck,
                head_age: status.head_age,
            }
        });
        // Before a lane for calls stands a line of its own.
        let calls = shared.calls.views().into_iter().map(|view| LaneSample {
            name: view.name.into(),
            running: view.running,
            slots: view.slots,
            queued: u32::try_from(view.waiting).unwrap_or(u32::MAX),
            stuck: view.status.stuck,
            head_age: view.head_age,
        });
        Some(lanes.chain(calls).collect())
    }

    fn tasks(&mut self, now: Instant) -> Option<Vec<TaskSample>> {
        let shared = self.0.upgrade()?;
        let figures = shared.meters.figures(now);
        let sample = |figures: crate::meters::TaskFigures| {
            let name = figures.task.as_ref();
            let lane = name.and_then(|name| shared.routes.get(name));
            let lane = lane.map(|index| &shared.lanes[*index]);
            let lane = lane.or_else(|| shared.calls.lane_of(name?));
            TaskSample {
                task: name.map(|name| name.as_str().into()),
                dispatched: lane.is_some_and(|lane| !lane.is_loop()),
                wait: figures.wait,
                run: figures.run,
            }
        };
        Some(figures.into_iter().map(sample).collect())
    }
}
