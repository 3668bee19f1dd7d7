//! One URL as something to read: while it comes, gone on with where the connection broke.
//!
//! What breaks off goes on by Range and If-Range where the peer has strong ETags; otherwise it is read
//! again and passed over. For programs that read on a thread of their own; no pack uses it.
//!
//! Must never: put together two versions of what stands at the URL; connect to an address that
//! `offloop::egress` has not checked.

use std::io::{self, Read};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt as _, Empty};
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper::header::{self, HeaderMap, HeaderName};
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use offloop::egress::{
    Connector, EgressError, Forbidden, Net, Policy, Roots, SystemResolver, Target, TlsSetupError,
};

use crate::conn::told;

const CONNECT_WITHIN: Duration = Duration::from_secs(10);
/// A peer that is silent for so long has broken off.
const SILENCE: Duration = Duration::from_secs(60);
const REDIRECTS_MAX: u8 = 5;
/// Of a stretch in which not one byte came.
const TRIES: u32 = 5;
const WAIT_FIRST: Duration = Duration::from_secs(1);
const HEAD_BYTES_MAX: usize = 64 << 10;

/// Why there is nothing to read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DownloadError {
    #[error("the URL cannot be called: {0}")]
    Url(String),
    #[error("TLS cannot be set up")]
    Tls(#[from] TlsSetupError),
    #[error("cannot start a runtime")]
    Runtime(#[source] io::Error),
    /// No answer, or none that can be read.
    #[error("{0}")]
    Answer(String),
    #[error("it has {length} bytes; the limit is {most}")]
    TooLarge { length: u64, most: u64 },
}

/// What is known of which content stands at the URL.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Version {
    etag: Option<String>,
    modified: Option<String>,
    /// In bytes, as they come.
    pub length: Option<u64>,
}

impl Version {
    fn of(headers: &HeaderMap) -> Self {
        let text = |name: &HeaderName| {
            let text = headers.get(name)?.to_str().ok()?;
            Some(text.trim().to_owned())
        };
        let length = text(&header::CONTENT_LENGTH);
        Self {
            etag: text(&header::ETAG),
            modified: text(&header::LAST_MODIFIED),
            length: length.and_then(|length| length.parse().ok()),
        }
    }

    /// One that stands for these very bytes.
    fn strong(&self) -> Option<&str> {
        self.etag.as_deref().filter(|etag| etag.starts_with('"'))
    }

    /// Nothing says whether it changes.
    pub const fn is_unknown(&self) -> bool {
        self.etag.is_none() && self.modified.is_none()
    }

    /// For the name of the load.
    pub fn name(&self) -> String {
        let Self {
            etag,
            modified,
            length,
        } = self;
        format!("{etag:?} {modified:?} {length:?}")
    }
}

/// What is read.
#[derive(Debug)]
pub struct Remote {
    runtime: tokio::runtime::Runtime,
    way: Way,
    body: Option<Incoming>,
    piece: Bytes,
    /// Bytes handed on.
    at: u64,
    /// Bytes to pass over: they were handed on from an earlier answer.
    again: u64,
    version: Version,
    most: u64,
}

/// To the peer and back.
#[derive(Debug)]
struct Way {
    connector: Connector,
    url: Target,
}

/// Why there is no answer to read.
enum Refused {
    /// Another try may bring one.
    Passing(String),
    Final(String),
}

impl Refused {
    fn said(self) -> String {
        match self {
            Self::Passing(message) | Self::Final(message) => message,
        }
    }
}

fn of_egress(error: &EgressError) -> Refused {
    let hint = match error {
        EgressError::Forbidden { why, .. } if *why != Forbidden::Metadata => {
            "; --allow-private names networks of your own"
        }
        _ => "",
    };
    let message = format!("{}{hint}", told(error));
    if error.retry_helps() {
        Refused::Passing(message)
    } else {
        Refused::Final(message)
    }
}

impl Way {
    /// Asks for all of it, or for what follows byte `from` if it is still that version; redirects are
    /// followed, each checked as the URL was.
    async fn ask(&self, from: Option<(u64, &str)>) -> Result<Response<Incoming>, Refused> {
        let mut target = self.url.clone();
        for _ in 0..=REDIRECTS_MAX {
            let response = self.hop(&target, from).await?;
            let status = response.status();
            if !matches!(status.as_u16(), 301 | 302 | 303 | 307 | 308) {
                return Ok(response);
            }
            let location = response.headers().get(header::LOCATION);
            let location = location.and_then(|text| text.to_str().ok());
            let location = location.ok_or_else(|| {
                Refused::Final(format!("it answered {status} without a Location"))
            })?;
            let next = self.connector.policy().follow(&target, location);
            target = next.map_err(|error| of_egress(&error))?;
        }
        let message = format!("it was sent on more than {REDIRECTS_MAX} times");
        Err(Refused::Final(message))
    }

    async fn hop(
        &self,
        target: &Target,
        from: Option<(u64, &str)>,
    ) -> Result<Response<Incoming>, Refused> {
        let stream = self.connector.connect(target, CONNECT_WITHIN).await;
        let stream = stream.map_err(|error| of_egress(&error))?;
        let passing = |error: hyper::Error| Refused::Passing(told(&error));
        let mut builder = http1::Builder::new();
        builder.max_buf_size(HEAD_BYTES_MAX);
        let (mut sender, connection) = builder
            .handshake(TokioIo::new(stream))
            .await
            .map_err(passing)?;
        // Its end is told by the body that it breaks.
        tokio::spawn(async move { drop(connection.await) });
        let mut request = Request::get(target.path())
            .header(header::HOST, target.authority())
            .header(
                header::USER_AGENT,
                concat!("offloop/", env!("CARGO_PKG_VERSION")),
            )
            .header(header::ACCEPT, "*/*")
            .header(header::ACCEPT_ENCODING, "identity")
            // An answer has one connection, which ends with it.
            .header(header::CONNECTION, "close");
        if let Some((at, etag)) = from {
            request = request
                .header(header::RANGE, format!("bytes={at}-"))
                .header(header::IF_RANGE, etag);
        }
        let request = request.body(Empty::<Bytes>::new());
        let request = request.map_err(|error| Refused::Final(told(&error)))?;
        let asked = tokio::time::timeout(SILENCE, sender.send_request(request)).await;
        asked
            .map_err(|_| Refused::Passing(format!("it did not answer within {SILENCE:?}")))?
            .map_err(passing)
    }
}

/// What a status means where all of it was asked for.
fn refusal(status: StatusCode) -> Refused {
    let message = format!("it answered {status}");
    if status.is_server_error() || status == StatusCode::TOO_MANY_REQUESTS {
        Refused::Passing(message)
    } else {
        Refused::Final(message)
    }
}

/// Where the bytes of a 206 begin.
fn begins_at(headers: &HeaderMap) -> Option<u64> {
    let range = headers.get(header::CONTENT_RANGE)?.to_str().ok()?;
    let range = range.trim().strip_prefix("bytes ")?;
    range.split_once('-')?.0.trim().parse().ok()
}

impl Remote {
    /// Asks for it. `most`: bytes of it that are taken.
    pub fn open(url: &str, allow: &[Net], roots: &Roots, most: u64) -> Result<Self, DownloadError> {
        let policy = Policy {
            http: true,
            any_port: true, // whoever runs this has named the URL
            allow: allow.to_vec(),
            ..Policy::default()
        };
        let target = policy.target(url);
        let target = target.map_err(|error| DownloadError::Url(of_egress(&error).said()));
        let connector = Connector::new(policy, Arc::new(SystemResolver::default()), roots);
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(DownloadError::Runtime)?;
        let mut remote = Self {
            way: Way {
                connector: connector?,
                url: target?,
            },
            runtime,
            body: None,
            piece: Bytes::new(),
            at: 0,
            again: 0,
            version: Version::default(),
            most,
        };
        let response = remote.patiently();
        let response = response.map_err(DownloadError::Answer)?;
        remote.version = Version::of(response.headers());
        if let Some(length) = remote.version.length.filter(|length| *length > most) {
            return Err(DownloadError::TooLarge { length, most });
        }
        let coding = response.headers().get(header::CONTENT_ENCODING);
        let coding = coding.and_then(|coding| coding.to_str().ok());
        if let Some(coding) = coding
            && !["identity", "gzip", "x-gzip", "zstd"].contains(&coding)
        {
            let shown: String = coding.chars().take(40).collect();
            let message =
                format!("it comes with Content-Encoding {shown:?}; gzip, zstd or none can be read");
            return Err(DownloadError::Answer(message));
        }
        remote.body = Some(response.into_body());
        Ok(remote)
    }

    pub const fn version(&self) -> &Version {
        &self.version
    }

    /// An answer that goes on behind what was handed on, or why there is none.
    fn patiently(&mut self) -> Result<Response<Incoming>, String> {
        let mut wait = WAIT_FIRST;
        let mut left = TRIES;
        loop {
            left -= 1;
            let refused = match self.runtime.block_on(self.once()) {
                Ok((response, again)) => {
                    self.again = again;
                    return Ok(response);
                }
                Err(refused) => refused,
            };
            if left == 0 || matches!(refused, Refused::Final(_)) {
                return Err(refused.said());
            }
            std::thread::sleep(wait);
            wait *= 2;
        }
    }

    /// The answer, and how many bytes of it were handed on before.
    async fn once(&self) -> Result<(Response<Incoming>, u64), Refused> {
        let from = self.version.strong().filter(|_| self.at > 0);
        let response = self.way.ask(from.map(|etag| (self.at, etag))).await?;
        let (status, headers) = (response.status(), response.headers());
        if status == StatusCode::PARTIAL_CONTENT && from.is_some() {
            return match begins_at(headers) {
                Some(at) if at == self.at => Ok((response, 0)),
                _ => Err(Refused::Final(
                    "it sent another range than it was asked for".into(),
                )),
            };
        }
        if status != StatusCode::OK {
            return Err(refusal(status));
        }
        let is_same = self.version == Version::of(headers);
        if self.at > 0 && !is_same {
            let message = "it was changed while it was read; the same command again reads it anew";
            return Err(Refused::Final(message.into()));
        }
        if self.at > 0 && self.version.is_unknown() && self.version.length.is_none() {
            let message = "it broke off, and does not say whether it is still the same";
            return Err(Refused::Final(message.into()));
        }
        Ok((response, self.at))
    }

    /// The next bytes; none at the end.
    fn next(&mut self) -> Result<Bytes, String> {
        loop {
            let Some(body) = &mut self.body else {
                return Ok(Bytes::new());
            };
            let frame = async { tokio::time::timeout(SILENCE, body.frame()).await };
            let why = match self.runtime.block_on(frame) {
                Ok(None) => {
                    self.body = None;
                    return Ok(Bytes::new());
                }
                Ok(Some(Ok(frame))) => {
                    let data = frame.into_data().unwrap_or_default();
                    if let Some(fresh) = self.take(data)? {
                        return Ok(fresh);
                    }
                    continue;
                }
                Ok(Some(Err(error))) => told(&error),
                Err(_silent) => format!("nothing came for {SILENCE:?}"),
            };
            self.body = None;
            let response = self.patiently();
            let response =
                response.map_err(|then| format!("it broke off ({why}), and then: {then}"))?;
            self.body = Some(response.into_body());
        }
    }

    /// What of `data` was not handed on yet.
    fn take(&mut self, mut data: Bytes) -> Result<Option<Bytes>, String> {
        let known = usize::try_from(self.again).map_or(data.len(), |again| again.min(data.len()));
        let _known = data.split_to(known);
        self.again -= known as u64;
        if data.is_empty() {
            return Ok(None);
        }
        self.at += data.len() as u64;
        if self.at > self.most {
            return Err(format!("it has more than {} bytes, the limit", self.most));
        }
        Ok(Some(data))
    }
}

impl Read for Remote {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.piece.is_empty() {
            self.piece = self.next().map_err(io::Error::other)?;
        }
        let len = self.piece.len().min(buffer.len());
        buffer[..len].copy_from_slice(&self.piece.split_to(len));
        Ok(len)
    }
}
