//! Whole random lives of a store, compared answer by answer with the memory store.
//!
//! A sequence is a plan of calls that name jobs and attempts by number (`plan`), so that it can
//! be cut down to what matters; `world` plays it on both engines. A difference is reported with
//! the seed that shows it again.

mod draw;
mod flow;
mod ledger;
mod plan;
mod same;
mod timed;
mod world;

use proptest::test_runner::{Config, RngAlgorithm, TestCaseError, TestRng, TestRunner};

use crate::{Harness, Kit};

/// The first of the seeds of a run.
const SEED: u64 = 20_261_121;
const SEQUENCES: u32 = 200;
const SEQUENCES_WITH_RESTARTS: u32 = 50;
const CALLS_MAX: usize = 200;
/// Tries to find a shorter plan that differs too.
const SHRINKS_MAX: u32 = 4_000;
const SHRINK_MS_MAX: u32 = 20_000;

pub(crate) fn agrees_with_the_oracle(kit: &Kit) {
    compare(kit.harness(), SEED, SEQUENCES, CALLS_MAX, Restarts::Never);
}

pub(crate) fn agrees_across_restarts(kit: &Kit) {
    if kit.open().engine().capability().survives_process {
        let sequences = SEQUENCES_WITH_RESTARTS;
        compare(kit.harness(), SEED, sequences, CALLS_MAX, Restarts::Often);
    }
}

/// Whether the engine's process ends now and then.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Restarts {
    Never,
    Often,
}

/// Plays `sequences` plans of at most `calls` calls, with the seeds from `seed` on.
///
/// # Panics
/// At the first difference, with the shortest plan found that shows it.
#[doc(hidden)]
pub fn compare(harness: &dyn Harness, seed: u64, sequences: u32, calls: usize, restarts: Restarts) {
    for seed in (seed..).take(sequences as usize) {
        let config = Config {
            cases: 1,
            failure_persistence: None,
            max_shrink_iters: SHRINKS_MAX,
            max_shrink_time: SHRINK_MS_MAX,
            ..Config::default()
        };
        let bytes: Vec<u8> = seed.to_le_bytes().repeat(4);
        let rng = TestRng::from_seed(RngAlgorithm::ChaCha, &bytes);
        let mut runner = TestRunner::new_with_rng(config, rng);
        let played = runner.run(&plan::plans(calls, restarts), |plan| {
            world::play(harness, &plan).map_err(TestCaseError::fail)
        });
        if let Err(difference) = played {
            panic!(
                "seed {seed} differs; again with \
                 model::compare(&harness, {seed}, 1, {calls}, Restarts::{restarts:?})\n{difference}"
            );
        }
    }
}
