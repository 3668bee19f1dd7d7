//! `[ingest.consumers.NAME]`: what was written, and what is meant.
//!
//! Must never: let rows come twice into a table without a word from the operator.

use std::sync::Arc;
use std::time::Duration;

use serde::Deserialize;

use crate::load::LoadId;
use crate::target::{OnConflict, Sink, Size, Span, Target, TargetProblem, Value, is_topic};

/// What was written, key by key.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RawConsumer {
    pub topic: String,
    /// Default: `offloop-` and the consumer's name.
    pub group: Option<String>,
    /// Name of a target with the sink `postgres` or `sqlite`.
    pub target: String,
    /// `json` (default: one object a message) or `csv` (one record, in the columns' order).
    pub value: Option<String>,
    /// `earliest` (default) or `latest`: where a partition begins that the table knows nothing of.
    pub start: Option<String>,
    /// The table has no key: what the topic has twice is stored twice. Default false.
    pub append: Option<bool>,
    /// Default: the topic's name and `.dlq`.
    pub dead_letters: Option<String>,
    /// Members of the group that the server is, 1 to 64, default 1. Servers that share one store of
    /// jobs share these, too.
    pub members: Option<u16>,
    /// Of messages that wait to be stored. 4MiB to 4GiB, default 64MiB.
    pub memory: Option<Size>,
    /// So long the group waits for a process that is silent. 6s to 5m, default 45s.
    pub session: Option<Span>,
}

/// Where a partition begins that nothing is known of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Start {
    Earliest,
    Latest,
}

/// A declaration that makes sense. Cheap to clone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Consumer {
    pub(crate) name: Arc<str>,
    pub(crate) topic: Arc<str>,
    pub(crate) group: Arc<str>,
    pub(crate) target: Arc<str>,
    pub(crate) value: Value,
    pub(crate) start: Start,
    pub(crate) dead_letters: Arc<str>,
    pub(crate) members: u16,
    pub(crate) memory: u64,
    pub(crate) session: Duration,
}

const GROUP_BYTES_MAX: usize = 249;
const SESSION: (Duration, Duration) = (Duration::from_secs(6), Duration::from_secs(300));

impl Consumer {
    pub fn name(&self) -> &str {
        &self.name
    }
    pub fn topic(&self) -> &str {
        &self.topic
    }
    pub fn group(&self) -> &str {
        &self.group
    }
    /// Name of its target.
    pub fn target(&self) -> &str {
        &self.target
    }
    /// Where its refused messages go.
    pub fn dead_letters(&self) -> &str {
        &self.dead_letters
    }
}

impl RawConsumer {
    /// What is meant, or all that is wrong. `targets`: those that are declared.
    pub fn resolve(&self, name: &str, targets: &[Target]) -> Result<Consumer, Vec<TargetProblem>> {
        let mut problems = Vec::new();
        let mut add = |field: &str, problem: String| {
            let point = if field.is_empty() { "" } else { "." };
            problems.push(TargetProblem {
                field: format!("ingest.consumers.{name}{point}{field}"),
                problem,
            });
        };
        if let Err(error) = LoadId::parse(name) {
            add("", error.to_string().replace("load", "consumer"));
        }
        match targets.iter().find(|target| target.name() == self.target) {
            None => add("target", format!("there is no target `{}`", self.target)),
            Some(target) => self.check_target(target, &mut add),
        }
        let (value, start) = self.words(&mut add);
        let members = self.members.unwrap_or(1);
        if !(1..=64).contains(&members) {
            add("members", "out of range; 1 to 64".into());
        }
        let memory = self.memory.map_or(64 << 20, |size| size.0);
        if !(4 << 20..=4 << 30).contains(&memory) {
            add("memory", "out of range; 4MiB to 4GiB".into());
        }
        let session = self.session.map_or(Duration::from_secs(45), |span| span.0);
        if session < SESSION.0 || session > SESSION.1 {
            add("session", "out of range; 6s to 5m".into());
        }
        let consumer = Consumer {
            name: name.into(),
            topic: self.topic.as_str().into(),
            group: self.group(name, &mut add).into(),
            target: self.target.as_str().into(),
            value,
            start,
            dead_letters: self.dead_letters(&mut add).into(),
            members,
            memory,
            session,
        };
        if problems.is_empty() {
            Ok(consumer)
        } else {
            Err(problems)
        }
    }

    fn words(&self, add: &mut dyn FnMut(&str, String)) -> (Value, Start) {
        let value = match self.value.as_deref() {
            None | Some("json") => Value::Json,
            Some("csv") => Value::Csv,
            Some(other) => {
                add("value", format!("`{other}`; json or csv"));
                Value::Json
            }
        };
        let start = match self.start.as_deref() {
            None | Some("earliest") => Start::Earliest,
            Some("latest") => Start::Latest,
            Some(other) => {
                add("start", format!("`{other}`; earliest or latest"));
                Start::Earliest
            }
        };
        (value, start)
    }

    fn group(&self, name: &str, add: &mut dyn FnMut(&str, String)) -> String {
        let group = self.group.clone();
        let group = group.unwrap_or_else(|| format!("offloop-{name}"));
        if group.is_empty() || group.len() > GROUP_BYTES_MAX || group.chars().any(char::is_control)
        {
            let problem = format!("1 to {GROUP_BYTES_MAX} bytes without control characters");
            add("group", problem);
        }
        group
    }

    fn dead_letters(&self, add: &mut dyn FnMut(&str, String)) -> String {
        let dead_letters = self.dead_letters.clone();
        let dead_letters = dead_letters.unwrap_or_else(|| format!("{}.dlq", self.topic));
        for (field, topic) in [("topic", &self.topic), ("dead_letters", &dead_letters)] {
            if !is_topic(topic) {
                let problem =
                    "a topic's name has 1 to 249 characters of a-z, A-Z, 0-9, ., _ and -".into();
                add(field, problem);
            }
        }
        if dead_letters == self.topic {
            add(
                "dead_letters",
                "it is the topic itself; refused messages need another one".into(),
            );
        }
        dead_letters
    }

    fn check_target(&self, target: &Target, add: &mut dyn FnMut(&str, String)) {
        if !matches!(target.sink(), Sink::Postgres { .. } | Sink::Sqlite { .. }) {
            let problem = format!(
                "target `{}` has another sink than postgres or sqlite, whose commits hold rows and offsets together",
                target.name()
            );
            add("target", problem);
        }
        let upserts = target.place().on_conflict != OnConflict::Reject;
        match (upserts, self.append.unwrap_or(false)) {
            (false, false) => add(
                "append",
                format!(
                    "target `{}` does not upsert, so that what a producer sends twice is there twice: declare its key column, or say append = true",
                    target.name()
                ),
            ),
            (true, true) => add(
                "append",
                format!(
                    "target `{}` upserts by its key; leave it out",
                    target.name()
                ),
            ),
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::target::RawTarget;

    fn target(name: &str, more: &str) -> Target {
        let text = format!(
            "columns = [{{ name = \"id\", type = \"int4\" }}, {{ name = \"n\", type = \"text\" }}]\n{more}"
        );
        let raw: RawTarget = toml::from_str(&text).unwrap();
        raw.resolve(name).unwrap()
    }

    fn resolve(text: &str) -> Result<Consumer, String> {
        let table = "sink = \"postgres\"\ntable = \"t\"";
        let targets = [
            target("keyed", &format!("{table}\nkey = \"id\"")),
            target("plain", table),
            target(
                "loose",
                &format!("{table}\nkey = \"id\"\non_conflict = \"reject\""),
            ),
            target("lines", "sink = \"ndjson\"\npath = \"out\""),
        ];
        let raw: RawConsumer = toml::from_str(text).map_err(|error| error.to_string())?;
        raw.resolve("one", &targets).map_err(|problems| {
            let told = problems.iter().map(ToString::to_string);
            told.collect::<Vec<_>>().join("\n")
        })
    }

    #[test]
    fn rows_do_not_come_twice_without_a_word_from_the_operator() {
        let consumer = resolve("topic = \"rows\"\ntarget = \"keyed\"").unwrap();
        assert_eq!(
            (consumer.group(), &*consumer.dead_letters),
            ("offloop-one", "rows.dlq")
        );
        assert_eq!(consumer.session, Duration::from_secs(45));
        for name in ["plain", "loose"] {
            let text = format!("topic = \"rows\"\ntarget = \"{name}\"");
            let told = resolve(&text).unwrap_err();
            assert!(told.contains("ingest.consumers.one.append"), "{told}");
            assert!(told.contains("declare its key column"), "{told}");
            assert!(resolve(&format!("{text}\nappend = true")).is_ok());
        }
        let told = resolve("topic = \"rows\"\ntarget = \"keyed\"\nappend = true").unwrap_err();
        assert!(told.contains("leave it out"), "{told}");
    }

    #[test]
    fn every_problem_of_a_consumer_is_told_at_once_and_by_its_key() {
        let told = resolve(
            "topic = \"a topic\"\ntarget = \"lines\"\ngroup = \"\"\nvalue = \"avro\"\nstart = \"now\"\nmemory = \"1KiB\"\nsession = \"1s\"\nmembers = 0\ndead_letters = \"a topic\"",
        );
        let told = told.unwrap_err();
        for key in [
            "topic",
            "target",
            "group",
            "value",
            "start",
            "memory",
            "session",
            "members",
            "dead_letters",
        ] {
            assert!(
                told.contains(&format!("ingest.consumers.one.{key}")),
                "{key}: {told}"
            );
        }
        assert!(
            resolve("topic = \"rows\"\ntarget = \"nobody\"")
                .unwrap_err()
                .contains("nobody")
        );
        assert!(
            resolve("topic = \"rows\"\ntarget = \"keyed\"\noffset = 3")
                .unwrap_err()
                .contains("offset")
        );
    }
}
