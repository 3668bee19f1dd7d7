//! Authorities and servers of TLS for one test, good and bad ones. Shared by all who connect by TLS.
#![allow(dead_code, reason = "each test file uses its part")]

use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex};

use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair, date_time_ymd,
};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use tokio_rustls::rustls::server::{ClientHello, ResolvesServerCert};
use tokio_rustls::rustls::sign::CertifiedKey;
use tokio_rustls::rustls::{self, ServerConfig};
use tokio_rustls::server::TlsStream;

pub(crate) struct Authority(CertifiedIssuer<'static, KeyPair>);

/// What is wrong with a server's certificate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Flaw {
    None,
    Expired,
    NotYet,
    SelfSigned,
    /// Signed by itself, and may sign others: what `openssl req -x509` makes.
    OwnAuthority,
    CommonNameAlone,
}

/// A chain and its key.
pub(crate) struct Identity {
    chain: Vec<CertificateDer<'static>>,
    key: KeyPair,
}

fn params(names: &[&str], common: &str) -> CertificateParams {
    let names: Vec<_> = names.iter().map(|name| (*name).to_owned()).collect();
    let mut params = CertificateParams::new(names).unwrap();
    params.distinguished_name.push(DnType::CommonName, common);
    params
}

impl Authority {
    pub(crate) fn new(name: &str) -> Self {
        Self(
            CertifiedIssuer::self_signed(Self::params(name), KeyPair::generate().unwrap()).unwrap(),
        )
    }

    fn params(name: &str) -> CertificateParams {
        let mut params = params(&[], name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params
    }

    /// One that this one has signed.
    pub(crate) fn below(&self, name: &str) -> Self {
        let key = KeyPair::generate().unwrap();
        Self(CertifiedIssuer::signed_by(Self::params(name), key, &self.0).unwrap())
    }

    pub(crate) fn pem(&self) -> String {
        self.0.pem()
    }

    /// A server's certificate. `between`: what is sent along, such as this authority's own.
    pub(crate) fn identity(&self, names: &[&str], flaw: Flaw, between: &[&Self]) -> Identity {
        let key = KeyPair::generate().unwrap();
        let mut params = params(names, names.first().unwrap_or(&"nobody"));
        match flaw {
            Flaw::Expired => {
                params.not_before = date_time_ymd(2020, 1, 1);
                params.not_after = date_time_ymd(2021, 1, 1);
            }
            Flaw::NotYet => {
                params.not_before = date_time_ymd(2190, 1, 1);
                params.not_after = date_time_ymd(2191, 1, 1);
            }
            Flaw::OwnAuthority => params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained),
            Flaw::CommonNameAlone => params.subject_alt_names.clear(),
            Flaw::None | Flaw::SelfSigned => {}
        }
        let made = match flaw {
            Flaw::SelfSigned | Flaw::OwnAuthority => params.self_signed(&key),
            _ => params.signed_by(&key, &self.0),
        };
        let mut chain = vec![made.unwrap().der().clone()];
        chain.extend(between.iter().map(|one| one.0.der().clone()));
        Identity { chain, key }
    }
}

impl Identity {
    pub(crate) fn pem(&self) -> String {
        let block = |der: &CertificateDer<'_>| {
            let text = base64(der);
            format!("-----BEGIN CERTIFICATE-----\n{text}\n-----END CERTIFICATE-----\n")
        };
        self.chain.iter().map(block).collect()
    }
}

fn base64(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::new();
    for three in bytes.chunks(3) {
        let all = three
            .iter()
            .fold(0_u32, |all, byte| all << 8 | u32::from(*byte));
        let all = all << (8 * (3 - three.len()));
        for place in 0..4 {
            let digit = DIGITS[(all >> (18 - 6 * place)) as usize & 63] as char;
            text.push(if place <= three.len() { digit } else { '=' });
        }
    }
    text
}

/// Remembers which name each client has asked for.
#[derive(Debug)]
struct Remembering {
    key: Arc<CertifiedKey>,
    names: Arc<Mutex<Vec<Option<String>>>>,
}

impl ResolvesServerCert for Remembering {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let name = hello.server_name().map(str::to_owned);
        self.names.lock().unwrap().push(name);
        Some(Arc::clone(&self.key))
    }
}

/// A listener that speaks TLS.
pub(crate) struct TlsServer {
    pub(crate) at: SocketAddr,
    listener: TcpListener,
    acceptor: TlsAcceptor,
    names: Arc<Mutex<Vec<Option<String>>>>,
}

impl TlsServer {
    pub(crate) async fn new(identity: &Identity) -> Self {
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(identity.key.serialize_der()));
        let key = CertifiedKey::from_der(identity.chain.clone(), key, &provider);
        let names = Arc::<Mutex<Vec<_>>>::default();
        let resolver = Remembering {
            // A certificate that says it is for nobody is shown all the same.
            key: Arc::new(key.unwrap()),
            names: Arc::clone(&names),
        };
        let config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_cert_resolver(Arc::new(resolver));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        Self {
            at: listener.local_addr().unwrap(),
            listener,
            acceptor: TlsAcceptor::from(Arc::new(config)),
            names,
        }
    }

    /// Names that clients have asked for so far, each handshake's.
    pub(crate) fn names(&self) -> Arc<Mutex<Vec<Option<String>>>> {
        Arc::clone(&self.names)
    }

    /// The next client; `None` if it does not like what it sees.
    pub(crate) async fn accept(&self) -> Option<TlsStream<TcpStream>> {
        let (stream, _) = self.listener.accept().await.unwrap();
        self.acceptor.accept(stream).await.ok()
    }
}

/// Every name is this machine.
#[derive(Debug)]
pub(crate) struct Home;

impl Home {
    pub(crate) fn addresses(port: u16) -> Vec<SocketAddr> {
        vec![SocketAddr::new(IpAddr::from([127, 0, 0, 1]), port)]
    }
}
