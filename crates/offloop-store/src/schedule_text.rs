//! Timings and rules of schedules as short texts, for engines to keep in a column, and for people with
//! a plain database shell: `cron 0 3 * * *`, `every 60000`, `at 1800000000000,1800000060000`;
//! `skip`, `once`, `catch_up 100`.

use std::time::Duration;

use offloop_job::{Missed, ScheduleSpec, Timestamp, Timing};

use crate::codec;

/// A text that no version up to this one wrote is `None` when it is read.
pub fn timing_text(timing: &Timing) -> String {
    match timing {
        Timing::Cron(text) => format!("cron {text}"),
        Timing::Every(every) => format!("every {}", every.as_millis()),
        Timing::At(at) => {
            let at: Vec<_> = at.iter().map(|at| at.as_millis().to_string()).collect();
            format!("at {}", at.join(","))
        }
    }
}

/// The inverse of [`timing_text`].
pub fn read_timing(text: &str) -> Option<Timing> {
    let (kind, rest) = text.split_once(' ')?;
    Some(match kind {
        "cron" => Timing::Cron(rest.into()),
        "every" => Timing::Every(Duration::from_millis(rest.parse().ok()?)),
        "at" => {
            let at = rest
                .split(',')
                .map(|at| at.parse().ok().map(Timestamp::from_millis));
            Timing::At(at.collect::<Option<_>>()?)
        }
        _ => return None,
    })
}

pub fn missed_text(missed: Missed) -> String {
    match missed {
        Missed::Skip => "skip".into(),
        Missed::Once => "once".into(),
        Missed::CatchUp { max } => format!("catch_up {max}"),
    }
}

/// The inverse of [`missed_text`].
pub fn read_missed(text: &str) -> Option<Missed> {
    Some(match text.split_once(' ') {
        None if text == "skip" => Missed::Skip,
        None if text == "once" => Missed::Once,
        Some(("catch_up", max)) => Missed::CatchUp {
            max: max.parse().ok()?,
        },
        _ => return None,
    })
}

/// A spec in one line for people: what it does and when. Of the payload nothing: it may be
/// sealed, and even its length would be that of the sealed form.
pub fn spec_text(spec: &ScheduleSpec) -> String {
    let mut text = format!(
        "task {}, {}, {}, missed {}, overlap {}",
        spec.task,
        timing_text(&spec.timing),
        spec.timezone,
        missed_text(spec.missed),
        spec.overlap.as_str(),
    );
    let mut more = |what: &str| {
        text.push_str(", ");
        text.push_str(what);
    };
    if let Some(options) = codec::encode(&spec.options) {
        more(&options);
    }
    for (name, at) in [("from", spec.starts_at), ("until", spec.ends_at)] {
        if let Some(at) = at {
            more(&format!("{name} {at}"));
        }
    }
    if !spec.jitter.is_zero() {
        more(&format!("jitter {} ms", spec.jitter.as_millis()));
    }
    if spec.paused {
        more("paused");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_timing_and_rule_survives_its_text() {
        let at = |ms| Timestamp::from_millis(ms);
        for timing in [
            Timing::Cron("*/5 0 * * MON".into()),
            Timing::Every(Duration::from_millis(1_500)),
            Timing::At([at(1), at(253_402_300_799_999)].into()),
        ] {
            assert_eq!(read_timing(&timing_text(&timing)), Some(timing));
        }
        for missed in [Missed::Skip, Missed::Once, Missed::CatchUp { max: 7 }] {
            assert_eq!(read_missed(&missed_text(missed)), Some(missed));
        }
        assert_eq!(read_timing("moon full"), None);
        assert_eq!(read_missed("catch_up many"), None);
    }
}
