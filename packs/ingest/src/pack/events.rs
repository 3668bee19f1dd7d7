//! A load's status as server-sent events, until it has ended.
//!
//! Must never: tell more often than a person can see.

use std::convert::Infallible;
use std::time::Duration;

use bytes::Bytes;
use offloop::http::Closing;
use offloop::http::axum::body::Body;
use offloop::http::axum::http::{HeaderValue, Response, header};
use serde_json::Value;
use tokio::sync::{OwnedSemaphorePermit, watch};

use super::view::status_view;
use crate::load::{LoadId, Loader, Status};

const EVERY: Duration = Duration::from_millis(250);
const KEEP_ALIVE: Duration = Duration::from_secs(15);

struct Teller {
    loader: Loader,
    load: LoadId,
    /// `None`: it has ended, and its end is still to be told.
    follow: Option<watch::Receiver<Status>>,
    first: bool,
    over: bool,
    closing: Option<Closing>,
    _place: OwnedSemaphorePermit,
}

fn event(kind: &str, view: &Value) -> Bytes {
    format!("event: {kind}\ndata: {view}\n\n").into()
}

impl Teller {
    async fn next(&mut self) -> Option<Bytes> {
        if self.over {
            return None;
        }
        if std::mem::take(&mut self.first)
            && let Some(follow) = &mut self.follow
        {
            let status = follow.borrow_and_update().clone();
            return Some(event("status", &status_view(&status)));
        }
        if let Some(follow) = &mut self.follow {
            let changed = async {
                tokio::time::sleep(EVERY).await;
                tokio::time::timeout(KEEP_ALIVE, follow.changed()).await
            };
            let changed = tokio::select! {
                changed = changed => changed,
                () = closes(self.closing.as_ref()) => {
                    // The load goes on with the next server, or is cut: this one tells no more of it.
                    self.over = true;
                    return Some(Bytes::from_static(b"event: shutdown\ndata: {}\n\n"));
                }
            };
            match changed {
                Err(_quiet) => return Some(Bytes::from_static(b": keep-alive\n\n")),
                Ok(Ok(())) => {
                    let status = follow.borrow_and_update().clone();
                    return Some(event("status", &status_view(&status)));
                }
                Ok(Err(_ended)) => self.follow = None,
            }
        }
        self.over = true;
        let status = self.loader.status(&self.load)?;
        Some(event("end", &status_view(&status)))
    }
}

async fn closes(closing: Option<&Closing>) {
    match closing {
        Some(closing) => closing.begun().await,
        None => std::future::pending().await,
    }
}

/// Of a load that runs, or ended in this server.
pub(super) fn stream(
    loader: &Loader,
    load: LoadId,
    closing: Option<Closing>,
    place: OwnedSemaphorePermit,
) -> Response<Body> {
    let teller = Teller {
        follow: loader.watch(&load),
        loader: loader.clone(),
        load,
        first: true,
        over: false,
        closing,
        _place: place,
    };
    let pieces = futures_util::stream::unfold(teller, |mut teller| async move {
        let piece = teller.next().await?;
        Some((Ok::<_, Infallible>(piece), teller))
    });
    let mut response = Response::new(Body::from_stream(pieces));
    let headers = response.headers_mut();
    let kind = HeaderValue::from_static("text/event-stream");
    headers.insert(header::CONTENT_TYPE, kind);
    headers.insert("x-accel-buffering", HeaderValue::from_static("no")); // nginx would hold it back
    response
}
