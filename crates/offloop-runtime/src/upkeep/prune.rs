//! Forgets finished jobs, and old due times of schedules, by age and count, a piece at a time, so that no call is long.

use offloop_store::{PruneRule, StoreError};

use crate::handle::Shared;

const ROWS_PER_CALL: u32 = 2_000;
/// Pieces in one go; the rest waits for the next.
const CALLS_MAX: usize = 50;

pub(crate) async fn prune(shared: &Shared) -> Result<(), StoreError> {
    for _ in 0..CALLS_MAX {
        if !shared.engine.prune_ledger(shared.clock.now()).await? {
            break;
        }
    }
    for _ in 0..CALLS_MAX {
        let rule = PruneRule {
            now: shared.clock.now(),
            completed_for: shared.config.completed_for,
            others_for: shared.config.others_for,
            rows_max: shared.config.finished_max,
            rows_per_call: ROWS_PER_CALL,
        };
        let report = shared.engine.prune(rule).await?;
        if report.deleted > 0 {
            tracing::debug!(deleted = report.deleted, "forgot finished jobs");
        }
        if !report.more {
            return Ok(());
        }
    }
    Ok(())
}
