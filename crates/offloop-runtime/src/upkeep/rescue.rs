//! Settles what dead nodes were running, once at the start.
//!
//! The executors are proven gone: the lanes have cleared their leftovers, and an embedded store's
//! lock was free. Must never run before both.

use std::time::Duration;

use offloop_store::{Claimed, StoreError, Verdict};

use crate::ends;
use crate::handle::Shared;
use crate::path::settle::{self, Over};

const ORPHANS_BATCH: u16 = 512;

pub(crate) async fn rescue(shared: &Shared) -> Result<(), StoreError> {
    let mut rescued = 0;
    loop {
        let orphans = shared
            .engine
            .orphans(shared.node.clone(), ORPHANS_BATCH)
            .await?;
        if orphans.is_empty() {
            break;
        }
        let now = shared.clock.now();
        let settlements: Vec<_> = orphans
            .iter()
            .map(|claimed| {
                let over = Over {
                    claimed,
                    lane: "",
                    ended: settle::lost(claimed),
                    cancelling: claimed.cancelling,
                    enlarged: false,
                    wanted: true,
                    snoozes_max: None,
                };
                let mut settlement = settle::settlement(over, now, shared.dice.roll(), |end| {
                    shared.final_records(end)
                });
                if let Verdict::Retry { due } = &mut settlement.verdict {
                    *due = (*due).max(now.plus(outlives(shared, claimed)));
                }
                ends::settled(shared, claimed, &mut settlement, now);
                settlement
            })
            .collect();
        let quarantined = settlements
            .iter()
            .filter(|s| matches!(s.verdict, Verdict::GiveUp { .. }))
            .count();
        let settled = shared.engine.settle(now, settlements.clone()).await?;
        let ends = orphans.iter().zip(&settlements).zip(settled);
        let events = ends
            .clone()
            .map(|((claimed, end), settled)| settle::event(claimed, end, settled, now));
        let events: Vec<_> = events.collect();
        let ends = ends.map(|((claimed, end), settled)| (&claimed.task, end, settled));
        shared.meters.count(std::time::Instant::now(), ends);
        shared.hub.publish(events);
        rescued += orphans.len();
        if quarantined > 0 {
            tracing::warn!(
                quarantined,
                "jobs that took the server down too often are failed for good"
            );
        }
    }
    if rescued > 0 {
        tracing::info!(rescued, "rescued jobs of an earlier run");
    }
    Ok(())
}

/// What nothing here can end may still run on another machine, until it has to know that it must not.
fn outlives(shared: &Shared, claimed: &Claimed) -> Duration {
    let lane = shared.routes.get(claimed.task.as_str());
    lane.map_or(Duration::ZERO, |lane| {
        shared.lanes[*lane].outlives(&claimed.task)
    })
}
