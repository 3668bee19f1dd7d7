//! Advice in both directions: what is too short to be handed over, and what is too long to stay.

use std::time::Duration;

use crate::name::Kind;
use crate::polls::Long;
use crate::snapshot::TaskSample;

/// A task that runs shorter than this is not worth its way to a lane (a dispatch costs 5 to 30 us).
pub const DISPATCHED_MIN: Duration = Duration::from_micros(20);
/// A poll that is longer than this makes all others of its loop wait.
pub const INLINE_MAX: Duration = Duration::from_millis(1);
/// Runs in the window before a median says anything.
const RUNS_MIN: u64 = 50;
/// One long poll may be the machine's doing; so many are not.
const LONG_POLLS_MIN: u64 = 3;
/// Nor is one that is this long.
const LONGEST: Duration = Duration::from_millis(20);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HintKind {
    /// Dispatched but short.
    TooShort,
    /// On a loop but long.
    TooLong,
}

impl HintKind {
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::TooShort => "too_short",
            Self::TooLong => "too_long",
        }
    }
}

/// What to change, in a sentence.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hint {
    pub kind: HintKind,
    pub say: String,
}

/// `13 us`, `4.2 ms`, `6.0 s`.
pub(crate) fn span(value: Duration) -> String {
    let us = value.as_micros();
    match us {
        0..1_000 => format!("{us} us"),
        1_000..1_000_000 => format!("{:.1} ms", us as f64 / 1e3),
        _ => format!("{:.1} s", us as f64 / 1e6),
    }
}

/// What to do about code that blocks a loop.
pub(crate) fn remedy(kind: Option<Kind>) -> &'static str {
    match kind {
        Some(Kind::Task) => {
            "declare it on the cpu lane (Builder::cpu_task), or with lane = \"process\" in offloop.toml"
        }
        Some(Kind::Route) => {
            "move the work into a task on the cpu lane and call it (POST /v1/call/TASK, RuntimeHandle::call)"
        }
        Some(Kind::Section) => "move it into a task on the cpu lane",
        None => {
            "give futures a name with offloop_pulse::doing to see which one it is, and move it into a task on the cpu lane"
        }
    }
}

pub(crate) fn for_task(sample: &TaskSample) -> Option<Hint> {
    let run = sample.run.filter(|run| run.count >= RUNS_MIN)?;
    if !sample.dispatched || run.p50 >= DISPATCHED_MIN || sample.task.is_none() {
        return None;
    }
    let say = format!(
        "half of its runs take {} or less, which is shorter than the way to a lane: run it inline or in batches",
        span(run.p50)
    );
    Some(Hint {
        kind: HintKind::TooShort,
        say,
    })
}

pub(crate) fn for_polls(kind: Kind, long: Long) -> Option<Hint> {
    if long.count < LONG_POLLS_MIN && long.longest < LONGEST {
        return None;
    }
    let say = format!(
        "{} of its polls took 1 ms or more, the longest {}, and every other future of its loop waited: {}",
        long.count,
        span(long.longest),
        remedy(Some(kind))
    );
    Some(Hint {
        kind: HintKind::TooLong,
        say,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::window::Figures;

    #[test]
    fn a_task_is_told_to_stay_only_when_it_is_short_often_and_dispatched() {
        let us = Duration::from_micros;
        let rows = [
            (true, 1_000, us(5), true),
            (true, 1_000, us(19), true),
            (true, 1_000, us(20), false),
            (false, 1_000, us(5), false),
            (true, RUNS_MIN - 1, us(5), false),
        ];
        for (dispatched, count, p50, want) in rows {
            let run = Figures {
                count,
                p50,
                ..Figures::default()
            };
            let sample = TaskSample {
                task: Some("t".into()),
                dispatched,
                wait: None,
                run: Some(run),
            };
            let hint = for_task(&sample);
            assert_eq!(hint.is_some(), want, "{sample:?}");
            assert!(hint.is_none_or(|hint| hint.kind == HintKind::TooShort));
        }
    }

    #[test]
    fn spans_have_a_unit_that_fits() {
        let rows = [
            (0, "0 us"),
            (999, "999 us"),
            (12_340, "12.3 ms"),
            (6_002_588, "6.0 s"),
        ];
        for (us, want) in rows {
            assert_eq!(span(Duration::from_micros(us)), want);
        }
    }

    #[test]
    fn one_poll_that_the_machine_held_up_is_no_reason_to_move_code() {
        let ms = Duration::from_millis;
        let rows = [
            (1, ms(2), false),
            (2, ms(19), false),
            (3, ms(1), true),
            (1, ms(20), true),
        ];
        for (count, longest, want) in rows {
            let hint = for_polls(Kind::Task, Long { count, longest });
            assert_eq!(hint.is_some(), want, "{count} {longest:?}");
            assert!(hint.is_none_or(|hint| hint.say.contains("cpu_task")));
        }
    }
}
