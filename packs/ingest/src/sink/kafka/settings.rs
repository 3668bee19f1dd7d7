//! `[ingest.kafka]`: which cluster, and what of this process it may take.
//!
//! Must never: let a property through that an answer rests on (acks, idempotence, retries, order).

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rdkafka::ClientConfig;
use serde::Deserialize;

use super::security;
use crate::target::{Size, Span, TargetProblem};

/// What was written.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RawKafka {
    /// `host:port`, several with commas.
    pub brokers: String,
    /// Messages wait so long for others to go with. 0 to 1s, default 5ms.
    pub linger: Option<Span>,
    /// Of messages that wait for their reports, for each target. 1MiB to 1GiB, default 32MiB.
    pub memory: Option<Size>,
    /// So long no report may come while some are due, until loads give up. 1s to 1h, default 5m.
    pub patience: Option<Span>,
    /// `lz4` (default), `snappy` or `none`.
    pub compression: Option<String>,
    /// To the brokers; their certificate is checked, and that it is their host's.
    pub tls: Option<bool>,
    /// Of the authorities that are trusted, PEM; the system's by default.
    pub ca_file: Option<PathBuf>,
    /// Of this program, where brokers want to see one. PEM, and its key beside it.
    pub certificate_file: Option<PathBuf>,
    pub key_file: Option<PathBuf>,
    pub user: Option<String>,
    /// The variable of the environment that holds the user's password.
    pub password_env: Option<String>,
    /// Or the file that does.
    pub password_file: Option<PathBuf>,
    /// `SCRAM-SHA-512` (default), `SCRAM-SHA-256` or `PLAIN`.
    pub mechanism: Option<String>,
    /// Further properties of librdkafka, such as `socket.keepalive.enable`.
    #[serde(default)]
    pub properties: BTreeMap<String, String>,
}

/// What is meant. Cheap enough to clone.
#[derive(Clone)]
pub struct KafkaSettings {
    pub(super) brokers: String,
    pub(super) linger: Duration,
    pub(super) memory: u64,
    pub(super) patience: Duration,
    compression: String,
    properties: BTreeMap<String, String>,
}

impl std::fmt::Debug for KafkaSettings {
    /// Without the properties: there are passwords among them.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("KafkaSettings")
            .field("brokers", &self.brokers)
            .field("linger", &self.linger)
            .field("memory", &self.memory)
            .field("patience", &self.patience)
            .field("compression", &self.compression)
            .finish_non_exhaustive()
    }
}

/// What the sink and the consumer answer for, in each of its spellings.
const OURS: [&str; 27] = [
    "acks",
    "auto.offset.reset",
    "batch.num.messages",
    "batch.size",
    "bootstrap.servers",
    "compression.codec",
    "compression.type",
    "delivery.timeout.ms",
    "enable.auto.commit",
    "enable.auto.offset.store",
    "enable.gapless.guarantee",
    "enable.idempotence",
    "group.id",
    "isolation.level",
    "linger.ms",
    "max.in.flight",
    "max.in.flight.requests.per.connection",
    "message.max.bytes",
    "message.send.max.retries",
    "message.timeout.ms",
    "metadata.broker.list",
    "partitioner",
    "queue.buffering.max.kbytes",
    "queue.buffering.max.messages",
    "queue.buffering.max.ms",
    "request.required.acks",
    "retries",
];

impl RawKafka {
    /// What is meant, or all that is wrong. Files are found from `folder`; `password`: what
    /// `password_env` or `password_file` name, read by the caller.
    pub fn resolve(
        &self,
        folder: &Path,
        password: Option<&str>,
    ) -> Result<KafkaSettings, Vec<TargetProblem>> {
        let mut problems = Vec::new();
        let mut add = |field: &str, problem: String| {
            problems.push(TargetProblem {
                field: format!("ingest.kafka.{field}"),
                problem,
            });
        };
        let is_broker = |broker: &str| {
            let port = broker.trim().rsplit_once(':');
            port.is_some_and(|(host, port)| !host.is_empty() && port.parse::<u16>().is_ok())
        };
        if !self.brokers.split(',').all(is_broker) {
            add(
                "brokers",
                "host:port, several with commas between them".into(),
            );
        }
        let second = Duration::from_secs(1);
        let linger = self.linger.map_or(Duration::from_millis(5), |span| span.0);
        if linger > second {
            add("linger", "out of range; 0ms to 1s".into());
        }
        let patience = self.patience.map_or(300 * second, |span| span.0);
        if patience < second || patience > 3_600 * second {
            add("patience", "out of range; 1s to 1h".into());
        }
        let memory = self.memory.map_or(32 << 20, |size| size.0);
        if !(1 << 20..=1 << 30).contains(&memory) {
            add("memory", "out of range; 1MiB to 1GiB".into());
        }
        let compression = self.compression.as_deref().unwrap_or("lz4");
        if !["lz4", "snappy", "none"].contains(&compression) {
            add(
                "compression",
                format!("`{compression}`; lz4, snappy or none"),
            );
        }
        let properties = self.all_properties(folder, password, &mut add);
        let settings = KafkaSettings {
            brokers: self.brokers.clone(),
            linger,
            memory,
            patience,
            compression: compression.to_owned(),
            properties,
        };
        // Names and values of properties are librdkafka's to know.
        if let Err(error) = settings.client().create_native_config() {
            add("properties", error.to_string());
        }
        if problems.is_empty() {
            Ok(settings)
        } else {
            Err(problems)
        }
    }

    /// Those that are written, and what the fields mean.
    fn all_properties(
        &self,
        folder: &Path,
        password: Option<&str>,
        add: &mut dyn FnMut(&str, String),
    ) -> BTreeMap<String, String> {
        let mut all = self.properties.clone();
        for name in all.keys() {
            let fields = security::FIELDS;
            let field = fields.iter().find(|(property, _)| property == name);
            let problem = match field {
                Some((_, field)) => format!("say {field} in [ingest.kafka] instead"),
                None if OURS.contains(&name.as_str()) => {
                    "it is set by the program; leave it out".into()
                }
                None => continue,
            };
            add(&format!("properties.{name}"), problem);
        }
        for (name, value) in security::properties(self, folder, password, add) {
            all.insert(name.to_owned(), value);
        }
        all
    }
}

impl KafkaSettings {
    pub fn brokers(&self) -> &str {
        &self.brokers
    }

    /// Of any client.
    pub(crate) fn client(&self) -> ClientConfig {
        let mut config = ClientConfig::new();
        for (name, value) in &self.properties {
            config.set(name, value);
        }
        config
            .set("bootstrap.servers", &self.brokers)
            .set("client.id", "offloop")
            // A broker that comes back is found within this.
            .set("reconnect.backoff.max.ms", "2000");
        config
    }

    /// Of a producer that never lets a message overtake another one of its partition.
    pub(super) fn producer(&self, message_bytes_max: usize) -> ClientConfig {
        let mut config = self.client();
        config
            .set("enable.idempotence", "true")
            // A message that fails for good ends the producer: none may go past it.
            .set("enable.gapless.guarantee", "true")
            // Without an end of its own; a message that timed out would be passed by the next
            // (librdkafka#4134). `patience` ends it, with all that stand behind.
            .set("message.timeout.ms", "0")
            .set("linger.ms", self.linger.as_millis().to_string())
            .set("compression.type", &self.compression)
            .set("message.max.bytes", message_bytes_max.to_string())
            .set("batch.size", message_bytes_max.min(1 << 20).to_string())
            .set("batch.num.messages", "100000")
            // Twice what the sink lets in: it is the sink that makes others wait.
            .set(
                "queue.buffering.max.kbytes",
                (2 * self.memory / 1_024).to_string(),
            )
            .set("queue.buffering.max.messages", "10000000")
            // The same partition for the same key as Kafka's own clients choose.
            .set("partitioner", "murmur2_random");
        config
    }

    /// The same with each message by itself, so that the broker's refusal is one row's.
    pub(super) fn careful_producer(&self) -> ClientConfig {
        let mut config = self.producer(64 << 20);
        config
            .set("enable.gapless.guarantee", "false")
            .set("linger.ms", "0")
            .set("batch.num.messages", "1");
        config
    }
}
