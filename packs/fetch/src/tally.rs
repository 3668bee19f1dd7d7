//! What a list of calls came to, in figures that stay small however long the list is.
//!
//! Must never: grow with the list.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use hdrhistogram::Histogram;

use crate::call::{Cause, Done};

/// Hosts that are told apart; the others are counted together.
const HOSTS_MAX: usize = 1_000;
const OTHERS: &str = "(others)";
/// Longest time that is told apart, in microseconds: an hour.
const LONGEST_US: u64 = 3_600_000_000;

/// One host's part.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HostTally {
    pub items: u64,
    pub failed: u64,
    /// From the first try of an item to its end: all, and the longest.
    pub wall: Duration,
    pub longest: Duration,
}

/// Counts and times.
#[derive(Clone, Debug)]
pub struct Tally {
    pub ok: u64,
    pub failed: u64,
    /// Ended by the rule before they came to an end of their own.
    pub cancelled: u64,
    /// Calls that were made or tried to be: tries, their redirects, replays and hedges.
    pub calls: u64,
    pub retries: u64,
    pub replays: u64,
    pub hedges: u64,
    /// Hedges that answered first.
    pub hedges_won: u64,
    /// Final answers by hundreds: `[2]` is 2xx.
    pub statuses: [u64; 6],
    pub causes: BTreeMap<&'static str, u64>,
    /// Bytes of bodies.
    pub bytes: u64,
    times: Option<Histogram<u64>>,
    hosts: HashMap<Box<str>, HostTally>,
}

impl Default for Tally {
    fn default() -> Self {
        Self {
            ok: 0,
            failed: 0,
            cancelled: 0,
            calls: 0,
            retries: 0,
            replays: 0,
            hedges: 0,
            hedges_won: 0,
            statuses: [0; 6],
            causes: BTreeMap::new(),
            bytes: 0,
            // Constants within its rules.
            times: Histogram::new_with_bounds(1, LONGEST_US, 2).ok(),
            hosts: HashMap::new(),
        }
    }
}

impl Tally {
    /// A try was answered after so long.
    pub(crate) fn answered(&mut self, wall: Duration) {
        let micros = u64::try_from(wall.as_micros()).unwrap_or(LONGEST_US);
        if let Some(times) = &mut self.times {
            times.saturating_record(micros.max(1));
        }
    }

    /// Time of answered tries below which this share of them lies.
    pub fn quantile(&self, share: f64) -> Option<Duration> {
        let times = self.times.as_ref().filter(|times| !times.is_empty())?;
        Some(Duration::from_micros(times.value_at_quantile(share)))
    }

    /// Tries that were answered.
    pub fn answers(&self) -> u64 {
        self.times.as_ref().map_or(0, Histogram::len)
    }

    pub fn done(&self) -> u64 {
        self.ok + self.failed
    }

    pub(crate) fn count(&mut self, done: &Done) {
        if let Some(status) = done.status() {
            self.statuses[usize::from(status / 100).min(5)] += 1;
        }
        match &done.outcome {
            Ok(answer) => {
                self.ok += 1;
                self.bytes += answer.body_bytes;
            }
            Err(failure) => {
                self.failed += 1;
                self.fail(failure.cause);
            }
        }
        let known = self.hosts.contains_key(&done.origin) || self.hosts.len() < HOSTS_MAX;
        let origin = if known { &done.origin } else { OTHERS };
        let host = self.hosts.entry(origin.into()).or_default();
        host.items += 1;
        host.failed += u64::from(done.outcome.is_err());
        host.wall += done.wall;
        host.longest = host.longest.max(done.wall);
    }

    fn fail(&mut self, cause: Cause) {
        *self.causes.entry(cause.as_str()).or_default() += 1;
    }

    /// A success is none.
    pub(crate) fn spoil(&mut self, cause: Cause, bytes: u64) {
        self.ok = self.ok.saturating_sub(1);
        self.bytes = self.bytes.saturating_sub(bytes);
        self.failed += 1;
        self.fail(cause);
    }

    /// What an item came to before this list was taken up again.
    pub(crate) fn recall(&mut self, status: Option<u16>, cause: Option<Cause>, bytes: u64) {
        if let Some(status) = status {
            self.statuses[usize::from(status / 100).min(5)] += 1;
        }
        if let Some(cause) = cause {
            self.failed += 1;
            self.fail(cause);
        } else {
            self.ok += 1;
            self.bytes += bytes;
        }
    }

    /// Hosts with the longest mean time, slowest first.
    pub fn slowest(&self, most: usize) -> Vec<(&str, &HostTally)> {
        let mean = |host: &HostTally| host.wall.as_secs_f64() / host.items.max(1) as f64;
        let mut hosts: Vec<_> = self
            .hosts
            .iter()
            .map(|(name, host)| (&**name, host))
            .collect();
        hosts.sort_by(|a, b| mean(b.1).total_cmp(&mean(a.1)).then(a.0.cmp(b.0)));
        hosts.truncate(most);
        hosts
    }
}
