//! Operations as HTTP requests, whole and ready to be sent over and over.

use std::fmt::Write as _;
use std::net::SocketAddr;
use std::time::Duration;

use serde_json::{Value, json};

use crate::PlanError;
use crate::load::ask;
use crate::mix::{KeyKind, Mix, Operation, PasswordKind};

/// Bytes that are signed.
pub(crate) const MESSAGE_BYTES: usize = 1_024;
const PASSWORD: &str = "a password of average length";
/// Longest first call: keys are read, children start.
const FIRST_MAX: Duration = Duration::from_secs(120);
const CALL_TIMEOUT_MS: u64 = 60_000;
/// The key that seals.
pub(crate) const SEALING_KEY: &str = "plan-aes256";

/// Keys that a mix needs: names and algorithms as `offloop vault keygen` takes them.
pub(crate) fn keys(mix: &Mix) -> Vec<(String, &'static str)> {
    let mut keys: Vec<_> = mix
        .parts()
        .iter()
        .filter_map(|part| match part.operation {
            Operation::Seal(_) | Operation::Open(_) => Some((SEALING_KEY.into(), "aes256")),
            Operation::Sign(key) | Operation::Check(key) => Some((signing_key(key), key.name())),
            _ => None,
        })
        .collect();
    keys.sort();
    keys.dedup();
    keys
}

fn signing_key(key: KeyKind) -> String {
    format!("plan-{}", key.name())
}

/// Whether the vault has to be there.
pub(crate) fn needs_vault(mix: &Mix) -> bool {
    mix.parts()
        .iter()
        .any(|part| !matches!(part.operation, Operation::Cpu(_) | Operation::Task { .. }))
}

/// A call that does nothing: what it costs is the way there and back.
pub(crate) fn empty(address: SocketAddr) -> Vec<u8> {
    call(address, "offloop.noop", &Value::Null)
}

/// The request of an operation, after it was answered once.
pub(crate) fn request(operation: &Operation, address: SocketAddr) -> Result<Vec<u8>, PlanError> {
    let request = build(operation, address)?;
    once(operation, address, &request)?;
    Ok(request)
}

fn once(operation: &Operation, address: SocketAddr, request: &[u8]) -> Result<Vec<u8>, PlanError> {
    ask(address, request, FIRST_MAX).map_err(|cause| PlanError::Operation {
        operation: operation.to_string(),
        cause,
    })
}

fn build(operation: &Operation, address: SocketAddr) -> Result<Vec<u8>, PlanError> {
    let octets = |path: &str, body: &[u8]| post(address, path, "application/octet-stream", body);
    let vault = |what: &str, body: &Value| {
        let path = format!("/v1/vault/{what}");
        post(
            address,
            &path,
            "application/json",
            body.to_string().as_bytes(),
        )
    };
    let seal = format!("/v1/vault/seal?key={SEALING_KEY}");
    Ok(match operation {
        Operation::Seal(bytes) => octets(&seal, &filled(*bytes as usize)),
        Operation::Open(bytes) => {
            let sealed = once(operation, address, &octets(&seal, &filled(*bytes as usize)))?;
            octets(&format!("/v1/vault/open?key={SEALING_KEY}"), &sealed)
        }
        Operation::Sign(key) => {
            let path = format!("/v1/vault/sign?key={}", signing_key(*key));
            octets(&path, &filled(MESSAGE_BYTES))
        }
        Operation::Check(key) => {
            let message = base64(&filled(MESSAGE_BYTES));
            let mut body = json!({ "key": signing_key(*key), "message": message });
            let signed = once(operation, address, &vault("sign", &body))?;
            body["signature"] = field(&signed, "signature");
            vault("check", &body)
        }
        Operation::Hash(kind) => vault("hash", &hash(*kind)),
        Operation::Verify(kind) => {
            let hashed = once(operation, address, &vault("hash", &hash(*kind)))?;
            vault(
                "verify",
                &json!({ "password": PASSWORD, "hash": field(&hashed, "hash") }),
            )
        }
        Operation::Cpu(ms) => call(address, "offloop.spin", &json!({ "cpu_ms": ms })),
        Operation::Task { name, payload } => {
            let payload = payload.as_deref().map_or(Ok(Value::Null), |file| {
                let text = std::fs::read(file).map_err(|cause| PlanError::Payload {
                    file: file.to_owned(),
                    why: cause.to_string(),
                })?;
                serde_json::from_slice(&text).map_err(|cause| PlanError::Payload {
                    file: file.to_owned(),
                    why: format!("it is not JSON: {cause}"),
                })
            })?;
            call(address, name.as_str(), &payload)
        }
    })
}

fn hash(kind: PasswordKind) -> Value {
    match kind {
        PasswordKind::Argon2id => json!({ "password": PASSWORD, "algorithm": "argon2id" }),
        PasswordKind::Bcrypt { cost: None } => {
            json!({ "password": PASSWORD, "algorithm": "bcrypt" })
        }
        PasswordKind::Bcrypt { cost: Some(cost) } => {
            json!({ "password": PASSWORD, "algorithm": "bcrypt", "params": { "cost": cost } })
        }
    }
}

fn field(answer: &[u8], name: &str) -> Value {
    let answer: Value = serde_json::from_slice(answer).unwrap_or_default();
    answer[name].clone()
}

fn call(address: SocketAddr, task: &str, payload: &Value) -> Vec<u8> {
    let body = json!({ "payload": payload, "timeout_ms": CALL_TIMEOUT_MS });
    let path = format!("/v1/call/{}", escape(task));
    post(
        address,
        &path,
        "application/json",
        body.to_string().as_bytes(),
    )
}

/// A name as a part of a path.
fn escape(name: &str) -> String {
    let mut out = String::with_capacity(name.len());
    for byte in name.bytes() {
        if byte.is_ascii_alphanumeric() || b"-_.~".contains(&byte) {
            out.push(char::from(byte));
        } else {
            let _ = write!(out, "%{byte:02X}"); // writing to a String does not fail
        }
    }
    out
}

fn post(address: SocketAddr, path: &str, kind: &str, body: &[u8]) -> Vec<u8> {
    let length = body.len();
    let mut request = format!(
        "POST {path} HTTP/1.1\r\nhost: {address}\r\ncontent-type: {kind}\r\ncontent-length: {length}\r\n\r\n"
    )
    .into_bytes();
    request.extend_from_slice(body);
    request
}

/// Bytes that look like any.
fn filled(count: usize) -> Vec<u8> {
    let mut bytes = vec![0; count];
    fastrand::Rng::with_seed(4).fill(&mut bytes);
    bytes
}

fn base64(bytes: &[u8]) -> String {
    const LETTERS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut out = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for three in bytes.chunks(3) {
        let at = |n: usize| u32::from(three.get(n).copied().unwrap_or(0));
        let bits = at(0) << 16 | at(1) << 8 | at(2);
        for place in 0..4 {
            if place <= three.len() {
                let letter = bits >> (18 - 6 * place) & 63;
                out.push(char::from(LETTERS[letter as usize]));
            } else {
                out.push('=');
            }
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_key_is_made_once_and_only_for_what_needs_it() {
        let mix = Mix::parse("seal:1KiB + open:1KiB + 2*sign:p256 + check:p256 + cpu:1ms").unwrap();
        let want = [
            ("plan-aes256".to_owned(), "aes256"),
            ("plan-p256".to_owned(), "p256"),
        ];
        assert_eq!(keys(&mix), want);
        assert!(needs_vault(&mix));
        let mix = Mix::parse("cpu:1ms + task:a").unwrap();
        assert!(keys(&mix).is_empty() && !needs_vault(&mix));
        assert!(needs_vault(&Mix::parse("hash:argon2id").unwrap()));
    }

    #[test]
    fn base64_is_as_in_rfc_4648() {
        let rows = [
            ("", ""),
            ("f", "Zg=="),
            ("fo", "Zm8="),
            ("foo", "Zm9v"),
            ("foobar", "Zm9vYmFy"),
        ];
        for (text, want) in rows {
            assert_eq!(base64(text.as_bytes()), want);
        }
    }

    #[test]
    fn a_request_tells_its_length_and_a_name_cannot_leave_its_path() {
        let address = SocketAddr::from(([127, 0, 0, 1], 80));
        let text = String::from_utf8(call(address, "a/b c", &json!(1))).unwrap();
        let (head, body) = text.split_once("\r\n\r\n").unwrap();
        assert!(
            head.starts_with("POST /v1/call/a%2Fb%20c HTTP/1.1"),
            "{head}"
        );
        assert!(head.contains(&format!("content-length: {}", body.len())));
    }
}
