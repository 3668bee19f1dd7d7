//! `GET /v1/jobs/{id}/events`: one job, told as it happens, to its end.
//!
//! First its state, then its steps, notes, output and pieces of its result, then `end` with the
//! address of the result. Who comes after the end gets state and end at once. A reader is a place in
//! the job's feed, not a buffer.

use std::io::Write as _;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::{Path, State};
use axum::http::{HeaderMap, StatusCode, Uri};
use bytes::Bytes;
use offloop_job::{Job, JobId, JobState, Timestamp};
use offloop_runtime::{FeedCursor, JobNews, JobStream, RuntimeHandle};
use offloop_wire::{JobView, event_json, format_time, raw_or_text};
use tokio::sync::{OwnedSemaphorePermit, watch};

use super::events::event_stream;
use super::{Answer, empty, job_id, no_job};
use crate::door::{Inner, is_set};
use crate::problem::Kind;
use crate::query::Query;

/// Of the last event. A browser comes back with it by itself, and is then told to stay away.
const END_ID: &str = "end";

struct Reader {
    handle: RuntimeHandle,
    id: JobId,
    /// As it was when the reader came, until that is told.
    first: Option<Box<Job>>,
    stream: JobStream,
    /// The start of a character whose rest has not come.
    carried: Vec<u8>,
    keep_alive: Duration,
    closing: watch::Receiver<bool>,
    over: bool,
    _permit: OwnedSemaphorePermit,
}

pub(super) async fn events(
    State(door): State<Arc<Inner>>,
    Path(id): Path<String>,
    headers: HeaderMap,
    uri: Uri,
) -> Answer {
    let query = Query::read(&uri, &["after"])?;
    let id = job_id(&id)?;
    let told = headers
        .get("last-event-id")
        .and_then(|value| value.to_str().ok());
    let after = told.or(query.text("after"));
    let Ok(permit) = Arc::clone(&door.subscribers).try_acquire_owned() else {
        let detail = format!(
            "{} readers of events, the limit",
            door.config.subscribers_max
        );
        return Err(Kind::TooMany.say(detail).into());
    };
    // A place that cannot be read is one of another server: the reader is told that it lags.
    let place = after.map(|text| text.parse().unwrap_or_else(|_| FeedCursor::lost()));
    let found = door.handle.listen(id, place).await?;
    let (job, stream) = found.ok_or_else(|| no_job(id))?;
    if after == Some(END_ID) && job.summary.state.is_final() {
        return Ok(empty(StatusCode::NO_CONTENT));
    }
    let reader = Reader {
        handle: door.handle.clone(),
        id,
        first: Some(Box::new(job)),
        stream,
        carried: Vec::new(),
        keep_alive: door.config.keep_alive_every,
        closing: door.closing.subscribe(),
        over: false,
        _permit: permit,
    };
    let stream = futures_util::stream::unfold(reader, |mut reader| async move {
        let text = reader.next().await?;
        Some((text, reader))
    });
    Ok(event_stream(stream))
}

impl Reader {
    async fn next(&mut self) -> Option<Bytes> {
        if self.over {
            return None;
        }
        let mut out = Vec::new();
        if let Some(job) = self.first.take() {
            let _ = write!(
                out,
                "retry: 2000\nid: {}\nevent: state\ndata: ",
                self.stream.cursor()
            );
            let view = JobView::from(&job.summary);
            let _ = serde_json::to_writer(&mut out, &view); // a Vec takes everything
            out.extend_from_slice(b"\n\n");
            if job.summary.state.is_final() {
                self.end(&mut out, job.summary.state);
            }
            return Some(out.into());
        }
        let mut closing = self.closing.clone();
        let keep_alive = self.keep_alive;
        tokio::select! {
            biased;
            () = is_set(&mut closing) => {
                self.over = true;
                Some(Bytes::from_static(b"event: shutdown\ndata: {}\n\n"))
            }
            news = self.stream.next() => {
                match news {
                    Ok(news) => self.tell(&mut out, news),
                    Err(_lagged) => self.lagged(&mut out).await,
                }
                Some(out.into())
            }
            () = tokio::time::sleep(keep_alive) => {
                Some(format!(": keep-alive\nid: {}\n\n", self.stream.cursor()).into())
            }
        }
    }

    /// What was missed may have been its end.
    async fn lagged(&mut self, out: &mut Vec<u8>) {
        let cursor = self.stream.cursor();
        let _ = write!(out, "id: {cursor}\nevent: lagged\ndata: {{}}\n\n");
        if let Ok(Some(job)) = self.handle.job(self.id).await
            && job.summary.state.is_final()
        {
            self.end(out, job.summary.state);
        }
    }

    fn tell(&mut self, out: &mut Vec<u8>, news: Vec<(FeedCursor, JobNews)>) {
        for (cursor, news) in news {
            match news {
                JobNews::Step(event) => {
                    let kind = event.kind.as_str();
                    let _ = write!(out, "id: {cursor}\nevent: {kind}\ndata: ");
                    event_json(out, &event);
                    out.extend_from_slice(b"\n\n");
                    if let Some(state) = event.kind.final_state() {
                        self.end(out, state);
                        return;
                    }
                }
                JobNews::Progress { at, note } => write(out, cursor, "progress", at, "note", &note),
                JobNews::Partial { at, data } => write(out, cursor, "partial", at, "data", &data),
                JobNews::Log { at, data } => {
                    let text = whole_characters(&mut self.carried, &data);
                    let text = serde_json::Value::from(text).to_string();
                    write(out, cursor, "log", at, "text", text.as_bytes());
                }
                JobNews::LeftOut { pieces } => {
                    let _ = write!(
                        out,
                        "id: {cursor}\nevent: left_out\ndata: {{\"pieces\":{pieces}}}\n\n"
                    );
                }
                _ => {}
            }
        }
    }

    fn end(&mut self, out: &mut Vec<u8>, state: JobState) {
        self.over = true;
        let id = self.id;
        let _ = write!(
            out,
            "id: {END_ID}\nevent: end\ndata: {{\"state\":\"{state}\",\"job\":\"/v1/jobs/{id}\"}}\n\n"
        );
    }
}

/// One event with a time and a JSON value, on one line: a line break in JSON text is blank space.
fn write(out: &mut Vec<u8>, id: FeedCursor, kind: &str, at: Timestamp, key: &str, json: &[u8]) {
    let at = format_time(at);
    let _ = write!(
        out,
        "id: {id}\nevent: {kind}\ndata: {{\"at\":\"{at}\",\"{key}\":"
    );
    let value = raw_or_text(json);
    let on_one_line = |byte: u8| {
        if matches!(byte, b'\n' | b'\r') {
            b' '
        } else {
            byte
        }
    };
    out.extend(value.get().bytes().map(on_one_line));
    out.extend_from_slice(b"}\n\n");
}

/// Output as text: what is not UTF-8 is replaced, and a character that was cut by the end of a piece
/// waits for its rest.
fn whole_characters(carried: &mut Vec<u8>, piece: &[u8]) -> String {
    carried.extend_from_slice(piece);
    let cut = match std::str::from_utf8(carried) {
        Err(error) if error.error_len().is_none() => error.valid_up_to(),
        _ => carried.len(),
    };
    let rest = carried.split_off(cut);
    let whole = std::mem::replace(carried, rest);
    String::from_utf8_lossy(&whole).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_character_that_is_cut_in_two_is_told_whole_and_bytes_that_are_none_do_no_harm() {
        let text = "žluťoučký 🐎 kůň".as_bytes();
        for piece in 1..=text.len() {
            let mut carried = Vec::new();
            let told: String = text
                .chunks(piece)
                .map(|part| whole_characters(&mut carried, part))
                .collect();
            assert_eq!(told.as_bytes(), text, "in pieces of {piece}");
        }
        let mut carried = Vec::new();
        assert_eq!(
            whole_characters(&mut carried, b"a\xff\xc5"),
            "a\u{fffd}\u{fffd}"
        );
        assert!(carried.len() < 4);
    }
}
