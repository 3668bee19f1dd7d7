//! What is remembered of leases that are over, within bounds.

use std::collections::{HashMap, VecDeque};

use offloop_job::{JobId, Lease};

/// Enough for the retries of every worker's last answers.
const SETTLED_MAX: usize = 8_192;
const STRAYS_MAX: usize = 4_096;
/// Offers of one job in a row that nobody confirmed, until it is taken for what ends its workers.
const LOST_OFFERS: u8 = 3;

/// Leases that were settled by their worker.
#[derive(Debug, Default)]
pub(crate) struct Settled {
    order: VecDeque<Lease>,
    known: HashMap<Lease, JobId>,
}

impl Settled {
    pub(crate) fn add(&mut self, lease: Lease, job: JobId) {
        if self.order.len() == SETTLED_MAX
            && let Some(oldest) = self.order.pop_front()
        {
            self.known.remove(&oldest);
        }
        if self.known.insert(lease, job).is_none() {
            self.order.push_back(lease);
        }
    }

    pub(crate) fn has(&self, lease: Lease, job: JobId) -> bool {
        self.known.get(&lease) == Some(&job)
    }
}

/// Jobs whose offers nobody confirmed.
#[derive(Debug, Default)]
pub(crate) struct Strays(HashMap<JobId, u8>);

impl Strays {
    /// One more. `true`: it has happened too often to be the network's doing, so the attempt counts:
    /// a worker that begins before it confirms, and dies of the job, would be given it for ever.
    pub(crate) fn add(&mut self, job: JobId) -> bool {
        if self.0.len() >= STRAYS_MAX && !self.0.contains_key(&job) {
            self.0.clear(); // some are given a few more tries than they should
        }
        let count = self.0.entry(job).or_default();
        *count += 1;
        let too_often = *count >= LOST_OFFERS;
        if too_often {
            self.0.remove(&job);
        }
        too_often
    }

    pub(crate) fn forget(&mut self, job: JobId) {
        self.0.remove(&job);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_remembered_has_a_bound_and_the_newest_stay() {
        let mut settled = Settled::default();
        let job = JobId::from_parts(1, 1);
        for lease in 0..SETTLED_MAX as u64 * 3 {
            settled.add(Lease(lease), job);
        }
        assert_eq!(settled.order.len(), SETTLED_MAX);
        assert_eq!(settled.known.len(), SETTLED_MAX);
        assert!(settled.has(Lease(SETTLED_MAX as u64 * 3 - 1), job));
        assert!(!settled.has(Lease(0), job));
        assert!(!settled.has(Lease(SETTLED_MAX as u64 * 3 - 1), JobId::from_parts(2, 2)));
    }

    #[test]
    fn a_job_that_nobody_confirms_is_not_offered_for_ever_and_one_that_is_starts_anew() {
        let mut strays = Strays::default();
        let job = JobId::from_parts(1, 1);
        assert_eq!([strays.add(job), strays.add(job)], [false, false]);
        strays.forget(job);
        assert_eq!(
            [strays.add(job), strays.add(job), strays.add(job)],
            [false, false, true]
        );
        assert!(!strays.add(job), "counted anew");
    }
}
