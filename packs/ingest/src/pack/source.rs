//! What a request brings: the bytes of its body, or of the one file in its form, counted and summed.
//!
//! Must never: say that all has come before the form is closed and every digest that was given fits;
//! wait longer for a sender than the idle deadline.

use std::collections::VecDeque;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::BodyExt as _;
use offloop::http::axum::body::Body;
use offloop::http::axum::http::{HeaderMap, header};
use offloop::http::{Refusal, body_refusal};
use offloop::wire::Problem;

use super::IngestOptions;
use super::digest::{self, Sums};
use super::routes::text;
use super::view;
use crate::decode::form::{FormError, FormFile, FormHead};

/// A body on its way in.
#[derive(Debug)]
pub(super) struct Source {
    body: Body,
    form: Option<FormFile>,
    /// Of the form's file, taken off the body and not yet handed on.
    ready: VecDeque<Bytes>,
    sums: Sums,
    taken: u64,
    is_over: bool,
    idle: Duration,
    most: u64,
}

fn form_problem(error: &FormError) -> Box<Problem> {
    let kind = if *error == FormError::Cut {
        view::BODY_CUT
    } else {
        ("invalid-form", 400, "The form cannot be taken as it is")
    };
    Box::new(view::problem(kind, error.to_string()))
}

impl Source {
    /// Errors: a form without a boundary, digests that cannot be checked.
    pub(super) fn new(
        body: Body,
        headers: &HeaderMap,
        options: &IngestOptions,
    ) -> Result<Self, Refusal> {
        let kind = text(headers, &header::CONTENT_TYPE)?;
        let form = kind.filter(|kind| FormFile::is_form(kind));
        let form = form.map(FormFile::new).transpose();
        let mut given = digest::given(headers, &digest::CONTENT)?;
        // Of a part of an upload it is that of all parts, which is looked at when they are there.
        if headers.get(super::upload::COMPLETE).is_none() {
            given.extend(digest::given(headers, &digest::REPR)?);
        }
        Ok(Self {
            body,
            form: form.map_err(|error| *form_problem(&error))?,
            ready: VecDeque::new(),
            sums: Sums::new(given),
            taken: 0,
            is_over: false,
            idle: options.idle,
            most: options.upload_bytes,
        })
    }

    pub(super) const fn is_form(&self) -> bool {
        self.form.is_some()
    }

    /// What the form says of its file, read so far; `None` for a body that is the file.
    pub(super) async fn head(&mut self) -> Result<Option<FormHead>, Refusal> {
        loop {
            let Some(form) = &self.form else {
                return Ok(None);
            };
            if let Some(head) = form.head() {
                return Ok(Some(head.clone()));
            }
            self.read().await.map_err(|problem| *problem)?;
        }
    }

    /// The next bytes of the file; `None` when all of it has come.
    pub(super) async fn next(&mut self) -> Result<Option<Bytes>, Box<Problem>> {
        loop {
            if let Some(bytes) = self.ready.pop_front() {
                return Ok(Some(bytes));
            }
            if self.is_over {
                return Ok(None);
            }
            self.read().await?;
        }
    }

    /// One frame of the body. Cancel-safe.
    async fn read(&mut self) -> Result<(), Box<Problem>> {
        let frame = tokio::time::timeout(self.idle, self.body.frame()).await;
        let frame = match frame {
            Err(_elapsed) => {
                let detail = format!("nothing came for {:?}, the idle deadline", self.idle);
                return Err(Box::new(view::problem(view::TOO_SLOW, detail)));
            }
            Ok(None) => return self.finish(),
            Ok(Some(Err(error))) => return Err(Box::new(body_refusal(&error).problem().clone())),
            Ok(Some(Ok(frame))) => frame,
        };
        let Ok(data) = frame.into_data() else {
            return Ok(());
        };
        self.taken += data.len() as u64;
        if self.taken > self.most {
            let most = self.most;
            let detail = format!("the body is over {most} bytes, ingest.upload_limit");
            return Err(Box::new(view::problem(view::TOO_LARGE, detail)));
        }
        self.sums.update(&data);
        let Some(form) = &mut self.form else {
            self.ready.push_back(data);
            return Ok(());
        };
        let mut out = Vec::new();
        let pushed = form.push(&data, &mut out);
        self.ready.extend(out);
        pushed.map_err(|error| form_problem(&error))
    }

    fn finish(&mut self) -> Result<(), Box<Problem>> {
        if let Some(form) = &self.form {
            form.finish().map_err(|error| form_problem(&error))?;
        }
        std::mem::take(&mut self.sums).verify()?;
        self.is_over = true;
        Ok(())
    }

    /// Reads on without a use for it, for a while: a connection that is closed with unread bytes may
    /// lose the answer.
    pub(super) async fn linger(&mut self, within: Duration, bytes: usize) {
        let mut left = bytes;
        let rest = async {
            while let Some(Ok(frame)) = self.body.frame().await {
                left = left.saturating_sub(frame.data_ref().map_or(0, Bytes::len));
                if left == 0 {
                    break;
                }
            }
        };
        let _still_sending = tokio::time::timeout(within, rest).await;
    }
}
