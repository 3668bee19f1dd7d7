//! Partitions that come and go.
//!
//! Must never: read a partition before its earlier owner is shut out; give one back while a batch
//! of it is under way, unless it is lost already.

use futures_util::future::try_join_all;
use rdkafka::consumer::Consumer as _;
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};
use std::sync::Arc;
use std::time::Duration;

use super::client::Move;
use super::engine::Engine;
use super::error::ConsumeError;
use super::part::Part;
use super::raw::Start;
use super::run::Stop;
use crate::sink::{Resumed, RowSink, SinkError, Stream};

/// One question to the cluster.
const ASK: Duration = Duration::from_secs(20);
const GIVE_BACK: Duration = Duration::from_secs(30);
const STOP_LOOK: Duration = Duration::from_millis(100);

/// A partition that was taken over.
struct Taken {
    partition: i32,
    low: u64,
    high: u64,
    sink: Arc<dyn RowSink>,
    resumed: Resumed,
}

impl Engine {
    pub(super) fn rebalance(&mut self, change: Move, stop: &Stop) -> Result<(), ConsumeError> {
        self.tell.rebalanced();
        self.moving = Some(change.clone());
        match change {
            Move::Assign(partitions) => self.assign(&partitions, stop)?,
            Move::Revoke { partitions, lost } => self.give_back(&partitions, lost)?,
        }
        self.moving = None;
        Ok(())
    }

    fn assign(&mut self, partitions: &[i32], stop: &Stop) -> Result<(), ConsumeError> {
        let mut list = TopicPartitionList::new();
        for taken in self.take_over(partitions, stop)? {
            let stored = taken.resumed.notes.first().map_or(0, |note| note.to);
            let (topic, partition) = (Arc::clone(&self.plan.consumer.topic), taken.partition);
            if stored > taken.high {
                return Err(ConsumeError::BehindEnd {
                    topic: topic.to_string(),
                    partition,
                    group: self.plan.consumer.group.to_string(),
                    end: taken.high,
                    stored,
                });
            }
            if stored < taken.low {
                self.tell.missed(taken.low - stored);
                tracing::warn!(
                    consumer = %self.plan.consumer.name, %topic, partition, from = stored, to = taken.low,
                    "messages were dropped by their age before they were read"
                );
            }
            let from = Offset::Offset(stored.max(taken.low) as i64);
            let added = list.add_partition_offset(&topic, partition, from);
            added.map_err(|cause| self.plan.kafka_failed(cause))?;
            self.client.context().set_end(partition, taken.high);
            self.turn += 1;
            let target = &self.plan.target;
            let value = self.plan.consumer.value;
            let part = Part::new(
                partition,
                self.turn,
                taken.sink,
                &taken.resumed,
                target,
                value,
            );
            self.parts.insert(partition, part);
        }
        let assigned = self.client.incremental_assign(&list);
        assigned.map_err(|cause| self.plan.kafka_failed(cause))
    }

    /// Shuts earlier owners out of the table, all partitions at once.
    fn take_over(&self, partitions: &[i32], stop: &Stop) -> Result<Vec<Taken>, ConsumeError> {
        let consumer = &self.plan.consumer;
        let mut asked = Vec::new();
        for partition in partitions.iter().copied() {
            let ends = self
                .client
                .fetch_watermarks(&consumer.topic, partition, ASK);
            let (low, high) = ends.map_err(|cause| self.plan.kafka_failed(cause))?;
            let (low, high) = (low.max(0) as u64, high.max(0) as u64);
            let stream = Stream {
                group: Arc::clone(&consumer.group),
                topic: Arc::clone(&consumer.topic),
                partition,
                begin: match consumer.start {
                    Start::Earliest => low,
                    Start::Latest => high,
                },
            };
            let Some(sink) = self.plan.outlet.stream(&stream) else {
                return Err(ConsumeError::NoPositions {
                    target: consumer.target.to_string(),
                });
            };
            asked.push(async move {
                let resumed = sink.resume().await?;
                Ok(Taken {
                    partition,
                    low,
                    high,
                    sink,
                    resumed,
                })
            });
        }
        let all = try_join_all(asked);
        let stopped = async {
            while !stop.is_set() {
                tokio::time::sleep(STOP_LOOK).await;
            }
        };
        self.plan.runtime.block_on(async {
            tokio::select! {
                taken = all => taken.map_err(|error: SinkError| error.into()),
                () = stopped => Err(SinkError::Ended.into()),
            }
        })
    }

    fn give_back(&mut self, partitions: &[i32], lost: bool) -> Result<(), ConsumeError> {
        // Others may have lost ones already: the fence decides about what is under way.
        if !lost {
            self.wait_landed(partitions, GIVE_BACK)?;
            self.tell_group();
        }
        let mut list = TopicPartitionList::new();
        for partition in partitions {
            self.forget(*partition);
            list.add_partition(&self.plan.consumer.topic, *partition);
        }
        let given = self.client.incremental_unassign(&list);
        given.map_err(|cause| self.plan.kafka_failed(cause))
    }
}
