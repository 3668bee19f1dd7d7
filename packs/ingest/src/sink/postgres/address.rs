//! The address of a server: as libpq takes it, its words about TLS included.
//!
//! Must never: say a part of the address, which may hold a password; read `verify-full` as less.

use std::path::PathBuf;

use tokio_postgres::Config;
use tokio_postgres::config::SslMode;

/// What of a server's certificate is held against what.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Check {
    /// Nothing: somebody in between could be the server (`prefer`, `require`).
    Nothing,
    /// That it comes from a trusted authority (`verify-ca`; `require` with `sslrootcert`).
    Authority,
    /// And that it is the host's (`verify-full`).
    Name,
}

/// An address that was read.
#[derive(Debug, Clone)]
pub(super) struct Address {
    pub(super) config: Config,
    pub(super) check: Check,
    /// A file of certificates to trust instead of the system's.
    pub(super) roots: Option<PathBuf>,
}

/// What the driver does not know.
#[derive(Default)]
struct Words {
    mode: Option<String>,
    roots: Option<String>,
}

impl Address {
    /// Reads `postgres://...` or `host=... port=...`.
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        let mut words = Words::default();
        let is_url = text.starts_with("postgres://") || text.starts_with("postgresql://");
        let rest = if is_url {
            words.take_from_url(text)
        } else {
            words.take_from_words(text)
        };
        let mut config: Config = rest.parse().map_err(|error| format!("{error}"))?;
        let mode = words.mode.as_deref().unwrap_or("prefer");
        let roots = words.roots.filter(|roots| roots != "system");
        let (ssl, check) = match mode {
            "disable" => (SslMode::Disable, Check::Nothing),
            // libpq's `allow` would try without first; what it takes is the same.
            "allow" | "prefer" => (SslMode::Prefer, Check::Nothing),
            "require" if roots.is_some() => (SslMode::Require, Check::Authority),
            "require" => (SslMode::Require, Check::Nothing),
            "verify-ca" => (SslMode::Require, Check::Authority),
            "verify-full" => (SslMode::Require, Check::Name),
            _ => {
                return Err(
                    "sslmode is disable, prefer, require, verify-ca or verify-full".to_owned(),
                );
            }
        };
        config.ssl_mode(ssl);
        Ok(Self {
            config,
            check,
            roots: roots.map(PathBuf::from),
        })
    }
}

impl Words {
    /// True if it was one of ours.
    fn take(&mut self, name: &str, value: String) -> bool {
        match name {
            "sslmode" => self.mode = Some(value),
            "sslrootcert" => self.roots = Some(value),
            _ => return false,
        }
        true
    }

    fn take_from_url(&mut self, text: &str) -> String {
        let Some((front, query)) = text.split_once('?') else {
            return text.to_owned();
        };
        let mut rest = Vec::new();
        for pair in query.split('&') {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            if !self.take(name, unpercent(value)) {
                rest.push(pair);
            }
        }
        if rest.is_empty() {
            front.to_owned()
        } else {
            format!("{front}?{}", rest.join("&"))
        }
    }

    fn take_from_words(&mut self, text: &str) -> String {
        let mut rest = Vec::new();
        for word in split_words(text) {
            let (name, value) = word.split_once('=').unwrap_or((word, ""));
            let value = value.trim().trim_matches('\'').to_owned();
            if !self.take(name.trim(), value) {
                rest.push(word);
            }
        }
        rest.join(" ")
    }
}

/// At spaces outside quotes; a backslash keeps what follows it.
fn split_words(text: &str) -> Vec<&str> {
    let (mut words, mut from, mut is_quoted, mut is_kept) = (Vec::new(), 0, false, false);
    for (at, letter) in text.char_indices() {
        match letter {
            _ if is_kept => is_kept = false,
            '\\' => is_kept = true,
            '\'' => is_quoted = !is_quoted,
            letter if letter.is_whitespace() && !is_quoted => {
                words.push(&text[from..at]);
                from = at + letter.len_utf8();
            }
            _ => {}
        }
    }
    words.push(&text[from..]);
    words.retain(|word| !word.is_empty());
    words
}

/// `%41` is `A`; what is no text is left as it is.
fn unpercent(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        let digits = text.get(at + 1..at + 3).filter(|_| bytes[at] == b'%');
        if let Some(byte) = digits.and_then(|digits| u8::from_str_radix(digits, 16).ok()) {
            out.push(byte);
            at += 3;
        } else {
            out.push(bytes[at]);
            at += 1;
        }
    }
    String::from_utf8(out).unwrap_or_else(|_| text.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_word_about_tls_is_read_as_less_than_it_says() {
        use Check::{Authority, Name, Nothing};
        #[rustfmt::skip]
        let cases = [
            ("postgres://a@h/d", SslMode::Prefer, Nothing, None),
            ("postgres://a@h/d?sslmode=disable", SslMode::Disable, Nothing, None),
            ("postgres://a@h/d?sslmode=require&connect_timeout=3", SslMode::Require, Nothing, None),
            ("postgresql://a@h/d?application_name=x&sslmode=verify-full", SslMode::Require, Name, None),
            ("postgres://a@h/d?sslmode=require&sslrootcert=%2Fca.pem", SslMode::Require, Authority, Some("/ca.pem")),
            ("postgres://a@h/d?sslmode=verify-full&sslrootcert=system", SslMode::Require, Name, None),
            ("host=h user=a sslmode=verify-ca sslrootcert='/a b.pem'", SslMode::Require, Authority, Some("/a b.pem")),
            ("host=h user=a password='x sslmode=disable' sslmode='verify-full'", SslMode::Require, Name, None),
        ];
        for (text, mode, check, roots) in cases {
            let address = Address::parse(text).unwrap();
            assert_eq!(address.config.get_ssl_mode(), mode, "{text}");
            assert_eq!(address.check, check, "{text}");
            assert_eq!(address.roots, roots.map(PathBuf::from), "{text}");
            assert_eq!(address.config.get_user(), Some("a"), "{text}");
        }
        assert!(Address::parse("postgres://a@h/d?sslmode=verify_full").is_err());
        assert!(Address::parse("postgres://a@h/d?sslmod=verify-full").is_err());
    }
}
