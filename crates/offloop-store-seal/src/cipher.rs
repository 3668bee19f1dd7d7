//! The seam to whoever has the keys, and the form of sealed content:
//! `offloop-sealed:v1:KIND:KEY:VERSION:BASE64`.

use std::fmt;

use base64_simd::STANDARD;
use bytes::Bytes;
use offloop_store::SEALED_PREFIX;

/// Why something cannot be sealed or opened. Never a word of its content.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct CipherError(pub String);

/// Sealed bytes, and by which version of the key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sealed {
    pub version: u32,
    pub bytes: Vec<u8>,
}

/// Seals and opens with named keys that have versions. Called from doors and from the keeper: it must
/// answer at once.
pub trait Cipher: Send + Sync + fmt::Debug {
    /// Versions that seal or open, the one that seals first. Empty: there is no such key.
    fn versions(&self, key: &str) -> Vec<u32>;

    /// - `version`: `None` for the one that seals now.
    /// - `same`: `None` for a form that is different each time. `Some`: the same content gives the same
    ///   form under the same text here, so that a repeated request is known again; nothing else is told
    ///   by it.
    fn seal(
        &self,
        key: &str,
        version: Option<u32>,
        aad: &[u8],
        plain: &[u8],
        same: Option<&[u8]>,
    ) -> Result<Sealed, CipherError>;

    fn open(
        &self,
        key: &str,
        version: u32,
        aad: &[u8],
        sealed: &[u8],
    ) -> Result<Vec<u8>, CipherError>;
}

/// What is sealed: one kind never opens as another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Payload,
    Result,
    Checkpoint,
    Note,
    Log,
    Message,
}

impl Kind {
    const fn name(self) -> &'static str {
        match self {
            Self::Payload => "payload",
            Self::Result => "result",
            Self::Checkpoint => "checkpoint",
            Self::Note => "note",
            Self::Log => "log",
            Self::Message => "message",
        }
    }

    const fn is_json(self) -> bool {
        !matches!(self, Self::Log | Self::Message)
    }

    fn aad(self) -> Vec<u8> {
        format!("{SEALED_PREFIX}v1:{}", self.name()).into_bytes()
    }
}

/// In place of a text that cannot be opened.
pub(crate) const SHUT: &str = "[sealed]";

pub(crate) fn seal(
    cipher: &dyn Cipher,
    key: &str,
    version: Option<u32>,
    kind: Kind,
    plain: &[u8],
    same: Option<&[u8]>,
) -> Result<Bytes, CipherError> {
    let sealed = cipher.seal(key, version, &kind.aad(), plain, same)?;
    let (name, version) = (kind.name(), sealed.version);
    let base64 = STANDARD.encode_to_string(&sealed.bytes);
    let text = format!("{SEALED_PREFIX}v1:{name}:{key}:{version}:{base64}");
    let text = if kind.is_json() {
        format!("\"{text}\"")
    } else {
        text
    };
    Ok(text.into())
}

/// `None`: it is not sealed.
pub(crate) fn open(
    cipher: &dyn Cipher,
    kind: Kind,
    content: &[u8],
) -> Option<Result<Bytes, CipherError>> {
    let text = std::str::from_utf8(content).ok()?;
    let text = if kind.is_json() {
        text.strip_prefix('"')?.strip_suffix('"')?
    } else {
        text
    };
    let rest = text.strip_prefix(SEALED_PREFIX)?;
    Some(opened(cipher, kind, rest))
}

fn opened(cipher: &dyn Cipher, kind: Kind, rest: &str) -> Result<Bytes, CipherError> {
    let odd = || CipherError("what is kept is no sealed content of this version".into());
    let mut parts = rest.splitn(5, ':');
    let mut part = || parts.next().ok_or_else(odd);
    let (form, name, key, version, base64) = (part()?, part()?, part()?, part()?, part()?);
    if form != "v1" || name != kind.name() {
        return Err(odd());
    }
    let version = version.parse().map_err(|_| odd())?;
    let bytes = STANDARD.decode_to_vec(base64).map_err(|_| odd())?;
    let plain = cipher.open(key, version, &kind.aad(), &bytes)?;
    Ok(plain.into())
}
