//! `POST /v1/call/{task}`: work for somebody who waits, straight to a lane. Nothing is written.
//!
//! A client that hangs up ends its work: its connection's task is dropped, and the call with it.

use std::sync::Arc;

use axum::body::Body;
use axum::extract::{Path, Request, State};
use axum::http::{HeaderName, HeaderValue, Response, StatusCode};
use offloop_job::TaskName;
use offloop_job::limits::CALL_PAYLOAD_BYTES_MAX;
use offloop_runtime::{CallAsk, Pressure};
use offloop_wire::{CallFacts, call_json, read_call};

use super::{Answer, json_bytes};
use crate::body::collect;
use crate::door::Inner;
use crate::problem::{Kind, of_body};
use crate::query::Query;

/// Room for the fields around the payload.
const AROUND_BYTES: usize = 4 << 10;

pub(super) async fn call(
    State(door): State<Arc<Inner>>,
    Path(task): Path<String>,
    request: Request,
) -> Answer {
    let (parts, body) = request.into_parts();
    Query::none(&parts.uri)?;
    let task = TaskName::parse(&task)
        .map_err(|error| Kind::NotFound.say(format!("no task is called so: it {error}")))?;
    let limit = CALL_PAYLOAD_BYTES_MAX + AROUND_BYTES;
    // Kept until the answer: what waits in line counts as being collected.
    let collected = collect(body, limit, &door.collecting).await?;
    let asked = read_call(&collected.bytes).map_err(|error| of_body(error, Kind::InvalidBody))?;
    let trace = parts.headers.get("traceparent");
    let trace = trace.and_then(|trace| trace.to_str().ok());
    let mut ask = CallAsk::new(task.clone(), asked.payload);
    ask.timeout = asked.timeout;
    ask.priority = asked.priority.unwrap_or(ask.priority);
    ask.trace = asked.trace.or(trace.map(Into::into));
    let answer = door.handle.call(ask).await;
    let pressure = door.handle.pressure_of(&task);
    let mut response = match answer {
        Ok(answer) => {
            let facts = CallFacts {
                task: task.as_str(),
                lane: &answer.lane,
                executor: &answer.executor,
                waited: answer.waited,
                wall: answer.usage.wall,
                cpu: answer.usage.cpu,
                shared: answer.shared,
            };
            let body = call_json(facts, answer.result.as_deref());
            json_bytes(StatusCode::OK, body)
        }
        Err(error) => crate::problem::respond(&crate::problem::of_call(&error)),
    };
    tell_pressure(&mut response, pressure);
    Ok(response)
}

/// `Offloop-Pressure: open | busy | full`: producers may slow down before they are refused.
pub(super) fn tell_pressure(response: &mut Response<Body>, pressure: Pressure) {
    const NAME: HeaderName = HeaderName::from_static("offloop-pressure");
    let value = HeaderValue::from_static(pressure.name());
    response.headers_mut().insert(NAME, value);
}
