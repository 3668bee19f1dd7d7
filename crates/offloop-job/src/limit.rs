//! What holds ready jobs back: how many may run at once, and how fast they may start.
//!
//! Pure: [`Rate`] and [`Bucket`] are the generic cell rate algorithm (ITU-T I.371, "leaky bucket as
//! a meter"), told the time by the caller. Why it is as it is: docs/adr/0019.
//!
//! Must never: read a clock, or count jobs. Engines count, and keep the buckets.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use crate::limits::{
    BURST_MAX, CONCURRENCY_MAX, RATE_PER_MAX, RATE_UNITS_MAX, WEIGHT_DEFAULT, WEIGHT_MAX,
};
use crate::{NameError, OptionProblem, QueueName, Tag, TaskName, Timestamp};

/// Which group keys a limit is for.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum KeyTarget {
    /// Every key by itself, but for those that have a limit of their own.
    Each,
    /// This key; nothing of [`KeyTarget::Each`] holds for it.
    One(Tag),
}

/// What a limit is for. Its text names it in URLs, in `offloop.toml` and in commands:
/// `queue:mail`, `task:report`, `key:*`, `key:acme`, `task:report/key:*`, `task:report/key:acme`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum LimitTarget {
    Queue(QueueName),
    Task(TaskName),
    Key(KeyTarget),
    /// The jobs of one task with one key.
    TaskKey {
        task: TaskName,
        key: KeyTarget,
    },
}

/// A text that names no target.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TargetError {
    #[error(
        "is no target; give queue:NAME, task:NAME, key:KEY, key:* (each), task:NAME/key:KEY or task:NAME/key:*"
    )]
    Kind,
    #[error("names a queue or task that {0}")]
    Name(NameError),
    #[error("names a key that {0}")]
    Key(NameError),
}

impl LimitTarget {
    /// The inverse of its `Display`. A key that is literally `*`, or begins with a backslash, has a
    /// backslash before it.
    pub fn parse(text: &str) -> Result<Self, TargetError> {
        if let Some(queue) = text.strip_prefix("queue:") {
            return Ok(Self::Queue(
                QueueName::parse(queue).map_err(TargetError::Name)?,
            ));
        }
        if let Some(key) = text.strip_prefix("key:") {
            return Ok(Self::Key(KeyTarget::parse(key)?));
        }
        let rest = text.strip_prefix("task:").ok_or(TargetError::Kind)?;
        let (task, key) = match rest.split_once("/key:") {
            Some((task, key)) => (task, Some(KeyTarget::parse(key)?)),
            None => (rest, None),
        };
        let task = TaskName::parse(task).map_err(TargetError::Name)?;
        Ok(match key {
            Some(key) => Self::TaskKey { task, key },
            None => Self::Task(task),
        })
    }

    /// Whether it is for every key by itself.
    pub const fn is_each(&self) -> bool {
        matches!(
            self,
            Self::Key(KeyTarget::Each)
                | Self::TaskKey {
                    key: KeyTarget::Each,
                    ..
                }
        )
    }

    /// The target that holds for all keys, if this one is for a key.
    fn family(&self) -> Option<Self> {
        match self {
            Self::Key(_) => Some(Self::Key(KeyTarget::Each)),
            Self::TaskKey { task, .. } => Some(Self::TaskKey {
                task: task.clone(),
                key: KeyTarget::Each,
            }),
            Self::Queue(_) | Self::Task(_) => None,
        }
    }
}

impl KeyTarget {
    fn parse(text: &str) -> Result<Self, TargetError> {
        if text == "*" {
            return Ok(Self::Each);
        }
        let text = text.strip_prefix('\\').unwrap_or(text);
        Tag::parse(text).map(Self::One).map_err(TargetError::Key)
    }
}

impl fmt::Display for KeyTarget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Each => f.write_str("*"),
            Self::One(key) if key.as_str() == "*" || key.as_str().starts_with('\\') => {
                write!(f, "\\{key}")
            }
            Self::One(key) => f.write_str(key.as_str()),
        }
    }
}

impl fmt::Display for LimitTarget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Queue(queue) => write!(f, "queue:{queue}"),
            Self::Task(task) => write!(f, "task:{task}"),
            Self::Key(key) => write!(f, "key:{key}"),
            Self::TaskKey { task, key } => write!(f, "task:{task}/key:{key}"),
        }
    }
}

/// A steady rate with some room for bursts.
///
/// A job may start when at least one unit is free; it takes its whole cost, and what it takes over
/// is paid off before the next. So in any time `t` no more than `burst + t * units / per` units
/// start, and what the last job took over, and a dear job is never starved by cheap ones.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate {
    /// 1 to 1,000,000 jobs, or what they declare as their `cost`.
    pub units: u32,
    /// 1 ms to one day.
    pub per: Duration,
    /// 1 to 1,000,000 units that may start at once after a rest.
    pub burst: u32,
}

impl Rate {
    /// `100/s`, `5/10m`, `1000/500ms`, with [`Rate::default_burst`]. Units: ms, s, m, h, d.
    pub fn parse(text: &str) -> Option<Self> {
        let (units, per) = text.split_once('/')?;
        let units = units.parse().ok()?;
        let digits = per.find(|c: char| !c.is_ascii_digit())?;
        let (count, unit) = per.split_at(digits);
        let count: u64 = if count.is_empty() {
            1
        } else {
            count.parse().ok()?
        };
        let unit_ms = match unit {
            "ms" => 1,
            "s" => 1_000,
            "m" => 60_000,
            "h" => 3_600_000,
            "d" => 86_400_000,
            _ => return None,
        };
        let per = Duration::from_millis(count.checked_mul(unit_ms)?);
        let mut rate = Self {
            units,
            per,
            burst: 1,
        };
        rate.burst = rate.default_burst();
        Some(rate)
    }

    /// What a tenth of a second brings, at least one unit: enough that timers of a millisecond do
    /// not make the rate slower than it is written.
    pub fn default_burst(&self) -> u32 {
        let per = self.per.as_millis().max(1);
        let units = u128::from(self.units) * 100 / per;
        u32::try_from(units)
            .unwrap_or(BURST_MAX)
            .clamp(1, BURST_MAX)
    }

    /// Nanoseconds that so many units last, rounded up.
    fn nanos(&self, units: u32) -> u64 {
        let span = self.per.as_nanos() * u128::from(units);
        u64::try_from(span.div_ceil(u128::from(self.units.max(1)))).unwrap_or(u64::MAX)
    }
}

impl fmt::Display for Rate {
    /// As [`Rate::parse`] reads it; the burst is not in it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ms = self.per.as_millis();
        let units = [
            (86_400_000, "d"),
            (3_600_000, "h"),
            (60_000, "m"),
            (1_000, "s"),
            (1, "ms"),
        ];
        let (length, name) = units
            .into_iter()
            .find(|unit| ms >= unit.0 && ms.is_multiple_of(unit.0))
            .unwrap_or((1, "ms"));
        match ms / length {
            1 => write!(f, "{}/{name}", self.units),
            count => write!(f, "{}/{count}{name}", self.units),
        }
    }
}

const NANOS_PER_MS: u64 = 1_000_000;

/// What was taken from a rate and is not paid off yet.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Bucket {
    /// Of the last taking.
    pub at: Timestamp,
    /// Nanoseconds until it was empty, as of then.
    pub level: u64,
}

impl Bucket {
    /// Nanoseconds until it is empty. A clock that stepped back makes it wait longer by that step,
    /// but never by more than one full window: what is further ahead is not believed.
    fn level_at(&self, rate: &Rate, now: Timestamp) -> u64 {
        let passed = now.since(self.at).as_millis() as u64;
        let stepped_back = self.at.since(now);
        let window = rate.per.max(Duration::from_nanos(rate.nanos(rate.burst)));
        if stepped_back > window {
            return 0;
        }
        let stepped_back = stepped_back.as_millis() as u64;
        self.level
            .saturating_sub(passed.saturating_mul(NANOS_PER_MS))
            .saturating_add(stepped_back * NANOS_PER_MS)
    }

    /// When the next job may start: `None` if at once, else later than `now`.
    pub fn opens_at(&self, rate: &Rate, now: Timestamp) -> Option<Timestamp> {
        let full = rate.nanos(rate.burst);
        let level = self.level_at(rate, now).saturating_add(rate.nanos(1));
        let over = level.saturating_sub(full);
        (over > 0).then(|| now.plus(Duration::from_millis(over.div_ceil(NANOS_PER_MS))))
    }

    /// A job of this cost starts, whether there is room for it or not.
    #[must_use]
    pub fn take(&self, rate: &Rate, now: Timestamp, cost: u32) -> Self {
        let level = self.level_at(rate, now);
        Self {
            at: now,
            level: level.saturating_add(rate.nanos(cost)).min(i64::MAX as u64),
        }
    }

    /// Whether it is as good as new, so that nobody need keep it.
    pub fn is_empty(&self, now: Timestamp) -> bool {
        self.at <= now && self.level <= now.since(self.at).as_nanos() as u64
    }
}

/// What holds for one target. At least one of its parts is there.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Limit {
    /// Jobs that run at once on all nodes, 1 to 1,000,000.
    pub concurrency: Option<u32>,
    pub rate: Option<Rate>,
    /// Picks that a key has in each round, 1 to 1000; default 1. Of keys alone.
    pub weight: Option<u16>,
}

impl Limit {
    /// Every problem at once, none if it is sound.
    pub fn problems(&self, target: &LimitTarget) -> Vec<OptionProblem> {
        let mut found = Vec::new();
        let mut say = |field, message: String| found.push(OptionProblem { field, message });
        if self.concurrency.is_none() && self.rate.is_none() && self.weight.is_none() {
            say(
                "limit",
                "is empty; give concurrency, rate or weight, or remove it".into(),
            );
        }
        if self
            .concurrency
            .is_some_and(|most| most == 0 || most > CONCURRENCY_MAX)
        {
            say(
                "concurrency",
                format!("give 1 to {CONCURRENCY_MAX}; to stop a queue, pause it"),
            );
        }
        if let Some(rate) = &self.rate {
            if rate.units == 0 || rate.units > RATE_UNITS_MAX {
                say("rate", format!("give 1 to {RATE_UNITS_MAX} units"));
            }
            if rate.per < Duration::from_millis(1) || rate.per > RATE_PER_MAX {
                say("rate", "give a time of 1ms to 1d".into());
            }
            if rate.burst == 0 || rate.burst > BURST_MAX {
                say("burst", format!("give 1 to {BURST_MAX} units"));
            }
        }
        if let Some(weight) = self.weight {
            if !matches!(target, LimitTarget::Key(_)) {
                say("weight", "is for targets key:KEY and key:* alone".into());
            } else if weight == 0 || weight > WEIGHT_MAX {
                say("weight", format!("give 1 to {WEIGHT_MAX}"));
            }
        }
        found
    }
}

impl fmt::Display for Limit {
    /// For a person, in the words of `offloop.toml`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut parts = Vec::new();
        parts.extend(self.concurrency.map(|most| format!("concurrency = {most}")));
        parts.extend(
            self.rate
                .map(|rate| format!("rate = \"{rate}\", burst = {}", rate.burst)),
        );
        parts.extend(self.weight.map(|weight| format!("weight = {weight}")));
        f.write_str(&parts.join(", "))
    }
}

/// All limits, and which of them hold for a job.
#[derive(Clone, Debug, Default)]
pub struct LimitTable(BTreeMap<LimitTarget, Limit>);

impl LimitTable {
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub fn len(&self) -> usize {
        self.0.len()
    }

    pub fn get(&self, target: &LimitTarget) -> Option<&Limit> {
        self.0.get(target)
    }

    /// Sets or removes one; what was there before.
    pub fn set(&mut self, target: LimitTarget, limit: Option<Limit>) -> Option<Limit> {
        match limit {
            Some(limit) => self.0.insert(target, limit),
            None => self.0.remove(&target),
        }
    }

    /// By target, those after one.
    pub fn after(
        &self,
        target: Option<&LimitTarget>,
    ) -> impl Iterator<Item = (&LimitTarget, &Limit)> {
        use std::ops::Bound::{Excluded, Unbounded};
        let from = target.map_or(Unbounded, Excluded);
        self.0.range::<LimitTarget, _>((from, Unbounded))
    }

    /// The limit that holds for what `target` names: its own, else that of all keys.
    pub fn holding(&self, target: &LimitTarget) -> Option<&Limit> {
        self.0.get(target).or_else(|| self.0.get(&target.family()?))
    }

    /// Whether a limit of `set` holds for what `target` names, as far as others do not override it.
    pub fn governs(&self, set: &LimitTarget, target: &LimitTarget) -> bool {
        set == target || (target.family().as_ref() == Some(set) && !self.0.contains_key(target))
    }

    /// Whether any limit is for keys.
    pub fn has_key_limits(&self) -> bool {
        let keyed = |target: &LimitTarget| target.family().is_some();
        self.0.keys().any(keyed)
    }

    /// Picks of this key in each round.
    pub fn weight(&self, key: &Tag) -> u16 {
        let target = LimitTarget::Key(KeyTarget::One(key.clone()));
        let limit = self.holding(&target);
        limit
            .and_then(|limit| limit.weight)
            .unwrap_or(WEIGHT_DEFAULT)
    }
}

/// The concrete targets that a job counts under: its queue, its task, and with a key also the key,
/// and the task with the key.
pub fn targets_of(queue: &QueueName, task: &TaskName, key: Option<&Tag>) -> Vec<LimitTarget> {
    let mut targets = vec![
        LimitTarget::Queue(queue.clone()),
        LimitTarget::Task(task.clone()),
    ];
    if let Some(key) = key {
        let key = KeyTarget::One(key.clone());
        targets.push(LimitTarget::Key(key.clone()));
        targets.push(LimitTarget::TaskKey {
            task: task.clone(),
            key,
        });
    }
    targets
}

#[cfg(test)]
mod tests;
