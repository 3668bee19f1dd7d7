//! A consumer from its start to its end: a member of the group, again and again.
//!
//! Must never: give up for what passes; go on by itself where a person is needed.

use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::Duration;

use rdkafka::error::KafkaError;
use tokio::runtime::Handle;
use tokio::sync::{oneshot, watch};
use tokio::time::Instant;

use super::client::Ears;
use super::engine::Engine;
use super::error::ConsumeError;
use super::part::Part;
use super::raw::Consumer;
use super::status::{ConsumerState, ConsumerStatus, PartitionStatus, Rate};
use crate::sink::kafka::KafkaSettings;
use crate::sink::{Outlet, Stored};
use crate::target::Target;

const WAIT_FIRST: Duration = Duration::from_secs(1);
const WAIT_MAX: Duration = Duration::from_secs(30);
/// A member that was one for so long had no trouble with its start.
const WELL: Duration = Duration::from_secs(60);

/// What a consumer needs.
#[derive(Debug, Clone)]
pub struct Plan {
    pub consumer: Consumer,
    /// The one that it names.
    pub target: Target,
    pub outlet: Arc<dyn Outlet>,
    pub kafka: KafkaSettings,
    /// Where batches are stored: threads that serve nobody.
    pub runtime: Handle,
}

impl Plan {
    pub(super) fn kafka_failed(&self, cause: KafkaError) -> ConsumeError {
        ConsumeError::Kafka {
            brokers: self.kafka.brokers().to_owned(),
            cause,
        }
    }

    pub(super) fn bad_message(&self, partition: i32, offset: u64, why: String) -> ConsumeError {
        ConsumeError::BadMessage {
            topic: self.consumer.topic.to_string(),
            partition,
            offset,
            why,
        }
    }
}

/// A wish that somebody can wait for.
#[derive(Debug, Default)]
pub(super) struct Stop {
    set: Mutex<bool>,
    bell: Condvar,
}

impl Stop {
    fn set(&self) {
        *self.set.lock().unwrap_or_else(PoisonError::into_inner) = true;
        self.bell.notify_all();
    }

    pub(super) fn is_set(&self) -> bool {
        *self.set.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits so long at most.
    fn wait(&self, most: Duration) -> bool {
        let set = self.set.lock().unwrap_or_else(PoisonError::into_inner);
        let waited = self.bell.wait_timeout_while(set, most, |set| !*set);
        *waited.unwrap_or_else(PoisonError::into_inner).0
    }
}

/// Writes the status.
#[derive(Debug, Clone)]
pub(super) struct Teller {
    to: watch::Sender<ConsumerStatus>,
    rate: Arc<Mutex<Rate>>,
}

impl Teller {
    pub(super) fn stored(&self, stored: Stored) {
        self.to.send_modify(|status| {
            status.stored += stored.rows;
            status.rejected += stored.rejects;
            status.stored_at = Some(Instant::now());
        });
    }

    pub(super) fn missed(&self, messages: u64) {
        self.to.send_modify(|status| status.missed += messages);
    }

    pub(super) fn rebalanced(&self) {
        self.to.send_modify(|status| status.rebalances += 1);
    }

    pub(super) fn report(&self, parts: &BTreeMap<i32, Part>, ears: &Ears, paused: bool) {
        let partitions: Vec<_> = parts
            .values()
            .map(|part| PartitionStatus {
                partition: part.number,
                next_offset: part.stored_to,
                lag: ears
                    .end(part.number)
                    .map(|end| end.saturating_sub(part.stored_to)),
                stored: part.rows,
                rejected: part.rejects,
            })
            .collect();
        self.to.send_modify(|status| {
            let mut rate = self.rate.lock().unwrap_or_else(PoisonError::into_inner);
            status.rate = rate.now(status.stored);
            status.state = ConsumerState::Running;
            status.error = ears.complaint();
            status.lag = partitions.iter().map(|part| part.lag).sum();
            status.paused = paused;
            status.partitions = partitions;
        });
    }

    fn ended(&self, state: ConsumerState, error: Option<String>) {
        self.to.send_modify(|status| {
            status.state = state;
            status.error = error;
            status.rate = 0.0;
            status.lag = None;
            status.paused = false;
            status.partitions.clear();
            if state == ConsumerState::Waiting {
                status.restarts += 1;
            }
        });
    }
}

/// A consumer that runs. Dropped, it is told to stop.
#[derive(Debug)]
pub struct Running {
    stop: Arc<Stop>,
    status: watch::Receiver<ConsumerStatus>,
    ended: Option<oneshot::Receiver<Result<(), ConsumeError>>>,
}

impl Running {
    /// Lets batches land for 5 s at most, and ends; [`Running::ended`] says when.
    pub fn stop(&self) {
        self.stop.set();
    }

    pub fn watch(&self) -> watch::Receiver<ConsumerStatus> {
        self.status.clone()
    }

    /// Waits for its end: `Ok` if it was stopped. Cancel-safe.
    pub async fn ended(&mut self) -> Result<(), ConsumeError> {
        let Some(ended) = &mut self.ended else {
            return Ok(());
        };
        let end = ended.await.unwrap_or(Err(ConsumeError::Ended));
        self.ended = None;
        end
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.stop.set();
    }
}

/// Begins a consumer on a thread of its own. Errors: the thread cannot be had.
pub fn start(plan: Plan) -> io::Result<Running> {
    let consumer = &plan.consumer;
    let (to, status) = watch::channel(ConsumerStatus {
        state: ConsumerState::Starting,
        ..ConsumerStatus::idle(consumer)
    });
    let tell = Teller {
        to,
        rate: Arc::new(Mutex::new(Rate::new())),
    };
    let (end, ended) = oneshot::channel();
    let stop = Arc::new(Stop::default());
    let own = Arc::clone(&stop);
    std::thread::Builder::new()
        .name("ingest-consume".into())
        .spawn(move || {
            offloop::lane::slice::compute();
            consume(&Arc::new(plan), &own, &tell, end);
        })?;
    Ok(Running {
        stop,
        status,
        ended: Some(ended),
    })
}

fn consume(
    plan: &Arc<Plan>,
    stop: &Stop,
    tell: &Teller,
    end: oneshot::Sender<Result<(), ConsumeError>>,
) {
    let mut wait = WAIT_FIRST;
    loop {
        let begun = Instant::now();
        let mut engine = Engine::open(plan, tell.clone());
        let ended = match &mut engine {
            Ok(engine) => engine.run(stop),
            Err(_) => Ok(()),
        };
        // It was not begun: the error is what `open` said.
        let (engine, ended) = match engine {
            Ok(engine) => (Some(engine), ended),
            Err(error) => (None, Err(error)),
        };
        let is_stopped = stop.is_set();
        match ended {
            Err(error) if !error.is_final() && !is_stopped => {
                let told = crate::pack::chain(&error);
                tracing::warn!(consumer = %plan.consumer.name, error = %told, "a consumer begins again after a while");
                tell.ended(ConsumerState::Waiting, Some(told));
                drop(engine);
                if begun.elapsed() >= WELL {
                    wait = WAIT_FIRST;
                }
                if stop.wait(wait) {
                    tell.ended(ConsumerState::Stopped, None);
                    let _left = end.send(Ok(()));
                    return;
                }
                wait = (wait * 2).min(WAIT_MAX);
            }
            ended => {
                let (state, told) = match &ended {
                    Err(error) if !is_stopped => {
                        (ConsumerState::Failed, Some(crate::pack::chain(error)))
                    }
                    _ => (ConsumerState::Stopped, None),
                };
                tell.ended(state, told);
                // Told before the client is closed: that may wait for a broker.
                let _left = end.send(if is_stopped { Ok(()) } else { ended });
                drop(engine);
                return;
            }
        }
    }
}
