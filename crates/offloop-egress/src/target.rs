//! A URL that was taken apart once. What is connected to, what TLS is asked for and what the `Host`
//! header says all come from here: no second reader can see another host in the same text.

use std::fmt;
use std::net::IpAddr;

/// Longer ones are refused: no receiver needs them, and they are kept with every job.
pub const URL_BYTES_MAX: usize = 2_048;

/// Who is asked for.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Host {
    /// Lower case, in ASCII (RFC 5891), without a dot at its end.
    Name(Box<str>),
    Address(IpAddr),
}

impl fmt::Display for Host {
    /// As in a URL: IPv6 in brackets.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Name(name) => f.write_str(name),
            Self::Address(IpAddr::V6(address)) => write!(f, "[{address}]"),
            Self::Address(address) => write!(f, "{address}"),
        }
    }
}

/// A URL whose form, scheme and port are as they may be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    pub(crate) tls: bool,
    pub(crate) host: Host,
    pub(crate) port: u16,
    /// With the query, without the fragment.
    pub(crate) path: Box<str>,
}

impl Target {
    pub const fn is_tls(&self) -> bool {
        self.tls
    }

    pub const fn host(&self) -> &Host {
        &self.host
    }

    pub const fn port(&self) -> u16 {
        self.port
    }

    /// Path and query, as they are asked for.
    pub fn path(&self) -> &str {
        &self.path
    }

    /// What the `Host` header says: the port only where it is not the scheme's.
    pub fn authority(&self) -> String {
        let usual = if self.tls { 443 } else { 80 };
        if self.port == usual {
            self.host.to_string()
        } else {
            format!("{}:{}", self.host, self.port)
        }
    }
}

impl fmt::Display for Target {
    /// Without the query: it may hold a secret.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = if self.tls { "https" } else { "http" };
        let path = self.path.split('?').next().unwrap_or_default();
        write!(f, "{scheme}://{}{path}", self.authority())
    }
}
