//! `[schedules.NAME]`: the body of `PUT /v1/schedules/NAME` in TOML, with lengths of time as people
//! write them (`every = "5min"`, `jitter`, `alert_after`).
//!
//! Read by the reader of the API, so that a field means the same and is refused alike.

use offloop::schedule::Plan;
use offloop::wire::{BodyError, read_schedule};
use offloop::{ScheduleName, ScheduleSpec, Timestamp};
use serde_json::{Map, Value};

use super::resolve::Problems;
use offloop::units::Span;

/// Names for people, and what they stand for.
const SPANS: [(&str, &str); 3] = [
    ("every", "every_ms"),
    ("jitter", "jitter_ms"),
    ("alert_after", "alert_after_ms"),
];

pub(super) fn schedule(
    name: &str,
    raw: toml::Table,
    problems: &mut Problems,
) -> Option<(ScheduleName, ScheduleSpec)> {
    let key = |field: &str| format!("schedules.{name}.{field}");
    let parsed = match ScheduleName::parse(name) {
        Ok(parsed) => parsed,
        Err(error) => {
            problems.say(format!("schedules.{name}"), format!("the name {error}"));
            return None;
        }
    };
    let mut body = Map::new();
    for (field, value) in raw {
        let Some((_, long)) = SPANS.into_iter().find(|(short, _)| *short == field) else {
            body.insert(field, json(value));
            continue;
        };
        match value.try_into::<Span>() {
            Ok(Span(span)) => {
                let millis = u64::try_from(span.as_millis()).unwrap_or(u64::MAX);
                body.insert(long.into(), millis.into());
            }
            Err(error) => problems.say(key(&field), error.message()),
        }
    }
    let text = Value::Object(body).to_string();
    let spec = match read_schedule(&text.into(), Timestamp::from_millis(0)) {
        Ok(spec) => spec,
        Err(BodyError::Fields(found)) => {
            for problem in found {
                let field = problem.pointer.trim_start_matches('/').replace('/', ".");
                problems.say(key(&field), problem.detail);
            }
            return None;
        }
        Err(BodyError::Syntax { detail }) => {
            problems.say(format!("schedules.{name}"), detail);
            return None;
        }
    };
    if let Err(found) = Plan::new(&parsed, &spec, Timestamp::from_millis(0)) {
        for problem in found {
            problems.say(key(problem.field), problem.message);
        }
        return None;
    }
    Some((parsed, spec))
}

/// A date is a text in JSON.
fn json(value: toml::Value) -> Value {
    match value {
        toml::Value::String(text) => Value::String(text),
        toml::Value::Integer(number) => number.into(),
        toml::Value::Float(number) => number.into(),
        toml::Value::Boolean(flag) => flag.into(),
        toml::Value::Datetime(at) => Value::String(at.to_string()),
        toml::Value::Array(items) => items.into_iter().map(json).collect(),
        toml::Value::Table(table) => {
            let fields = table.into_iter().map(|(key, value)| (key, json(value)));
            Value::Object(fields.collect())
        }
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;
    use std::time::Duration;

    use offloop::{Missed, Timing};

    use super::*;
    use crate::config::RawConfig;

    #[test]
    fn a_schedule_is_read_as_the_guide_shows_it() {
        let text = r#"
            [schedules.nightly]
            task = "report"
            cron = "0 3 * * *"
            timezone = "Europe/Berlin"
            payload = { kind = "daily", days = [1, 2.5], on = true }
            missed = "catch_up"
            catch_up_max = 7
            jitter = "30s"
            starts_at = 2027-01-01T00:00:00Z
            priority = 2
            [schedules.often]
            task = "ping"
            every = "90s"
        "#;
        let config = toml::from_str::<RawConfig>(text).unwrap();
        let config = config.resolve(Path::new("/etc/offloop")).unwrap();
        let [(name, nightly), (_, often)] = &config.schedules[..] else {
            panic!("{:?}", config.schedules);
        };
        assert_eq!(name.as_str(), "nightly");
        let payload: Value = serde_json::from_slice(&nightly.payload).unwrap();
        let want = serde_json::json!({"kind": "daily", "days": [1, 2.5], "on": true});
        assert_eq!(payload, want);
        assert_eq!(nightly.missed, Missed::CatchUp { max: 7 });
        assert_eq!(nightly.jitter, Duration::from_secs(30));
        assert_eq!(nightly.options.priority, 2);
        assert_eq!(often.timing, Timing::Every(Duration::from_secs(90)));
    }

    #[test]
    fn what_cannot_be_is_told_by_its_key_all_at_once() {
        let text = r#"
            [schedules.a]
            task = "t"
            cron = "0 0 30 2 *"
            timezone = "Mars/Olympus"
            [schedules.b]
            task = "t"
            every = "soon"
            colour = "red"
            [schedules."bad name"]
            task = "t"
            every = "1h"
        "#;
        let config = toml::from_str::<RawConfig>(text).unwrap();
        let problems = config.resolve(Path::new("/etc/offloop")).unwrap_err();
        let keys: Vec<_> = problems
            .iter()
            .map(|problem| problem.key.as_str())
            .collect();
        let want = [
            "schedules.a.timezone",
            "schedules.a.cron",
            "schedules.b.every",
            "schedules.b.colour",
            "schedules.b.cron",
            "schedules.bad name",
        ];
        assert_eq!(keys, want, "{problems:?}");
    }
}
