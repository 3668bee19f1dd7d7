//! One call as it is asked for, and what became of it.
//!
//! Must never: show a whole URL in a message. Its query may hold a secret.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use hyper::Method;
use hyper::header::HeaderMap;

use crate::draft::Draft;

/// One call to make.
#[derive(Clone, Debug)]
pub struct Call {
    /// The caller's own name for it.
    pub id: Option<Box<str>>,
    pub url: Box<str>,
    pub method: Method,
    pub headers: HeaderMap,
    pub body: Bytes,
    /// From its first try, all its tries together; default that of the list.
    pub deadline: Option<Duration>,
}

impl Call {
    pub fn get(url: impl Into<Box<str>>) -> Self {
        Self {
            id: None,
            url: url.into(),
            method: Method::GET,
            headers: HeaderMap::new(),
            body: Bytes::new(),
            deadline: None,
        }
    }
}

/// What is kept of the bodies of answers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Keep {
    /// They are counted.
    #[default]
    Nothing,
    /// Their SHA-256.
    Hash,
    /// All of them, and their SHA-256.
    Bytes,
    /// Those of successes as files, written while they come, and their SHA-256. Needs
    /// [`ClientOptions::drafts`](crate::ClientOptions::drafts).
    File,
}

/// A whole answer.
#[derive(Clone, Debug)]
pub struct Answer {
    pub status: u16,
    pub content_type: Option<Box<str>>,
    /// As it came: no encoding is asked for and none is undone.
    pub body: Bytes,
    pub body_bytes: u64,
    /// Unless nothing was kept.
    pub sha256: Option<[u8; 32]>,
    /// All of it, if it was asked for as a file.
    pub file: Option<Arc<Draft>>,
    /// From the start of the try to the last byte.
    pub wall: Duration,
}

/// Why a call failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Cause {
    /// The URL cannot be called.
    Url,
    /// It leads to where nobody may be sent.
    Forbidden,
    /// Its name is not known, or cannot be looked up.
    Name,
    /// No connection.
    Connect,
    Tls,
    /// No whole answer in time.
    Timeout,
    /// The connection ended without an answer, or within one.
    Reset,
    /// What came is no HTTP.
    Protocol,
    /// The answer is over its limit.
    TooLarge,
    /// Redirects in a circle, or to where nobody may be sent.
    Redirect,
    /// The status is none of success.
    Status,
    /// Its host is left alone, and did not come back in time.
    BreakerOpen,
    /// Its host's retries are used up.
    RetryBudget,
    /// Its deadline, or that of the list.
    Deadline,
    /// What came could not be kept.
    Storage,
}

impl Cause {
    pub const ALL: [Self; 15] = [
        Self::Url,
        Self::Forbidden,
        Self::Name,
        Self::Connect,
        Self::Tls,
        Self::Timeout,
        Self::Reset,
        Self::Protocol,
        Self::TooLarge,
        Self::Redirect,
        Self::Status,
        Self::BreakerOpen,
        Self::RetryBudget,
        Self::Deadline,
        Self::Storage,
    ];

    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Url => "url",
            Self::Forbidden => "forbidden",
            Self::Name => "name",
            Self::Connect => "connect",
            Self::Tls => "tls",
            Self::Timeout => "timeout",
            Self::Reset => "reset",
            Self::Protocol => "protocol",
            Self::TooLarge => "too_large",
            Self::Redirect => "redirect",
            Self::Status => "status",
            Self::BreakerOpen => "breaker_open",
            Self::RetryBudget => "retry_budget",
            Self::Deadline => "deadline",
            Self::Storage => "storage",
        }
    }

    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|cause| cause.as_str() == name)
    }
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// What may be done about a failure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Again {
    No,
    /// Not before this, if the answer asked for a pause.
    Yes(Option<Duration>),
    /// Nothing was tried: the breaker says when to look again.
    NotNow(Duration),
}

/// A call that failed.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{message}")]
pub struct Failure {
    pub cause: Cause,
    /// A sentence. Never the query of the URL.
    pub message: Box<str>,
    /// Where there was one: with a status that is none of success.
    pub answer: Option<Box<Answer>>,
    pub(crate) again: Again,
}

impl Failure {
    pub(crate) fn new(cause: Cause, message: impl Into<Box<str>>, again: Again) -> Self {
        Self {
            cause,
            message: message.into(),
            answer: None,
            again,
        }
    }

    pub(crate) fn for_good(cause: Cause, message: impl Into<Box<str>>) -> Self {
        Self::new(cause, message, Again::No)
    }
}

/// A call that came to its end.
#[derive(Debug)]
pub struct Done {
    /// Its place in the list.
    pub index: u64,
    pub id: Option<Box<str>>,
    /// Scheme, host and port; empty if the URL has none that can be called.
    pub origin: Box<str>,
    /// Without the query.
    pub url: Box<str>,
    pub outcome: Result<Answer, Failure>,
    /// Calls that were made for it, hedges and replays included.
    pub calls: u32,
    /// From its first try.
    pub wall: Duration,
}

impl Done {
    pub fn status(&self) -> Option<u16> {
        match &self.outcome {
            Ok(answer) => Some(answer.status),
            Err(failure) => failure.answer.as_ref().map(|answer| answer.status),
        }
    }
}
