//! Brings checkpoints of running jobs to the store, and the answers back. Beside the path, between
//! dispatch and settle.
//!
//! Of several checkpoints of one attempt that wait here the newest is written and all are answered.
//! Must never: answer before the commit, or keep one of an attempt that is over.

use std::collections::HashMap;

use offloop_job::{Lease, Timestamp};
use offloop_lane::{CheckpointError, CheckpointReply};
use offloop_store::{Checkpoint, CheckpointOutcome, StoreError};

use crate::keeper::{Input, Keeper};

/// One write, and everybody who waits for it.
#[derive(Debug)]
pub(crate) struct Held {
    note: Checkpoint,
    replies: Vec<CheckpointReply>,
}

/// What waits for the store, and whether some is on its way there: one batch at a time, so that none
/// that has to be written again comes after a newer one of its attempt.
#[derive(Debug, Default)]
pub(crate) struct Checkpoints {
    waiting: HashMap<Lease, Held>,
    in_flight: bool,
}

/// Checkpoints in one commit.
const BATCH_MAX: usize = 512;

impl Checkpoints {
    pub(crate) fn add(&mut self, note: Checkpoint, reply: CheckpointReply) {
        if let Some(held) = self.waiting.get_mut(&note.lease) {
            held.note = note;
            held.replies.push(reply);
        } else {
            let replies = vec![reply];
            self.waiting.insert(note.lease, Held { note, replies });
        }
    }

    /// One that could not be written waits again, unless a newer one of its attempt came meanwhile:
    /// that one stands for both.
    fn put_back(&mut self, held: Held) {
        if let Some(newer) = self.waiting.get_mut(&held.note.lease) {
            newer.replies.extend(held.replies);
        } else {
            self.waiting.insert(held.note.lease, held);
        }
    }
}

impl Keeper {
    pub(crate) fn keep_checkpoints(&mut self, now: Timestamp) {
        let checkpoints = &mut self.checkpoints;
        if checkpoints.waiting.is_empty() || checkpoints.in_flight {
            return;
        }
        checkpoints.in_flight = true;
        let leases: Vec<_> = checkpoints
            .waiting
            .keys()
            .take(BATCH_MAX)
            .copied()
            .collect();
        let batch: Vec<_> = leases
            .iter()
            .filter_map(|lease| checkpoints.waiting.remove(lease))
            .collect();
        let notes = batch.iter().map(|held| held.note.clone()).collect();
        let call = self.shared.engine.checkpoint(now, notes);
        let inbox = self.shared.inbox.clone();
        tokio::task::spawn_local(async move {
            let answer = call.await;
            let _ = inbox.send(Input::Checkpointed { batch, answer }); // the keeper has ended
        });
    }

    pub(crate) fn on_checkpointed(
        &mut self,
        batch: Vec<Held>,
        answer: Result<Vec<CheckpointOutcome>, StoreError>,
    ) {
        self.checkpoints.in_flight = false;
        match answer {
            Ok(outcomes) => {
                self.store_works();
                for (held, outcome) in batch.into_iter().zip(outcomes) {
                    if outcome == CheckpointOutcome::Kept
                        && held.note.advances
                        && let Some(running) = self.running.get_mut(&held.note.lease)
                    {
                        running.claimed.history.crash_streak = 0; // as the store has it now
                    }
                    let kept = match outcome {
                        CheckpointOutcome::Kept => Ok(()),
                        CheckpointOutcome::Stale => Err(CheckpointError::Stale),
                    };
                    for reply in held.replies {
                        reply.answer(kept.clone());
                    }
                }
            }
            // The task waits and its work is not lost: tried again with what comes next.
            Err(error) if error.retry_helps() => {
                for held in batch {
                    self.checkpoints.put_back(held);
                }
                self.store_failed("keep checkpoints", &error);
            }
            Err(error) => {
                for reply in batch.into_iter().flat_map(|held| held.replies) {
                    reply.answer(Err(CheckpointError::Store(error.to_string())));
                }
                self.store_failed("keep checkpoints", &error);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;
    use bytes::Bytes;
    use offloop_job::JobId;

    fn note(lease: u64, data: &'static str) -> Checkpoint {
        Checkpoint {
            id: JobId::from_parts(1, 1),
            lease: Lease(lease),
            data: Bytes::from_static(data.as_bytes()),
            advances: true,
        }
    }

    #[test]
    fn a_checkpoint_that_failed_is_never_written_over_a_newer_one() {
        let (tell, told) = mpsc::channel();
        let reply = |number: u8| {
            let tell = tell.clone();
            CheckpointReply::new(move |_| {
                let _ = tell.send(number);
            })
        };
        let mut checkpoints = Checkpoints::default();
        checkpoints.add(note(1, "1"), reply(1));
        let failed = checkpoints.waiting.remove(&Lease(1)).unwrap();
        checkpoints.add(note(1, "2"), reply(2));
        checkpoints.add(note(1, "3"), reply(3));
        checkpoints.put_back(failed);
        let held = checkpoints.waiting.remove(&Lease(1)).unwrap();
        assert_eq!(held.note.data, "3");
        for reply in held.replies {
            reply.answer(Ok(()));
        }
        let mut answered: Vec<_> = told.try_iter().collect();
        answered.sort_unstable();
        assert_eq!(answered, [1, 2, 3], "everybody who waits is answered");
    }
}
