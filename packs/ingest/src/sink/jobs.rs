//! Rows as jobs of this server: one for each row, or one for each batch.
//!
//! A job's idempotency key is the load and its rows, so a batch that is sent again finds its jobs
//! there. The note is a record of the server's store, written when every job of the batch is
//! durable. Between the two, a crash sends the batch again: the keys see to it that no row has two
//! jobs, for as long as the server remembers them (24 hours). One job per batch has that only if
//! batches are cut at the same places again, which those that ended by their time may not be.
//!
//! Must never: note a batch that the queue has not taken whole.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use offloop::job::limits::{BATCH_JOBS_MAX, PAYLOAD_BYTES_MAX};
use offloop::job::{Collection, IdempotencyKey};
use offloop::runtime::EnqueueError;
use offloop::store::{InsertOutcome, InsertRefusal, Record, RecordScan};
use offloop::{JobOptions, NewJob, RecordWrite, RuntimeHandle, TaskName};

use super::json::JsonRows;
use super::{BatchNote, Note, Outlet, Reply, Resumed, RowSink, SinkError, Stored, Totals};
use crate::load::LoadId;
use crate::rejects::SinkReject;
use crate::rows::Batch;
use crate::target::{Sink as Destination, Target};

/// A full queue is asked again after these; it is back pressure, so there is no end to it.
const WAIT_FIRST: Duration = Duration::from_millis(50);
const WAIT_MAX: Duration = Duration::from_secs(5);
const SCAN: u32 = 1_000;

/// Jobs of one task.
#[derive(Debug)]
pub struct JobsOutlet {
    shared: Arc<Shared>,
}

struct Shared {
    server: RuntimeHandle,
    task: TaskName,
    options: JobOptions,
    rows: JsonRows,
    per_batch: bool,
    place: String,
    collection: Collection,
    /// Number of the last run of each load of this process; the store has no other writer.
    runs: Mutex<HashMap<LoadId, u64>>,
}

impl std::fmt::Debug for Shared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Shared")
            .field("task", &self.task)
            .finish_non_exhaustive()
    }
}

impl JobsOutlet {
    /// For `target`, whose sink is `jobs`, each job with `options`. Errors: the target is of
    /// another sink, or its task is no name.
    pub fn new(
        target: &Target,
        server: RuntimeHandle,
        options: JobOptions,
    ) -> Result<Self, SinkError> {
        let problem = |problem: String| SinkError::Place { problem };
        let Destination::Jobs { task } = target.sink() else {
            return Err(problem(format!("`{}` is no jobs target", target.name())));
        };
        let name = |name: &str| TaskName::parse(name).map_err(|error| problem(error.to_string()));
        Ok(Self {
            shared: Arc::new(Shared {
                server,
                task: name(task)?,
                options,
                rows: JsonRows::new(target.columns()),
                per_batch: target.place().job_per_batch,
                place: target.name().to_owned(),
                collection: name("ingest-notes")?,
                runs: Mutex::default(),
            }),
        })
    }
}

impl Outlet for JobsOutlet {
    fn sink(&self, load: &LoadId) -> Arc<dyn RowSink> {
        Arc::new(JobsSink {
            shared: Arc::clone(&self.shared),
            load: load.clone(),
            run: std::sync::OnceLock::new(),
        })
    }

    fn check(&self) -> Reply<'_, ()> {
        let known = self.shared.server.tasks();
        let task = &self.shared.task;
        let is_known = known.iter().any(|known| known.info.name == *task);
        let problem = format!("no task `{task}` is declared here");
        let checked = is_known.then_some(()).ok_or(SinkError::Place { problem });
        Box::pin(std::future::ready(checked))
    }
}

#[derive(Debug)]
struct JobsSink {
    shared: Arc<Shared>,
    load: LoadId,
    run: std::sync::OnceLock<u64>,
}

/// A job and the rows of the batch that it carries.
struct Parcel {
    job: NewJob,
    rows: std::ops::Range<usize>,
}

impl JobsSink {
    /// Start of the load's record keys; the end of a load has that key itself.
    fn prefix(&self) -> String {
        format!("{}/{}/", self.shared.place, self.load)
    }

    fn fence(&self) -> Result<(), SinkError> {
        let runs = self.shared.runs.lock();
        let runs = runs.unwrap_or_else(PoisonError::into_inner);
        if self.run.get().is_some() && runs.get(&self.load) == self.run.get() {
            Ok(())
        } else {
            Err(SinkError::TakenOver)
        }
    }

    fn failed(error: EnqueueError) -> SinkError {
        let place = "the job store".to_owned();
        match error {
            EnqueueError::ShuttingDown => SinkError::Ended,
            EnqueueError::Store(cause) => SinkError::Unreachable {
                place,
                cause: Box::new(cause),
            },
            other => SinkError::Refused {
                place,
                message: other.to_string(),
            },
        }
    }

    /// The batch as jobs; rows that no job can carry are put with `bad`.
    fn parcels(&self, batch: &Batch, bad: &mut Vec<SinkReject>) -> Result<Vec<Parcel>, SinkError> {
        let mut parcels = Vec::new();
        let (mut payload, mut from) = (Vec::new(), 0);
        let mut row_text = Vec::new();
        let per_batch = self.shared.per_batch;
        for at in 0..batch.len() {
            row_text.clear();
            self.shared.rows.write(batch.row(at), &mut row_text);
            if row_text.len() + 2 > PAYLOAD_BYTES_MAX {
                let message = format!(
                    "{} bytes of JSON; a job takes {PAYLOAD_BYTES_MAX}",
                    row_text.len()
                );
                bad.push(SinkReject::of(batch.row(at), None, message));
                continue;
            }
            if !per_batch {
                parcels.push(self.parcel(batch, std::mem::take(&mut row_text), at..at + 1)?);
                continue;
            }
            if payload.len() + row_text.len() + 2 > PAYLOAD_BYTES_MAX {
                payload.push(b']');
                parcels.push(self.parcel(batch, std::mem::take(&mut payload), from..at)?);
            }
            if payload.is_empty() {
                from = at;
            }
            payload.push(if payload.is_empty() { b'[' } else { b',' });
            payload.extend_from_slice(&row_text);
        }
        if !payload.is_empty() {
            payload.push(b']');
            parcels.push(self.parcel(batch, payload, from..batch.len())?);
        }
        Ok(parcels)
    }

    fn parcel(
        &self,
        batch: &Batch,
        payload: Vec<u8>,
        rows: std::ops::Range<usize>,
    ) -> Result<Parcel, SinkError> {
        let (first, last) = (batch.row(rows.start), batch.row(rows.end - 1));
        let key = format!(
            "ingest/{}/{}/{}-{}",
            self.shared.place,
            self.load,
            first.number(),
            last.number()
        );
        let key = IdempotencyKey::parse(&key).map_err(|error| SinkError::Place {
            problem: error.to_string(),
        })?;
        let job = NewJob {
            task: self.shared.task.clone(),
            payload: payload.into(),
            options: self.shared.options.clone(),
            idempotency: Some(key),
        };
        Ok(Parcel { job, rows })
    }

    /// Until each of them is durable, or refused for what no waiting helps.
    async fn send(
        &self,
        batch: &Batch,
        parcels: Vec<Parcel>,
        bad: &mut Vec<SinkReject>,
    ) -> Result<(), SinkError> {
        let mut left = parcels;
        let mut wait = WAIT_FIRST;
        while !left.is_empty() {
            self.fence()?;
            let later = left.split_off(left.len().min(BATCH_JOBS_MAX));
            let jobs = left.iter().map(|parcel| parcel.job.clone()).collect();
            let outcomes = self.shared.server.enqueue(jobs).await;
            let outcomes = outcomes.map_err(Self::failed)?;
            let mut again = Vec::new();
            let count = left.len();
            for (parcel, outcome) in left.into_iter().zip(outcomes) {
                match outcome {
                    InsertOutcome::Created { .. } | InsertOutcome::Existing { .. } => {}
                    InsertOutcome::Refused(
                        InsertRefusal::QueueFull { .. } | InsertRefusal::Draining { .. },
                    ) => again.push(parcel),
                    InsertOutcome::Refused(refusal) => {
                        let of = |at| SinkReject::of(batch.row(at), None, refusal.to_string());
                        bad.extend(parcel.rows.map(of));
                    }
                }
            }
            if again.len() == count {
                tokio::time::sleep(wait).await;
                wait = (wait * 2).min(WAIT_MAX);
            } else {
                wait = WAIT_FIRST;
            }
            // What was refused comes first: jobs begin in the order of the rows.
            again.extend(later);
            left = again;
        }
        Ok(())
    }

    async fn records(&self) -> Result<Vec<Record>, SinkError> {
        let prefix = self.prefix();
        let mut all = Vec::new();
        // The key before the prefix itself, which is that of a load that ended.
        let mut after = Some(prefix[..prefix.len() - 1].to_owned().into());
        loop {
            let scan = RecordScan {
                collection: self.shared.collection.clone(),
                label: None,
                after,
                limit: SCAN,
            };
            let page = self.shared.server.records(scan).await;
            let page = page.map_err(|cause| SinkError::Unreachable {
                place: "the job store".into(),
                cause: Box::new(cause),
            })?;
            for record in page.records {
                if !record.key.starts_with(prefix.as_bytes()) {
                    return Ok(all);
                }
                all.push(record);
            }
            after = page.next;
            if after.is_none() {
                return Ok(all);
            }
        }
    }

    fn record(&self, key: String, value: Option<Vec<u8>>) -> Result<RecordWrite, SinkError> {
        let label = TaskName::parse("note").map_err(|error| SinkError::Place {
            problem: error.to_string(),
        })?;
        Ok(RecordWrite {
            collection: self.shared.collection.clone(),
            key: key.into(),
            label: value.is_some().then_some(label),
            value: value.unwrap_or_default().into(),
        })
    }

    async fn write(&self, records: Vec<RecordWrite>) -> Result<(), SinkError> {
        let written = self.shared.server.write_records(records).await;
        written.map_err(Self::failed)
    }
}

impl RowSink for JobsSink {
    fn resume(&self) -> Reply<'_, Resumed> {
        Box::pin(async {
            let run = {
                let runs = self.shared.runs.lock();
                let mut runs = runs.unwrap_or_else(PoisonError::into_inner);
                let run = runs.entry(self.load.clone()).or_default();
                *run += 1;
                *run
            };
            // Once a sink: a second answer would be an earlier run's.
            let _first = self.run.set(run);
            let prefix = self.prefix();
            let mut resumed = Resumed::default();
            for record in self.records().await? {
                let unreadable = |error: serde_json::Error| SinkError::Place {
                    problem: format!("a note of load `{}` is not readable: {error}", self.load),
                };
                if record.key == prefix.as_bytes() {
                    let totals = serde_json::from_slice(&record.value).map_err(unreadable)?;
                    resumed.finished = Some(totals);
                } else {
                    let note: Note = serde_json::from_slice(&record.value).map_err(unreadable)?;
                    resumed.notes.push(note);
                }
            }
            Ok(resumed)
        })
    }

    fn store(&self, batch: Arc<Batch>, note: BatchNote) -> Reply<'_, Stored> {
        Box::pin(async move {
            let mut bad = Vec::new();
            let parcels = self.parcels(&batch, &mut bad)?;
            self.send(&batch, parcels, &mut bad).await?;
            bad.sort_by_key(|reject| reject.row);
            let rows = (batch.len() - bad.len()) as u64;
            let rejects = note.put_aside(&batch, bad).await?;
            let stored = Stored { rows, rejects };
            let text = serde_json::to_vec(&BatchNote::of(&batch, stored));
            let text = text.map_err(|error| SinkError::Place {
                problem: error.to_string(),
            })?;
            let key = format!("{}{:020}-{:020}", self.prefix(), batch.from(), batch.to());
            self.fence()?;
            self.write(vec![self.record(key, Some(text))?]).await?;
            Ok(stored)
        })
    }

    fn finish(&self, totals: Totals) -> Reply<'_, ()> {
        Box::pin(async move {
            self.fence()?;
            let text = serde_json::to_vec(&totals).map_err(|error| SinkError::Place {
                problem: error.to_string(),
            })?;
            let prefix = self.prefix();
            self.write(vec![self.record(prefix.clone(), Some(text))?])
                .await?;
            let notes = self.records().await?;
            let gone = notes.iter().filter(|note| note.key != prefix.as_bytes());
            let gone: Result<Vec<_>, _> = gone
                .map(|note| self.record(String::from_utf8_lossy(&note.key).into_owned(), None))
                .collect();
            for part in gone?.chunks(500) {
                self.write(part.to_vec()).await?;
            }
            Ok(())
        })
    }
}
