//! What went wrong, as an answer: RFC 9457 with types that never change.

use std::fmt::Write as _;

use axum::body::Body;
use axum::http::{HeaderValue, Response, StatusCode, header};
use axum::response::IntoResponse;
use offloop_job::FailureClass;
use offloop_runtime::{CallError, EnqueueError, RefusedWhy};
use offloop_store::{InsertRefusal, NotAdmitted, NotAdmittedWhy, PayloadProblem, StoreError};
use offloop_wire::{BodyError, FieldProblem, Problem};

/// Every kind of problem that the door tells: one row, one type.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    InvalidJson,
    InvalidJob,
    InvalidBody,
    UnknownTask,
    InvalidParameter,
    TooLarge,
    TooSlow,
    BodyCut,
    MediaType,
    NotFound,
    Method,
    Conflict,
    UniqueConflict,
    IdempotencyMismatch,
    QueueFull,
    Draining,
    TooMany,
    ShuttingDown,
    Busy,
    StoreFailed,
    DiskFull,
    Internal,
    Unauthorized,
    TooManyAttempts,
    CrossSite,
    WrongHost,
    TimedOut,
    Overloaded,
    DeadlineUnreachable,
    CallTimedOut,
    CallFailed,
    NotCallable,
    LeaseLost,
    GroupClosed,
    Declared,
    NotFired,
}

impl Kind {
    #[cfg(test)]
    pub(crate) const ALL: [Self; 36] = [
        Self::InvalidJson,
        Self::InvalidJob,
        Self::InvalidBody,
        Self::UnknownTask,
        Self::InvalidParameter,
        Self::TooLarge,
        Self::TooSlow,
        Self::BodyCut,
        Self::MediaType,
        Self::NotFound,
        Self::Method,
        Self::Conflict,
        Self::UniqueConflict,
        Self::IdempotencyMismatch,
        Self::QueueFull,
        Self::Draining,
        Self::TooMany,
        Self::ShuttingDown,
        Self::Busy,
        Self::StoreFailed,
        Self::DiskFull,
        Self::Internal,
        Self::Unauthorized,
        Self::TooManyAttempts,
        Self::CrossSite,
        Self::WrongHost,
        Self::TimedOut,
        Self::Overloaded,
        Self::DeadlineUnreachable,
        Self::CallTimedOut,
        Self::CallFailed,
        Self::NotCallable,
        Self::LeaseLost,
        Self::GroupClosed,
        Self::Declared,
        Self::NotFired,
    ];

    /// Name, status, title, and seconds after which to try again.
    #[rustfmt::skip]
    pub(crate) const fn row(self) -> (&'static str, u16, &'static str, Option<u64>) {
        match self {
            Self::InvalidJson => ("invalid-json", 400, "The body is not the JSON that belongs here", None),
            Self::InvalidJob => ("invalid-job", 422, "The job cannot be as it is asked for", None),
            Self::InvalidBody => ("invalid-body", 422, "The request cannot be as it is asked for", None),
            Self::UnknownTask => ("unknown-task", 422, "No such task is declared here", None),
            Self::InvalidParameter => ("invalid-parameter", 400, "A parameter cannot be", None),
            Self::TooLarge => ("too-large", 413, "The body is over its limit", None),
            Self::TooSlow => ("too-slow", 408, "The body came too slowly", None),
            Self::BodyCut => ("body-cut", 400, "The body ended before its end", None),
            Self::MediaType => ("media-type", 415, "The body's type is not taken here", None),
            Self::NotFound => ("not-found", 404, "There is no such thing here", None),
            Self::Method => ("method-not-allowed", 405, "The method is not taken here", None),
            Self::Conflict => ("state-conflict", 409, "The job is not in a state for that", None),
            Self::UniqueConflict => ("unique-conflict", 409, "Another job holds the unique key", None),
            Self::IdempotencyMismatch => ("idempotency-mismatch", 422, "The Idempotency-Key belongs to another request", None),
            Self::QueueFull => ("queue-full", 429, "The queue is full", Some(5)),
            Self::Draining => ("draining", 503, "It takes no new jobs", Some(30)),
            Self::TooMany => ("too-many", 429, "Too many of these are under way", Some(5)),
            Self::ShuttingDown => ("shutting-down", 503, "The server is shutting down", Some(5)),
            Self::Busy => ("busy", 503, "The server has no room at the moment", Some(1)),
            Self::StoreFailed => ("store-failed", 503, "The store failed", Some(2)),
            Self::DiskFull => ("disk-full", 507, "The disk is full", Some(30)),
            Self::Internal => ("internal", 500, "The server failed", None),
            Self::Unauthorized => ("unauthorized", 401, "A token is needed", None),
            Self::TooManyAttempts => ("too-many-attempts", 429, "Too many wrong tokens", Some(10)),
            Self::CrossSite => ("cross-site", 403, "The request comes from another site", None),
            Self::WrongHost => ("wrong-host", 421, "The Host header names another server", None),
            Self::TimedOut => ("timed-out", 503, "The answer took too long", Some(5)),
            Self::Overloaded => ("overloaded", 503, "There is more work than can be done now", Some(1)),
            Self::DeadlineUnreachable => ("deadline-unreachable", 503, "It would be done too late", Some(1)),
            Self::CallTimedOut => ("call-timed-out", 504, "The call took too long", None),
            Self::CallFailed => ("call-failed", 500, "The task failed", None),
            Self::Declared => ("declared-in-configuration", 409, "The configuration declares it", None),
            Self::NotFired => ("not-fired", 409, "The schedule made no job", None),
            Self::NotCallable => ("not-callable", 422, "The task runs as jobs only", None),
            Self::LeaseLost => ("lease-lost", 409, "The lease is over", None),
            Self::GroupClosed => ("group-closed", 409, "The group takes no more members", None),
        }
    }

    #[cfg(test)]
    pub(crate) const fn status(self) -> u16 {
        self.row().1
    }

    pub(crate) fn say(self, detail: impl Into<String>) -> Problem {
        let (name, status, title, retry_after) = self.row();
        Problem {
            r#type: format!("urn:offloop:problem:{name}"),
            title: title.into(),
            status,
            detail: detail.into(),
            retry_after,
            ..Problem::default()
        }
    }
}

/// A problem on its way out of a handler. A pack answers with it too.
#[derive(Debug)]
pub struct Refusal(pub(crate) Box<Problem>);

impl Refusal {
    pub fn problem(&self) -> &Problem {
        &self.0
    }
}

impl From<Problem> for Refusal {
    fn from(problem: Problem) -> Self {
        Self(Box::new(problem))
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response<Body> {
        respond(&self.0)
    }
}

pub(crate) const PROBLEM_JSON: HeaderValue = HeaderValue::from_static("application/problem+json");

pub(crate) fn respond(problem: &Problem) -> Response<Body> {
    let body = serde_json::to_vec(problem).unwrap_or_default(); // plain texts and numbers
    let mut response = Response::new(Body::from(body));
    *response.status_mut() =
        StatusCode::from_u16(problem.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, PROBLEM_JSON);
    if let Some(seconds) = problem.retry_after {
        headers.insert(header::RETRY_AFTER, HeaderValue::from(seconds));
    }
    if problem.status == 401 {
        const BEARER: HeaderValue = HeaderValue::from_static("Bearer realm=\"offloop\"");
        headers.insert(header::WWW_AUTHENTICATE, BEARER);
    }
    response
}

pub(crate) fn with_fields(mut problem: Problem, errors: Vec<FieldProblem>) -> Problem {
    problem.field = errors.first().map(|first| first.pointer.clone());
    if problem.detail.is_empty() {
        for error in &errors {
            let gap = if problem.detail.is_empty() { "" } else { "; " };
            let name = error.pointer.trim_start_matches('/');
            let _ = write!(problem.detail, "{gap}{name} {}", error.detail);
        }
    }
    problem.errors = errors;
    problem
}

/// A sentence that begins with the name of a field of the body.
fn of_field(kind: Kind, name: &str, detail: &str) -> Problem {
    let text = detail.strip_prefix(&format!("{name}: ")).unwrap_or(detail);
    let errors = vec![FieldProblem::new(format!("/{name}"), text)];
    with_fields(kind.say(detail), errors)
}

/// `fields`: what it is when it is JSON and fields of it cannot be.
pub(crate) fn of_body(error: BodyError, fields: Kind) -> Problem {
    match error {
        BodyError::Syntax { detail } => Kind::InvalidJson.say(detail),
        BodyError::Fields(errors) => with_fields(fields.say(""), errors),
    }
}

pub(crate) fn of_enqueue(error: &EnqueueError) -> Problem {
    let detail = error.to_string();
    let field = |kind: Kind, name: &str| of_field(kind, name, &detail);
    match error {
        EnqueueError::UnknownTask { .. } => field(Kind::UnknownTask, "task"),
        EnqueueError::PayloadTooLarge { .. } => field(Kind::TooLarge, "payload"),
        EnqueueError::Options(found) => {
            let errors = found.iter().map(|problem| {
                FieldProblem::new(format!("/{}", problem.field), problem.message.as_str())
            });
            with_fields(Kind::InvalidJob.say(""), errors.collect())
        }
        EnqueueError::Whole { refusal, .. } => of_refusal(refusal),
        EnqueueError::ShuttingDown => Kind::ShuttingDown.say(detail),
        EnqueueError::Store(error) => of_store(error),
        _ => {
            tracing::error!(%error, "a job was refused for a reason that the door should prevent");
            Kind::Internal.say("the server could not take the job in; its log says why")
        }
    }
}

pub(crate) fn of_store(error: &StoreError) -> Problem {
    let kind = match error {
        StoreError::DiskFull { .. } => Kind::DiskFull,
        StoreError::Broken { .. } => Kind::StoreFailed,
        StoreError::Closed => Kind::ShuttingDown,
        StoreError::Busy { .. } => Kind::Busy,
        other => {
            tracing::error!(error = %other, cause = ?std::error::Error::source(other), "the store failed");
            return Kind::Internal.say("the store could not do it; the server's log says why");
        }
    };
    kind.say(error.to_string())
}

pub(crate) fn of_refusal(refusal: &InsertRefusal) -> Problem {
    let (kind, holder) = match refusal {
        InsertRefusal::UniqueConflict { holder } => (Kind::UniqueConflict, Some(holder)),
        InsertRefusal::IdempotencyMismatch { holder } => (Kind::IdempotencyMismatch, Some(holder)),
        InsertRefusal::QueueFull { .. } => (Kind::QueueFull, None),
        InsertRefusal::Draining { .. } => (Kind::Draining, None),
        InsertRefusal::NotAdmitted(refused) => return of_not_admitted(refused),
        InsertRefusal::Payload { problems, .. } => {
            return of_payload(Kind::InvalidJob, refusal.to_string(), problems);
        }
        InsertRefusal::UnknownParent { .. }
        | InsertRefusal::ParentRefused { .. }
        | InsertRefusal::NotEarlier { .. } => {
            return of_field(Kind::InvalidJob, "after", &refusal.to_string());
        }
        InsertRefusal::UnknownGroup { .. } => (Kind::NotFound, None),
        InsertRefusal::GroupDecided { .. } | InsertRefusal::GroupFull { .. } => {
            (Kind::GroupClosed, None)
        }
    };
    let mut problem = kind.say(refusal.to_string());
    problem.job = holder.map(ToString::to_string);
    problem
}

/// The pointers go from the body's root.
fn of_payload(kind: Kind, detail: String, problems: &[PayloadProblem]) -> Problem {
    let fields = problems.iter().map(|problem| {
        FieldProblem::new(format!("/payload{}", problem.pointer), &*problem.message)
    });
    with_fields(kind.say(detail), fields.collect())
}

fn of_not_admitted(refused: &NotAdmitted) -> Problem {
    let kind = match refused.why {
        NotAdmittedWhy::Deadline { .. } => Kind::DeadlineUnreachable,
        NotAdmittedWhy::Queued { .. } | NotAdmittedWhy::Wait { .. } => Kind::QueueFull,
    };
    let mut problem = kind.say(refused.to_string());
    problem.retry_after = Some(refused.retry_after.as_secs() + 1); // whole seconds, up
    let wait = refused.estimated_wait;
    problem.estimated_wait_ms = wait.and_then(|wait| u64::try_from(wait.as_millis()).ok());
    problem
}

impl From<StoreError> for Refusal {
    fn from(error: StoreError) -> Self {
        of_store(&error).into()
    }
}

pub(crate) fn of_call(error: &CallError) -> Problem {
    let detail = error.to_string();
    let field = |kind: Kind, name: &str| of_field(kind, name, &detail);
    match error {
        CallError::UnknownTask { .. } => Kind::NotFound.say(detail),
        CallError::NotCallable { .. } => Kind::NotCallable.say(detail),
        CallError::PayloadTooLarge { .. } => field(Kind::TooLarge, "payload"),
        CallError::Payload { problems, .. } => of_payload(Kind::InvalidBody, detail, problems),
        CallError::Timeout { .. } => field(Kind::InvalidBody, "timeout_ms"),
        CallError::Refused(refused) => {
            let kind = match refused.why {
                RefusedWhy::Deadline { .. } => Kind::DeadlineUnreachable,
                RefusedWhy::Wait { .. } | RefusedWhy::Line { .. } | RefusedWhy::Pressed => {
                    Kind::Overloaded
                }
            };
            let mut problem = kind.say(detail);
            problem.retry_after = Some(refused.retry_after.as_secs() + 1); // whole seconds, up
            problem.estimated_wait_ms = u64::try_from(refused.wait.as_millis()).ok();
            problem
        }
        CallError::Failed(failure) => {
            let kind = match failure.class {
                FailureClass::Invalid => Kind::InvalidBody,
                FailureClass::Timeout => Kind::CallTimedOut,
                _ => Kind::CallFailed,
            };
            let mut problem = kind.say(detail);
            problem.class = Some(failure.class.as_str().to_owned());
            problem
        }
        CallError::TimedOut { .. } => Kind::CallTimedOut.say(detail),
        CallError::ShuttingDown => Kind::ShuttingDown.say(detail),
        _ => Kind::Internal.say(detail),
    }
}

impl From<CallError> for Refusal {
    fn from(error: CallError) -> Self {
        of_call(&error).into()
    }
}

impl From<EnqueueError> for Refusal {
    fn from(error: EnqueueError) -> Self {
        of_enqueue(&error).into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn every_problem_has_a_type_and_a_title_of_its_own() {
        let mut seen = HashSet::new();
        for kind in Kind::ALL {
            let (name, status, title, _) = kind.row();
            assert!(seen.insert(name) && seen.insert(title), "{kind:?}");
            assert!((400..600).contains(&status), "{kind:?}");
            assert_eq!(respond(&kind.say("x")).status().as_u16(), kind.status());
        }
    }
}
