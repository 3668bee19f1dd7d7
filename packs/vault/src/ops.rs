//! One request, carried out: a body in, an answer out.
//!
//! The keys are taken once for the whole request, so a batch never sees half of a change. A failure
//! of one item of a batch stays with the item.
//!
//! Must never: know of HTTP, or look at a clock.

use std::sync::Arc;

use crate::argon;
use crate::body::{self, Body, Params, Text, Writer, bytes};
use crate::envelope::{self, KeyRef};
use crate::error::VaultError;
use crate::keys::KeySet;
use crate::keys::ring::Keyring;
use crate::password::{self, Answer, Ask, BCRYPT_COST_DEFAULT, Gate, Method};
use crate::sign::{Scheme, SigningKey};
use crate::wipe::Wiped;
use serde::Deserialize;

/// What is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Op {
    Hash,
    Verify,
    Seal,
    Open,
    Sign,
    Check,
}

impl Op {
    pub const ALL: [Self; 6] = [
        Self::Hash,
        Self::Verify,
        Self::Seal,
        Self::Open,
        Self::Sign,
        Self::Check,
    ];

    /// Slow on purpose.
    pub const fn is_password(self) -> bool {
        matches!(self, Self::Hash | Self::Verify)
    }

    /// The last part of its route, and of its task.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Hash => "hash",
            Self::Verify => "verify",
            Self::Seal => "seal",
            Self::Open => "open",
            Self::Sign => "sign",
            Self::Check => "check",
        }
    }
}

/// What work needs.
#[derive(Debug)]
pub struct Vault {
    pub keys: Keyring,
    pub memory: Gate,
}

/// A request whose body is no JSON: everything but the bytes themselves.
#[derive(Debug, Default)]
pub struct RawAsk {
    pub key: Option<String>,
    pub sign_key: Option<String>,
    pub signed_by: Option<String>,
    pub algorithm: Option<String>,
    pub version: Option<u32>,
    pub aad: Wiped,
    pub signature: Vec<u8>,
}

/// What a request comes to.
#[derive(Debug)]
pub enum Reply {
    Json(Vec<u8>),
    /// Bytes, and what is told beside them.
    Raw(Wiped, Vec<(&'static str, String)>),
}

type Done = Result<Vec<u8>, VaultError>;

/// A JSON body of `hash` or `verify`, read and bounded but not run.
#[derive(Debug)]
pub enum Passwords {
    One(Ask),
    /// What is wrong with an item stays with it.
    Many(Vec<Result<Ask, VaultError>>),
}

impl Passwords {
    /// Reads a body of `hash`, or of `verify`.
    pub fn read(op: Op, text: &[u8]) -> Result<Self, VaultError> {
        match op {
            Op::Verify => Self::of(body::read(text)?, verify_ask),
            _ => Self::of(body::read(text)?, hash_ask),
        }
    }

    fn of<T>(
        body: Body<T>,
        ask: impl Fn(&T) -> Result<Ask, VaultError>,
    ) -> Result<Self, VaultError> {
        match body {
            Body::One(one) => ask(&one).map(Self::One),
            Body::Many(many) => Ok(Self::Many(many.iter().map(ask).collect())),
        }
    }

    /// Runs them all on this thread.
    pub fn run(self, memory: &Gate, should_stop: &dyn Fn() -> bool) -> Done {
        match self {
            Self::One(ask) => {
                let mut answers = password::run(vec![ask], memory, should_stop);
                answers
                    .pop()
                    .unwrap_or_else(|| Err(VaultError::stopped()))
                    .map(|a| password_json(&a))
            }
            Self::Many(items) => {
                let mut places = Vec::with_capacity(items.len());
                let mut asks = Vec::with_capacity(items.len());
                for item in items {
                    places.push(item.map(|ask| asks.push(ask)));
                }
                let mut answers = password::run(asks, memory, should_stop).into_iter();
                if should_stop() {
                    return Err(VaultError::stopped());
                }
                let mut batch = BatchWriter::new(places.len() * 128);
                for (at, place) in places.into_iter().enumerate() {
                    let answer = place.and_then(|()| {
                        answers.next().unwrap_or_else(|| Err(VaultError::stopped()))
                    });
                    batch.add(at, answer.map(|answer| password_json(&answer)));
                }
                Ok(batch.end())
            }
        }
    }
}

/// The answer to one password.
pub fn password_json(answer: &Answer) -> Vec<u8> {
    let mut writer = Writer::new(128);
    match answer {
        Answer::Hash(hash) => writer.plain("hash", hash),
        Answer::Verified {
            valid,
            needs_rehash,
        } => {
            writer.truth("valid", *valid);
            writer.truth("needs_rehash", *needs_rehash);
        }
    }
    writer.end()
}

fn verify_ask(body: &body::Verify<'_>) -> Result<Ask, VaultError> {
    Ask::verify(body.password.as_str().as_bytes(), body.hash.as_str())
}

fn hash_ask(body: &body::Hash<'_>) -> Result<Ask, VaultError> {
    let algorithm = body.algorithm.as_ref().map_or("argon2id", Text::as_str);
    Ask::hash(
        body.password.as_str().as_bytes(),
        method(algorithm, &body.params)?,
    )
}

fn method(algorithm: &str, params: &Params) -> Result<Method, VaultError> {
    let foreign = |name: &str| {
        let detail = format!("is no parameter of {algorithm}");
        VaultError::field(&format!("params/{name}"), detail)
    };
    match algorithm {
        "argon2id" => {
            if params.cost.is_some() {
                return Err(foreign("cost"));
            }
            let default = argon::Cost::DEFAULT;
            Ok(Method::Argon2id(argon::Cost {
                memory_kib: params.memory_kib.unwrap_or(default.memory_kib),
                passes: params.passes.unwrap_or(default.passes),
                lanes: params.lanes.unwrap_or(default.lanes),
            }))
        }
        "bcrypt" => {
            let others = [
                ("memory_kib", params.memory_kib),
                ("passes", params.passes),
                ("lanes", params.lanes),
            ];
            match others.into_iter().find(|(_, value)| value.is_some()) {
                Some((name, _)) => Err(foreign(name)),
                None => Ok(Method::Bcrypt {
                    cost: params.cost.unwrap_or(BCRYPT_COST_DEFAULT),
                }),
            }
        }
        _ => Err(VaultError::field(
            "algorithm",
            "is not known; give argon2id or bcrypt",
        )),
    }
}

/// Answers of a batch, in order.
struct BatchWriter {
    out: Vec<u8>,
    failed: u32,
}

impl BatchWriter {
    fn new(room: usize) -> Self {
        let mut out = Vec::with_capacity(room + 64);
        out.extend_from_slice(b"{\"items\":[");
        Self { out, failed: 0 }
    }

    fn add(&mut self, at: usize, answer: Done) {
        if at > 0 {
            self.out.push(b',');
        }
        match answer {
            Ok(json) => self.out.extend_from_slice(&json),
            Err(error) => {
                self.failed += 1;
                let problem = error.of_item(at).problem();
                let json = serde_json::to_vec(&problem).unwrap_or_default(); // texts and numbers
                self.out.extend_from_slice(b"{\"error\":");
                self.out.extend_from_slice(&json);
                self.out.push(b'}');
            }
        }
    }

    fn end(mut self) -> Vec<u8> {
        let failed = self.failed;
        self.out
            .extend_from_slice(format!("],\"failed\":{failed}}}").as_bytes());
        self.out
    }
}

/// Every item by `one`, asked between two whether somebody still waits.
fn each<'a, T: Deserialize<'a>>(
    text: &'a [u8],
    should_stop: &dyn Fn() -> bool,
    one: impl Fn(&T) -> Done,
) -> Done {
    match body::read(text)? {
        Body::One(item) => one(&item),
        Body::Many(items) => {
            let mut batch = BatchWriter::new(text.len() + items.len() * 256);
            for (at, item) in items.iter().enumerate() {
                if should_stop() {
                    return Err(VaultError::stopped());
                }
                batch.add(at, one(item));
            }
            Ok(batch.end())
        }
    }
}

fn optional(text: Option<&Text<'_>>, field: &str) -> Result<Wiped, VaultError> {
    text.map_or_else(|| Ok(Wiped::default()), |text| bytes(text, field))
}

fn key_ref(writer: &mut Writer, name: &str, key: Option<&KeyRef>) {
    let Some(KeyRef { name: key, version }) = key else {
        return writer.raw(name, b"null");
    };
    let mut inner = Writer::new(96);
    inner.plain("key", key.as_str());
    inner.number("version", *version);
    writer.raw(name, &inner.end());
}

impl Vault {
    /// Carries out a JSON request.
    pub fn json(&self, op: Op, text: &[u8], should_stop: &dyn Fn() -> bool) -> Done {
        match op {
            Op::Hash | Op::Verify => Passwords::read(op, text)?.run(&self.memory, should_stop),
            Op::Seal => {
                let keys = self.keys.set()?;
                each(text, should_stop, |item| seal(&keys, item))
            }
            Op::Open => {
                let keys = self.keys.set()?;
                each(text, should_stop, |item| open(&keys, item))
            }
            Op::Sign => {
                let keys = self.keys.set()?;
                each(text, should_stop, |item| sign(&keys, item))
            }
            Op::Check => {
                let keys = self.keys.set()?;
                each(text, should_stop, |item| check(&keys, item))
            }
        }
    }

    /// Carries out a request whose body is the plaintext, the envelope or the message itself.
    pub fn raw(&self, op: Op, ask: &RawAsk, text: &[u8]) -> Result<Reply, VaultError> {
        let keys: Arc<KeySet> = self.keys.set()?;
        let key = || {
            let missing = || VaultError::field("key", "is missing; give it in the query");
            ask.key.as_deref().ok_or_else(missing)
        };
        let told = |key: &KeyRef, by: Option<&KeyRef>| {
            let mut told = vec![
                ("offloop-key", key.name.to_string()),
                ("offloop-key-version", key.version.to_string()),
            ];
            if let Some(by) = by {
                told.push(("offloop-signed-by", by.name.to_string()));
                told.push(("offloop-signed-by-version", by.version.to_string()));
            }
            told
        };
        match op {
            Op::Seal => {
                let sealed =
                    envelope::seal(&keys, key()?, ask.sign_key.as_deref(), &ask.aad, text)?;
                let told = told(&sealed.key, sealed.signed_by.as_ref());
                Ok(Reply::Raw(sealed.envelope.into(), told))
            }
            Op::Open => {
                let (key, by) = (ask.key.as_deref(), ask.signed_by.as_deref());
                let opened = envelope::open(&keys, text, &ask.aad, key, by)?;
                let told = told(&opened.key, opened.signed_by.as_ref());
                Ok(Reply::Raw(opened.plaintext, told))
            }
            Op::Sign => {
                let (version, signing, scheme) = signer(&keys, key()?, ask.algorithm.as_deref())?;
                let signature = made(signing, scheme, text)?;
                let told = vec![
                    ("offloop-key", key()?.to_owned()),
                    ("offloop-key-version", version.to_string()),
                    ("offloop-algorithm", scheme.name().to_owned()),
                ];
                Ok(Reply::Raw(signature.into(), told))
            }
            Op::Check => {
                let algorithm = ask.algorithm.as_deref();
                let found = checked(&keys, key()?, ask.version, algorithm, text, &ask.signature)?;
                Ok(Reply::Json(check_json(found)))
            }
            Op::Hash | Op::Verify => Err(VaultError::new(
                crate::error::Kind::Internal,
                "",
                "passwords come as JSON",
            )),
        }
    }
}

fn seal(keys: &KeySet, item: &body::Seal<'_>) -> Done {
    let plaintext = bytes(&item.plaintext, "plaintext")?;
    let aad = optional(item.aad.as_ref(), "aad")?;
    let sign_key = item.sign_key.as_ref().map(Text::as_str);
    let sealed = envelope::seal(keys, item.key.as_str(), sign_key, &aad, &plaintext)?;
    let mut writer = Writer::new(sealed.envelope.len() * 4 / 3 + 256);
    writer.bytes("envelope", &sealed.envelope);
    writer.plain("key", sealed.key.name.as_str());
    writer.number("version", sealed.key.version);
    key_ref(&mut writer, "signed_by", sealed.signed_by.as_ref());
    Ok(writer.end())
}

fn open(keys: &KeySet, item: &body::Open<'_>) -> Done {
    // What is no base64 is a mistake of the caller; what is base64 of nothing has the one answer.
    let envelope = bytes(&item.envelope, "envelope")?;
    let aad = optional(item.aad.as_ref(), "aad")?;
    let key = item.key.as_ref().map(Text::as_str);
    let signed_by = item.signed_by.as_ref().map(Text::as_str);
    let opened = envelope::open(keys, &envelope, &aad, key, signed_by)?;
    let mut writer = Writer::new(opened.plaintext.len() * 4 / 3 + 256);
    writer.bytes("plaintext", &opened.plaintext);
    writer.plain("key", opened.key.name.as_str());
    writer.number("version", opened.key.version);
    key_ref(&mut writer, "signed_by", opened.signed_by.as_ref());
    Ok(writer.end())
}

fn scheme(key: &SigningKey, asked: Option<&str>) -> Result<Scheme, VaultError> {
    let Some(asked) = asked else {
        return Ok(key.kind().default_scheme());
    };
    let fits = Scheme::of_name(asked).filter(|scheme| scheme.kind() == key.kind());
    fits.ok_or_else(|| {
        let own = Scheme::ALL
            .iter()
            .filter(|scheme| scheme.kind() == key.kind());
        let own: Vec<_> = own.map(|scheme| scheme.name()).collect();
        let detail = format!("does not belong to the key; give {}", own.join(" or "));
        VaultError::field("algorithm", detail)
    })
}

fn signer<'a>(
    keys: &'a KeySet,
    key: &'a str,
    algorithm: Option<&str>,
) -> Result<(u32, &'a SigningKey, Scheme), VaultError> {
    let (version, signing) = keys.signing(key, "key")?;
    Ok((version, signing, scheme(signing, algorithm)?))
}

fn made(key: &SigningKey, scheme: Scheme, message: &[u8]) -> Result<Vec<u8>, VaultError> {
    let failed = |error: crate::sign::SignError| {
        VaultError::new(crate::error::Kind::Internal, "", error.to_string())
    };
    key.sign(scheme, message).map_err(failed)
}

fn sign(keys: &KeySet, item: &body::Sign<'_>) -> Done {
    let algorithm = item.algorithm.as_ref().map(Text::as_str);
    let (version, signing, scheme) = signer(keys, item.key.as_str(), algorithm)?;
    let message = bytes(&item.message, "message")?;
    let signature = made(signing, scheme, &message)?;
    let mut writer = Writer::new(signature.len() * 4 / 3 + 192);
    writer.bytes("signature", &signature);
    // It named a key of the folder: a plain name.
    writer.plain("key", item.key.as_str());
    writer.number("version", version);
    writer.plain("algorithm", scheme.name());
    Ok(writer.end())
}

/// The version that made the signature, if any did.
fn checked(
    keys: &KeySet,
    key: &str,
    version: Option<u32>,
    algorithm: Option<&str>,
    message: &[u8],
    signature: &[u8],
) -> Result<Option<u32>, VaultError> {
    let versions = keys.checking(key, version)?;
    for (number, signing) in versions {
        let scheme = scheme(signing, algorithm)?;
        if signing.public().check(scheme, message, signature) {
            return Ok(Some(number));
        }
    }
    Ok(None)
}

fn check_json(found: Option<u32>) -> Vec<u8> {
    let mut writer = Writer::new(64);
    writer.truth("valid", found.is_some());
    match found {
        Some(version) => writer.number("version", version),
        None => writer.raw("version", b"null"),
    }
    writer.end()
}

fn check(keys: &KeySet, item: &body::Check<'_>) -> Done {
    let message = bytes(&item.message, "message")?;
    let signature = bytes(&item.signature, "signature")?;
    let algorithm = item.algorithm.as_ref().map(Text::as_str);
    let key = item.key.as_str();
    let found = checked(keys, key, item.version, algorithm, &message, &signature)?;
    Ok(check_json(found))
}
