//! One try to tell one receiver of one end: the task `webhook.deliver`.
//!
//! Must never: hold its slot for a receiver that is busy with others, or try one that was given up.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use offloop::egress::{EgressError, Target};
use offloop::lane::Work;
use offloop::{TaskContext, TaskError, TaskOutput};

use crate::event::Delivery;
use crate::health::id_of;
use crate::pack::Shared;
use crate::send::{Answer, SendError};

/// A delivery that finds its receiver busy comes again after so long, and up to twice that.
const BUSY_WAIT: Duration = Duration::from_secs(2);
/// The same of a receiver that fails.
const FAILING_WAIT: Duration = Duration::from_secs(30);
/// Least pause that a receiver may ask for.
const RETRY_AFTER_MIN: Duration = Duration::from_secs(5);

/// Deliveries under way, by receiver.
#[derive(Debug, Default)]
pub(crate) struct UnderWay(Mutex<HashMap<String, u16>>);

/// One of them.
pub(crate) struct Seat<'a> {
    under_way: &'a UnderWay,
    host: String,
}

impl UnderWay {
    fn lock(&self) -> MutexGuard<'_, HashMap<String, u16>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A place among at most `most`; `None`: all are taken.
    pub(crate) fn seat(&self, host: String, most: u16) -> Option<Seat<'_>> {
        let mut hosts = self.lock();
        let taken = hosts.entry(host.clone()).or_default();
        if *taken >= most {
            return None;
        }
        *taken += 1;
        drop(hosts);
        Some(Seat {
            under_way: self,
            host,
        })
    }
}

impl Drop for Seat<'_> {
    fn drop(&mut self) {
        let mut hosts = self.under_way.lock();
        if let Some(taken) = hosts.get_mut(&self.host) {
            *taken -= 1;
            if *taken == 0 {
                hosts.remove(&self.host);
            }
        }
    }
}

/// Of each job its own, so that those that wait do not come all at once: once to twice as long.
fn spread(wait: Duration, work: &Work) -> Duration {
    wait + wait.mul_f64(f64::from((work.lease.0 % 97) as u32) / 97.0)
}

pub(crate) async fn deliver(
    shared: Arc<Shared>,
    context: TaskContext,
) -> Result<TaskOutput, TaskError> {
    let delivery: Delivery = offloop::payload(&context)?;
    let now = shared.now()?;
    let id = id_of(&delivery.url);
    if shared.health.disabled(&id).is_some() {
        let message = format!(
            "its receiver {id} is given up; see GET /v1/webhooks, and POST /v1/webhooks/{id}/enable before this job is retried"
        );
        return Err(TaskError::invalid(message));
    }
    let target = shared.sender.policy().target(&delivery.url);
    let target = target.map_err(|error| TaskError::invalid(format!("the URL {error}")))?;
    let failing = shared.health.is_failing(&id);
    let most = if failing { 1 } else { shared.per_host };
    let Some(_seat) = shared.under_way.seat(target.authority(), most) else {
        let wait = if failing { FAILING_WAIT } else { BUSY_WAIT };
        return Err(TaskError::snooze(spread(wait, context.work())));
    };
    let age = now.as_millis().saturating_sub(delivery.since_ms);
    let sent = send(&shared, &delivery, &target, &context).await;
    let told = sent.map_err(Refused::from).and_then(judged);
    let Err(refused) = told else {
        if let Some(row) = shared.health.well(&id) {
            shared.write(row).await;
        }
        return Ok(TaskOutput::none());
    };
    let receiver = target.authority();
    let (what, gone) = (&refused.what, refused.gone);
    if let Some(row) = shared.health.failed(&id, &receiver, what, gone, now) {
        shared.write(row).await;
    }
    let old = Duration::from_millis(age) >= shared.disable_after;
    match refused.again {
        _ if gone || refused.hopeless || old => Err(TaskError::invalid(refused.what)),
        Some(after) => Err(TaskError::snooze(after.max(RETRY_AFTER_MIN))),
        None => Err(TaskError::error(refused.what)),
    }
}

async fn send(
    shared: &Shared,
    delivery: &Delivery,
    target: &Target,
    context: &TaskContext,
) -> Result<Answer, SendError> {
    let id = format!("msg_{}", context.work().job);
    let seconds = shared.now().map_or(0, |now| now.as_millis() / 1_000);
    let body = Bytes::copy_from_slice(delivery.event.get().as_bytes());
    let secrets = shared.secrets.fresh();
    let signed = secrets.sign(&delivery.secret, &id, seconds, &body);
    let signed = signed.ok_or_else(|| SendError::Secret(delivery.secret.clone()))?;
    let headers = [
        ("webhook-id", id),
        ("webhook-timestamp", seconds.to_string()),
        ("webhook-signature", signed),
    ];
    shared.sender.post(target, &headers, body).await
}

/// Why a delivery did not arrive.
struct Refused {
    what: String,
    /// The receiver asks to be left alone for so long.
    again: Option<Duration>,
    /// The receiver is no more.
    gone: bool,
    /// Another try would not help.
    hopeless: bool,
}

impl From<SendError> for Refused {
    fn from(error: SendError) -> Self {
        let hopeless =
            matches!(&error, SendError::Egress(inner) if !EgressError::retry_helps(inner));
        Self {
            what: told(&error),
            again: None,
            gone: false,
            hopeless,
        }
    }
}

/// The error with its causes.
fn told(error: &SendError) -> String {
    let mut text = error.to_string();
    let mut cause = std::error::Error::source(error);
    while let Some(inner) = cause {
        let more = inner.to_string();
        if !text.contains(&more) {
            text = format!("{text}: {more}");
        }
        cause = inner.source();
    }
    text
}

fn judged(answer: Answer) -> Result<(), Refused> {
    let Answer {
        status,
        retry_after,
    } = answer;
    let what = match status {
        200..=299 => return Ok(()),
        300..=399 => {
            format!("the receiver answered {status}: redirects are not followed; give its new URL")
        }
        _ => format!("the receiver answered {status}"),
    };
    Err(Refused {
        what,
        again: retry_after,
        gone: status == 410,
        hopeless: false,
    })
}
