//! Digests that senders give of what they send (RFC 9530): `Content-Digest` of one request's body,
//! `Repr-Digest` of all that an upload brings. What is wrong with them is told by the problem types of
//! draft-ietf-httpapi-digest-fields-problem-types-06.
//!
//! Must never: take a digest that it cannot check for one that is right, or tell the one that it calculated: with
//! it, what came could be guessed at.

use offloop::http::Refusal;
use offloop::http::axum::http::{HeaderMap, HeaderName};
use offloop::wire::Problem;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use sha2::{Digest as _, Sha256, Sha512};

use super::view;

pub(super) const CONTENT: HeaderName = HeaderName::from_static("content-digest");
pub(super) const REPR: HeaderName = HeaderName::from_static("repr-digest");
/// What is read of such a field.
const FIELD_BYTES_MAX: usize = 4 << 10;

/// A registered type: its name, its title, and the member that lists what it is about.
type Kind = (&'static str, &'static str, &'static str);
const MISMATCHED: Kind = (
    "https://iana.org/assignments/http-problem-types#digest-mismatched-values",
    "What came has another digest than its sender gave",
    "mismatched_digests",
);
const INVALID: Kind = (
    "https://iana.org/assignments/http-problem-types#digest-invalid-values",
    "A digest is none of its algorithm",
    "invalid_digests",
);
const UNSUPPORTED: Kind = (
    "https://iana.org/assignments/http-problem-types#digest-unsupported-algorithms",
    "The digest's algorithm is not supported",
    "unsupported_algorithms",
);

fn problem((kind, title, list): Kind, detail: String, entries: Vec<Value>) -> Problem {
    Problem {
        r#type: kind.into(),
        more: Map::from_iter([(list.to_owned(), entries.into())]),
        ..view::problem(("", 400, title), detail)
    }
}

/// As the field is written: `Content-Digest`.
fn header(field: &str) -> &'static str {
    if field == REPR.as_str() {
        "Repr-Digest"
    } else {
        "Content-Digest"
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Algorithm {
    #[serde(rename = "sha-256")]
    Sha256,
    #[serde(rename = "sha-512")]
    Sha512,
}

impl Algorithm {
    const ALL: [Self; 2] = [Self::Sha256, Self::Sha512];

    const fn name(self) -> &'static str {
        match self {
            Self::Sha256 => "sha-256",
            Self::Sha512 => "sha-512",
        }
    }

    const fn bytes(self) -> usize {
        match self {
            Self::Sha256 => 32,
            Self::Sha512 => 64,
        }
    }
}

/// A digest that was given.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Given {
    /// Name of the field.
    field: String,
    algorithm: Algorithm,
    /// Base64 in its one canonical form.
    digest: String,
}

fn encoded(bytes: &[u8]) -> String {
    base64_simd::STANDARD.encode_to_string(bytes)
}

/// The digests of one field. A dictionary of RFC 9651; of its algorithms at least one must be known.
pub(super) fn given(headers: &HeaderMap, field: &HeaderName) -> Result<Vec<Given>, Refusal> {
    let wrong = |detail: String| Refusal::parameter(field.as_str(), detail);
    let mut found = Vec::new();
    let mut others = Vec::new();
    let mut invalid = Vec::new();
    let mut bytes = 0;
    for line in headers.get_all(field) {
        let line = line
            .to_str()
            .map_err(|_| wrong("is no plain text".into()))?;
        bytes += line.len();
        if bytes > FIELD_BYTES_MAX {
            return Err(wrong(format!("is over {FIELD_BYTES_MAX} bytes")));
        }
        for member in line.split(',').map(str::trim) {
            let Some((name, value)) = member.split_once('=') else {
                return Err(wrong("give sha-256=:BASE64:".into()));
            };
            let known = Algorithm::ALL
                .into_iter()
                .find(|known| known.name() == name);
            let Some(algorithm) = known else {
                others.push(name.chars().take(40).collect::<String>());
                continue;
            };
            let (name, bytes) = (algorithm.name(), algorithm.bytes());
            let base64 = value
                .strip_prefix(':')
                .and_then(|value| value.split_once(':'));
            let digest = base64
                .and_then(|(base64, _parameters)| base64_simd::STANDARD.decode_to_vec(base64).ok());
            let digest =
                digest.ok_or_else(|| wrong(format!("{name} has {bytes} bytes as :BASE64:")))?;
            if digest.len() != bytes {
                let reason = format!("{name} has {bytes} bytes, this value {}", digest.len());
                invalid.push((name, reason));
            }
            found.push(Given {
                field: field.as_str().to_owned(),
                algorithm,
                digest: encoded(&digest),
            });
        }
    }
    let at = header(field.as_str());
    if let Some((_, first)) = invalid.first() {
        let detail = format!("{at}: {first}");
        let entry = |(name, reason): &(&str, String)| json!({"algorithm": name, "header": at, "reason": reason});
        let entries = invalid.iter().map(entry).collect();
        return Err(problem(INVALID, detail, entries).into());
    }
    if found.is_empty() && !others.is_empty() {
        let detail = format!(
            "{at}: {} cannot be checked here; give sha-256 or sha-512",
            others.join(", ")
        );
        let entry = |name: &String| json!({"algorithm": name, "header": at});
        let entries = others.iter().map(entry).collect();
        return Err(problem(UNSUPPORTED, detail, entries).into());
    }
    Ok(found)
}

/// Sums what comes, and holds it against what was given.
#[derive(Debug, Default)]
pub(super) struct Sums {
    given: Vec<Given>,
    sha256: Option<Sha256>,
    sha512: Option<Sha512>,
}

impl Sums {
    pub(super) fn new(given: Vec<Given>) -> Self {
        let is_wanted = |algorithm| given.iter().any(|given| given.algorithm == algorithm);
        Self {
            sha256: is_wanted(Algorithm::Sha256).then(Sha256::new),
            sha512: is_wanted(Algorithm::Sha512).then(Sha512::new),
            given,
        }
    }

    pub(super) fn update(&mut self, bytes: &[u8]) {
        if let Some(sum) = &mut self.sha256 {
            sum.update(bytes);
        }
        if let Some(sum) = &mut self.sha512 {
            sum.update(bytes);
        }
    }

    /// Whether all of it came as its sender has it.
    pub(super) fn verify(self) -> Result<(), Box<Problem>> {
        let sha256 = self.sha256.map(|sum| encoded(&sum.finalize()));
        let sha512 = self.sha512.map(|sum| encoded(&sum.finalize()));
        let is_other = |given: &&Given| {
            let found = match given.algorithm {
                Algorithm::Sha256 => &sha256,
                Algorithm::Sha512 => &sha512,
            };
            found.as_deref() != Some(&given.digest)
        };
        let others: Vec<_> = self.given.iter().filter(is_other).collect();
        let Some(first) = others.first() else {
            return Ok(());
        };
        let detail = format!(
            "{} says {}=:{}:, and that is not what came",
            header(&first.field),
            first.algorithm.name(),
            first.digest
        );
        let entry = |given: &&Given| {
            json!({"algorithm": given.algorithm.name(), "header": header(&given.field),
                "provided_digest": format!(":{}:", given.digest)})
        };
        let entries = others.iter().map(entry).collect();
        Err(Box::new(problem(MISMATCHED, detail, entries)))
    }
}

/// The problem is that of a digest that does not fit.
pub(super) fn is_mismatch(problem: &Problem) -> bool {
    problem.r#type == MISMATCHED.0
}
