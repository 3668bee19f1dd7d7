//! What an operator may set about the door. Every value has a default that suits one machine.

use std::net::SocketAddr;
use std::time::Duration;

use offloop_job::limits::PAYLOAD_BYTES_MAX;

/// Shorter tokens can be guessed.
pub const TOKEN_BYTES_MIN: usize = 16;

/// Numbers of the door. Made by [`DoorConfig::new`], then changed by field.
#[derive(Clone)]
pub struct DoorConfig {
    /// Address to listen at. Anything but loopback needs a token.
    pub listen: SocketAddr,
    /// What callers send as `Authorization: Bearer TOKEN`; at least 16 bytes. `None`: no check, and
    /// loopback only.
    pub token: Option<String>,
    /// Names beside `localhost`, `127.0.0.1` and `[::1]` that a `Host` header may give while there
    /// is no token. Guards against DNS rebinding.
    pub hosts: Vec<String>,
    /// From the first byte of a request to the end of its head, and from the opening of a
    /// connection to its first request; default 10 s.
    pub header_timeout: Duration,
    /// A connection without a request in hand is closed after this; default 75 s.
    pub idle_timeout: Duration,
    /// A sender or a reader may be slower than [`DoorConfig::rate_min`] for this long; default
    /// 30 s.
    pub slow_window: Duration,
    /// Bytes per second that a sender or a reader must reach; default 1,024.
    pub rate_min: u32,
    /// From the last byte of a request's body to the first of its answer; default 90 s.
    pub request_timeout: Duration,
    /// Default 12,000.
    pub connections_max: usize,
    /// From one address; default 1,024, and all of them when the door listens at loopback.
    pub connections_per_ip_max: usize,
    /// Readers of `GET /v1/events` and of single jobs' events, together; default 10,000.
    pub subscribers_max: usize,
    /// Callers that wait for the end of a job at a time; default 10,000.
    pub waits_max: usize,
    /// Bulk requests at a time; default 64.
    pub bulk_max: usize,
    /// One job: its payload and the room for its options; default 1 MiB + 64 KiB.
    pub job_bytes_max: usize,
    /// One bulk request; default 1 GiB.
    pub bulk_bytes_max: u64,
    /// All bodies that are being collected, beyond 16 KiB each; default 256 MiB.
    pub collecting_bytes_max: usize,
    /// `GET /readyz` says no for this long before the door closes, so that a balancer notices;
    /// default 0.
    pub lame_duck: Duration,
    /// Requests in hand may finish for this long after the door closed; default 10 s.
    pub drain: Duration,
    /// Pause between two comments that keep a stream of events alive; default 15 s.
    pub keep_alive_every: Duration,
}

impl DoorConfig {
    /// Several jobs in one JSON body.
    pub(crate) const fn group_bytes_max(&self) -> usize {
        self.job_bytes_max * 8
    }

    pub fn new(listen: SocketAddr) -> Self {
        let connections_max = 12_000;
        Self {
            listen,
            token: None,
            hosts: Vec::new(),
            header_timeout: Duration::from_secs(10),
            idle_timeout: Duration::from_secs(75),
            slow_window: Duration::from_secs(30),
            rate_min: 1_024,
            request_timeout: Duration::from_secs(90),
            connections_max,
            connections_per_ip_max: if listen.ip().is_loopback() {
                connections_max
            } else {
                1_024
            },
            subscribers_max: 10_000,
            waits_max: 10_000,
            bulk_max: 64,
            job_bytes_max: PAYLOAD_BYTES_MAX + (64 << 10),
            bulk_bytes_max: 1 << 30,
            collecting_bytes_max: 256 << 20,
            lame_duck: Duration::ZERO,
            drain: Duration::from_secs(10),
            keep_alive_every: Duration::from_secs(15),
        }
    }

    /// What is wrong with it for a door at `listen`, if anything.
    pub(crate) fn problem(&self, listen: SocketAddr) -> Option<DoorError> {
        match &self.token {
            None if !listen.ip().is_loopback() => Some(DoorError::NeedsToken { listen }),
            Some(token) if token.len() < TOKEN_BYTES_MIN => {
                Some(DoorError::TokenTooShort { len: token.len() })
            }
            _ => None,
        }
    }
}

impl std::fmt::Debug for DoorConfig {
    /// Without the token.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("DoorConfig")
            .field("listen", &self.listen)
            .field("token", &self.token.as_ref().map(|_| "set"))
            .finish_non_exhaustive()
    }
}

/// A door that must not, or cannot, be opened.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DoorError {
    #[error(
        "{listen} can be reached from other machines and no token is set: set one (OFFLOOP_TOKEN, or `token_file` under [server]), or listen at 127.0.0.1"
    )]
    NeedsToken { listen: SocketAddr },
    #[error(
        "the token has {len} bytes; give at least {TOKEN_BYTES_MIN}, such as the answer of `openssl rand -hex 32`"
    )]
    TokenTooShort { len: usize },
    #[error("two packs are called `{name}`")]
    PackTwice { name: String },
    #[error("cannot listen at {listen}")]
    Listen {
        listen: SocketAddr,
        #[source]
        cause: std::io::Error,
    },
}
