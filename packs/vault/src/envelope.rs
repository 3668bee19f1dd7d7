//! What `seal` writes and `open` reads: one block of bytes that names its key.
//!
//! ```text
//! sealed:  1 | 0 | len | key name | version u32 | nonce 24 | ciphertext | tag 16
//! signed:  1 | 1 | len | key name | version u32 | scheme | len u16 | signature | sealed
//! ```
//!
//! Numbers are big-endian. Everything before the ciphertext is authenticated with it, and the
//! caller's `aad` after that. The signature is made over what was sealed, never over the plaintext:
//! a context string, the signer's head, the `aad` with its length, and the whole sealed part.
//!
//! Whatever is wrong with an envelope has one answer. That a key is retired is said only of an
//! envelope that is authentic.
//!
//! Must never: decrypt before the signature is checked, or give out what is not authentic.

use crate::error::{Kind, VaultError};
use crate::keys::{KeyName, KeySet, Material, NAME_BYTES_MAX};
use crate::seal::{self, NONCE_BYTES, TAG_BYTES};
use crate::sign::Scheme;
use crate::wipe::Wiped;

const FORMAT: u8 = 1;
const SEALED: u8 = 0;
const SIGNED: u8 = 1;
const CONTEXT: &[u8] = b"offloop vault envelope v1";

/// More than this stands before and behind no ciphertext: two heads, a signature of RSA-4096, a tag.
pub const OVERHEAD_BYTES_MAX: usize = 2 * (7 + NAME_BYTES_MAX) + NONCE_BYTES + TAG_BYTES + 3 + 512;

/// A key as an answer names it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyRef {
    pub name: KeyName,
    pub version: u32,
}

#[derive(Debug)]
pub struct Sealed {
    pub envelope: Vec<u8>,
    pub key: KeyRef,
    pub signed_by: Option<KeyRef>,
}

pub struct Opened {
    pub plaintext: Wiped,
    pub key: KeyRef,
    pub signed_by: Option<KeyRef>,
}

impl std::fmt::Debug for Opened {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Opened")
            .field("key", &self.key)
            .field("signed_by", &self.signed_by)
            .finish_non_exhaustive()
    }
}

/// An envelope taken apart; nothing of it is believed yet.
struct Parts<'a> {
    signature: Option<Signature<'a>>,
    /// From its first byte to its last.
    whole: &'a [u8],
    /// All that stands before the nonce.
    head: &'a [u8],
    key: KeyRef,
    nonce: &'a [u8; NONCE_BYTES],
    sealed: &'a [u8],
}

struct Signature<'a> {
    /// Format, form, name, version, scheme.
    head: &'a [u8],
    key: KeyRef,
    scheme: Scheme,
    bytes: &'a [u8],
}

fn put_head(out: &mut Vec<u8>, form: u8, name: &KeyName, version: u32) {
    let name = name.as_str().as_bytes();
    // A name has at most 64 bytes.
    out.extend_from_slice(&[FORMAT, form, name.len() as u8]);
    out.extend_from_slice(name);
    out.extend_from_slice(&version.to_be_bytes());
}

fn internal(_: impl std::error::Error) -> VaultError {
    VaultError::new(Kind::Internal, "", "the cipher failed")
}

/// What a signature is made over.
fn signed_message(head: &[u8], aad: &[u8], sealed: &[u8]) -> Vec<u8> {
    let len = CONTEXT.len() + head.len() + 8 + aad.len() + sealed.len();
    let mut message = Vec::with_capacity(len);
    message.extend_from_slice(CONTEXT);
    message.extend_from_slice(head);
    message.extend_from_slice(&(aad.len() as u64).to_be_bytes());
    message.extend_from_slice(aad);
    message.extend_from_slice(sealed);
    message
}

/// Seals by the newest version of `key`, then signs by the newest of `sign_key` if there is one.
pub fn seal(
    keys: &KeySet,
    key: &str,
    sign_key: Option<&str>,
    aad: &[u8],
    plaintext: &[u8],
) -> Result<Sealed, VaultError> {
    let (version, sealing) = keys.sealing(key, "key")?;
    let signer = sign_key
        .map(|name| {
            let found = keys.signing(name, "sign_key")?;
            Ok::<_, VaultError>((name, found))
        })
        .transpose()?;
    let name = KeyName::parse(key).map_err(internal)?;
    let nonce = seal::nonce().map_err(internal)?;
    let len = plaintext.len() + OVERHEAD_BYTES_MAX;
    let mut envelope = Vec::with_capacity(len);
    put_head(&mut envelope, SEALED, &name, version);
    envelope.extend_from_slice(&nonce);
    let head = envelope.len();
    let mut bound = Vec::with_capacity(head + aad.len());
    bound.extend_from_slice(&envelope);
    bound.extend_from_slice(aad);
    envelope.resize(head + plaintext.len() + TAG_BYTES, 0);
    let room = &mut envelope[head..];
    sealing
        .seal(&nonce, &bound, plaintext, room)
        .map_err(internal)?;
    let key = KeyRef { name, version };
    let Some((signer, (version, signing))) = signer else {
        let signed_by = None;
        return Ok(Sealed {
            envelope,
            key,
            signed_by,
        });
    };
    let by = KeyRef {
        name: KeyName::parse(signer).map_err(internal)?,
        version,
    };
    let scheme = signing.kind().default_scheme();
    let mut signed = Vec::with_capacity(len);
    put_head(&mut signed, SIGNED, &by.name, by.version);
    signed.push(scheme.code());
    let message = signed_message(&signed, aad, &envelope);
    let signature = signing.sign(scheme, &message).map_err(internal)?;
    // The longest, of RSA-4096, has 512 bytes.
    signed.extend_from_slice(&(signature.len() as u16).to_be_bytes());
    signed.extend_from_slice(&signature);
    signed.extend_from_slice(&envelope);
    let signed_by = Some(by);
    Ok(Sealed {
        envelope: signed,
        key,
        signed_by,
    })
}

/// Bytes, taken from the front.
struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, len: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(len)?;
        self.0 = rest;
        Some(taken)
    }

    fn byte(&mut self) -> Option<u8> {
        self.take(1).map(|bytes| bytes[0])
    }

    fn key(&mut self) -> Option<KeyRef> {
        let len = usize::from(self.byte()?);
        let name = std::str::from_utf8(self.take(len)?).ok()?;
        let name = KeyName::parse(name).ok()?;
        let version = u32::from_be_bytes(self.take(4)?.try_into().ok()?);
        Some(KeyRef { name, version })
    }
}

fn parse(envelope: &[u8]) -> Option<Parts<'_>> {
    let mut reader = Reader(envelope);
    let mut signature = None;
    let mut whole = envelope;
    loop {
        if reader.byte()? != FORMAT {
            return None;
        }
        match (reader.byte()?, &signature) {
            (SEALED, _) => break,
            (SIGNED, None) => {
                let key = reader.key()?;
                let scheme = Scheme::of_code(reader.byte()?)?;
                let head = &envelope[..envelope.len() - reader.0.len()];
                let len = u16::from_be_bytes(reader.take(2)?.try_into().ok()?);
                let bytes = reader.take(usize::from(len))?;
                signature = Some(Signature {
                    head,
                    key,
                    scheme,
                    bytes,
                });
                whole = reader.0;
            }
            _ => return None,
        }
    }
    let key = reader.key()?;
    let nonce = reader.take(NONCE_BYTES)?.try_into().ok()?;
    let sealed = reader.0;
    if sealed.len() < TAG_BYTES {
        return None;
    }
    let head = &whole[..whole.len() - sealed.len()];
    Some(Parts {
        signature,
        whole,
        head,
        key,
        nonce,
        sealed,
    })
}

/// Refuses a name that the caller wrote and that is not here: that is no fault of an envelope.
fn known(keys: &KeySet, name: Option<&str>, field: &str) -> Result<(), VaultError> {
    match name {
        Some(name) if keys.get(name).is_none() => {
            let detail = "names a key that is not in the key folder";
            Err(VaultError::new(
                Kind::UnknownKey,
                format!("/{field}"),
                detail,
            ))
        }
        _ => Ok(()),
    }
}

fn retired(key: &KeyRef) -> VaultError {
    let KeyRef { name, version } = key;
    let detail =
        format!("is authentic, and version {version} of {name}, which it needs, was retired");
    VaultError::new(Kind::RetiredKey, "/envelope", detail)
}

/// Checks the signature where there is one, then opens.
///
/// - `key`, `signed_by`: what the caller insists on. Without `signed_by` an envelope that nobody
///   signed opens as well; a signature that is there is checked in any case.
pub fn open(
    keys: &KeySet,
    envelope: &[u8],
    aad: &[u8],
    key: Option<&str>,
    signed_by: Option<&str>,
) -> Result<Opened, VaultError> {
    known(keys, key, "key")?;
    known(keys, signed_by, "signed_by")?;
    let broken = VaultError::cannot_open;
    let parts = parse(envelope).ok_or_else(broken)?;
    if key.is_some_and(|name| name != parts.key.name.as_str()) {
        return Err(broken());
    }
    let signer = parts
        .signature
        .as_ref()
        .map(|found| found.key.name.as_str());
    if signed_by.is_some() && signed_by != signer {
        return Err(broken());
    }
    let mut old = None;
    if let Some(found) = &parts.signature {
        let Some((is_retired, Material::Sign(signing))) = version(keys, &found.key) else {
            return Err(broken());
        };
        let message = signed_message(found.head, aad, parts.whole);
        if !signing.public().check(found.scheme, &message, found.bytes) {
            return Err(broken());
        }
        old = is_retired.then(|| retired(&found.key));
    }
    let Some((is_retired, Material::Seal(sealing))) = version(keys, &parts.key) else {
        return Err(broken());
    };
    let mut bound = Vec::with_capacity(parts.head.len() + aad.len());
    bound.extend_from_slice(parts.head);
    bound.extend_from_slice(aad);
    let plaintext = sealing.open(parts.nonce, &bound, parts.sealed);
    let plaintext = plaintext.map_err(|_| broken())?;
    if is_retired {
        old = Some(retired(&parts.key));
    }
    match old {
        Some(error) => Err(error),
        None => Ok(Opened {
            plaintext,
            key: parts.key,
            signed_by: parts.signature.map(|found| found.key),
        }),
    }
}

/// Whether it is retired, and what it does.
fn version<'a>(keys: &'a KeySet, key: &KeyRef) -> Option<(bool, &'a Material)> {
    let found = keys.get(key.name.as_str())?.version(key.version)?;
    Some((found.retired, &found.material))
}
