//! One POST to one receiver, on a connection of its own that is closed after its head.
//!
//! Written on hyper's connection instead of a client with a pool: what is connected to is what was
//! checked, no proxy is read from the environment, no redirect is followed, no body is read.
//!
//! Must never: connect by a name, or wait without a limit.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::Full;
use hyper::client::conn::http1;
use hyper::header::{self, HeaderMap, HeaderName, HeaderValue};
use hyper::{Method, Request, StatusCode, Version};
use hyper_util::rt::TokioIo;
use offloop::egress::{Connector, EgressError, Policy, Resolve, Roots, Target, TlsSetupError};
use tokio::io::{AsyncRead, AsyncWrite};

/// Of it all, the connection may take so much, with its handshake.
const CONNECT_WITHIN: Duration = Duration::from_secs(5);
/// Of an answer's head.
const HEAD_BYTES_MAX: usize = 16 << 10;
/// Longest wait that a receiver may ask for.
const RETRY_AFTER_MAX: Duration = Duration::from_secs(24 * 3600);

/// What a receiver answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    /// In seconds, as it asked for; bounded.
    pub(crate) retry_after: Option<Duration>,
}

/// Why there was no answer.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SendError {
    #[error("the URL {0}")]
    Egress(#[from] EgressError),
    #[error("the receiver's HTTP broke: {0}")]
    Http(hyper::Error),
    #[error("the secret {0} is not in the folder any more")]
    Secret(String),
    #[error("a header cannot be written")]
    Header,
    #[error("the receiver did not answer within {0:?}")]
    Late(Duration),
}

/// Who sends.
#[derive(Debug)]
pub(crate) struct Sender {
    connector: Connector,
    /// From the first look at its name to the head of its answer.
    pub(crate) within: Duration,
}

impl Sender {
    pub(crate) fn new(
        policy: Policy,
        resolver: Arc<dyn Resolve>,
        roots: &Roots,
        within: Duration,
    ) -> Result<Self, TlsSetupError> {
        Ok(Self {
            connector: Connector::new(policy, resolver, roots)?,
            within,
        })
    }

    pub(crate) fn policy(&self) -> &Policy {
        self.connector.policy()
    }

    /// Posts JSON.
    pub(crate) async fn post(
        &self,
        target: &Target,
        headers: &[(&'static str, String)],
        body: Bytes,
    ) -> Result<Answer, SendError> {
        let request = request(target, headers, body)?;
        let sent = tokio::time::timeout(self.within, self.send(target, request));
        sent.await.map_err(|_| SendError::Late(self.within))?
    }

    async fn send(
        &self,
        target: &Target,
        request: Request<Full<Bytes>>,
    ) -> Result<Answer, SendError> {
        let within = CONNECT_WITHIN.min(self.within);
        let stream = self.connector.connect(target, within).await?;
        exchange(stream, request).await
    }
}

fn request(
    target: &Target,
    headers: &[(&'static str, String)],
    body: Bytes,
) -> Result<Request<Full<Bytes>>, SendError> {
    let mut request = Request::new(Full::new(body));
    *request.method_mut() = Method::POST;
    *request.version_mut() = Version::HTTP_11;
    *request.uri_mut() = target.path().parse().map_err(|_| SendError::Header)?;
    let map = request.headers_mut();
    let value = |text: &str| HeaderValue::from_str(text).map_err(|_| SendError::Header);
    map.insert(header::HOST, value(&target.authority())?);
    map.insert(
        header::CONTENT_TYPE,
        HeaderValue::from_static("application/json"),
    );
    map.insert(header::CONNECTION, HeaderValue::from_static("close"));
    let agent = concat!("offloop-webhooks/", env!("CARGO_PKG_VERSION"));
    map.insert(header::USER_AGENT, HeaderValue::from_static(agent));
    for (name, text) in headers {
        map.insert(HeaderName::from_static(name), value(text)?);
    }
    Ok(request)
}

async fn exchange<S: AsyncRead + AsyncWrite + Unpin>(
    stream: S,
    request: Request<Full<Bytes>>,
) -> Result<Answer, SendError> {
    let (mut sender, connection) = http1::Builder::new()
        .max_buf_size(HEAD_BYTES_MAX)
        .max_headers(64)
        .handshake(TokioIo::new(stream))
        .await
        .map_err(SendError::Http)?;
    let answer = sender.send_request(request);
    tokio::pin!(answer, connection);
    let head = tokio::select! {
        biased;
        head = &mut answer => head,
        ended = &mut connection => match ended {
            Ok(()) => answer.await,
            Err(error) => Err(error),
        },
    };
    let head = head.map_err(SendError::Http)?;
    Ok(Answer {
        status: head.status().as_u16(),
        retry_after: retry_after(head.status(), head.headers()),
    })
}

/// Seconds alone: dates need the receiver's clock to be right.
fn retry_after(status: StatusCode, headers: &HeaderMap) -> Option<Duration> {
    let waits = matches!(
        status,
        StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE
    );
    let text = headers.get(header::RETRY_AFTER)?.to_str().ok()?;
    let seconds = text.trim().parse().ok().filter(|_| waits)?;
    Some(Duration::from_secs(seconds).min(RETRY_AFTER_MAX))
}
