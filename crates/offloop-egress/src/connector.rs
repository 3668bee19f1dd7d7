//! The way to a connection that is ready for HTTP: checked, connected, and with TLS where the URL says so.
//!
//! One home for it, so that no caller has a second way out that checks less.
//!
//! Must never: fall back to plain text, take a certificate that neither the system nor the operator trusts, or
//! connect to anything but what [`Policy`] checked.

use std::fmt;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout_at};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_rustls::rustls::pki_types::{DnsName, ServerName};

use crate::policy::{EgressError, Policy, Resolve};
use crate::roots::{Roots, TlsSetupError, of_handshake};
use crate::target::{Host, Target};

/// Where one may connect to, who knows names, and which certificates are trusted. Cheap to clone.
#[derive(Clone)]
pub struct Connector {
    policy: Arc<Policy>,
    resolver: Arc<dyn Resolve>,
    tls: TlsConnector,
}

impl fmt::Debug for Connector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connector")
            .field("policy", &self.policy)
            .field("resolver", &self.resolver)
            .finish_non_exhaustive()
    }
}

impl Connector {
    /// Trusts the system's certificates and `roots`. The former are read here, once: some 10 ms.
    pub fn new(
        policy: Policy,
        resolver: Arc<dyn Resolve>,
        roots: &Roots,
    ) -> Result<Self, TlsSetupError> {
        Ok(Self {
            policy: Arc::new(policy),
            resolver,
            tls: TlsConnector::from(roots.config()?),
        })
    }

    pub fn policy(&self) -> &Policy {
        &self.policy
    }

    /// Connects, and shakes hands where the target is TLS. The name is looked up once and every
    /// address is checked, each time.
    ///
    /// - `within`: for all of it.
    pub async fn connect(&self, target: &Target, within: Duration) -> Result<Stream, EgressError> {
        let until = Instant::now() + within;
        let stream = self.policy.connect(target, &*self.resolver, within).await?;
        // An answer that waits for the last small piece of its question costs 40 ms.
        stream.set_nodelay(true).map_err(EgressError::Connect)?;
        if !target.is_tls() {
            return Ok(Stream::Plain(stream));
        }
        let name = match target.host() {
            Host::Name(name) => DnsName::try_from(name.to_string())
                .map(ServerName::DnsName)
                .map_err(|error| EgressError::Tls(io::Error::other(error)))?,
            Host::Address(address) => ServerName::IpAddress((*address).into()),
        };
        let shaken = timeout_at(until, self.tls.connect(name, stream)).await;
        let stream = shaken.map_err(|_| EgressError::Late(within))?;
        Ok(Stream::Tls(Box::new(stream.map_err(of_handshake)?)))
    }
}

/// A connection to a checked address.
#[derive(Debug)]
pub enum Stream {
    Plain(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
}

impl AsyncRead for Stream {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_read(cx, buf),
            Self::Tls(stream) => Pin::new(stream).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for Stream {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_write(cx, buf),
            Self::Tls(stream) => Pin::new(stream).poll_write(cx, buf),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_flush(cx),
            Self::Tls(stream) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_shutdown(cx),
            Self::Tls(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_write_vectored(cx, bufs),
            Self::Tls(stream) => Pin::new(stream).poll_write_vectored(cx, bufs),
        }
    }

    fn is_write_vectored(&self) -> bool {
        match self {
            Self::Plain(stream) => stream.is_write_vectored(),
            Self::Tls(stream) => stream.is_write_vectored(),
        }
    }
}
