//! Requests for several jobs, known by a key: a repeated one is answered and not done again.
//!
//! Their rows stand beside those of single jobs, under names that no client's key can have, so that
//! they are pruned with them.

use offloop_job::limits::IDEMPOTENCY_KEEP;
use offloop_job::{JobId, RequestKey, Timestamp};
use offloop_store::{InsertBatch, InsertOutcome, InsertRefusal, SameAs};
use rusqlite::OptionalExtension;

use super::Desk;
use super::insert::Room;
use crate::errors::Failure;
use crate::tables::ms;

/// What a key is of.
#[derive(Clone, Copy, Debug)]
pub(super) enum Whole {
    Group,
    Batch,
    /// One job of a batch, by its place.
    Place(usize),
}

impl Whole {
    /// A control character comes first: no key of a client has one.
    fn name(self, request: &RequestKey) -> String {
        let key = &request.key;
        match self {
            Self::Group => format!("\u{1}group {key}"),
            Self::Batch => format!("\u{1}batch {key}"),
            Self::Place(place) => format!("\u{1}batch{place} {key}"),
        }
    }
}

/// What a key was used for.
#[derive(Clone, Copy, Debug)]
pub(super) struct Seen {
    pub(super) made: JobId,
    /// By the same request.
    pub(super) same: bool,
    at: Timestamp,
}

impl Desk<'_> {
    pub(super) fn whole_request(
        &self,
        now: Timestamp,
        of: Whole,
        request: &RequestKey,
    ) -> Result<Option<Seen>, Failure> {
        let sql = "SELECT job, rnd, fingerprint, at FROM idempotency WHERE key = ?1";
        let mut query = self.conn.prepare_cached(sql)?;
        let seen = query.query_row([of.name(request)], |row| {
            Ok(Seen {
                made: JobId::from_parts(row.get(0)?, row.get(1)?),
                same: row.get::<_, [u8; 16]>(2)? == request.fingerprint,
                at: Timestamp::from_millis(row.get(3)?),
            })
        });
        let young = |seen: &Seen| now.since(seen.at) < IDEMPOTENCY_KEEP;
        Ok(seen.optional()?.filter(young))
    }

    pub(super) fn remember_whole(
        &self,
        at: Timestamp,
        of: Whole,
        request: &RequestKey,
        made: JobId,
    ) -> Result<(), Failure> {
        let sql = "INSERT OR REPLACE INTO idempotency VALUES (?1, ?2, ?3, ?4, ?5)";
        let (row, rnd) = (made.order() as i64, made.random() as i64);
        let row = (of.name(request), row, rnd, request.fingerprint, ms(at));
        self.conn.prepare_cached(sql)?.execute(row)?;
        Ok(())
    }

    /// A batch with a key of its own: what an earlier one of that key made is its answer.
    pub(super) fn insert_request(
        &mut self,
        batch: &InsertBatch,
        request: &RequestKey,
    ) -> Result<Vec<InsertOutcome>, Failure> {
        let Some(head) = self.whole_request(batch.now, Whole::Batch, request)? else {
            let outcomes = self.insert_jobs(batch.now, &batch.jobs)?;
            let first = outcomes.iter().find_map(InsertOutcome::job);
            if let Some(first) = first {
                self.remember_whole(batch.now, Whole::Batch, request, first)?;
            }
            for (place, outcome) in outcomes.iter().enumerate() {
                if let Some(made) = outcome.job() {
                    self.remember_whole(batch.now, Whole::Place(place), request, made)?;
                }
            }
            return Ok(outcomes);
        };
        if !head.same {
            let holder = head.made;
            let refusal = InsertRefusal::IdempotencyMismatch { holder };
            return Ok(vec![InsertOutcome::Refused(refusal); batch.jobs.len()]);
        }
        let mut outcomes = Vec::with_capacity(batch.jobs.len());
        for (place, job) in batch.jobs.iter().enumerate() {
            let seen = self.whole_request(batch.now, Whole::Place(place), request)?;
            // One of another time is of an earlier request, whose key was free again.
            if let Some(seen) = seen.filter(|seen| seen.at == head.at) {
                let (id, same) = (seen.made, SameAs::IdempotencyKey);
                outcomes.push(InsertOutcome::Existing { id, same });
                continue;
            }
            let outcome = self.insert_one(batch.now, job, &outcomes, Room::Checked)?;
            if let Some(made) = outcome.job() {
                self.remember_whole(head.at, Whole::Place(place), request, made)?;
            }
            outcomes.push(outcome);
        }
        Ok(outcomes)
    }
}
