//! Bodies of requests: how slowly they may come, and how large they may grow.

use std::error::Error;
use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use axum::body::Body;
use bytes::{Bytes, BytesMut};
use http_body::{Body as HttpBody, Frame, SizeHint};
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Sleep;

use crate::conn::ConnState;
use crate::problem::{Kind, Refusal};

/// How slow a sender may be: below `rate` bytes per second for `window` in sum. Faster bytes pay
/// the debt back, and only time that we wait for the sender counts.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Pace {
    pub(crate) window: Duration,
    pub(crate) rate: u32,
}

impl Pace {
    /// The time that these bytes may take.
    pub(crate) fn worth(&self, bytes: usize) -> Duration {
        Duration::from_secs_f64(bytes as f64 / f64::from(self.rate.max(1)))
    }
}

/// The sender was too slow.
#[derive(Debug)]
pub(crate) struct TooSlow(Pace);

impl fmt::Display for TooSlow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Pace { window, rate } = self.0;
        write!(
            f,
            "the body came at less than {rate} bytes per second for {window:?}"
        )
    }
}

impl Error for TooSlow {}

/// A body that must keep its pace.
pub(crate) struct Paced {
    body: Incoming,
    pace: Pace,
    debt: Duration,
    waiting_since: Option<Instant>,
    alarm: Option<Pin<Box<Sleep>>>,
    conn: Arc<ConnState>,
}

impl Paced {
    pub(crate) fn new(body: Incoming, pace: Pace, conn: Arc<ConnState>) -> Self {
        Self {
            body,
            pace,
            debt: Duration::ZERO,
            waiting_since: None,
            alarm: None,
            conn,
        }
    }

    fn got(&mut self, bytes: usize) {
        if let Some(since) = self.waiting_since.take() {
            self.debt += since.elapsed();
            self.conn.body_came();
        }
        self.debt = self.debt.saturating_sub(self.pace.worth(bytes));
        self.alarm = None;
    }

    fn wait(&mut self, cx: &mut Context<'_>) -> Poll<TooSlow> {
        let since = *self.waiting_since.get_or_insert_with(Instant::now);
        let until = since + self.pace.window.saturating_sub(self.debt);
        let alarm = self
            .alarm
            .get_or_insert_with(|| Box::pin(tokio::time::sleep_until(until.into())));
        alarm.as_mut().poll(cx).map(|()| TooSlow(self.pace))
    }
}

impl HttpBody for Paced {
    type Data = Bytes;
    type Error = Box<dyn Error + Send + Sync>;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        match Pin::new(&mut self.body).poll_frame(cx) {
            Poll::Ready(frame) => {
                let bytes = match &frame {
                    Some(Ok(frame)) => frame.data_ref().map_or(0, Bytes::len),
                    _ => 0,
                };
                self.got(bytes);
                Poll::Ready(frame.map(|frame| frame.map_err(Into::into)))
            }
            Poll::Pending => self.wait(cx).map(|slow| Some(Err(slow.into()))),
        }
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// In the extensions of every request: its route is at work for it, although no answer is seen yet.
///
/// The time that an answer may take begins anew with each [`UnderWay::tell`]: for routes that store
/// a long body while it comes, and only where something was done meanwhile.
#[derive(Clone)]
pub struct UnderWay(pub(crate) Arc<ConnState>);

impl UnderWay {
    /// Something was done.
    pub fn tell(&self) {
        self.0.body_came();
    }
}

impl fmt::Debug for UnderWay {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("UnderWay").finish_non_exhaustive()
    }
}

/// Why a body could not be read to its end: it came too slowly, or broke off.
pub fn refusal(error: &axum::Error) -> Refusal {
    let mut cause: Option<&(dyn Error + 'static)> = Some(error);
    while let Some(error) = cause {
        if let Some(slow) = error.downcast_ref::<TooSlow>() {
            return Kind::TooSlow.say(slow.to_string()).into();
        }
        cause = error.source();
    }
    Kind::BodyCut
        .say("the connection or its framing broke off in the body")
        .into()
}

/// Bodies up to this size are collected without asking for room.
const FREE_BYTES: usize = 16 << 10;

/// A promise is believed up to this, before its bytes have come.
const PROMISED_BYTES_MAX: usize = 1 << 20;

/// A body in one piece, and the room that it takes until this is dropped.
#[derive(Debug)]
pub struct Collected {
    pub bytes: Bytes,
    _room: Option<OwnedSemaphorePermit>,
}

impl Collected {
    /// Bytes that take no room of anybody's.
    pub const fn free(bytes: Bytes) -> Self {
        Self { bytes, _room: None }
    }
}

/// Reads a whole body; `room` counts KiB. For packs too: with a limit and room of their own.
pub async fn collect(
    mut body: Body,
    limit: usize,
    room: &Arc<Semaphore>,
) -> Result<Collected, Refusal> {
    let too_large = || -> Refusal {
        let detail = format!("the body is over {limit} bytes, the limit here");
        Kind::TooLarge.say(detail).into()
    };
    if body.size_hint().lower() > limit as u64 {
        return Err(too_large());
    }
    let mut first = Bytes::new();
    let mut all = BytesMut::new();
    let mut permit: Option<OwnedSemaphorePermit> = None;
    let mut permitted = FREE_BYTES;
    while let Some(frame) = body.frame().await {
        let Ok(data) = frame.map_err(|error| refusal(&error))?.into_data() else {
            continue;
        };
        let len = first.len() + all.len() + data.len();
        if len > limit {
            return Err(too_large());
        }
        if len > permitted {
            // Doubling: a large body asks a few times, not once per frame.
            let more = len.next_power_of_two().min(limit.max(len)) - permitted;
            let kib = u32::try_from(more.div_ceil(1024)).unwrap_or(u32::MAX);
            let got = Arc::clone(room).try_acquire_many_owned(kib).map_err(|_| {
                Kind::Busy.say("too many large bodies are being read; try again later")
            })?;
            match &mut permit {
                Some(permit) => permit.merge(got),
                None => permit = Some(got),
            }
            permitted += more;
        }
        if first.is_empty() && all.is_empty() {
            first = data; // the common case: one frame, not copied
            continue;
        }
        if all.is_empty() {
            // Room for what is promised, within reason: a large body is not copied as it grows.
            let promised = usize::try_from(body.size_hint().lower()).unwrap_or(usize::MAX);
            all.reserve(
                len.saturating_add(promised)
                    .min(limit)
                    .min(PROMISED_BYTES_MAX),
            );
            all.extend_from_slice(&first);
            first = Bytes::new();
        }
        all.extend_from_slice(&data);
    }
    let bytes = if all.is_empty() { first } else { all.freeze() };
    Ok(Collected {
        bytes,
        _room: permit,
    })
}
