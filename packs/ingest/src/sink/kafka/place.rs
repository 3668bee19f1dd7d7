//! What is asked of the cluster before a load: is the topic there, and what does it take?
//!
//! Must never: make a topic that nobody declared (brokers do when they are asked for its metadata,
//! so its configuration is asked for, which never makes one).

use std::fmt;
use std::time::{Duration, Instant};

use rdkafka::admin::{
    AdminClient, AdminOptions, ConfigResource, NewTopic, ResourceSpecifier, TopicReplication,
};
use rdkafka::config::FromClientConfigAndContext;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::{ClientConfig, ClientContext};

use super::KafkaSettings;
use super::knock::{Unanswered, knock};
use crate::sink::SinkError;
use crate::target::TopicCreate;

/// One question to the cluster.
pub(super) const ASK: Duration = Duration::from_secs(10);
const LOOK_EVERY: Duration = Duration::from_millis(50);
/// What a broker takes that does not say it.
const MESSAGE_BYTES_MAX: usize = 1_000_000;

/// A client's context that prints nothing: errors are in the answers.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Quiet;

impl ClientContext for Quiet {
    fn log(&self, _: rdkafka::config::RDKafkaLogLevel, _: &str, _: &str) {}
    fn error(&self, _: KafkaError, _: &str) {}
}

/// What is known of a topic.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Topic {
    /// One record batch, compressed.
    pub(super) message_bytes_max: usize,
    /// A message without a key is refused.
    pub(super) needs_key: bool,
}

/// Asks what `topic` is; `None` if there is none. Blocks: not for a runtime's thread.
fn look(admin: &AdminClient<Quiet>, topic: &str) -> Result<Option<Topic>, Unanswered> {
    let options = AdminOptions::new().request_timeout(Some(ASK));
    let asked = [ResourceSpecifier::Topic(topic)];
    let answer = wait(admin.describe_configs(&asked, &options));
    match answer {
        Ok(found) => match found.first() {
            Some(Ok(resource)) if !resource.entries.is_empty() => Ok(Some(read(resource))),
            // The client does not hand on why there is nothing: there is no such topic, or who
            // may write may not look.
            _ => listed(admin, topic),
        },
        // A broker that does not know the question.
        Err(error) if is_silence(&error) => listed(admin, topic),
        Err(error) => Err(error.into()),
    }
}

const fn is_silence(error: &KafkaError) -> bool {
    matches!(
        error,
        KafkaError::AdminOp(
            RDKafkaErrorCode::UnsupportedFeature | RDKafkaErrorCode::OperationTimedOut
        )
    )
}

/// In the list of all topics, which makes none.
fn listed(admin: &AdminClient<Quiet>, topic: &str) -> Result<Option<Topic>, Unanswered> {
    let all = admin.inner().fetch_metadata(None, ASK)?;
    let is_there = all.topics().iter().any(|there| there.name() == topic);
    Ok(is_there.then_some(Topic {
        message_bytes_max: MESSAGE_BYTES_MAX,
        needs_key: false,
    }))
}

fn read(resource: &ConfigResource) -> Topic {
    let value = |name: &str| {
        let entry = resource.get(name)?;
        entry.value.as_deref()
    };
    let most = value("max.message.bytes").and_then(|most| most.parse().ok());
    Topic {
        message_bytes_max: most
            .unwrap_or(MESSAGE_BYTES_MAX)
            .clamp(1_000, 1_000_000_000),
        needs_key: value("cleanup.policy").is_some_and(|rule| rule.contains("compact")),
    }
}

/// The topic as it is; `None` if it is missing and `create` says how it is to be made.
pub(super) async fn looked(
    settings: &KafkaSettings,
    topic: &str,
    create: Option<TopicCreate>,
) -> Result<Option<Topic>, SinkError> {
    let (client, name) = (settings.client(), topic.to_owned());
    let found = aside(move || look(&admin(&client)?, &name)).await;
    match found.map_err(|cause| unreachable(&settings.brokers, cause))? {
        None if create.is_none() => Err(missing(topic, &settings.brokers)),
        found => Ok(found),
    }
}

fn missing(topic: &str, brokers: &str) -> SinkError {
    SinkError::Place {
        problem: format!(
            "there is no topic `{topic}` at {brokers}; make it, or declare kafka = {{ create = {{ partitions = N }} }}"
        ),
    }
}

/// The topic as it is, made if it is missing and `create` says how; [`SinkError::Place`] names it
/// otherwise.
pub(super) async fn ready(
    settings: &KafkaSettings,
    topic: &str,
    create: Option<TopicCreate>,
) -> Result<Topic, SinkError> {
    let (client, name) = (settings.client(), topic.to_owned());
    let brokers = settings.brokers.clone();
    let found = aside(move || {
        let admin = admin(&client)?;
        if let Some(found) = look(&admin, &name)? {
            return Ok(Some(found));
        }
        let Some(create) = create else {
            return Ok(None);
        };
        make(&admin, &name, create, &[])?;
        // Brokers hear of it one after the other.
        let until = Instant::now() + ASK;
        loop {
            match look(&admin, &name)? {
                None if Instant::now() < until => std::thread::sleep(LOOK_EVERY),
                found => return Ok(found),
            }
        }
    });
    match found.await {
        Ok(Some(topic)) => Ok(topic),
        Ok(None) => Err(missing(topic, &brokers)),
        Err(cause) => Err(unreachable(&brokers, cause)),
    }
}

/// How a topic of dead letters is made: one partition, and large messages.
const DEAD_LETTERS: (TopicCreate, &[(&str, &str)]) = (
    TopicCreate {
        partitions: 1,
        replication: None,
    },
    &[("max.message.bytes", "16777216"), ("retention.ms", "-1")],
);

/// The same for a topic of dead letters.
pub(super) fn make_dead_letters(client: &ClientConfig, topic: &str) -> Result<(), Unanswered> {
    let admin = admin(client)?;
    if look(&admin, topic)?.is_some() {
        return Ok(());
    }
    make(&admin, topic, DEAD_LETTERS.0, DEAD_LETTERS.1)
}

/// Whether letters could be sent there, without a trace: the topic takes messages without a key, or the
/// brokers would let it be made. What else they refuse to who may look but not write, they say at the first letter.
pub(crate) async fn check_dead_letters(
    settings: &KafkaSettings,
    topic: &str,
) -> Result<(), SinkError> {
    let (client, name) = (settings.client(), topic.to_owned());
    let brokers = settings.brokers.clone();
    let found = aside(move || {
        let admin = admin(&client)?;
        match look(&admin, &name)? {
            Some(found) => Ok(Ok(found.needs_key)),
            None => Ok(ask_to_make(&admin, &name, DEAD_LETTERS, true)?.map(|()| false)),
        }
    });
    let problem = match found.await.map_err(|cause| unreachable(&brokers, cause))? {
        Ok(false) => return Ok(()),
        Ok(true) => format!(
            "topic `{topic}` is compacted, which takes no message without a key, and dead letters may have none; name another one"
        ),
        Err(code) => format!(
            "there is no topic `{topic}` at {brokers}, and it cannot be made: {code}; make it"
        ),
    };
    Err(SinkError::Place { problem })
}

/// Whether there is a topic to be read.
pub(crate) async fn check_topic(settings: &KafkaSettings, topic: &str) -> Result<(), SinkError> {
    let (client, name) = (settings.client(), topic.to_owned());
    let there = aside(move || exists(&client, &name)).await;
    if there.map_err(|cause| unreachable(&settings.brokers, cause))? {
        return Ok(());
    }
    let problem = format!(
        "there is no topic `{topic}` at {}; make it",
        settings.brokers
    );
    Err(SinkError::Place { problem })
}

/// There is such a topic.
pub(super) fn exists(client: &ClientConfig, topic: &str) -> Result<bool, Unanswered> {
    Ok(look(&admin(client)?, topic)?.is_some())
}

fn make(
    admin: &AdminClient<Quiet>,
    topic: &str,
    create: TopicCreate,
    config: &[(&str, &str)],
) -> Result<(), Unanswered> {
    match ask_to_make(admin, topic, (create, config), false)? {
        Err(code) if code != RDKafkaErrorCode::TopicAlreadyExists => {
            Err(KafkaError::AdminOp(code).into())
        }
        _ => Ok(()),
    }
}

/// The brokers' word on a new topic. `only_ask`: it is not made.
fn ask_to_make(
    admin: &AdminClient<Quiet>,
    topic: &str,
    (create, config): (TopicCreate, &[(&str, &str)]),
    only_ask: bool,
) -> Result<Result<(), RDKafkaErrorCode>, Unanswered> {
    let replication = TopicReplication::Fixed(create.replication.unwrap_or(-1));
    let mut new = NewTopic::new(topic, create.partitions, replication);
    for (name, value) in config {
        new = new.set(name, value);
    }
    let options = AdminOptions::new()
        .request_timeout(Some(ASK))
        .operation_timeout(Some(ASK))
        .validate_only(only_ask);
    Ok(match wait(admin.create_topics([&new], &options))?.pop() {
        Some(Err((_, code))) => Err(code),
        _ => Ok(()),
    })
}

fn admin(client: &ClientConfig) -> Result<AdminClient<Quiet>, Unanswered> {
    knock(client)?;
    Ok(AdminClient::from_config_and_context(client, Quiet)?)
}

/// Waits on a thread that may.
fn wait<T>(answer: impl Future<Output = T>) -> T {
    tokio::runtime::Handle::current().block_on(answer)
}

/// Runs what blocks on a thread of its own, with the runtime at hand for [`wait`].
pub(super) async fn aside<T: Send + 'static>(
    deed: impl FnOnce() -> Result<T, Unanswered> + Send + 'static,
) -> Result<T, Unanswered> {
    let (tell, told) = tokio::sync::oneshot::channel();
    let runtime = tokio::runtime::Handle::current();
    let begun = std::thread::Builder::new()
        .name("ingest-kafka-ask".into())
        .spawn(move || {
            let _entered = runtime.enter();
            // An asker who left wants no answer.
            let _left = tell.send(deed());
        });
    if let Err(error) = begun {
        let cause = format!("a thread cannot be started: {error}");
        return Err(KafkaError::ClientCreation(cause).into());
    }
    told.await
        .unwrap_or_else(|_| Err(KafkaError::Canceled.into()))
}

/// `cause` says all of its own causes.
pub(super) fn unreachable(brokers: &str, cause: impl fmt::Display) -> SinkError {
    SinkError::Unreachable {
        place: format!("Kafka at {brokers}"),
        cause: cause.to_string().into(),
    }
}
