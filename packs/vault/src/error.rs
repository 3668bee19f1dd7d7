//! What went wrong with one request, for whoever sent it.
//!
//! Must never: hold a byte of a password, a plaintext, a key, or of what was refused.

use offloop::http::Refusal;
use offloop::wire::{FieldProblem, Problem};

/// One row, one type of problem.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Kind {
    /// No JSON at all.
    Json,
    /// A field is missing, unknown, of the wrong type or over its limit.
    Body,
    /// A parameter of the query or a header.
    Parameter,
    /// The key is not in the folder.
    UnknownKey,
    /// The key's version was retired.
    RetiredKey,
    /// One answer for everything that may be wrong with an envelope.
    CannotOpen,
    /// No key folder is configured, or it cannot be read.
    NoKeys,
    /// No room for the memory that it takes, or none within its time.
    Busy,
    /// Nobody waits for it any more.
    Stopped,
    /// The fault is the server's.
    Internal,
}

impl Kind {
    #[rustfmt::skip]
    const fn row(self) -> (&'static str, u16, &'static str, Option<u64>) {
        match self {
            Self::Json => ("invalid-json", 400, "The body is not the JSON that belongs here", None),
            Self::Body => ("invalid-body", 422, "The request cannot be as it is asked for", None),
            Self::Parameter => ("invalid-parameter", 400, "A parameter cannot be", None),
            Self::UnknownKey => ("vault-unknown-key", 422, "No such key is in the key folder", None),
            Self::RetiredKey => ("vault-retired-key", 422, "The key was retired", None),
            Self::CannotOpen => ("vault-cannot-open", 422, "The envelope cannot be opened", None),
            Self::NoKeys => ("vault-no-keys", 503, "There are no keys to work with", None),
            Self::Busy => ("busy", 503, "The server has no room at the moment", Some(1)),
            Self::Stopped => ("timed-out", 503, "The answer took too long", Some(5)),
            Self::Internal => ("internal", 500, "The server failed", None),
        }
    }
}

/// Why a request, or one item of a batch, was not carried out.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{pointer}: {detail}")]
pub struct VaultError {
    pub kind: Kind,
    /// RFC 6901, such as `/password` or `/items/3/key`; empty for the whole.
    pub pointer: String,
    /// What is wrong, the limit, and what to do.
    pub detail: String,
}

impl VaultError {
    pub fn new(kind: Kind, pointer: impl Into<String>, detail: impl Into<String>) -> Self {
        Self {
            kind,
            pointer: pointer.into(),
            detail: detail.into(),
        }
    }

    /// A field that cannot be.
    pub fn field(name: &str, detail: impl Into<String>) -> Self {
        Self::new(Kind::Body, format!("/{name}"), detail)
    }

    /// The one answer to whatever is wrong with an envelope.
    pub fn cannot_open() -> Self {
        let detail = "cannot be opened: it is damaged, it was made with another key or other aad, or its key is not here";
        Self::new(Kind::CannotOpen, "/envelope", detail)
    }

    pub fn stopped() -> Self {
        Self::new(Kind::Stopped, "", "it was stopped before it was done")
    }

    /// The same, of item `at` of a batch.
    #[must_use]
    pub fn of_item(mut self, at: usize) -> Self {
        self.pointer = format!("/items/{at}{}", self.pointer);
        self
    }

    /// As the door tells it.
    pub fn problem(&self) -> Problem {
        let (name, status, title, retry_after) = self.kind.row();
        let named = self.pointer.trim_start_matches('/');
        let detail = match (named, self.kind) {
            ("", _) | (_, Kind::CannotOpen) => self.detail.clone(),
            (name, _) => format!("{name} {}", self.detail),
        };
        let mut problem = Problem {
            r#type: format!("urn:offloop:problem:{name}"),
            title: title.into(),
            status,
            detail,
            retry_after,
            ..Problem::default()
        };
        if !self.pointer.is_empty() {
            problem.field = Some(self.pointer.clone());
            problem.errors = vec![FieldProblem::new(&*self.pointer, &*self.detail)];
        }
        problem
    }
}

impl From<VaultError> for Refusal {
    fn from(error: VaultError) -> Self {
        error.problem().into()
    }
}
