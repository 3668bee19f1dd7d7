//! What a request of yours does: `2*sign:ed25519 + seal:64KiB`.
//!
//! A mix is a sum of parts; each is so many calls of one operation. Pure. Must never: guess what an
//! unknown word might mean.

use std::fmt;
use std::path::PathBuf;

use offloop::TaskName;

/// Parts of one mix.
pub const PARTS_MAX: usize = 32;
/// Text of one mix.
pub const MIX_BYTES_MAX: usize = 4_096;
/// Calls of one part in one request.
pub const WEIGHT_MAX: f64 = 1_000.0;
/// Leaves room for the envelope in a body of the vault.
pub const SIZE_MAX: u64 = 4 << 20;
/// A call that takes longer is a job.
pub const CPU_MS_MAX: u64 = 60_000;
/// Cheapest and dearest cost of bcrypt.
pub const BCRYPT_COST: (u8, u8) = (4, 16);

/// What a part may be, as the errors list it.
pub const KNOWN: &str = "seal:SIZE, open:SIZE, sign:KEY and check:KEY (KEY: ed25519, p256, rsa2048, \
     rsa3072, rsa4096), hash:KIND and verify:KIND (KIND: argon2id, bcrypt, bcrypt:COST), \
     cpu:MILLISECONDSms, task:NAME, task:NAME=@PAYLOAD.json; each with a weight before it if you \
     like, as in 2*sign:ed25519";

/// A signing key's algorithm, by the name that `offloop vault keygen` takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeyKind {
    Ed25519,
    P256,
    Rsa2048,
    Rsa3072,
    Rsa4096,
}

impl KeyKind {
    pub const ALL: [Self; 5] = [
        Self::Ed25519,
        Self::P256,
        Self::Rsa2048,
        Self::Rsa3072,
        Self::Rsa4096,
    ];

    pub const fn name(self) -> &'static str {
        match self {
            Self::Ed25519 => "ed25519",
            Self::P256 => "p256",
            Self::Rsa2048 => "rsa2048",
            Self::Rsa3072 => "rsa3072",
            Self::Rsa4096 => "rsa4096",
        }
    }
}

/// How a password is hashed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PasswordKind {
    Argon2id,
    /// `None`: the vault's default.
    Bcrypt {
        cost: Option<u8>,
    },
}

/// One kind of call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Operation {
    /// Bytes.
    Seal(u64),
    Open(u64),
    Sign(KeyKind),
    Check(KeyKind),
    Hash(PasswordKind),
    Verify(PasswordKind),
    /// `offloop.spin`, milliseconds of processor time.
    Cpu(u64),
    /// A task of the configuration; the payload is a file with JSON, or `null`.
    Task {
        name: TaskName,
        payload: Option<PathBuf>,
    },
}

/// An operation, and how many calls of it one request makes.
#[derive(Clone, Debug, PartialEq)]
pub struct Part {
    pub weight: f64,
    pub operation: Operation,
}

/// One request of yours. At least one part; equal operations are one part.
#[derive(Clone, Debug, PartialEq)]
pub struct Mix {
    parts: Vec<Part>,
}

/// Why a text is no mix; names the part.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MixError {
    #[error("the mix is empty; give parts joined by `+`: {KNOWN}")]
    Empty,
    #[error("the mix has more than {PARTS_MAX} parts or {MIX_BYTES_MAX} bytes; give fewer")]
    TooLong,
    #[error("part `{part}`: {why}; known are {KNOWN}")]
    Part { part: String, why: String },
}

impl Mix {
    /// Reads `[WEIGHT*]OPERATION + ...`; blanks between the words do not count.
    pub fn parse(text: &str) -> Result<Self, MixError> {
        if text.trim().is_empty() {
            return Err(MixError::Empty);
        }
        let texts: Vec<_> = text.split('+').collect();
        if texts.len() > PARTS_MAX || text.len() > MIX_BYTES_MAX {
            return Err(MixError::TooLong);
        }
        let mut parts: Vec<Part> = Vec::new();
        for text in texts {
            let text = text.trim();
            let part = part(text).map_err(|why| MixError::Part {
                part: text.into(),
                why,
            })?;
            let same = |known: &&mut Part| known.operation == part.operation;
            match parts.iter_mut().find(same) {
                Some(known) => known.weight += part.weight,
                None => parts.push(part),
            }
        }
        Ok(Self { parts })
    }

    pub fn parts(&self) -> &[Part] {
        &self.parts
    }

    /// Calls that one request makes.
    pub fn calls(&self) -> f64 {
        self.parts.iter().map(|part| part.weight).sum()
    }
}

impl fmt::Display for Mix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, part) in self.parts.iter().enumerate() {
            if at > 0 {
                f.write_str(" + ")?;
            }
            if (part.weight - 1.0).abs() > f64::EPSILON {
                write!(f, "{}*", part.weight)?;
            }
            write!(f, "{}", part.operation)?;
        }
        Ok(())
    }
}

impl fmt::Display for PasswordKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Argon2id => f.write_str("argon2id"),
            Self::Bcrypt { cost: None } => f.write_str("bcrypt"),
            Self::Bcrypt { cost: Some(cost) } => write!(f, "bcrypt:{cost}"),
        }
    }
}

impl fmt::Display for Operation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Seal(bytes) => write!(f, "seal:{}", Size(*bytes)),
            Self::Open(bytes) => write!(f, "open:{}", Size(*bytes)),
            Self::Sign(key) => write!(f, "sign:{}", key.name()),
            Self::Check(key) => write!(f, "check:{}", key.name()),
            Self::Hash(kind) => write!(f, "hash:{kind}"),
            Self::Verify(kind) => write!(f, "verify:{kind}"),
            Self::Cpu(ms) => write!(f, "cpu:{ms}ms"),
            Self::Task { name, payload } => match payload {
                None => write!(f, "task:{name}"),
                Some(file) => write!(f, "task:{name}=@{}", file.display()),
            },
        }
    }
}

struct Size(u64);

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self(bytes) = *self;
        match bytes {
            _ if bytes >= 1 << 20 && bytes.is_multiple_of(1 << 20) => {
                write!(f, "{}MiB", bytes >> 20)
            }
            _ if bytes >= 1 << 10 && bytes.is_multiple_of(1 << 10) => {
                write!(f, "{}KiB", bytes >> 10)
            }
            _ => write!(f, "{bytes}B"),
        }
    }
}

fn part(text: &str) -> Result<Part, String> {
    let (weight, operation) = match text.split_once('*') {
        // A payload's path may hold one.
        Some((weight, rest)) if !weight.contains(':') => (self::weight(weight.trim())?, rest),
        _ => (1.0, text),
    };
    Ok(Part {
        weight,
        operation: self::operation(operation.trim())?,
    })
}

fn weight(text: &str) -> Result<f64, String> {
    let plain = text.bytes().all(|b| b.is_ascii_digit() || b == b'.');
    let weight: Option<f64> = text.parse().ok().filter(|_| plain);
    match weight {
        Some(weight) if (0.001..=WEIGHT_MAX).contains(&weight) => Ok(weight),
        _ => Err(format!(
            "the weight {text:?} is no number from 0.001 to {WEIGHT_MAX}"
        )),
    }
}

fn operation(text: &str) -> Result<Operation, String> {
    let (word, rest) = text.split_once(':').unwrap_or((text, ""));
    match word {
        "seal" => size(rest).map(Operation::Seal),
        "open" => size(rest).map(Operation::Open),
        "sign" => key(rest).map(Operation::Sign),
        "check" => key(rest).map(Operation::Check),
        "hash" => password(rest).map(Operation::Hash),
        "verify" => password(rest).map(Operation::Verify),
        "cpu" => milliseconds(rest).map(Operation::Cpu),
        "task" => task(rest),
        "" => Err("is empty".into()),
        other => Err(format!("{other:?} is unknown")),
    }
}

/// `512`, `512B`, `1KiB`, `1kB`, `2MiB`, `2MB`.
fn size(text: &str) -> Result<u64, String> {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at(digits);
    let factor = match unit.to_ascii_lowercase().as_str() {
        "" | "b" => 1,
        "kib" | "k" => 1 << 10,
        "kb" => 1_000,
        "mib" | "m" => 1 << 20,
        "mb" => 1_000_000,
        _ => 0,
    };
    let bytes = number.parse::<u64>().ok();
    match bytes.and_then(|bytes| bytes.checked_mul(factor)) {
        Some(bytes) if factor > 0 && (1..=SIZE_MAX).contains(&bytes) => Ok(bytes),
        _ => Err(format!("{text:?} is no size from 1B to 4MiB, such as 1KiB")),
    }
}

fn key(text: &str) -> Result<KeyKind, String> {
    let found = KeyKind::ALL.into_iter().find(|kind| kind.name() == text);
    found.ok_or_else(|| format!("{text:?} is no kind of signing key"))
}

fn password(text: &str) -> Result<PasswordKind, String> {
    let (least, most) = BCRYPT_COST;
    match text.split_once(':') {
        None if text == "argon2id" => Ok(PasswordKind::Argon2id),
        None if text == "bcrypt" => Ok(PasswordKind::Bcrypt { cost: None }),
        Some(("bcrypt", cost)) => match cost.parse() {
            Ok(cost) if (least..=most).contains(&cost) => {
                Ok(PasswordKind::Bcrypt { cost: Some(cost) })
            }
            _ => Err(format!(
                "the cost {cost:?} of bcrypt is not from {least} to {most}"
            )),
        },
        _ => Err(format!("{text:?} is no way to hash a password")),
    }
}

fn milliseconds(text: &str) -> Result<u64, String> {
    let ms = text.strip_suffix("ms").and_then(|ms| ms.parse().ok());
    match ms {
        Some(ms) if (1..=CPU_MS_MAX).contains(&ms) => Ok(ms),
        _ => Err(format!(
            "{text:?} is no processor time from 1ms to {CPU_MS_MAX}ms, in whole milliseconds"
        )),
    }
}

fn task(text: &str) -> Result<Operation, String> {
    let (name, payload) = match text.split_once('=') {
        None => (text, None),
        Some((name, payload)) => match payload.strip_prefix('@') {
            Some(file) if !file.is_empty() => (name, Some(PathBuf::from(file))),
            _ => return Err("the payload is no file; give task:NAME=@FILE".into()),
        },
    };
    let name = TaskName::parse(name).map_err(|error| format!("the task's name {error}"))?;
    Ok(Operation::Task { name, payload })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_mix_is_read_with_weights_and_units() {
        let mix = Mix::parse(" 2*sign:ed25519+ 0.5 * seal:64KiB + cpu:5ms").unwrap();
        let weights: Vec<_> = mix.parts().iter().map(|part| part.weight).collect();
        assert_eq!(weights, [2.0, 0.5, 1.0]);
        assert_eq!(mix.parts()[1].operation, Operation::Seal(65_536));
        assert!((mix.calls() - 3.5).abs() < 1e-12);
        let twice = Mix::parse("cpu:5ms + cpu:5ms").unwrap();
        assert_eq!(twice.to_string(), "2*cpu:5ms");
        let task = Mix::parse("task:report=@a*b/payload.json").unwrap();
        assert_eq!(task.to_string(), "task:report=@a*b/payload.json");
    }

    #[test]
    fn a_wrong_part_is_named_with_what_is_known() {
        let rows = [
            ("seal:1KiB + sing:rsa2048", "sing:rsa2048", "unknown"),
            ("sign:rsa1024", "sign:rsa1024", "signing key"),
            ("seal:5MiB", "seal:5MiB", "no size"),
            ("seal:0", "seal:0", "no size"),
            ("seal:18446744073709551615KiB", "seal:", "no size"),
            ("hash:bcrypt:31", "hash:bcrypt:31", "cost"),
            ("hash:md5", "hash:md5", "password"),
            ("cpu:5", "cpu:5", "processor time"),
            ("cpu:0.5ms", "cpu:0.5ms", "processor time"),
            ("0*cpu:5ms", "0*cpu:5ms", "weight"),
            ("inf*cpu:5ms", "inf*cpu:5ms", "weight"),
            ("-1*cpu:5ms", "-1*cpu:5ms", "weight"),
            ("task:a b", "task:a b", "name"),
            ("task:a={}", "task:a={}", "file"),
            ("cpu:5ms +", "``", "empty"),
        ];
        for (text, part, why) in rows {
            let error = Mix::parse(text).expect_err(text).to_string();
            assert!(error.contains(part) && error.contains(why), "{error}");
            assert!(error.contains("verify:KIND"), "{error}");
        }
        assert_eq!(Mix::parse("  "), Err(MixError::Empty));
        assert_eq!(Mix::parse(&"cpu:1ms+".repeat(40)), Err(MixError::TooLong));
    }

    fn operations() -> impl Strategy<Value = Operation> {
        let key = (0..KeyKind::ALL.len()).prop_map(|at| KeyKind::ALL[at]);
        let password = prop_oneof![
            Just(PasswordKind::Argon2id),
            proptest::option::of(BCRYPT_COST.0..=BCRYPT_COST.1)
                .prop_map(|cost| PasswordKind::Bcrypt { cost }),
        ];
        prop_oneof![
            (1..=SIZE_MAX).prop_map(Operation::Seal),
            (1..=4096_u64).prop_map(|kib| Operation::Open(kib << 10)),
            key.clone().prop_map(Operation::Sign),
            key.prop_map(Operation::Check),
            password.clone().prop_map(Operation::Hash),
            password.prop_map(Operation::Verify),
            (1..=CPU_MS_MAX).prop_map(Operation::Cpu),
            (
                "[a-z][a-z0-9_.-]{0,20}",
                proptest::option::of("[a-z*=:@/.]{1,20}")
            )
                .prop_map(|(name, file)| Operation::Task {
                    name: TaskName::parse(&name).expect("a name"),
                    payload: file.map(PathBuf::from),
                }),
        ]
    }

    proptest! {
        #[test]
        fn what_is_shown_is_read_as_the_same(
            parts in proptest::collection::vec((1..1_000_000_u32, operations()), 1..6)
        ) {
            let texts: Vec<_> = parts
                .iter()
                .map(|(weight, what)| format!("{}*{what}", f64::from(*weight) / 1_000.0))
                .collect();
            let mix = Mix::parse(&texts.join(" + ")).unwrap();
            // Equal ones were added up, which may pass the limit of one.
            prop_assume!(mix.parts().iter().all(|part| part.weight <= WEIGHT_MAX));
            let again = Mix::parse(&mix.to_string()).unwrap();
            prop_assert_eq!(again.to_string(), mix.to_string());
            let sum: f64 = parts.iter().map(|(weight, _)| f64::from(*weight) / 1_000.0).sum();
            prop_assert!((mix.calls() - sum).abs() < 1e-6 * sum);
        }

        #[test]
        fn no_text_makes_it_panic(text in "[a-z0-9:*+=@. -]{0,60}|\\PC{0,40}") {
            let _ = Mix::parse(&text);
        }
    }
}
