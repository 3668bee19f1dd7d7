//! `/v1/work`: workers on other machines ask for work, say that they live, and end it.
//!
//! A settlement is answered after its commit. Must never: answer for a lease that is over with
//! anything but 409, or hold a claim or a watch past the door's closing.

use std::sync::Arc;
use std::time::Duration;

use axum::extract::{Path, Request, State};
use axum::http::{StatusCode, Uri};
use bytes::Bytes;
use offloop_job::JobId;
use offloop_lane_remote::{
    CONFIRM_WITHIN, CheckpointError, ClaimRefusal, Extended, News, Offer, Pull, RemoteLane, Report,
    Settle, Stale, Watched, WorkerEnd,
};
use offloop_store::Settled;
use offloop_wire::{
    InputRow, WorkEnd, WorkExtended, WorkGone, WorkNotice, WorkOffer, WorkOffers, WorkSettled,
    WorkView, WorkWatched, WorkWorker, read_work_claim, read_work_extend, read_work_settle,
    read_work_watch,
};

use super::{Answer, job_id, json};
use crate::body::{Collected, collect};
use crate::door::{Inner, is_set};
use crate::problem::{Kind, Refusal, of_body};
use crate::query::Query;

/// A claim, an extension with its log, a watch over many leases.
const BODY_BYTES_MAX: usize = 128 << 10;
/// From a worker's answer to its commit; past it the worker asks again and is told.
const COMMIT_WAIT: Duration = Duration::from_secs(30);

fn lane(door: &Inner) -> Result<&Arc<RemoteLane>, Refusal> {
    door.remote.as_ref().ok_or_else(|| {
        let detail = "no task here is for workers; declare one with lane = \"remote\"";
        Kind::NotFound.say(detail).into()
    })
}

async fn body(door: &Inner, request: Request, limit: usize) -> Result<Collected, Refusal> {
    let (parts, body) = request.into_parts();
    Query::none(&parts.uri)?;
    collect(body, limit, &door.collecting).await
}

fn stale(id: JobId) -> Refusal {
    let detail = format!("job {id}: {Stale}; drop the work, nothing of it is taken");
    Kind::LeaseLost.say(detail).into()
}

fn ms(span: Duration) -> u64 {
    u64::try_from(span.as_millis()).unwrap_or(u64::MAX)
}

/// Waits for work.
pub(super) async fn claim(State(door): State<Arc<Inner>>, request: Request) -> Answer {
    let lane = lane(&door)?;
    let collected = body(&door, request, BODY_BYTES_MAX).await?;
    let asked =
        read_work_claim(&collected.bytes).map_err(|error| of_body(error, Kind::InvalidBody))?;
    drop(collected);
    let pull = Pull {
        worker: asked.worker.into(),
        tasks: asked.tasks,
        limit: asked.limit,
    };
    let mut closing = door.closing.subscribe();
    let claimed = tokio::select! {
        claimed = lane.claim(&pull, asked.wait) => claimed,
        () = is_set(&mut closing) => Err(ClaimRefusal::Closed),
    };
    let offers = claimed.map_err(|refusal| of_claim(&refusal))?;
    let answer = WorkOffers {
        jobs: offers.iter().map(offer).collect(),
        confirm_ms: ms(CONFIRM_WITHIN),
    };
    json(StatusCode::OK, &answer)
}

fn of_claim(refusal: &ClaimRefusal) -> Refusal {
    let detail = refusal.to_string();
    match refusal {
        ClaimRefusal::UnknownTask { .. } => Refusal::invalid("/tasks", detail),
        ClaimRefusal::TooMany => Kind::TooMany.say(detail).into(),
        ClaimRefusal::Closed => Kind::ShuttingDown.say(detail).into(),
    }
}

fn offer(offer: &Offer) -> WorkOffer {
    WorkOffer {
        id: offer.job.to_string(),
        lease: offer.lease.to_string(),
        task: offer.task.to_string(),
        attempt: offer.attempt,
        payload: WorkOffer::payload_of(&offer.payload),
        checkpoint: offer.checkpoint.as_deref().map(WorkOffer::payload_of),
        inputs: offer.inputs.iter().map(InputRow::from).collect(),
        lease_ms: ms(offer.lease_for),
        timeout_ms: ms(offer.timeout),
        deadline_ms: offer.deadline_in.map(ms),
        trace: offer.trace.as_deref().map(Into::into),
    }
}

/// A sign of life; the first one confirms the offer.
pub(super) async fn extend(
    State(door): State<Arc<Inner>>,
    Path(id): Path<String>,
    request: Request,
) -> Answer {
    let lane = lane(&door)?;
    let id = job_id(&id)?;
    let collected = body(&door, request, BODY_BYTES_MAX).await?;
    let asked =
        read_work_extend(&collected.bytes).map_err(|error| of_body(error, Kind::InvalidBody))?;
    let news = News {
        note: asked.progress,
        log: asked.log,
        partial: asked.partial,
    };
    let extended = lane.extend(id, asked.lease, &news);
    let Extended { lease_left, stop } = extended.map_err(|Stale| stale(id))?;
    if let Some(data) = asked.checkpoint {
        // The room of a large body is not held on the way to the disk.
        let data = Bytes::copy_from_slice(&data);
        drop(collected);
        let kept = lane.checkpoint(id, asked.lease, data).await;
        kept.map_err(|error| match error {
            CheckpointError::Stale => stale(id),
            error => Kind::StoreFailed.say(error.to_string()).into(),
        })?;
    }
    let answer = WorkExtended {
        lease_ms: ms(lease_left),
        cancel: stop.is_some(),
        why: stop.map(offloop_lane_remote::StopWhy::as_str),
    };
    json(StatusCode::OK, &answer)
}

/// The end of an attempt, on record when this answers.
pub(super) async fn settle(
    State(door): State<Arc<Inner>>,
    Path(id): Path<String>,
    request: Request,
) -> Answer {
    let lane = lane(&door)?;
    let id = job_id(&id)?;
    let collected = body(&door, request, door.config.job_bytes_max + BODY_BYTES_MAX).await?;
    let asked =
        read_work_settle(&collected.bytes).map_err(|error| of_body(error, Kind::InvalidBody))?;
    let end = match asked.end {
        WorkEnd::Result(result) => WorkerEnd::Completed {
            result: Some(result).filter(|result| &result[..] != b"null"),
        },
        WorkEnd::Error { class, message } => WorkerEnd::Failed { class, message },
        WorkEnd::HandBack => WorkerEnd::HandBack,
        WorkEnd::Snooze(after) => WorkerEnd::Snooze { after },
    };
    let report = Report {
        cpu: asked.cpu,
        max_rss_bytes: asked.max_rss_bytes,
        log: asked.log,
    };
    // Listens first: the commit may be quick.
    let committed = door.handle.settled(asked.lease);
    let taken = lane.settle(id, asked.lease, end, &report);
    if taken.map_err(|Stale| stale(id))? == Settle::Already {
        return already(&door, id).await;
    }
    match tokio::time::timeout(COMMIT_WAIT, committed).await {
        Ok(Some(Settled::Done(state) | Settled::Already(state))) => {
            let state = state.as_str();
            let already = false;
            json(StatusCode::OK, &WorkSettled { state, already })
        }
        Ok(Some(Settled::Stale)) => Err(stale(id)),
        Ok(None) => Err(Kind::ShuttingDown
            .say("the server ended before the end was on record; the job may be run again")
            .into()),
        Err(_) => Err(Kind::StoreFailed
            .say("the end is here and not on record yet; send the same again to hear of it")
            .into()),
    }
}

/// The same end came again.
async fn already(door: &Inner, id: JobId) -> Answer {
    let job = door.handle.job(id).await?;
    let job = job.ok_or_else(|| super::no_job(id))?;
    let state = job.summary.state.as_str();
    let already = true;
    json(StatusCode::OK, &WorkSettled { state, already })
}

/// Extends leases, and waits until one of them must stop or is over.
pub(super) async fn watch(State(door): State<Arc<Inner>>, request: Request) -> Answer {
    let lane = lane(&door)?;
    let collected = body(&door, request, BODY_BYTES_MAX).await?;
    let asked =
        read_work_watch(&collected.bytes).map_err(|error| of_body(error, Kind::InvalidBody))?;
    drop(collected);
    let Ok(_seat) = Arc::clone(&door.watchers).try_acquire_owned() else {
        let detail = "too many workers watch already; extend each lease instead";
        return Err(Kind::TooMany.say(detail).into());
    };
    let mut closing = door.closing.subscribe();
    let watched = tokio::select! {
        watched = lane.watch(&asked.leases, asked.wait) => watched,
        () = is_set(&mut closing) => Watched::default(),
    };
    let notices = watched.stop.iter().map(|notice| WorkNotice {
        id: notice.job.to_string(),
        lease: notice.lease.to_string(),
        why: notice.why.as_str(),
        lease_ms: ms(notice.lease_left),
    });
    let gone = watched.gone.iter().map(|(job, lease)| WorkGone {
        id: job.to_string(),
        lease: lease.to_string(),
    });
    let answer = WorkWatched {
        cancel: notices.collect(),
        gone: gone.collect(),
    };
    json(StatusCode::OK, &answer)
}

/// Who works.
pub(super) async fn view(State(door): State<Arc<Inner>>, uri: Uri) -> Answer {
    Query::none(&uri)?;
    let view = lane(&door)?.view();
    let workers = view.workers.iter().map(|worker| WorkWorker {
        name: worker.name.as_ref().to_owned(),
        running: worker.running,
        waiting: worker.waiting,
    });
    let answer = WorkView {
        workers: workers.collect(),
        queued: view.queued,
    };
    json(StatusCode::OK, &answer)
}
