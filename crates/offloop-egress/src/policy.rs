//! What an operator allows, and the one way to a connection.

use std::fmt;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::time::Duration;

use tokio::net::TcpStream;
use tokio::time::{Instant, timeout_at};

use crate::address::{Forbidden, Net, check};
use crate::target::{Host, Target, URL_BYTES_MAX};

/// Addresses of one name that are tried.
const ADDRESSES_MAX: usize = 8;

/// Where the server may connect to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Policy {
    /// Plain HTTP too; default https alone.
    pub http: bool,
    /// Ports; default 443 and 8443, and 80 and 8080 with plain HTTP.
    pub ports: Vec<u16>,
    /// Every port: for a person who fetches what he named himself. Never for URLs of others.
    pub any_port: bool,
    /// Ranges of one's own networks that may be connected to. Link-local addresses and the metadata
    /// services of clouds never are.
    pub allow: Vec<Net>,
}

impl Default for Policy {
    fn default() -> Self {
        Self {
            http: false,
            ports: vec![443, 8443],
            any_port: false,
            allow: Vec::new(),
        }
    }
}

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum EgressError {
    #[error("is no URL that can be called: {0}")]
    Form(String),
    #[error("has the scheme {0:?}; give https (or http, where the configuration allows it)")]
    Scheme(String),
    #[error("has the port {0}, which is not allowed here; the configuration lists those that are")]
    Port(u16),
    #[error("holds a user name or a password; leave them out")]
    Credentials,
    #[error("leads to {address}, {}; only public addresses are called, and those that the configuration allows", why.as_str())]
    Forbidden { address: IpAddr, why: Forbidden },
    #[error("its name {name} is not known")]
    Unknown { name: String },
    #[error("its name {name} could not be looked up")]
    Lookup {
        name: String,
        #[source]
        cause: io::Error,
    },
    #[error("cannot be reached")]
    Connect(#[source] io::Error),
    #[error("does not speak TLS as it should")]
    Tls(#[source] io::Error),
    #[error("shows a certificate that cannot be trusted: {0}")]
    Certificate(String),
    #[error("was not reached within {0:?}")]
    Late(Duration),
}

impl EgressError {
    /// Whether the same call may succeed later without anybody changing the URL or the configuration.
    /// A name that leads inside is a mistake or a game, and a certificate is renewed by hand: none is worth
    /// another try.
    pub const fn retry_helps(&self) -> bool {
        !matches!(
            self,
            Self::Form(_)
                | Self::Scheme(_)
                | Self::Port(_)
                | Self::Credentials
                | Self::Forbidden { .. }
                | Self::Certificate(_)
        )
    }
}

/// The addresses of a name.
pub type Resolving<'a> = Pin<Box<dyn Future<Output = io::Result<Vec<SocketAddr>>> + Send + 'a>>;

/// Who knows the addresses of names.
pub trait Resolve: Send + Sync + fmt::Debug {
    fn resolve<'a>(&'a self, name: &'a str, port: u16) -> Resolving<'a>;
}

impl Policy {
    /// Takes a URL apart, and says what is wrong with its form. Addresses in it are checked too;
    /// names are, each time, once they are resolved.
    pub fn target(&self, text: &str) -> Result<Target, EgressError> {
        if text.len() > URL_BYTES_MAX {
            let len = text.len();
            let what = format!("it has {len} bytes; the limit is {URL_BYTES_MAX}");
            return Err(EgressError::Form(what));
        }
        refuse_odd(text)?;
        let url = url::Url::parse(text).map_err(|error| EgressError::Form(error.to_string()))?;
        let tls = match url.scheme() {
            "https" => true,
            "http" if self.http => false,
            other => return Err(EgressError::Scheme(other.chars().take(32).collect())),
        };
        if !url.username().is_empty()
            || url.password().is_some()
            || text.contains('@') && at_host(text)
        {
            return Err(EgressError::Credentials);
        }
        let host = match url.host() {
            Some(url::Host::Domain(name)) => name_of(name)?,
            Some(url::Host::Ipv4(address)) => Host::Address(address.into()),
            Some(url::Host::Ipv6(address)) => Host::Address(address.into()),
            None => return Err(EgressError::Form("it names no host".into())),
        };
        let port = url.port_or_known_default().unwrap_or_default();
        let known = self.ports.contains(&port) || (self.any_port && port != 0);
        if !known {
            return Err(EgressError::Port(port));
        }
        if let Host::Address(address) = host {
            self.check(address)?;
        }
        let path = match url.query() {
            Some(query) => format!("{}?{query}", url.path()),
            None => url.path().to_owned(),
        };
        Ok(Target {
            tls,
            host,
            port,
            path: path.into(),
        })
    }

    /// Where an answer of `from` sends its caller on to: taken apart and checked as any URL is, and never
    /// from https to http.
    pub fn follow(&self, from: &Target, location: &str) -> Result<Target, EgressError> {
        if location.len() > URL_BYTES_MAX {
            let len = location.len();
            let what = format!("it has {len} bytes; the limit is {URL_BYTES_MAX}");
            return Err(EgressError::Form(what));
        }
        // A reader of URLs drops tabs and ends of lines where it joins: they are told before that.
        refuse_odd(location)?;
        let scheme = if from.tls { "https" } else { "http" };
        let base = format!("{scheme}://{}{}", from.authority(), from.path);
        let joined = url::Url::parse(&base).and_then(|base| base.join(location));
        let joined = joined.map_err(|error| EgressError::Form(error.to_string()))?;
        let target = self.target(joined.as_str())?;
        if from.tls && !target.tls {
            return Err(EgressError::Form("it leads from https to http".into()));
        }
        Ok(target)
    }

    /// Whether this address may be connected to.
    pub fn check(&self, address: IpAddr) -> Result<(), EgressError> {
        check(address, &self.allow).map_err(|why| EgressError::Forbidden { address, why })
    }

    /// The addresses that the target has now, all of them checked: one that is forbidden among them
    /// is a sign of a game, and refuses all.
    pub async fn addresses(
        &self,
        target: &Target,
        resolver: &dyn Resolve,
    ) -> Result<Vec<SocketAddr>, EgressError> {
        let found = match &target.host {
            Host::Address(address) => vec![SocketAddr::new(*address, target.port)],
            Host::Name(name) => {
                let found = resolver.resolve(name, target.port).await;
                found.map_err(|cause| EgressError::Lookup {
                    name: name.to_string(),
                    cause,
                })?
            }
        };
        for address in &found {
            self.check(address.ip())?;
        }
        if found.is_empty() {
            let name = target.host.to_string();
            return Err(EgressError::Unknown { name });
        }
        let port = target.port;
        let own_port = |found: SocketAddr| SocketAddr::new(found.ip(), port);
        Ok(found
            .into_iter()
            .take(ADDRESSES_MAX)
            .map(own_port)
            .collect())
    }

    /// Connects to the target, or says why not. The name is looked up once, and only what was checked
    /// is connected to.
    pub async fn connect(
        &self,
        target: &Target,
        resolver: &dyn Resolve,
        within: Duration,
    ) -> Result<TcpStream, EgressError> {
        let until = Instant::now() + within;
        let late = |_| EgressError::Late(within);
        let addresses = timeout_at(until, self.addresses(target, resolver));
        let addresses = addresses.await.map_err(late)??;
        let mut last = None;
        for address in addresses {
            match timeout_at(until, TcpStream::connect(address)).await {
                Ok(Ok(stream)) => return Ok(stream),
                Ok(Err(error)) => last = Some(error),
                Err(_) => return Err(EgressError::Late(within)),
            }
        }
        let none = || io::Error::new(io::ErrorKind::NotFound, "it has no address");
        Err(EgressError::Connect(last.unwrap_or_else(none)))
    }
}

/// What readers disagree on is refused, not guessed.
fn refuse_odd(text: &str) -> Result<(), EgressError> {
    let odd = |c: char| c.is_control() || c.is_whitespace() || c == '\\';
    match text.chars().find(|c| odd(*c)) {
        Some(found) => Err(EgressError::Form(format!("it holds {found:?}"))),
        None => Ok(()),
    }
}

/// An `@` before the path: some readers see a user name there where the parser sees an empty one.
fn at_host(text: &str) -> bool {
    let rest = text.split_once("://").map_or(text, |(_, rest)| rest);
    let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
    rest[..end].contains('@')
}

fn name_of(name: &str) -> Result<Host, EgressError> {
    let name = name.strip_suffix('.').unwrap_or(name);
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_');
    let parts_fit = name.split('.').all(|part| (1..=63).contains(&part.len()));
    if name.len() > 253 || !parts_fit || !name.bytes().all(plain) {
        return Err(EgressError::Form("its host is no name".into()));
    }
    // A last part of digits is an address to some readers and a name to others.
    let last = name.rsplit('.').next().unwrap_or_default();
    if last.bytes().all(|byte| byte.is_ascii_digit()) || last.starts_with("0x") {
        return Err(EgressError::Form("its host ends like an address".into()));
    }
    Ok(Host::Name(name.to_ascii_lowercase().into()))
}
