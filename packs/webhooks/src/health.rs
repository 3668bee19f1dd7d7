//! How receivers do: since when one fails, and whether it is given up.
//!
//! Kept as rows of the pack, so that a restart does not forget a receiver that was given up. One that
//! answers has no row.

use std::collections::HashMap;
use std::fmt::Write as _;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use aws_lc_rs::digest;
use bytes::Bytes;
use offloop::job::{Collection, NameError};
use offloop::{RecordWrite, TaskName, Timestamp};
use serde::{Deserialize, Serialize};

/// Failing receivers that are known; more are delivered to and not judged.
const RECEIVERS_MAX: usize = 10_000;
/// So many failures at least, however long they are apart: one a week is no outage.
const FAILURES_MIN: u64 = 10;

/// A receiver that fails.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Failing {
    /// Without path and query: they may hold secrets.
    pub(crate) receiver: String,
    /// Milliseconds since 1970.
    pub(crate) since_ms: u64,
    pub(crate) failures: u64,
    /// What happened last.
    pub(crate) last: String,
    /// Given up at this time.
    pub(crate) disabled_ms: Option<u64>,
}

/// A receiver's name in rows and routes: of its whole URL, not told by it.
pub(crate) fn id_of(url: &str) -> String {
    let hash = digest::digest(&digest::SHA256, url.as_bytes());
    let mut id = String::with_capacity(16);
    for byte in &hash.as_ref()[..8] {
        let _ = write!(id, "{byte:02x}"); // into a text: it does not fail
    }
    id
}

#[derive(Debug)]
pub(crate) struct Health {
    collection: Collection,
    failing_label: TaskName,
    disabled_label: TaskName,
    disable_after: Duration,
    receivers: Mutex<HashMap<String, Failing>>,
}

impl Health {
    pub(crate) fn new(disable_after: Duration) -> Result<Self, NameError> {
        Ok(Self {
            collection: TaskName::parse("webhook.receivers")?,
            failing_label: TaskName::parse("failing")?,
            disabled_label: TaskName::parse("disabled")?,
            disable_after,
            receivers: Mutex::default(),
        })
    }

    pub(crate) const fn collection(&self) -> &Collection {
        &self.collection
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<String, Failing>> {
        self.receivers
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// A row of before.
    pub(crate) fn load(&self, key: &[u8], value: &[u8]) {
        let Ok(failing) = serde_json::from_slice(value) else {
            tracing::warn!("a row about a webhook's receiver cannot be read; it is left out");
            return;
        };
        let id = String::from_utf8_lossy(key).into_owned();
        self.lock().insert(id, failing);
    }

    /// Since when the receiver has been given up.
    pub(crate) fn disabled(&self, id: &str) -> Option<u64> {
        self.lock().get(id)?.disabled_ms
    }

    pub(crate) fn is_failing(&self, id: &str) -> bool {
        self.lock().contains_key(id)
    }

    /// It answered well. The row to write, if there was one.
    pub(crate) fn well(&self, id: &str) -> Option<RecordWrite> {
        self.lock().remove(id)?;
        Some(self.row(id, None))
    }

    /// It failed. The row to write, when something changed that a restart should know. `gone`: it
    /// said that it is no more.
    pub(crate) fn failed(
        &self,
        id: &str,
        receiver: &str,
        what: &str,
        gone: bool,
        now: Timestamp,
    ) -> Option<RecordWrite> {
        let now_ms = now.as_millis();
        let mut receivers = self.lock();
        if receivers.len() >= RECEIVERS_MAX && !receivers.contains_key(id) {
            return None;
        }
        let failing = receivers.entry(id.to_owned()).or_insert_with(|| Failing {
            receiver: receiver.to_owned(),
            since_ms: now_ms,
            failures: 0,
            last: String::new(),
            disabled_ms: None,
        });
        failing.failures += 1;
        what.clone_into(&mut failing.last);
        let for_long =
            now_ms.saturating_sub(failing.since_ms) >= self.disable_after.as_millis() as u64;
        let give_up = gone || (for_long && failing.failures >= FAILURES_MIN);
        let gives_up = give_up && failing.disabled_ms.is_none();
        if gives_up {
            failing.disabled_ms = Some(now_ms);
            tracing::warn!(
                id,
                receiver,
                failures = failing.failures,
                last = what,
                "a webhook's receiver is given up: nothing is sent to it until POST /v1/webhooks/{id}/enable"
            );
        }
        let tell = failing.failures == 1 || gives_up;
        let failing = tell.then(|| failing.clone())?;
        drop(receivers);
        Some(self.row(id, Some(&failing)))
    }

    /// A person says that it may be tried again. `None`: it is not known to fail.
    pub(crate) fn enable(&self, id: &str) -> Option<RecordWrite> {
        self.well(id)
    }

    fn row(&self, id: &str, failing: Option<&Failing>) -> RecordWrite {
        let label = failing.map(|failing| match failing.disabled_ms {
            Some(_) => self.disabled_label.clone(),
            None => self.failing_label.clone(),
        });
        let value = failing.and_then(|failing| serde_json::to_vec(failing).ok());
        RecordWrite {
            collection: self.collection.clone(),
            key: Bytes::copy_from_slice(id.as_bytes()),
            label,
            value: value.unwrap_or_default().into(),
        }
    }

    /// Those that fail, by id.
    pub(crate) fn list(&self) -> Vec<(String, Failing)> {
        let mut all: Vec<_> = self
            .lock()
            .iter()
            .map(|(id, failing)| (id.clone(), failing.clone()))
            .collect();
        all.sort_by(|a, b| a.0.cmp(&b.0));
        all
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DAY_MS: u64 = 24 * 3600 * 1000;

    #[test]
    fn a_receiver_is_given_up_after_days_of_nothing_but_failures_and_not_before() {
        let health = Health::new(Duration::from_secs(5 * 24 * 3600)).unwrap();
        let at = |ms| Timestamp::from_millis(ms);
        let fail = |ms| health.failed("a", "https://a", "answered 500", false, at(ms));
        assert!(fail(0).is_some(), "its first failure is on record");
        for hour in 1..24 * 5 {
            assert!(fail(hour * 3_600_000).is_none(), "{hour}");
            assert_eq!(health.disabled("a"), None, "{hour}");
        }
        assert!(fail(5 * DAY_MS).is_some());
        assert_eq!(health.disabled("a"), Some(5 * DAY_MS));
        assert!(health.enable("a").is_some_and(|row| row.label.is_none()));
        assert_eq!(health.disabled("a"), None);
        assert!(fail(6 * DAY_MS).is_some());
        assert!(health.well("a").is_some() && health.well("a").is_none());
        for week in 0..5 {
            health.failed(
                "rare",
                "https://b",
                "answered 500",
                false,
                at(week * 7 * DAY_MS),
            );
        }
        assert_eq!(health.disabled("rare"), None, "five failures in a month");
        assert!(
            health
                .failed("gone", "https://c", "answered 410", true, at(0))
                .is_some()
        );
        assert_eq!(health.disabled("gone"), Some(0));
    }

    #[test]
    fn what_is_shown_and_kept_of_a_receiver_does_not_hold_its_url() {
        let url = "https://example.com/hook/s3cr3t?key=1234";
        let id = id_of(url);
        assert_eq!(id.len(), 16);
        assert_ne!(id, id_of("https://example.com/hook/other"));
        let health = Health::new(Duration::from_secs(1)).unwrap();
        let row = health.failed(
            &id,
            "https://example.com",
            "x",
            false,
            Timestamp::from_millis(1),
        );
        let row = row.unwrap();
        assert!(!String::from_utf8_lossy(&row.value).contains("s3cr3t"));
        let again = Health::new(Duration::from_secs(1)).unwrap();
        again.load(&row.key, &row.value);
        assert_eq!(again.list(), health.list());
    }
}
