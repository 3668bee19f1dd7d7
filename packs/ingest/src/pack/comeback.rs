//! How a consumer comes back whose job has ended for good: the commit of that end holds its next job,
//! due after a while.
//!
//! What stopped before a message is tried again after 30 s to 10 min: that costs one look at one message. What
//! its servers died under comes back after 10 min to 6 h, and then one more death is enough, because each
//! takes everybody's work along. One that ran well for ten minutes begins these waits anew.
//!
//! Must never: bring back what was cancelled, or is not declared any more.

use std::time::Duration;

use offloop::job::{
    FailureClass, FinalReason, OnConflict, OptionProblem, RetryPolicy, Tag, Unique, UniqueKey,
    UniqueScope,
};
use offloop::{
    EndHook, EndedJob, JobOptions, JobState, NewJob, PackError, QueueName, TaskName, Timestamp,
};
use serde::{Deserialize, Serialize};

use super::fail;

pub(super) const TASK: &str = "ingest-consume";
/// As many as a job may have: each one goes on where the last one was.
const ATTEMPTS: u16 = offloop::job::limits::ATTEMPTS_MAX;
/// A member of its group for so long has no trouble with its start.
pub(super) const WELL: Duration = Duration::from_secs(600);
const DEATHS: [FailureClass; 3] = [
    FailureClass::Lost,
    FailureClass::Crashed,
    FailureClass::MemoryLimit,
];

/// One member of a consumer's group.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Member {
    pub(super) consumer: String,
    pub(super) member: u16,
}

impl Member {
    /// Its jobs have this as their unique key and as a tag.
    pub(super) fn key(&self) -> String {
        format!("{}/{}", self.consumer, self.member)
    }
}

/// Why it is tried again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Cause {
    /// It needs a person, who may have come.
    Stop,
    /// Its servers died under it.
    Death,
}

impl Cause {
    const ALL: [Self; 2] = [Self::Stop, Self::Death];

    const fn name(self) -> &'static str {
        match self {
            Self::Stop => "after-stop-",
            Self::Death => "after-death-",
        }
    }

    /// The first wait and the longest one.
    const fn waits(self) -> (Duration, Duration) {
        match self {
            Self::Stop => (Duration::from_secs(30), Duration::from_secs(600)),
            Self::Death => (Duration::from_secs(600), Duration::from_secs(6 * 3_600)),
        }
    }
}

/// What a job follows, on it as a tag.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Again {
    pub(super) cause: Cause,
    /// In a row, 1 for the first.
    pub(super) times: u32,
}

impl Again {
    pub(super) fn of(tags: &[Tag]) -> Option<Self> {
        let mut read = tags.iter().flat_map(|tag| {
            Cause::ALL.iter().filter_map(|cause| {
                let times = tag.as_str().strip_prefix(cause.name())?;
                let times = times.parse().ok()?;
                Some(Self {
                    cause: *cause,
                    times,
                })
            })
        });
        read.next()
    }

    fn tag(self) -> String {
        format!("{}{}", self.cause.name(), self.times)
    }

    fn wait(self) -> Duration {
        let (first, longest) = self.cause.waits();
        let doubled = 1_u32.checked_shl(self.times.saturating_sub(1));
        let wait = doubled.and_then(|times| first.checked_mul(times));
        wait.map_or(longest, |wait| wait.min(longest))
    }
}

/// The member's job: now, or at a time, because of what its last one ended by.
pub(super) fn job(
    member: &Member,
    again: Option<(Again, Timestamp)>,
    on_conflict: OnConflict,
) -> Result<NewJob, PackError> {
    let key = member.key();
    let mut tags = vec![Tag::parse(&key).map_err(fail)?];
    let mut retry = RetryPolicy {
        max_attempts: ATTEMPTS,
        ..RetryPolicy::default()
    };
    if let Some((again, _)) = again {
        tags.push(Tag::parse(&again.tag()).map_err(fail)?);
        if again.cause == Cause::Death {
            retry.by_class = DEATHS.iter().map(|class| (*class, 1)).collect();
        }
    }
    Ok(NewJob {
        task: TaskName::parse(TASK).map_err(fail)?,
        payload: serde_json::to_vec(member).unwrap_or_default().into(), // plain texts
        options: JobOptions {
            queue: QueueName::parse(TASK).map_err(fail)?,
            retry,
            tags,
            run_at: again.map(|(_, due)| due),
            unique: Some(Unique {
                key: UniqueKey::parse(&key).map_err(fail)?,
                scope: UniqueScope::UntilFinished,
                on_conflict,
            }),
            ..JobOptions::default()
        },
        idempotency: None,
    })
}

/// Asked at each end of a job.
#[derive(Debug)]
pub(super) struct Comeback {
    pub(super) task: TaskName,
    /// Those that are declared.
    pub(super) members: Vec<Member>,
}

impl EndHook for Comeback {
    fn problem(&self, _: &NewJob) -> Option<OptionProblem> {
        None
    }

    fn follow(&self, end: &EndedJob<'_>) -> Vec<NewJob> {
        if *end.task != self.task || end.state != JobState::Failed {
            return Vec::new();
        }
        let key = end.options.unique.as_ref().map(|unique| &unique.key);
        let mut members = self.members.iter();
        let member = members.find(|member| key.is_some_and(|key| key.as_str() == member.key()));
        let Some(member) = member else {
            return Vec::new();
        };
        let again = next(end).map(|again| (again, end.at.plus(again.wait())));
        job(member, again, OnConflict::Keep).into_iter().collect()
    }
}

/// `None`: as if it had never ended.
fn next(end: &EndedJob<'_>) -> Option<Again> {
    let before = Again::of(&end.options.tags);
    let began = end.options.run_at.filter(|_| before.is_some());
    let is_well = began.is_some_and(|began| end.at.since(began) >= WELL);
    let class = end.failure.map(|failure| failure.class);
    let cause = match class {
        Some(class) if class.is_crash_like() => Cause::Death,
        _ => Cause::Stop,
    };
    if cause == Cause::Death && (is_well || end.reason == Some(FinalReason::Exhausted)) {
        return None;
    }
    let before = before.filter(|before| before.cause == cause && !is_well);
    let times = before.map_or(0, |before| before.times).saturating_add(1);
    Some(Again { cause, times })
}

#[cfg(test)]
mod tests {
    use offloop::Failure;

    use super::*;

    const NOW: Timestamp = Timestamp::from_millis(1_000_000_000);

    fn member() -> Member {
        Member {
            consumer: "people".into(),
            member: 1,
        }
    }

    /// What follows the end of `last`, which began so long ago.
    fn after(last: &NewJob, class: FailureClass, reason: FinalReason) -> Vec<NewJob> {
        let task = last.task.clone();
        let failure = Failure::new(class, "x");
        let hook = Comeback {
            task: task.clone(),
            members: vec![member()],
        };
        hook.follow(&EndedJob {
            id: offloop::JobId::from_parts(1, 1),
            task: &task,
            options: &last.options,
            state: JobState::Failed,
            at: NOW,
            attempt: 1,
            reason: Some(reason),
            failure: Some(&failure),
            result: None,
            private_payload: false,
            private_result: false,
        })
    }

    fn wait(job: &NewJob) -> Option<u64> {
        let due = job.options.run_at?;
        Some(due.since(NOW).as_secs())
    }

    /// Ends again and again, each time `ran` after it had begun.
    fn waits(class: FailureClass, ran: Duration) -> Vec<Option<u64>> {
        let mut last = job(&member(), None, OnConflict::Keep).unwrap();
        let mut waits = Vec::new();
        for _ in 0..8 {
            let next = after(&last, class, FinalReason::NotRetryable).remove(0);
            waits.push(wait(&next));
            last = next;
            last.options.run_at = last.options.run_at.map(|_| NOW.minus(ran));
        }
        waits
    }

    #[test]
    fn a_consumer_that_stops_at_once_is_tried_more_and_more_seldom_but_always() {
        let at_once = Duration::from_secs(1);
        let want = [30, 60, 120, 240, 480, 600, 600, 600].map(Some);
        assert_eq!(waits(FailureClass::Invalid, at_once), want);
        let want = [600, 1_200, 2_400, 4_800, 9_600, 19_200, 21_600, 21_600].map(Some);
        assert_eq!(waits(FailureClass::Lost, at_once), want);
        let last = Again {
            cause: Cause::Death,
            times: u32::MAX,
        };
        assert_eq!(last.wait(), Duration::from_secs(21_600));
    }

    #[test]
    fn a_consumer_that_ran_well_begins_anew() {
        assert_eq!(waits(FailureClass::Invalid, WELL), [Some(30); 8]);
        // The first job's beginning is not known; each later one was well.
        let deaths = waits(FailureClass::Lost, WELL);
        assert_eq!(deaths[..2], [Some(600), None]);
        let many = job(&member(), None, OnConflict::Keep).unwrap();
        let next = after(&many, FailureClass::Lost, FinalReason::Exhausted);
        assert_eq!(next[0].options.run_at, None, "its deaths were no poison");
    }

    #[test]
    fn one_more_death_is_enough_for_a_consumer_that_its_servers_died_under() {
        let first = job(&member(), None, OnConflict::Keep).unwrap();
        let again = after(&first, FailureClass::Lost, FinalReason::Poison).remove(0);
        let history = offloop::job::History {
            attempt: 2,
            ..offloop::job::History::default()
        };
        let decision = offloop::job::decide(
            &again.options.retry,
            history,
            FailureClass::Lost,
            false,
            0.5,
        );
        assert!(matches!(decision, offloop::job::Decision::GiveUp { .. }));
        assert_eq!(again.options.unique, first.options.unique);
    }

    #[test]
    fn what_is_not_declared_any_more_does_not_come_back() {
        let other = Member {
            consumer: "people".into(),
            member: 2,
        };
        let gone = job(&other, None, OnConflict::Keep).unwrap();
        assert!(after(&gone, FailureClass::Lost, FinalReason::Poison).is_empty());
    }
}
