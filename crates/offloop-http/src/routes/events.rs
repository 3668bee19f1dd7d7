//! `GET /v1/events`: what was committed, and alerts about schedules, as server-sent events.
//!
//! A reader is a place in the runtime's ring, not a buffer: one that does not read costs its socket
//! and is closed by the write deadline; one that falls behind is told `lagged`.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderMap, HeaderValue, Response, Uri, header};
use bytes::Bytes;
use futures_util::{Stream, StreamExt as _};
use offloop_job::{Event, JobId, QueueName, ScheduleName, TaskName};
use offloop_runtime::{EventCursor, Events, RuntimeHandle};
use offloop_wire::{ScheduleEventView, event_json};
use tokio::sync::{OwnedSemaphorePermit, watch};

use super::Answer;
use crate::door::{Inner, is_set};
use crate::problem::Kind;
use crate::query::Query;

/// With many readers each one is woken less often, so that a burst of events does not wake all of
/// them for each: one more millisecond per this many readers, up to half a second.
const READERS_PER_MS: usize = 20;
const PAUSE_MAX: Duration = Duration::from_millis(500);

/// What one reader wants.
#[derive(Debug, Default)]
struct Filter {
    job: Option<JobId>,
    queue: Option<QueueName>,
    task: Option<TaskName>,
    schedule: Option<ScheduleName>,
}

impl Filter {
    fn fits(&self, event: &Event) -> bool {
        match event {
            Event::Job(event) => {
                self.schedule.is_none()
                    && self.job.is_none_or(|job| job == event.job)
                    && self
                        .queue
                        .as_ref()
                        .is_none_or(|queue| *queue == event.queue)
                    && self.task.as_ref().is_none_or(|task| *task == event.task)
            }
            Event::Schedule(event) => {
                let of_jobs = self.job.is_some() || self.queue.is_some() || self.task.is_some();
                let named = self.schedule.as_ref();
                !of_jobs && named.is_none_or(|name| *name == event.schedule)
            }
        }
    }

    const fn is_given(&self) -> bool {
        self.job.is_some() || self.queue.is_some() || self.task.is_some() || self.schedule.is_some()
    }
}

/// One stream.
struct Reader {
    handle: RuntimeHandle,
    events: Events,
    filter: Filter,
    /// Tell how many events there were, this often, and not which.
    digest: Option<Duration>,
    /// Where the digest began, and when it is told.
    counting: Option<(EventCursor, Instant)>,
    keep_alive: Duration,
    closing: watch::Receiver<bool>,
    door: Arc<Inner>,
    stage: Stage,
    _permit: OwnedSemaphorePermit,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Stage {
    Hello,
    Running,
    Ended,
}

const EVENT_STREAM: HeaderValue = HeaderValue::from_static("text/event-stream");

pub(super) async fn events(State(door): State<Arc<Inner>>, headers: HeaderMap, uri: Uri) -> Answer {
    let query = Query::read(
        &uri,
        &["job", "queue", "task", "schedule", "after", "digest_ms"],
    )?;
    let filter = Filter {
        job: query.parsed("job")?,
        queue: query.parsed("queue")?,
        task: query.parsed("task")?,
        schedule: query.parsed("schedule")?,
    };
    let digest = query.with("digest_ms", |text| match text.parse() {
        Ok(ms @ 100..=60_000) => Ok(Duration::from_millis(ms)),
        _ => Err(format!("is {text:?}; give 100 to 60000")),
    })?;
    if digest.is_some() && filter.is_given() {
        let detail = "query parameter `digest_ms` counts all events; leave out job, queue, task and \
                      schedule";
        return Err(Kind::InvalidParameter.say(detail).into());
    }
    // A place that cannot be read is one of another server: the reader is told that it lags.
    let lost = EventCursor {
        epoch: 0,
        position: 0,
    };
    let told = headers
        .get("last-event-id")
        .and_then(|value| value.to_str().ok());
    let after = told
        .or(query.text("after"))
        .map(|text| text.parse().unwrap_or(lost));
    let Ok(permit) = Arc::clone(&door.subscribers).try_acquire_owned() else {
        let detail = format!(
            "{} readers of events, the limit",
            door.config.subscribers_max
        );
        return Err(Kind::TooMany.say(detail).into());
    };
    let reader = Reader {
        events: door.handle.events(after),
        handle: door.handle.clone(),
        filter,
        digest,
        counting: None,
        keep_alive: door.config.keep_alive_every,
        closing: door.closing.subscribe(),
        door,
        stage: Stage::Hello,
        _permit: permit,
    };
    let stream = futures_util::stream::unfold(reader, |mut reader| async move {
        let text = reader.next().await?;
        Some((text, reader))
    });
    Ok(event_stream(stream))
}

/// Server-sent events, each piece as it comes.
pub(super) fn event_stream(pieces: impl Stream<Item = Bytes> + Send + 'static) -> Response<Body> {
    let mut response = Response::new(Body::from_stream(pieces.map(Ok::<_, Infallible>)));
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, EVENT_STREAM);
    headers.insert("x-accel-buffering", HeaderValue::from_static("no")); // nginx would hold it back
    response
}

impl Reader {
    /// The next piece of the stream.
    async fn next(&mut self) -> Option<Bytes> {
        match self.stage {
            Stage::Ended => None,
            Stage::Hello => {
                self.stage = Stage::Running;
                let (cursor, node) = (self.events.cursor(), self.handle.node());
                let node = serde_json::Value::from(node.to_string());
                let text = format!(
                    "retry: 2000\nid: {cursor}\nevent: hello\ndata: {{\"node\":{node}}}\n\n"
                );
                Some(text.into())
            }
            Stage::Running => {
                let mut closing = self.closing.clone();
                let keep_alive = self.keep_alive;
                tokio::select! {
                    biased;
                    () = is_set(&mut closing) => {
                        self.stage = Stage::Ended;
                        Some(Bytes::from_static(b"event: shutdown\ndata: {}\n\n"))
                    }
                    text = self.read() => {
                        if text.is_none() {
                            self.stage = Stage::Ended;
                        }
                        text
                    }
                    () = tokio::time::sleep(keep_alive) => {
                        // An id without data moves the reader's place and calls no handler.
                        Some(format!(": keep-alive\nid: {}\n\n", self.events.cursor()).into())
                    }
                }
            }
        }
    }

    /// Events that fit, as text; waits for them. May be dropped while it waits.
    async fn read(&mut self) -> Option<Bytes> {
        if let Some(every) = self.digest {
            return self.read_digest(every).await;
        }
        let mut out = Vec::new();
        loop {
            let before = self.events.cursor();
            match self.events.next().await? {
                Err(_lagged) => return Some(lagged(self.events.cursor())),
                Ok(batch) => {
                    for (position, event) in (before.position + 1..).zip(&batch) {
                        if self.filter.fits(event) {
                            let cursor = EventCursor {
                                epoch: before.epoch,
                                position,
                            };
                            write(&mut out, cursor, event);
                        }
                    }
                }
            }
            if !out.is_empty() {
                return Some(out.into());
            }
            tokio::time::sleep(self.pause()).await;
        }
    }

    fn pause(&self) -> Duration {
        let readers = self.door.config.subscribers_max - self.door.subscribers.available_permits();
        Duration::from_millis((readers / READERS_PER_MS) as u64).min(PAUSE_MAX)
    }

    /// Waits for an event, then lets more come: a dashboard asks anew at each, so a busy server
    /// must not tell it of each. What is being counted is kept when this is dropped.
    async fn read_digest(&mut self, every: Duration) -> Option<Bytes> {
        if self.counting.is_none() {
            let from = self.events.cursor();
            let _ = self.events.next().await?;
            self.counting = Some((from, Instant::now() + every));
        }
        let (from, until) = self.counting?;
        tokio::time::sleep_until(until.into()).await;
        self.counting = None;
        self.events = self.handle.events(None);
        let cursor = self.events.cursor();
        let events = cursor.position.saturating_sub(from.position);
        Some(format!("id: {cursor}\nevent: digest\ndata: {{\"events\":{events}}}\n\n").into())
    }
}

fn lagged(cursor: EventCursor) -> Bytes {
    format!("id: {cursor}\nevent: lagged\ndata: {{}}\n\n").into()
}

fn write(out: &mut Vec<u8>, cursor: EventCursor, event: &Event) {
    use std::io::Write as _;
    let kind = match event {
        Event::Job(event) => event.kind.as_str(),
        Event::Schedule(event) => event.kind.as_str(),
    };
    let _ = write!(out, "id: {cursor}\nevent: {kind}\ndata: "); // a Vec takes everything
    match event {
        Event::Job(event) => event_json(out, event),
        Event::Schedule(event) => {
            let _ = serde_json::to_writer(&mut *out, &ScheduleEventView::from(event)); // as above
        }
    }
    out.extend_from_slice(b"\n\n");
}
