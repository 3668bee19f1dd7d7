//! Orders for many finished jobs, and their export: page by page, told as it goes, at a rate.
//!
//! The answer is NDJSON. Whoever leaves ends it: what was done stays done, and the same request goes on
//! with what is left. Memory is one page, however many jobs there are.

use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderValue, Response, Uri, header};
use bytes::Bytes;
use offloop_job::limits::PAGE_ROWS_MAX;
use offloop_job::{JobId, JobState};
use offloop_store::{Cursor, DeleteOutcome, JobFilter, ListRequest, ReviveOutcome, StoreError};
use offloop_wire::{JobView, SweepLine, job_body};
use tokio::sync::{OwnedSemaphorePermit, watch};

use super::{Answer, filter};
use crate::door::{Inner, is_set};
use crate::problem::{Kind, Refusal};
use crate::query::Query;

const NDJSON: HeaderValue = HeaderValue::from_static("application/x-ndjson");
/// A line of progress at most this often.
const TOLD_EVERY: Duration = Duration::from_millis(250);
/// Orders in one commit. Few enough that others are not held up by it.
const AT_ONCE: u32 = 200;
const RATE_MAX: u32 = 100_000;
/// With a rate, a step is what a tenth of a second brings.
const STEPS_PER_SECOND: u32 = 10;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Order {
    Retry,
    Delete,
}

impl Order {
    /// The states that it is for, as a person asks for them.
    const fn takes(self, state: JobState) -> bool {
        match self {
            Self::Retry => matches!(
                state,
                JobState::Failed | JobState::Cancelled | JobState::Expired
            ),
            Self::Delete => state.is_final(),
        }
    }
}

pub(super) async fn retry(State(door): State<Arc<Inner>>, uri: Uri) -> Answer {
    sweep(door, &uri, Order::Retry)
}

pub(super) async fn delete(State(door): State<Arc<Inner>>, uri: Uri) -> Answer {
    sweep(door, &uri, Order::Delete)
}

fn sweep(door: Arc<Inner>, uri: &Uri, order: Order) -> Answer {
    let query = Query::read_with(uri, &filter::with(&["rate", "dry_run"]), &filter::MANY)?;
    let mut wanted = filter::read(&query, door.handle.now())?;
    if order == Order::Delete && wanted.state.is_none() {
        let detail = "query parameter `state` is missing; say which jobs are to be forgotten: completed, failed, cancelled or expired";
        return Err(Kind::InvalidParameter.say(detail).into());
    }
    let state = *wanted.state.get_or_insert(JobState::Failed);
    if !order.takes(state) {
        let detail = match order {
            Order::Retry => format!(
                "query parameter `state` is {state}; only failed, cancelled and expired jobs can be retried"
            ),
            Order::Delete => format!(
                "query parameter `state` is {state}; only finished jobs can be forgotten, cancel them first"
            ),
        };
        return Err(Kind::InvalidParameter.say(detail).into());
    }
    let rate = query.with("rate", |text| match text.parse() {
        Ok(rate) if (1..=RATE_MAX).contains(&rate) => Ok(rate),
        _ => Err(format!("is {text:?}; give 1 to {RATE_MAX} jobs per second")),
    })?;
    let dry_run = query.with("dry_run", |text| match text {
        "true" => Ok(true),
        "false" => Ok(false),
        other => Err(format!("is {other:?}; give true or false")),
    })?;
    let pages = Pages::new(door, wanted)?;
    let sweep = Sweep {
        pages,
        order: dry_run.is_none_or(|dry| !dry).then_some(order),
        rate,
        due: Instant::now(),
        line: SweepLine::default(),
        ended: false,
    };
    let stream = futures_util::stream::unfold(sweep, |mut sweep| async move {
        let text = sweep.next().await?;
        Some((Ok::<_, std::convert::Infallible>(text), sweep))
    });
    Ok(ndjson(Body::from_stream(stream)))
}

fn ndjson(body: Body) -> Response<Body> {
    let mut response = Response::new(body);
    response.headers_mut().insert(header::CONTENT_TYPE, NDJSON);
    response
}

/// Ids of the jobs that fit, newest first.
struct Pages {
    door: Arc<Inner>,
    filter: JobFilter,
    found: std::vec::IntoIter<JobId>,
    cursor: Option<Cursor>,
    last: bool,
    closing: watch::Receiver<bool>,
    _permit: OwnedSemaphorePermit,
}

impl Pages {
    /// As many at a time as bulk requests: they are the same load.
    fn new(door: Arc<Inner>, filter: JobFilter) -> Result<Self, Refusal> {
        let Ok(permit) = Arc::clone(&door.bulks).try_acquire_owned() else {
            let detail = format!(
                "{} bulk requests are under way, the limit",
                door.config.bulk_max
            );
            return Err(Kind::TooMany.say(detail).into());
        };
        Ok(Self {
            closing: door.closing.subscribe(),
            door,
            filter,
            found: Vec::new().into_iter(),
            cursor: None,
            last: false,
            _permit: permit,
        })
    }

    /// At most `limit` of a page; empty when there are no more. A page may be empty and not the last.
    async fn take(&mut self, limit: usize) -> Result<Option<Vec<JobId>>, StoreError> {
        if self.found.len() == 0 {
            if self.last {
                return Ok(None);
            }
            let page = self
                .door
                .handle
                .jobs(ListRequest {
                    now: self.door.handle.now(),
                    filter: self.filter.clone(),
                    limit: PAGE_ROWS_MAX,
                    cursor: self.cursor.take(),
                })
                .await?;
            let ids: Vec<_> = page.jobs.iter().map(|job| job.id).collect();
            self.found = ids.into_iter();
            self.last = page.next.is_none();
            self.cursor = page.next;
        }
        Ok(Some(self.found.by_ref().take(limit).collect()))
    }
}

struct Sweep {
    pages: Pages,
    /// `None`: only counted.
    order: Option<Order>,
    rate: Option<u32>,
    /// When the next step may be.
    due: Instant,
    line: SweepLine,
    ended: bool,
}

impl Sweep {
    /// The next line; the last one says how it ended.
    async fn next(&mut self) -> Option<Bytes> {
        if self.ended {
            return None;
        }
        let told = Instant::now();
        loop {
            let stopped = tokio::select! {
                () = tokio::time::sleep_until(self.due.into()) => None,
                () = is_set(&mut self.pages.closing) => {
                    Some("the server is shutting down; send it again to go on".to_owned())
                }
            };
            let step = match stopped {
                Some(why) => Err(why),
                None => self.step().await.map_err(|error| error.to_string()),
            };
            match step {
                Ok(true) if told.elapsed() < TOLD_EVERY => {}
                Ok(true) => break,
                Ok(false) => {
                    self.ended = true;
                    self.line.done = true;
                    break;
                }
                Err(why) => {
                    self.ended = true;
                    self.line.stopped = Some(why);
                    break;
                }
            }
        }
        Some(self.line.to_line().into())
    }

    /// Whether there is more.
    async fn step(&mut self) -> Result<bool, StoreError> {
        let count = self
            .rate
            .map_or(AT_ONCE, |rate| (rate / STEPS_PER_SECOND).clamp(1, AT_ONCE));
        let Some(ids) = self.pages.take(count as usize).await? else {
            return Ok(false);
        };
        if let (Some(rate), Some(_)) = (self.rate, self.order) {
            let pause = Duration::from_secs_f64(ids.len() as f64 / f64::from(rate));
            self.due = Instant::now().max(self.due) + pause;
        }
        if ids.is_empty() {
            return Ok(true);
        }
        let handle = &self.pages.door.handle;
        let found = ids.len() as u64;
        let done = match self.order {
            None => 0,
            Some(Order::Retry) => {
                let outcomes = handle.retry_many(ids).await?;
                let done =
                    |outcome: &&ReviveOutcome| matches!(outcome, ReviveOutcome::Revived { .. });
                outcomes.iter().filter(done).count()
            }
            Some(Order::Delete) => {
                let outcomes = handle.delete_many(ids).await?;
                let done = |outcome: &&DeleteOutcome| matches!(outcome, DeleteOutcome::Deleted);
                outcomes.iter().filter(done).count()
            }
        };
        self.line.found += found;
        match self.order {
            None => {}
            Some(Order::Retry) => *self.line.retried.get_or_insert(0) += done as u64,
            Some(Order::Delete) => *self.line.deleted.get_or_insert(0) += done as u64,
        }
        if self.order.is_some() {
            self.line.skipped += found - done as u64;
        }
        Ok(true)
    }
}

/// What a line of an export is.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Form {
    /// Everything that is known of the job.
    Record,
    /// What `POST /v1/jobs` takes.
    Job,
}

/// `GET /v1/jobs/export`.
pub(super) async fn export(State(door): State<Arc<Inner>>, uri: Uri) -> Answer {
    let query = Query::read_with(&uri, &filter::with(&["as"]), &filter::MANY)?;
    let wanted = filter::read(&query, door.handle.now())?;
    if !filter::is_given(&query) {
        let detail = "say which jobs, such as state=failed or finished_from=24h";
        return Err(Kind::InvalidParameter.say(detail).into());
    }
    let form = query.with("as", |text| match text {
        "record" => Ok(Form::Record),
        "job" => Ok(Form::Job),
        other => Err(format!(
            "is {other:?}; give record (all that is known) or job (as POST /v1/jobs takes it)"
        )),
    })?;
    let pages = Pages::new(door, wanted)?;
    let state = (pages, form.unwrap_or(Form::Record));
    let stream = futures_util::stream::unfold(state, |(mut pages, form)| async move {
        let text = lines(&mut pages, form).await?;
        Some((text, (pages, form)))
    });
    Ok(ndjson(Body::from_stream(stream)))
}

/// Jobs whose records are together in memory.
const EXPORTED_AT_ONCE: usize = 32;

/// The next lines. An error cuts the answer off, so that half an export is not taken for a whole one.
async fn lines(pages: &mut Pages, form: Form) -> Option<Result<Bytes, StoreError>> {
    let mut text = Vec::new();
    while text.is_empty() {
        let ids = match pages.take(EXPORTED_AT_ONCE).await {
            Ok(ids) => ids?,
            Err(error) => return Some(Err(error)),
        };
        for id in ids {
            let job = match pages.door.handle.job(id).await {
                Ok(Some(job)) => job,
                Ok(None) => continue, // it went meanwhile
                Err(error) => return Some(Err(error)),
            };
            let hidden = pages.door.handle.hides_payload(&job.summary.task);
            let written = match form {
                Form::Record => serde_json::to_vec(&JobView::from(&job)),
                // Without its payload it would be another job.
                Form::Job if hidden => continue,
                Form::Job => serde_json::to_vec(&job_body(&job)),
            };
            match written {
                Ok(line) => text.extend_from_slice(&line),
                Err(error) => {
                    tracing::error!(%error, job = %id, "a job could not be written as JSON");
                    continue;
                }
            }
            text.push(b'\n');
        }
    }
    Some(Ok(text.into()))
}
