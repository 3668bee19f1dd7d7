//! One connection, and one question on it at a time.
//!
//! The connection is driven by whoever uses it, not by a task of its own: a call that is dropped takes
//! its socket with it, and one that lies in the pool costs nothing until it is looked at.
//!
//! Must never: read more of an answer than its limit, or call an answer whole that was cut.

use std::fmt;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper::body::{Body as _, Incoming};
use hyper::client::conn::http1::{self, Connection, SendRequest};
use hyper::header::{self, HeaderMap};
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use offloop::egress::Stream;
use tokio_util::io::InspectReader;

use crate::body::{Arrived, Arriving, Keeping};
use crate::call::Answer;
use crate::gate::Counted;

/// Of an answer's head, and what is read ahead of a body.
const HEAD_BYTES_MAX: usize = 64 << 10;
const HEADERS_MAX: usize = 128;

/// Counts what comes, so that "not one byte of an answer" is known and not guessed.
type Metered = InspectReader<Stream, Box<dyn FnMut(&[u8]) + Send>>;

/// Why there is no whole answer.
#[derive(Debug)]
pub(crate) enum Broken {
    /// Not one byte of it came. `unsent`: of the question, nothing was sent either.
    NoAnswer {
        what: String,
        unsent: bool,
    },
    /// It began and broke off.
    Cut(String),
    /// It is no HTTP.
    Protocol(String),
    TooLarge,
    /// It came and could not be kept.
    Storage(String),
}

/// A whole answer, its head, and whether the connection may be used again.
pub(crate) struct Exchanged {
    pub(crate) answer: Answer,
    pub(crate) headers: HeaderMap,
}

type Asked = Request<Full<Bytes>>;
type Driven = Pin<Box<Connection<TokioIo<Metered>, Full<Bytes>>>>;

/// An open connection.
pub(crate) struct Conn {
    sender: SendRequest<Full<Bytes>>,
    /// `None`: it has ended.
    connection: Option<Driven>,
    read: Arc<AtomicU64>,
    _counted: Counted,
}

impl fmt::Debug for Conn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Conn")
            .field("read", &self.read)
            .finish_non_exhaustive()
    }
}

impl Conn {
    pub(crate) async fn open(stream: Stream, counted: Counted) -> Result<Self, hyper::Error> {
        let read = Arc::new(AtomicU64::new(0));
        let came = Arc::clone(&read);
        let count = move |bytes: &[u8]| {
            came.fetch_add(bytes.len() as u64, Ordering::Relaxed);
        };
        let io = TokioIo::new(Metered::new(stream, Box::new(count)));
        let mut builder = http1::Builder::new();
        builder
            .max_buf_size(HEAD_BYTES_MAX)
            .max_headers(HEADERS_MAX);
        let (sender, connection) = builder.handshake(io).await?;
        Ok(Self {
            sender,
            connection: Some(Box::pin(connection)),
            read,
            _counted: counted,
        })
    }

    /// Lets the connection go on while something on it is waited for.
    async fn drive<F: Future>(&mut self, future: F) -> F::Output {
        let mut future = pin!(future);
        std::future::poll_fn(|cx| {
            if let Some(connection) = &mut self.connection
                && connection.as_mut().poll(cx).is_ready()
            {
                // Dropped, not only left alone: a question that it has not taken lies in its line, and
                // whoever asked it would wait for ever.
                self.connection = None;
            }
            future.as_mut().poll(cx)
        })
        .await
    }

    /// Whether it may be asked again: looked at once, without waiting.
    pub(crate) async fn is_idle(&mut self) -> bool {
        self.drive(std::future::ready(())).await;
        self.connection.is_some() && self.sender.is_ready()
    }

    /// Asks, and reads the whole answer.
    pub(crate) async fn exchange(
        &mut self,
        request: Asked,
        keeping: Keeping<'_>,
    ) -> Result<Exchanged, Broken> {
        let begun = Instant::now();
        let before = self.read.load(Ordering::Relaxed);
        let sent = self.sender.try_send_request(request);
        let response = match self.drive(sent).await {
            Ok(response) => response,
            Err(mut error) => {
                let unsent = error.take_message().is_some();
                let silent = self.read.load(Ordering::Relaxed) == before;
                return Err(broken(&error.into_error(), silent, unsent));
            }
        };
        self.read_answer(response, keeping, begun).await
    }

    async fn read_answer(
        &mut self,
        response: Response<Incoming>,
        keeping: Keeping<'_>,
        begun: Instant,
    ) -> Result<Exchanged, Broken> {
        let (head, mut body) = response.into_parts();
        let status = head.status.as_u16();
        let mut arriving = Arriving::new(keeping, status, body.size_hint().lower())?;
        while let Some(frame) = self.drive(body.frame()).await {
            let frame = frame.map_err(|error| broken(&error, false, false))?;
            if let Some(data) = frame.data_ref() {
                arriving.push(data).await?;
            }
        }
        let Arrived {
            held,
            len,
            sha256,
            draft,
        } = arriving.finish().await?;
        let content_type = head.headers.get(header::CONTENT_TYPE);
        let content_type = content_type.and_then(|text| text.to_str().ok());
        let answer = Answer {
            status,
            content_type: content_type.map(|text| text.chars().take(128).collect()),
            body: held,
            body_bytes: len,
            sha256,
            file: draft.map(Arc::new),
            wall: begun.elapsed(),
        };
        Ok(Exchanged {
            answer,
            headers: head.headers,
        })
    }
}

fn broken(error: &hyper::Error, silent: bool, unsent: bool) -> Broken {
    let what = told(error);
    if error.is_parse() {
        return Broken::Protocol(what);
    }
    if silent {
        Broken::NoAnswer { what, unsent }
    } else {
        Broken::Cut(what)
    }
}

/// The error with its causes, each once.
pub(crate) fn told(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(inner) = cause {
        let more = inner.to_string();
        if !text.contains(&more) {
            text = format!("{text}: {more}");
        }
        cause = inner.source();
    }
    text
}

/// A connection that waits for its next question.
#[derive(Debug)]
pub(crate) struct Idle {
    pub(crate) conn: Conn,
    /// It was looked at then.
    pub(crate) since: Duration,
    /// Its peer may close it from then on.
    pub(crate) until: Duration,
}

/// How long a connection lies idle: somewhat less than its peer keeps it, and where that does not say,
/// less than the usual five seconds.
pub(crate) fn idle_time(peer: Option<Duration>) -> Duration {
    const UNKNOWN: Duration = Duration::from_secs(4);
    const LONGEST: Duration = Duration::from_secs(60);
    const MARGIN: Duration = Duration::from_secs(1);
    match peer {
        None => UNKNOWN,
        Some(peer) if peer <= MARGIN * 2 => peer / 2,
        Some(peer) => peer.saturating_sub(MARGIN).min(LONGEST),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_connection_is_let_go_before_its_peer_lets_it_go() {
        for (peer, want) in [
            (None, 4_000),
            (Some(5), 4_000),
            (Some(1), 500),
            (Some(0), 0),
            (Some(72), 60_000),
        ] {
            let found = idle_time(peer.map(Duration::from_secs));
            assert_eq!(found, Duration::from_millis(want), "{peer:?}");
        }
    }
}
