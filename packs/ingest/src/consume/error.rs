//! Why a consumer does not go on.

use rdkafka::error::KafkaError;

use crate::sink::SinkError;

/// Every variant says what to do next.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConsumeError {
    /// The target bears no more refused messages. All before it are stored.
    #[error("stopped by on_bad_row at {topic}[{partition}] offset {offset}: {why}")]
    BadMessage {
        topic: String,
        partition: i32,
        offset: u64,
        why: String,
    },
    #[error("there is no topic `{topic}` at {brokers}; make it")]
    NoTopic { topic: String, brokers: String },
    /// The topic was made anew, or cut by a broker that lost its end.
    #[error(
        "{topic}[{partition}] ends at offset {end}, and offset {stored} is stored already: if the topic was made anew, delete the rows of group `{group}` in offloop_ingest_streams beside the table"
    )]
    BehindEnd {
        topic: String,
        partition: i32,
        group: String,
        end: u64,
        stored: u64,
    },
    /// The target's place has no commit that holds rows and offsets.
    #[error("target `{target}` cannot hold offsets beside its rows")]
    NoPositions { target: String },
    #[error("Kafka at {brokers}")]
    Kafka {
        brokers: String,
        #[source]
        cause: KafkaError,
    },
    #[error(transparent)]
    Sink(#[from] SinkError),
    /// Batches of partitions that are to be given back did not end in time.
    #[error("batches were still being stored after {seconds} s")]
    Stuck { seconds: u64 },
    /// Its thread ended by itself.
    #[error("the consumer's thread has ended")]
    Ended,
}

impl ConsumeError {
    /// It needs a person; otherwise it is tried again after a while.
    pub const fn is_final(&self) -> bool {
        matches!(
            self,
            Self::BadMessage { .. } | Self::NoPositions { .. } | Self::Ended
        )
    }
}
