//! Whether the brokers let this program in, and if not, why.
//!
//! A client that asks questions is told nothing but that time is up: what the brokers said of its password or
//! its certificate goes to a queue that nobody reads there. So a producer of its own knocks first.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use rdkafka::config::FromClientConfigAndContext;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::producer::{BaseProducer, DeliveryResult, Producer as _, ProducerContext};
use rdkafka::{ClientConfig, ClientContext};

use super::place::ASK;

/// A look at what the brokers say to a new connection.
const KNOCK: Duration = Duration::from_millis(100);

/// Why a question has no answer.
#[derive(Debug, thiserror::Error)]
pub(super) enum Unanswered {
    /// In the client's words, and what of the configuration they are about.
    #[error("{reason}{remedy}")]
    Refused {
        reason: String,
        remedy: &'static str,
    },
    #[error(transparent)]
    Kafka(#[from] KafkaError),
}

/// What a client complains of while it tries to be let in.
#[derive(Debug, Default)]
struct Complaints(Mutex<Complaint>);

#[derive(Debug, Clone, Default)]
struct Complaint {
    last: Option<(RDKafkaErrorCode, String)>,
    /// No broker is left to be tried at once.
    all_down: bool,
}

impl ClientContext for Complaints {
    fn log(&self, _: rdkafka::config::RDKafkaLogLevel, _: &str, _: &str) {}

    fn error(&self, error: KafkaError, reason: &str) {
        let mut complaint = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match error.rdkafka_error_code() {
            Some(RDKafkaErrorCode::AllBrokersDown) => complaint.all_down = true,
            // With TLS 1.3 the broker's word on our certificate comes after the handshake.
            Some(_) if reason.contains("tls alert") => {
                complaint.last = Some((RDKafkaErrorCode::SSL, reason.to_owned()));
            }
            Some(code) => complaint.last = Some((code, reason.to_owned())),
            None => {}
        }
    }
}

impl ProducerContext for Complaints {
    type DeliveryOpaque = ();

    fn delivery(&self, _: &DeliveryResult<'_>, (): ()) {}
}

impl Complaint {
    /// Waiting will not mend it.
    fn is_final(&self) -> bool {
        let last = self.last.as_ref();
        self.all_down
            && last.is_some_and(|(code, _)| {
                matches!(
                    code,
                    RDKafkaErrorCode::Authentication | RDKafkaErrorCode::SSL
                )
            })
    }

    fn told(self) -> Unanswered {
        let Some((code, reason)) = self.last else {
            // As a broker does to which somebody speaks who should first say who he is.
            return Unanswered::Refused {
                reason: format!("no broker has answered within {ASK:?}"),
                remedy: "; see brokers, tls and user in [ingest.kafka]",
            };
        };
        let remedy = match code {
            RDKafkaErrorCode::Authentication => {
                "; see user, password and mechanism in [ingest.kafka]"
            }
            RDKafkaErrorCode::SSL => "; see tls, ca_file and certificate_file in [ingest.kafka]",
            _ if reason.contains("SSL") => "; see tls in [ingest.kafka]",
            _ => "",
        };
        Unanswered::Refused { reason, remedy }
    }
}

/// Until some broker lets this program in.
pub(super) fn knock(client: &ClientConfig) -> Result<(), Unanswered> {
    let door: BaseProducer<Complaints> =
        BaseProducer::from_config_and_context(client, Complaints::default())?;
    let until = Instant::now() + ASK;
    loop {
        if door.client().fetch_cluster_id(KNOCK).is_some() {
            return Ok(());
        }
        door.poll(Duration::ZERO);
        let complaint = door.context().0.lock();
        let complaint = complaint.unwrap_or_else(PoisonError::into_inner).clone();
        if complaint.is_final() || Instant::now() > until {
            return Err(complaint.told());
        }
    }
}
