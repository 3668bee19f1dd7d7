//! `POST /v1/jobs` with NDJSON: many jobs in, answered line by line while they come.
//!
//! Lines are read into batches; up to [`IN_FLIGHT`] batches are with the store at a time, and no
//! more is read from the sender meanwhile. A line that cannot be costs only itself.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use axum::body::Body;
use axum::extract::Request;
use axum::http::{HeaderValue, Response, StatusCode, header};
use bytes::Bytes;
use futures_util::stream::{FuturesOrdered, StreamExt as _};
use http_body_util::BodyExt as _;
use offloop_job::{GroupId, NewJob, Timestamp};
use offloop_runtime::EnqueueError;
use offloop_store::InsertOutcome;
use offloop_wire::{
    BulkErrors, BulkLine, BulkSummary, JobReader, Problem, write_created_line, write_line,
};
use tokio::sync::{OwnedSemaphorePermit, mpsc};

use super::lines::{Line, Lines};
use super::{Answer, json};
use crate::body;
use crate::door::Inner;
use crate::problem::{Kind, Refusal, of_body, of_enqueue, of_refusal};
use crate::query::Query;

/// Lines of one commit.
const BATCH_LINES: usize = 512;
/// Payloads of one commit, roughly.
const BATCH_BYTES: usize = 1 << 20;
/// Batches with the store.
const IN_FLIGHT: usize = 4;
/// Answered batches that the caller has not read yet. Some callers send everything first and read
/// then: this and the socket's buffers are what they may send; more needs `?answer=summary`.
const UNREAD_BATCHES: usize = 128;
/// Refusals that a summary tells in full.
const SUMMARY_ERRORS: usize = 100;

const NDJSON: HeaderValue = HeaderValue::from_static("application/x-ndjson");

/// `group`: whose members they are.
pub(super) async fn post_many(
    door: Arc<Inner>,
    request: Request,
    group: Option<GroupId>,
) -> Answer {
    let (parts, body) = request.into_parts();
    let query = Query::read(&parts.uri, &["answer"])?;
    let summary = query.with("answer", |text| match text {
        "lines" => Ok(false),
        "summary" => Ok(true),
        other => Err(format!("is {other:?}; give lines or summary")),
    })?;
    let permit = permit(&door)?;
    if summary == Some(true) {
        let mut sink = Sink::Summary(BulkSummary::default());
        Bulk::new(door, permit, group).run(body, &mut sink).await;
        let Sink::Summary(summary) = sink else {
            unreachable!("a sink keeps its kind")
        };
        return json(StatusCode::OK, &summary);
    }
    let (out, answers) = mpsc::channel(UNREAD_BATCHES);
    tokio::spawn(async move {
        let mut sink = Sink::Lines {
            out,
            text: Vec::new(),
        };
        Bulk::new(door, permit, group).run(body, &mut sink).await;
    });
    let stream = futures_util::stream::unfold(answers, |mut answers| async move {
        let text: Bytes = answers.recv().await?;
        Some((Ok::<_, std::convert::Infallible>(text), answers))
    });
    let mut response = Response::new(Body::from_stream(stream));
    response.headers_mut().insert(header::CONTENT_TYPE, NDJSON);
    Ok(response)
}

fn permit(door: &Inner) -> Result<OwnedSemaphorePermit, Refusal> {
    Arc::clone(&door.bulks).try_acquire_owned().map_err(|_| {
        let detail = format!(
            "{} bulk requests are under way, the limit",
            door.config.bulk_max
        );
        Kind::TooMany.say(detail).into()
    })
}

/// Members of a new group; whether the body came to its end.
pub(super) async fn members(
    door: Arc<Inner>,
    body: Body,
    group: GroupId,
) -> Result<(BulkSummary, bool), Refusal> {
    let permit = permit(&door)?;
    let mut sink = Sink::Summary(BulkSummary::default());
    let whole = Bulk::new(door, permit, Some(group))
        .run(body, &mut sink)
        .await;
    match sink {
        Sink::Summary(summary) => Ok((summary, whole)),
        Sink::Lines { .. } => unreachable!("a sink keeps its kind"),
    }
}

/// Jobs for one commit, and the lines that are answered with it.
#[derive(Debug, Default)]
struct Batch {
    jobs: Vec<NewJob>,
    /// Every line in order; `None` for one whose job is the next of `jobs`.
    lines: Vec<(u64, Option<Box<Problem>>)>,
    bytes: usize,
}

impl Batch {
    fn is_full(&self) -> bool {
        self.lines.len() >= BATCH_LINES || self.bytes >= BATCH_BYTES
    }
}

/// A batch that the store has answered.
struct Answered {
    lines: Vec<(u64, Option<Box<Problem>>)>,
    outcomes: Result<VecDeque<InsertOutcome>, Box<Problem>>,
}

async fn insert(door: Arc<Inner>, batch: Batch) -> Answered {
    let Batch { jobs, lines, .. } = batch;
    let inserted: Result<_, EnqueueError> = if jobs.is_empty() {
        Ok(Vec::new())
    } else {
        door.handle.enqueue(jobs).await
    };
    let outcomes = inserted
        .map(VecDeque::from)
        .map_err(|error| Box::new(of_enqueue(&error)));
    Answered { lines, outcomes }
}

/// One bulk request.
struct Bulk {
    door: Arc<Inner>,
    reader: JobReader,
    lines: Lines,
    batch: Batch,
    group: Option<GroupId>,
    _permit: OwnedSemaphorePermit,
}

/// How reading goes on.
enum Reading {
    Open,
    Ended,
    /// It broke off; the problem is told in the place of the next line.
    Broken(Box<Problem>),
}

impl Bulk {
    fn new(door: Arc<Inner>, permit: OwnedSemaphorePermit, group: Option<GroupId>) -> Self {
        let lines = Lines::new(door.config.job_bytes_max);
        Self {
            door,
            reader: JobReader::new(),
            lines,
            batch: Batch::default(),
            group,
            _permit: permit,
        }
    }

    /// Whether the body came to its end.
    async fn run(mut self, mut body: Body, sink: &mut Sink) -> bool {
        let mut in_flight = FuturesOrdered::new();
        let mut reading = Reading::Open;
        let mut left = self.door.config.bulk_bytes_max;
        loop {
            self.fill();
            let idle = in_flight.is_empty();
            let over = !matches!(reading, Reading::Open);
            // A batch that is not full goes when nothing is under way: one line alone is not held
            // back, and a flood of lines fills its batches while the store is at work.
            let ripe = self.batch.is_full() || over || idle;
            if ripe && !self.batch.lines.is_empty() && in_flight.len() < IN_FLIGHT {
                let batch = std::mem::take(&mut self.batch);
                in_flight.push_back(insert(Arc::clone(&self.door), batch));
                continue;
            }
            if over && idle {
                break;
            }
            let may_read = !over && !self.batch.is_full();
            tokio::select! {
                biased;
                Some(answered) = in_flight.next(), if !idle => {
                    if sink.put(answered).await.is_err() {
                        return false; // the caller is gone; what is with the store stays there
                    }
                }
                frame = body.frame(), if may_read => {
                    reading = self.take(frame, &mut left);
                }
            }
        }
        if let Reading::Broken(problem) = reading {
            let lines = vec![(self.lines.number() + 1, Some(problem))];
            let _ = sink
                .put(Answered {
                    lines,
                    outcomes: Ok(VecDeque::new()),
                })
                .await;
            return false;
        }
        true
    }

    fn take(
        &mut self,
        frame: Option<Result<http_body::Frame<Bytes>, axum::Error>>,
        left: &mut u64,
    ) -> Reading {
        match frame {
            None => {
                self.lines.finish();
                Reading::Ended
            }
            Some(Err(error)) => Reading::Broken(body::refusal(&error).0),
            Some(Ok(frame)) => {
                let Ok(data) = frame.into_data() else {
                    return Reading::Open;
                };
                if data.len() as u64 > *left {
                    let limit = self.door.config.bulk_bytes_max;
                    let detail = format!(
                        "the body is over {limit} bytes; lines from here on were not read, send them in another request"
                    );
                    return Reading::Broken(Box::new(Kind::TooLarge.say(detail)));
                }
                *left -= data.len() as u64;
                self.lines.push(data);
                Reading::Open
            }
        }
    }

    fn read(&mut self, line: Line, now: Timestamp) -> Result<NewJob, Box<Problem>> {
        let Line::Text(range) = line else {
            let limit = self.door.config.job_bytes_max;
            let detail = format!("the line is over {limit} bytes, the limit");
            return Err(Box::new(Kind::TooLarge.say(detail)));
        };
        let block = self.lines.block();
        let mut job = self
            .reader
            .read(block, range, now)
            .map_err(|error| Box::new(of_body(error, Kind::InvalidJob)))?;
        job.options.group = self.group;
        match self.door.handle.check(&job) {
            Ok(()) => Ok(job),
            Err(error) => Err(Box::new(of_enqueue(&error))),
        }
    }

    /// Reads lines that are there into the batch.
    fn fill(&mut self) {
        let now = self.door.handle.now();
        let before = self.batch.lines.len();
        while !self.batch.is_full() {
            let Some((number, line)) = self.lines.next() else {
                break;
            };
            match self.read(line, now) {
                Ok(job) => {
                    self.batch.bytes += job.payload.len();
                    self.batch.jobs.push(job);
                    self.batch.lines.push((number, None));
                }
                Err(problem) => self.batch.lines.push((number, Some(problem))),
            }
        }
        let read = self.batch.lines.len() - before;
        self.door
            .metrics
            .bulk_lines
            .fetch_add(read as u64, Ordering::Relaxed);
    }
}

/// Where answers go.
enum Sink {
    Lines {
        out: mpsc::Sender<Bytes>,
        text: Vec<u8>,
    },
    Summary(BulkSummary),
}

/// Nobody reads the answers any more.
struct Gone;

impl Sink {
    async fn put(&mut self, answered: Answered) -> Result<(), Gone> {
        let Answered {
            lines,
            mut outcomes,
        } = answered;
        for (line, problem) in lines {
            let outcome = match (problem, &mut outcomes) {
                (Some(problem), _) => Err(problem),
                (None, Err(problem)) => Err(problem.clone()),
                (None, Ok(outcomes)) => match outcomes.pop_front() {
                    Some(InsertOutcome::Refused(refusal)) => Err(Box::new(of_refusal(&refusal))),
                    Some(outcome) => Ok(outcome),
                    None => {
                        let detail = "the store answered too little";
                        Err(Box::new(Kind::Internal.say(detail)))
                    }
                },
            };
            self.line(line, outcome);
        }
        if let Self::Lines { out, text } = self {
            let bytes = Bytes::copy_from_slice(text);
            text.clear();
            return out.send(bytes).await.map_err(|_| Gone);
        }
        Ok(())
    }

    fn line(&mut self, line: u64, outcome: Result<InsertOutcome, Box<Problem>>) {
        match (self, outcome) {
            (Self::Lines { text, .. }, Ok(InsertOutcome::Created { id, .. })) => {
                write_created_line(text, line, id);
            }
            (Self::Lines { text, .. }, outcome) => {
                let (status, existing, error) = match outcome {
                    Ok(InsertOutcome::Existing { id, .. }) => (200, Some(id.to_string()), None),
                    Err(problem) => (problem.status, None, Some(*problem)),
                    Ok(_) => return, // created and refused are told elsewhere
                };
                write_line(
                    text,
                    &BulkLine {
                        line,
                        status,
                        id: None,
                        existing,
                        error,
                    },
                );
            }
            (Self::Summary(sum), Ok(InsertOutcome::Existing { .. })) => sum.existing += 1,
            (Self::Summary(sum), Ok(_)) => sum.accepted += 1,
            (Self::Summary(sum), Err(error)) => {
                sum.refused += 1;
                if sum.errors.len() < SUMMARY_ERRORS {
                    let error = *error;
                    sum.errors.push(BulkErrors { line, error });
                }
            }
        }
    }
}
