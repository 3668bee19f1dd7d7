//! Which certificates are trusted, and what is wrong with those that are not.
//!
//! Must never: trust less than the chain, the name and the dates; call what will not mend by itself a
//! passing fault.

use std::fmt::Write as _;
use std::io;
use std::sync::Arc;

use tokio_rustls::rustls::pki_types::pem::PemObject as _;
use tokio_rustls::rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use tokio_rustls::rustls::{self, CertificateError, ClientConfig, RootCertStore};

use crate::policy::EgressError;

/// Of a file of certificates: a system's whole store is a quarter of it.
pub const PEM_BYTES_MAX: u64 = 1 << 20;
/// Names of a certificate that are told.
const NAMES_MAX: usize = 5;
const NAME_CHARS_MAX: usize = 100;

/// TLS cannot be set up on this machine.
#[derive(Debug, thiserror::Error)]
#[error("TLS cannot be set up: {0}")]
pub struct TlsSetupError(#[source] pub(crate) rustls::Error);

/// Why a file of certificates cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RootsError {
    #[error("holds no certificate; give them as PEM (-----BEGIN CERTIFICATE-----)")]
    None,
    #[error("has {0} bytes, over {PEM_BYTES_MAX}")]
    TooLong(u64),
    #[error("is no PEM at certificate {nth}: {what}")]
    Pem { nth: usize, what: String },
    #[error("certificate {nth} cannot be trusted to sign others: {cause}")]
    Unusable { nth: usize, cause: rustls::Error },
}

/// Authorities of one's own, trusted beside the system's.
#[derive(Clone, Debug, Default)]
pub struct Roots(Vec<CertificateDer<'static>>);

impl Roots {
    /// Adds every certificate of a PEM file, and says how many they are.
    pub fn add_pem(&mut self, pem: &[u8]) -> Result<usize, RootsError> {
        let len = pem.len() as u64;
        if len > PEM_BYTES_MAX {
            return Err(RootsError::TooLong(len));
        }
        let mut nth = 0;
        for found in CertificateDer::pem_slice_iter(pem) {
            nth += 1;
            let found = found.map_err(|error| RootsError::Pem {
                nth,
                what: error.to_string(),
            })?;
            let mut alone = RootCertStore::empty();
            let added = alone.add(found.clone());
            added.map_err(|cause| RootsError::Unusable { nth, cause })?;
            self.0.push(found.into_owned());
        }
        if nth == 0 {
            return Err(RootsError::None);
        }
        Ok(nth)
    }

    /// How TLS is spoken: the system's certificates and these. The former are read here: some 10 ms.
    pub(crate) fn config(&self) -> Result<Arc<ClientConfig>, TlsSetupError> {
        let mut roots = RootCertStore::empty();
        let system = rustls_native_certs::load_native_certs();
        for problem in &system.errors {
            tracing::warn!(%problem, "some certificates of the system cannot be read");
        }
        let (_, unread) = roots.add_parsable_certificates(system.certs);
        if unread > 0 {
            tracing::debug!(unread, "certificates that no library reads");
        }
        for own in &self.0 {
            roots.add(own.clone()).map_err(TlsSetupError)?;
        }
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(TlsSetupError)?
            .with_root_certificates(roots)
            .with_no_client_auth();
        Ok(Arc::new(config))
    }
}

/// What a handshake failed of: a certificate that nobody but its owner can mend, or anything else.
pub(crate) fn of_handshake(error: io::Error) -> EgressError {
    let inner = error.get_ref();
    let inner = inner.and_then(|inner| inner.downcast_ref::<rustls::Error>());
    match inner {
        Some(rustls::Error::InvalidCertificate(wrong)) => EgressError::Certificate(told(wrong)),
        _ => EgressError::Tls(error),
    }
}

fn told(wrong: &CertificateError) -> String {
    match wrong {
        CertificateError::ExpiredContext { time, not_after } => {
            format!("it expired {} ago", span(*not_after, *time))
        }
        CertificateError::Expired => "it has expired".into(),
        CertificateError::NotValidYetContext { time, not_before } => {
            let span = span(*time, *not_before);
            format!("it is not valid for another {span}; or a clock is wrong")
        }
        CertificateError::NotValidYet => "it is not valid yet; or a clock is wrong".into(),
        CertificateError::NotValidForNameContext {
            expected,
            presented,
        } => of_name(expected, presented),
        CertificateError::NotValidForName => "it is for another name".into(),
        CertificateError::UnknownIssuer => {
            "it is signed by itself, or by an authority that is not trusted here; a file of authorities of your own (`ca`) makes them trusted".into()
        }
        CertificateError::Revoked => "it has been revoked".into(),
        // The library keeps this one to itself.
        other if format!("{other:?}").contains("CaUsedAsEndEntity") => {
            "it is that of an authority (CA:TRUE), which no server may show; make one with CA:FALSE, and sign it by the authority".into()
        }
        other => other.to_string(),
    }
}

/// What a certificate holds is the other side's text: bounded, and plain.
fn of_name(expected: &ServerName<'_>, presented: &[String]) -> String {
    let plain = |text: &str| -> String {
        let plain = |c: char| if c.is_ascii_graphic() { c } else { '?' };
        text.chars().take(NAME_CHARS_MAX).map(plain).collect()
    };
    let mut text = format!("it is not for {}", plain(&expected.to_str()));
    if presented.is_empty() {
        text.push_str("; it names nobody (a common name alone does not count)");
        return text;
    }
    let names = presented.iter().take(NAMES_MAX);
    let names: Vec<_> = names.map(|name| plain(name)).collect();
    let _ = write!(text, ", but for {}", names.join(", ")); // a String takes everything
    if let Some(more @ 1..) = presented.len().checked_sub(NAMES_MAX) {
        let _ = write!(text, " and {more} more");
    }
    text
}

fn span(from: UnixTime, to: UnixTime) -> String {
    let seconds = to.as_secs().saturating_sub(from.as_secs());
    match seconds {
        0..120 => format!("{seconds} s"),
        120..7_200 => format!("{} min", seconds / 60),
        7_200..172_800 => format!("{} h", seconds / 3_600),
        _ => format!("{} days", seconds / 86_400),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_holds_no_authority_is_not_taken_for_one() {
        let key = b"-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n";
        let torn = b"-----BEGIN CERTIFICATE-----\nAAAA\n";
        let noise = b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
        let long = vec![b'x'; PEM_BYTES_MAX as usize + 1];
        for (pem, want) in [
            (&b""[..], "holds no certificate"),
            (key, "holds no certificate"),
            (torn, "is no PEM at certificate 1"),
            (noise, "certificate 1 cannot be trusted"),
            (&long, "over 1048576"),
        ] {
            let mut roots = Roots::default();
            let refused = roots.add_pem(pem).unwrap_err().to_string();
            assert!(refused.contains(want), "{want}: {refused}");
            assert!(roots.0.is_empty());
        }
    }

    #[test]
    fn names_of_a_certificate_are_told_in_plain_text_and_bounded() {
        let asked = ServerName::try_from("a.example").unwrap();
        let names: Vec<_> = (0..9)
            .map(|n| format!("{}\n\u{1b}[2J{n}", "x".repeat(200)))
            .collect();
        let told = of_name(&asked, &names);
        assert!(told.len() < 700 && told.ends_with("and 4 more"), "{told}");
        assert!(
            told.chars().all(|c| c.is_ascii_graphic() || c == ' '),
            "{told}"
        );
        assert!(of_name(&asked, &[]).contains("common name"));
    }
}
