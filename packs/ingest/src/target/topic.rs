//! What a topic's messages are, and what to do where it is missing.

use serde::Deserialize;

use super::resolve::Problems;

/// `kafka = { ... }` of a target with the sink `kafka`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RawTopic {
    /// `json` (default) or `csv`.
    pub value: Option<String>,
    /// Default: the topic's name and `.dlq`.
    pub dead_letters: Option<String>,
    /// Makes the topic if it is missing.
    pub create: Option<RawTopicCreate>,
}

/// `create = { partitions = 4, replication = 3 }`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RawTopicCreate {
    pub partitions: u32,
    /// Default: the broker's.
    pub replication: Option<u32>,
}

/// How rows become messages of a topic.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TopicRule {
    pub value: Value,
    /// Where rows go that the broker refuses.
    pub dead_letters: String,
    pub create: Option<TopicCreate>,
}

/// Of a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Value {
    /// One object, the columns' names as keys.
    Json,
    /// The fields in the columns' order, with commas, quoted where need be; null is empty.
    Csv,
}

/// A topic that is to be made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TopicCreate {
    /// 1 to 10,000.
    pub partitions: i32,
    /// `None`: the broker's default.
    pub replication: Option<i32>,
}

const NAME_BYTES_MAX: usize = 249; // Kafka's

/// What Kafka takes as a topic's name.
pub(crate) fn is_topic(name: &str) -> bool {
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
    !name.is_empty()
        && name.len() <= NAME_BYTES_MAX
        && name != "."
        && name != ".."
        && name.bytes().all(is_plain)
}

pub(super) fn resolve(raw: Option<&RawTopic>, topic: &str, problems: &mut Problems) -> TopicRule {
    let fallback = RawTopic::default();
    let raw = raw.unwrap_or(&fallback);
    let dead_letters = raw
        .dead_letters
        .clone()
        .unwrap_or_else(|| format!("{topic}.dlq"));
    for (field, name) in [("topic", topic), ("kafka.dead_letters", &dead_letters)] {
        if !is_topic(name) {
            let problem = format!(
                "a topic's name has 1 to {NAME_BYTES_MAX} characters of a-z, A-Z, 0-9, ., _ and -"
            );
            problems.add(field, problem);
        }
    }
    if dead_letters == topic {
        problems.add(
            "kafka.dead_letters",
            "it is the topic itself; refused rows need another one",
        );
    }
    let value = match raw.value.as_deref() {
        None | Some("json") => Value::Json,
        Some("csv") => Value::Csv,
        Some(other) => {
            problems.add("kafka.value", format!("`{other}`; json or csv"));
            Value::Json
        }
    };
    let create = raw.create.as_ref().map(|create| {
        let partitions = Some(u64::from(create.partitions));
        let partitions = problems.ranged("kafka.create.partitions", partitions, 1, (1, 10_000));
        let replication = create.replication.map(u64::from).map(|replication| {
            let field = "kafka.create.replication";
            problems.ranged(field, Some(replication), 1, (1, 100)) as i32
        });
        TopicCreate {
            partitions: partitions as i32,
            replication,
        }
    });
    TopicRule {
        value,
        dead_letters,
        create,
    }
}
