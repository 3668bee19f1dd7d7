//! One piece of heavy work: a chain of SHA-256 over a block, each digest part of the next block.
//!
//! Nobody can shorten it or know its end without doing it, so an answer with the right checksum is
//! work that was done. How many rounds a millisecond of processor time holds is measured, once.

use std::num::NonZeroU64;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

const BLOCK_BYTES: usize = 1024;
/// Between two looks at whether to stop: tens of microseconds where the processor has SHA
/// instructions, a fraction of a millisecond where not.
const ROUNDS_BETWEEN_LOOKS: u64 = 64;
/// Processor time of each measurement of the pace, of which there are [`PACE_TRIALS`].
const PACE_TRIAL: Duration = Duration::from_millis(40);
const PACE_TRIALS: usize = 5;

/// What is to be computed. As JSON, it is the payload of every lane's task.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Piece {
    pub rounds: u64,
    pub seed: u64,
}

/// What came out. As JSON, it is the result of every lane's task.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Done {
    pub rounds: u64,
    /// Of the last block: 16 hexadecimal digits.
    pub checksum: String,
    /// Processor time that it took on its thread, microseconds.
    pub cpu_us: u64,
}

/// A piece under way.
#[derive(Clone, Debug)]
pub struct Chain {
    piece: Piece,
    block: [u8; BLOCK_BYTES],
    left: u64,
    spent: Duration,
}

impl Chain {
    pub fn new(piece: Piece) -> Self {
        let mut block = [0; BLOCK_BYTES];
        block[..8].copy_from_slice(&piece.seed.to_le_bytes());
        Self {
            piece,
            block,
            left: piece.rounds,
            spent: Duration::ZERO,
        }
    }

    /// Computes at most so many rounds. Answers with the result once all are done.
    pub fn advance(&mut self, rounds: u64) -> Option<Done> {
        let begin = thread_time();
        let rounds = rounds.min(self.left);
        for _ in 0..rounds {
            let digest = Sha256::digest(self.block);
            self.block[..digest.len()].copy_from_slice(&digest);
        }
        self.left -= rounds;
        self.spent += thread_time().saturating_sub(begin);
        (self.left == 0).then(|| self.done())
    }

    fn done(&self) -> Done {
        let checksum = self.block[..8].iter().map(|byte| format!("{byte:02x}"));
        Done {
            rounds: self.piece.rounds,
            checksum: checksum.collect(),
            cpu_us: u64::try_from(self.spent.as_micros()).unwrap_or(u64::MAX),
        }
    }
}

/// The whole piece on this thread; `None` if it was told to stop before the end.
pub fn compute(piece: Piece, mut should_stop: impl FnMut() -> bool) -> Option<Done> {
    let mut chain = Chain::new(piece);
    loop {
        if should_stop() {
            return None;
        }
        if let Some(done) = chain.advance(ROUNDS_BETWEEN_LOOKS) {
            return Some(done);
        }
    }
}

/// Processor time of this thread since it began.
pub(crate) fn thread_time() -> Duration {
    let spent = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    Duration::new(
        spent.tv_sec.unsigned_abs(),
        spent.tv_nsec.unsigned_abs() as u32,
    )
}

/// How many rounds a millisecond of processor time holds on this machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pace(NonZeroU64);

impl Pace {
    pub fn of(rounds_per_ms: NonZeroU64) -> Self {
        Self(rounds_per_ms)
    }

    /// Measured on this thread, in processor time: the median of five trials of 40 ms.
    pub fn measure() -> Self {
        let mut trials: Vec<u64> = (0..PACE_TRIALS).map(|_| trial()).collect();
        trials.sort_unstable();
        Self(NonZeroU64::new(trials[PACE_TRIALS / 2]).unwrap_or(NonZeroU64::MIN))
    }

    pub fn rounds_per_ms(self) -> NonZeroU64 {
        self.0
    }

    /// A piece that takes so much processor time.
    pub fn piece(self, cpu_time_ms: u32, seed: u64) -> Piece {
        Piece {
            rounds: self.0.get().saturating_mul(cpu_time_ms.into()),
            seed,
        }
    }
}

fn trial() -> u64 {
    let endless = Piece {
        rounds: u64::MAX,
        seed: 0,
    };
    let mut chain = Chain::new(endless);
    while chain.spent < PACE_TRIAL {
        chain.advance(ROUNDS_BETWEEN_LOOKS);
    }
    let rounds = (endless.rounds - chain.left) as f64;
    (rounds / (chain.spent.as_secs_f64() * 1e3)) as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    const PIECE: Piece = Piece {
        rounds: 1_000,
        seed: 7,
    };

    /// The same by hand, without slices.
    fn by_hand(piece: Piece) -> String {
        let mut block = vec![0_u8; 1024];
        block[..8].copy_from_slice(&piece.seed.to_le_bytes());
        for _ in 0..piece.rounds {
            let digest = Sha256::digest(&block);
            block.splice(..32, digest);
        }
        let first = u64::from_be_bytes(block[..8].try_into().unwrap());
        format!("{first:016x}")
    }

    #[test]
    fn work_that_is_cut_into_slices_is_the_same_work() {
        let want = by_hand(PIECE);
        assert_eq!(compute(PIECE, || false).unwrap().checksum, want);
        for slice in [1, 7, 999, 1_000, 5_000] {
            let mut chain = Chain::new(PIECE);
            let done = loop {
                if let Some(done) = chain.advance(slice) {
                    break done;
                }
            };
            assert_eq!((done.checksum, done.rounds), (want.clone(), 1_000));
        }
    }

    #[test]
    fn less_work_or_other_work_is_never_taken_for_the_work_that_was_asked_for() {
        let checksum = |piece| compute(piece, || false).unwrap().checksum;
        let want = checksum(PIECE);
        for other in [
            Piece {
                rounds: 999,
                ..PIECE
            },
            Piece { seed: 8, ..PIECE },
            Piece { rounds: 0, ..PIECE },
        ] {
            assert_ne!(checksum(other), want, "{other:?}");
        }
    }

    #[test]
    fn a_wish_to_stop_ends_the_work_before_its_end() {
        let mut looks = 0;
        let ended = compute(PIECE, || {
            looks += 1;
            looks > 3
        });
        assert_eq!((ended, looks), (None, 4));
    }

    #[test]
    fn a_piece_takes_about_the_processor_time_that_it_was_asked_for() {
        let took: Vec<_> = (0..10)
            .map(|_| {
                compute(Pace::measure().piece(50, 1), || false)
                    .unwrap()
                    .cpu_us
            })
            .collect();
        // Once in ten: the machine may be shared, and its clock may change.
        let about = |us: &u64| (10_000..250_000).contains(us);
        assert!(took.iter().any(about), "{took:?}");
    }
}
