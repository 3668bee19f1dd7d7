//! Interim responses (1xx) that a route sends while it is at work: hyper sends none for its handlers.
//!
//! A route puts one in line; the connection writes it where hyper flushes, which it does only once its own
//! buffer is empty. While a route has not answered, that is between two messages: what came before is
//! written, and its answer is not begun. Must never: write into an answer, send anything on HTTP/1.0 or
//! HTTP/2, or hold more than one that waits.

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use axum::http::{HeaderMap, StatusCode, Version};
use bytes::Bytes;

use super::ConnState;

/// Of one interim response; a longer one is not sent.
const BYTES_MAX: usize = 4 << 10;

/// The place of a connection for what is not written yet.
#[derive(Debug, Default)]
pub(super) struct Line(Mutex<Waiting>);

#[derive(Debug, Default)]
struct Waiting {
    /// Counts requests: only the one at work has a say.
    request: u64,
    bytes: Option<Bytes>,
}

impl Line {
    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Another request, or the end of one: what waits is of no use any more.
    fn turn(&self) -> u64 {
        let mut waiting = self.lock();
        waiting.request += 1;
        waiting.bytes = None;
        waiting.request
    }

    /// To be called where nothing else is waiting to be written.
    pub(super) fn take(&self) -> Option<Bytes> {
        self.lock().bytes.take()
    }
}

/// In the extensions of requests whose connection can carry interim responses (HTTP/1.1): sends them until the
/// route has answered. A client may get them unasked by the letter of RFC 9110, but many do not expect
/// any; who sends one should know that it was asked for.
pub struct Interim {
    conn: Arc<ConnState>,
    request: u64,
}

impl fmt::Debug for Interim {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Interim").finish_non_exhaustive()
    }
}

impl Interim {
    /// For a request that begins.
    pub(crate) fn of(conn: &Arc<ConnState>, version: Version) -> Option<Self> {
        (version == Version::HTTP_11).then(|| Self {
            request: conn.interim.turn(),
            conn: Arc::clone(conn),
        })
    }

    /// The route has answered: nothing may go out before its answer any more.
    pub(crate) fn close(conn: &ConnState) {
        conn.interim.turn();
    }

    /// Sends one, if it is in time: not after the answer, and not before the last one has begun to be written.
    ///
    /// - `status`: 102 to 199; 101 is no interim response of this kind, and hyper sends 100 itself.
    /// - `reason`: plain ASCII, such as "Early Hints".
    ///
    /// Waits for one turn of the connection, never for the client to read.
    pub async fn send(&self, status: StatusCode, reason: &str, headers: &HeaderMap) {
        let is_one = status.is_informational() && status.as_u16() > 101;
        let is_plain = |byte: u8| byte == b' ' || byte.is_ascii_graphic();
        if !is_one || !reason.bytes().all(is_plain) {
            return;
        }
        let mut text = format!("HTTP/1.1 {} {reason}\r\n", status.as_u16()).into_bytes();
        for (name, value) in headers {
            text.extend_from_slice(name.as_str().as_bytes());
            text.extend_from_slice(b": ");
            text.extend_from_slice(value.as_bytes());
            text.extend_from_slice(b"\r\n");
        }
        text.extend_from_slice(b"\r\n");
        if text.len() > BYTES_MAX {
            return;
        }
        {
            let mut waiting = self.conn.interim.lock();
            if waiting.request != self.request || waiting.bytes.is_some() {
                return;
            }
            waiting.bytes = Some(text.into());
        }
        // The connection polls its route, then flushes.
        tokio::task::yield_now().await;
    }
}
