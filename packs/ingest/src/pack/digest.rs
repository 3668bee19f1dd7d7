//! Digests that senders give of what they send (RFC 9530): `Content-Digest` of one request's body,
//! `Repr-Digest` of all that an upload brings.
//!
//! Must never: take a digest that it cannot check for one that is right.

use offloop::http::Refusal;
use offloop::http::axum::http::{HeaderMap, HeaderName};
use offloop::wire::Problem;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256, Sha512};

use super::view;

pub(super) const CONTENT: HeaderName = HeaderName::from_static("content-digest");
pub(super) const REPR: HeaderName = HeaderName::from_static("repr-digest");
/// What is read of such a field.
const FIELD_BYTES_MAX: usize = 4 << 10;
pub(super) const MISMATCH: (&str, u16, &str) =
    ("", 400, "What came has another digest than its sender gave");
const MISMATCH_TYPE: &str =
    "https://iana.org/assignments/http-problem-types#digest-mismatching-values";

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
            let base64 = value
                .strip_prefix(':')
                .and_then(|value| value.split_once(':'));
            let digest = base64
                .and_then(|(base64, _parameters)| base64_simd::STANDARD.decode_to_vec(base64).ok());
            let digest = digest.filter(|digest| digest.len() == algorithm.bytes());
            let digest = digest.ok_or_else(|| {
                let (name, bytes) = (algorithm.name(), algorithm.bytes());
                wrong(format!("{name} has {bytes} bytes as :BASE64:"))
            })?;
            found.push(Given {
                field: field.as_str().to_owned(),
                algorithm,
                digest: encoded(&digest),
            });
        }
    }
    if found.is_empty() && !others.is_empty() {
        let others = others.join(", ");
        return Err(wrong(format!(
            "{others} cannot be checked here; give sha-256 or sha-512"
        )));
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
        for given in &self.given {
            let found = match given.algorithm {
                Algorithm::Sha256 => &sha256,
                Algorithm::Sha512 => &sha512,
            };
            let found = found.as_deref().unwrap_or_default();
            if found != given.digest {
                let name = given.algorithm.name();
                let (field, wanted) = (&given.field, &given.digest);
                let detail = format!("{field} says {name}=:{wanted}:, but {name}=:{found}: came");
                return Err(Box::new(Problem {
                    r#type: MISMATCH_TYPE.into(),
                    ..view::problem(MISMATCH, detail)
                }));
            }
        }
        Ok(())
    }
}

/// The problem is that of a digest that does not fit.
pub(super) fn is_mismatch(problem: &Problem) -> bool {
    problem.r#type == MISMATCH_TYPE
}
