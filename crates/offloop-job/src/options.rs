//! What a caller may ask for one job. Checked once, at the door; trusted below it.

use std::time::Duration;

use crate::limits::{
    ATTEMPTS_MAX, CORES_MAX, COST_MAX, KEEP_MAX, PARENTS_MAX, PRIORITY_DEFAULT, PRIORITY_MAX,
    TAGS_MAX, TIMEOUT_MAX, TRACE_BYTES_MAX, UNIQUE_FOR_MAX,
};
use crate::{
    After, GroupId, Parent, QueueName, RetryPolicy, ScheduledBy, Tag, Timestamp, UniqueKey, Webhook,
};

/// Until when a unique key is held.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum UniqueScope {
    /// Until the job is claimed for the first time.
    UntilStarted,
    /// Until the job is in a final state.
    #[default]
    UntilFinished,
    /// For so long from the job's creation, whatever becomes of it: 1 ms to 30 days.
    For(Duration),
}

/// What happens to a new job whose key is held.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OnConflict {
    /// The caller gets the job that holds the key; nothing is written.
    #[default]
    Keep,
    /// The holder is cancelled if no executor has it yet, and the new job takes the key.
    /// A holder that runs, or has ended, is kept.
    Replace,
    /// The caller gets an error that names the holder.
    Reject,
    /// The last request wins, once none has come for so long (1 ms to 30 days): a holder that is
    /// for a time or ready takes the new payload and options in place and is due that much later
    /// than now. One that runs does not swallow the request: the new job takes the key. The first
    /// job waits as long too.
    Debounce(Duration),
    /// The first request wins, at most one in the period of its scope ([`UniqueScope::For`]):
    /// the caller gets that job, also when it has ended.
    Throttle,
}

/// At most one job with this key, per task.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unique {
    pub key: UniqueKey,
    pub scope: UniqueScope,
    pub on_conflict: OnConflict,
}

/// Everything about a job but its task and its payload.
///
/// `None` means "the task's default", and where that is silent too, the one named here.
#[derive(Clone, Debug, PartialEq)]
pub struct JobOptions {
    pub queue: QueueName,
    /// 0 (first) to 9 (last); default 5.
    pub priority: u8,
    /// Not before; default at once.
    pub run_at: Option<Timestamp>,
    pub retry: RetryPolicy,
    /// Wall clock of one attempt; default one hour, at most 30 days.
    pub timeout: Option<Duration>,
    /// Processor time of one attempt, all its processes together.
    pub cpu_limit: Option<Duration>,
    /// Memory of one attempt, all its processes together.
    pub memory_limit_bytes: Option<u64>,
    /// Longest time without a sign of progress.
    pub stall_timeout: Option<Duration>,
    /// Cores that it keeps busy; default 1.
    pub cores: u16,
    /// Units that its start takes of every rate that holds for it, 1 to 1,000,000; default 1.
    pub cost: u32,
    /// When its caller stops waiting for the result.
    pub deadline: Option<Timestamp>,
    /// Not started after this.
    pub expires_at: Option<Timestamp>,
    pub unique: Option<Unique>,
    /// The tenant or resource that limits are counted by.
    pub group_key: Option<Tag>,
    pub tags: Vec<Tag>,
    /// W3C traceparent of the caller.
    pub trace: Option<Box<str>>,
    /// How long the job stays on record once it is final, at least
    /// [`crate::limits::KEEP_MIN`]; 0: and its result is not kept if nobody waits for it. Default as
    /// long as the server keeps finished jobs.
    pub keep: Option<Duration>,
    /// The group that it settles with.
    pub group: Option<GroupId>,
    /// The group whose follow-up it is; set by the engine that makes it.
    pub follows: Option<GroupId>,
    /// Jobs that it waits for, each once; at most [`PARENTS_MAX`].
    pub after: Vec<After>,
    /// From the end of the last of them to its due time; only with `after`.
    pub delay: Option<Duration>,
    /// Set by the server alone, on jobs that a schedule makes.
    pub schedule: Option<Box<ScheduledBy>>,
    /// Who is told how it ended; `None`: whom its task names.
    pub webhook: Option<Box<Webhook>>,
}

impl Default for JobOptions {
    fn default() -> Self {
        Self {
            queue: QueueName::default(),
            priority: PRIORITY_DEFAULT,
            run_at: None,
            retry: RetryPolicy::default(),
            timeout: None,
            cpu_limit: None,
            memory_limit_bytes: None,
            stall_timeout: None,
            cores: 1,
            cost: 1,
            deadline: None,
            expires_at: None,
            unique: None,
            group_key: None,
            tags: Vec::new(),
            trace: None,
            keep: None,
            group: None,
            follows: None,
            after: Vec::new(),
            delay: None,
            schedule: None,
            webhook: None,
        }
    }
}

impl Unique {
    fn say_problems(&self, has_run_at: bool, say: &mut impl FnMut(&'static str, String)) {
        let range = Duration::from_millis(1)..=UNIQUE_FOR_MAX;
        let days = format!("give 1 to {} (30 days)", UNIQUE_FOR_MAX.as_millis());
        if let UniqueScope::For(period) = self.scope
            && !range.contains(&period)
        {
            say("unique.for_ms", days.clone());
        }
        match self.on_conflict {
            OnConflict::Debounce(quiet) => {
                if !range.contains(&quiet) {
                    say("unique.quiet_ms", days);
                }
                if matches!(self.scope, UniqueScope::For(_)) {
                    say(
                        "unique.scope",
                        "cannot be `for` with on_conflict debounce, which waits for quiet however long that takes; give until_started or until_finished".into(),
                    );
                }
                if has_run_at {
                    say(
                        "run_at",
                        "cannot be given with on_conflict debounce, which sets the time itself; leave run_at and delay_ms out".into(),
                    );
                }
            }
            OnConflict::Throttle if !matches!(self.scope, UniqueScope::For(_)) => say(
                "unique.on_conflict",
                "throttle is one job per period; give the scope `for` and for_ms".into(),
            ),
            OnConflict::Throttle | OnConflict::Keep | OnConflict::Replace | OnConflict::Reject => {}
        }
    }
}

/// One option that cannot be: its name and what to do about it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{field}: {message}")]
pub struct OptionProblem {
    pub field: &'static str,
    pub message: String,
}

impl JobOptions {
    /// Whether it waits for a job of its own batch.
    pub fn names_its_batch(&self) -> bool {
        let place = |after: &After| matches!(after.parent, Parent::Earlier(_));
        self.after.iter().any(place)
    }

    /// These, with the group and the parents of `other`.
    #[must_use]
    pub fn with_ties_of(mut self, other: &Self) -> Self {
        self.group = other.group;
        self.follows = other.follows;
        self.after.clone_from(&other.after);
        self.delay = other.delay;
        self
    }

    /// When a job that is asked for at `now` is due, or one whose last parent ended then.
    pub fn due(&self, now: Timestamp) -> Timestamp {
        let on_conflict = self.unique.as_ref().map(|unique| unique.on_conflict);
        if let Some(OnConflict::Debounce(quiet)) = on_conflict {
            return now.plus(quiet);
        }
        let delay = self.delay.filter(|_| !self.after.is_empty());
        let earliest = delay.map_or(now, |delay| now.plus(delay));
        self.run_at.map_or(earliest, |at| at.max(earliest))
    }

    /// Of one attempt.
    fn say_bounds(&self, say: &mut impl FnMut(&'static str, String)) {
        for (field, limit) in [
            ("timeout_ms", self.timeout),
            ("cpu_limit_ms", self.cpu_limit),
            ("stall_timeout_ms", self.stall_timeout),
        ] {
            if limit.is_some_and(|limit| limit.is_zero() || limit > TIMEOUT_MAX) {
                say(
                    field,
                    format!("give 1 to {} (30 days)", TIMEOUT_MAX.as_millis()),
                );
            }
        }
        if self.memory_limit_bytes.is_some_and(|limit| limit < 1 << 20) {
            say("memory_limit_bytes", "give at least 1048576 (1 MiB)".into());
        }
        if self.cores == 0 || self.cores > CORES_MAX {
            say("cores", format!("is {}; give 1 to {CORES_MAX}", self.cores));
        }
        if self.cost == 0 || self.cost > COST_MAX {
            say("cost", format!("is {}; give 1 to {COST_MAX}", self.cost));
        }
    }

    /// Every problem at once, none if it is sound.
    pub fn problems(&self) -> Vec<OptionProblem> {
        let mut found = Vec::new();
        let mut say = |field, message: String| found.push(OptionProblem { field, message });
        if self.priority > PRIORITY_MAX {
            say(
                "priority",
                format!(
                    "is {}; give 0 (first) to {PRIORITY_MAX} (last)",
                    self.priority
                ),
            );
        }
        if self.retry.max_attempts == 0 || self.retry.max_attempts > ATTEMPTS_MAX {
            let got = self.retry.max_attempts;
            say(
                "max_attempts",
                format!("is {got}; give 1 to {ATTEMPTS_MAX}"),
            );
        }
        if let Some(problem) = self.retry.backoff.problem() {
            say("backoff", problem);
        }
        self.say_bounds(&mut say);
        if self.tags.len() > TAGS_MAX {
            say(
                "tags",
                format!("has {}; the limit is {TAGS_MAX}", self.tags.len()),
            );
        }
        if self
            .trace
            .as_ref()
            .is_some_and(|trace| trace.len() > TRACE_BYTES_MAX)
        {
            say("trace", format!("is over {TRACE_BYTES_MAX} bytes"));
        }
        if let Some(unique) = &self.unique {
            unique.say_problems(self.run_at.is_some(), &mut say);
        }
        let on_conflict = self.unique.as_ref().map(|unique| unique.on_conflict);
        let debounced = matches!(on_conflict, Some(OnConflict::Debounce(_)));
        if debounced && !self.after.is_empty() {
            let text =
                "excludes unique.on_conflict `debounce`, which waits for quiet; leave one out";
            say("after", text.into());
        }
        if let Some(problem) = after_problem(&self.after) {
            say("after", problem);
        }
        if self.keep.is_some_and(|keep| keep > KEEP_MAX) {
            let most = KEEP_MAX.as_millis();
            say("keep_ms", format!("give 0 to {most} (ten years)"));
        }
        if let (Some(run_at), Some(expires_at)) = (self.run_at, self.expires_at)
            && expires_at <= run_at
        {
            say(
                "expires_at",
                "is not after the time it may start (run_at or delay_ms)".into(),
            );
        }
        found
    }
}

fn after_problem(after: &[After]) -> Option<String> {
    if after.len() > PARENTS_MAX {
        let got = after.len();
        return Some(format!("names {got} jobs; the limit is {PARENTS_MAX}"));
    }
    let twice = after.iter().enumerate().find(|(at, one)| {
        let earlier = &after[..*at];
        earlier.iter().any(|other| other.parent == one.parent)
    });
    twice.map(|(at, _)| format!("names the job at place {at} twice; name it once"))
}
