//! One request from head to answer: guarded, timed, counted, and given the headers that every
//! answer has. Routes are behind it.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use axum::body::Body;
use axum::http::{HeaderMap, HeaderName, HeaderValue, Request, Response, header};
use bytes::Bytes;
use http_body::{Body as HttpBody, Frame, SizeHint};
use hyper::body::Incoming;
use offloop_pulse::Name;
use tokio::sync::OwnedSemaphorePermit;

use crate::body::{Paced, UnderWay};
use crate::conn::{ConnState, Interim};
use crate::door::{Closing, Inner};
use crate::encoding::Encoding;
use crate::guard;
use crate::mark::Mark;
use crate::problem::{Kind, respond};

/// The routes as one connection sees them.
#[derive(Debug)]
pub(crate) struct DoorService {
    door: Arc<Inner>,
    routes: Encoding,
    conn: Arc<ConnState>,
}

impl DoorService {
    pub(crate) fn new(door: Arc<Inner>, routes: Encoding, conn: Arc<ConnState>) -> Self {
        Self { door, routes, conn }
    }
}

impl hyper::service::Service<Request<Incoming>> for DoorService {
    type Response = Response<Tracked>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Infallible>> + Send>>;

    fn call(&self, request: Request<Incoming>) -> Self::Future {
        self.conn.request_begins();
        let in_hand = InHand(Arc::clone(&self.conn));
        let (door, routes) = (Arc::clone(&self.door), self.routes.clone());
        Box::pin(async move { Ok(answer(door, routes, request, in_hand).await) })
    }
}

async fn answer(
    door: Arc<Inner>,
    mut routes: Encoding,
    request: Request<Incoming>,
    in_hand: InHand,
) -> Response<Tracked> {
    let begun = Instant::now();
    let (mut parts, body) = request.into_parts();
    let method = parts.method.clone();
    let waits = |query: &str| query.contains("wait_ms=");
    let timed = !parts.headers.contains_key("prefer") && !parts.uri.query().is_some_and(waits);
    let refused = guard::check_host(&door.config, &parts).and_then(|()| guard::check_site(&parts));
    let (mut response, encoder) = if let Err(refusal) = refused {
        (respond(&refusal.0), None)
    } else {
        let conn = Arc::clone(&in_hand.0);
        let body = Body::new(Paced::new(body, door.rules.pace, Arc::clone(&conn)));
        parts.extensions.insert(UnderWay(Arc::clone(&conn)));
        parts.extensions.insert(Closing(Arc::clone(&door)));
        if let Some(interim) = Interim::of(&conn, parts.version) {
            parts.extensions.insert(Arc::new(interim));
        }
        let routed = routes.call(Request::from_parts(parts, body));
        let routed = bounded(routed, door.config.request_timeout, &conn).await;
        Interim::close(&conn);
        routed
    };
    dress(response.headers_mut());
    door.metrics
        .request(&method, response.status(), begun.elapsed(), timed);
    let mark = response.extensions_mut().remove::<Mark>();
    response.map(|body| Tracked {
        body,
        mark: mark.map(|Mark(name)| name),
        _encoder: encoder,
        _in_hand: in_hand,
    })
}

/// An answer, and its place among those that are encoded.
type Routed = (Response<Body>, Option<OwnedSemaphorePermit>);

/// The answer in time, or 503. The time begins when the body was last waited for.
async fn bounded(
    routed: impl Future<Output = Result<Routed, Infallible>>,
    limit: Duration,
    conn: &ConnState,
) -> Routed {
    let mut routed = std::pin::pin!(routed);
    let mut wait = limit;
    loop {
        match tokio::time::timeout(wait, routed.as_mut()).await {
            Ok(Ok(routed)) => return routed,
            Err(_) => match conn.since_body() {
                Some(since) if since < limit => wait = limit.saturating_sub(since),
                _ => {
                    let detail = format!("there was no answer within {limit:?}");
                    return (respond(&Kind::TimedOut.say(detail)), None);
                }
            },
        }
    }
}

/// Strict for every answer; a page of the dashboard brings its own policy.
const HEADERS: [(HeaderName, HeaderValue); 5] = [
    (
        header::CONTENT_SECURITY_POLICY,
        HeaderValue::from_static("default-src 'none'; frame-ancestors 'none'"),
    ),
    (
        header::X_CONTENT_TYPE_OPTIONS,
        HeaderValue::from_static("nosniff"),
    ),
    (
        header::REFERRER_POLICY,
        HeaderValue::from_static("no-referrer"),
    ),
    (header::CACHE_CONTROL, HeaderValue::from_static("no-store")),
    (
        HeaderName::from_static("cross-origin-resource-policy"),
        HeaderValue::from_static("same-origin"),
    ),
];

fn dress(headers: &mut HeaderMap) {
    for (name, value) in HEADERS {
        if let header::Entry::Vacant(entry) = headers.entry(name) {
            entry.insert(value);
        }
    }
}

/// A request whose answer is not finished.
#[derive(Debug)]
struct InHand(Arc<ConnState>);

impl Drop for InHand {
    fn drop(&mut self) {
        self.0.request_ends();
    }
}

/// The body of an answer; its connection is busy until it is dropped.
#[derive(Debug)]
pub(crate) struct Tracked {
    body: Body,
    /// The route that fills it: a stream is polled after the route has answered.
    mark: Option<Name>,
    /// Its place among those that are encoded.
    _encoder: Option<OwnedSemaphorePermit>,
    _in_hand: InHand,
}

impl HttpBody for Tracked {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        let _entered = self.mark.map(offloop_pulse::enter);
        Pin::new(&mut self.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
