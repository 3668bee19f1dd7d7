//! argon2id: the strings `$argon2id$v=19$m=..,t=..,p=..$salt$hash`, bounds on what one costs, and
//! the run itself.
//!
//! Source: RFC 9106; the default is OWASP's first profile for small memory. The engine is the crate
//! `argon2-rust` (run-time SIMD); it is held to RustCrypto's `argon2` by the tests.
//!
//! Must never: run what was not bounded, or keep more than [`KEPT_BYTES_MAX`] between two runs.

use std::cell::RefCell;

use argon2_rust::params::{Memory, TagLen};
use argon2_rust::{Algorithm, Argon2, Hasher, Params, Version};
use zeroize::Zeroizing;

/// Of one hash.
pub const TAG_BYTES: usize = 32;
pub const SALT_BYTES: usize = 16;
/// A string that is parsed may have others, within these.
const SALT_BYTES_RANGE: std::ops::RangeInclusive<usize> = 8..=64;
const TAG_BYTES_RANGE: std::ops::RangeInclusive<usize> = 16..=64;
/// 256 MiB.
pub const MEMORY_KIB_MAX: u32 = 256 << 10;
pub const PASSES_MAX: u32 = 32;
pub const LANES_MAX: u32 = 8;
/// Memory times passes: 1 GiB written is about half a second on one core.
pub const WORK_KIB_MAX: u64 = 1 << 20;
/// A thread keeps its memory for the next hash when it is not more than this.
pub const KEPT_BYTES_MAX: u64 = 32 << 20;

/// Which of the two variants that are compared; only `Id` is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Variant {
    /// argon2id.
    Id,
    /// argon2i, of older programs.
    I,
}

/// What one hash costs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cost {
    /// 8 per lane to 262,144.
    pub memory_kib: u32,
    /// 1 to 32.
    pub passes: u32,
    /// 1 to 8. They are walked one after the other, on one core.
    pub lanes: u32,
}

impl Cost {
    /// OWASP Password Storage Cheat Sheet: m = 19 MiB, t = 2, p = 1.
    pub const DEFAULT: Self = Self {
        memory_kib: 19_456,
        passes: 2,
        lanes: 1,
    };

    pub const fn memory_bytes(&self) -> u64 {
        self.memory_kib as u64 * 1024
    }

    /// The first bound that it breaks: which number, and what holds for it.
    pub fn problem(&self) -> Option<(&'static str, String)> {
        let Self {
            memory_kib,
            passes,
            lanes,
        } = *self;
        if lanes == 0 || lanes > LANES_MAX {
            let detail = format!("is {lanes}; the limits are 1 and {LANES_MAX}");
            return Some(("lanes", detail));
        }
        if passes == 0 || passes > PASSES_MAX {
            let detail = format!("is {passes}; the limits are 1 and {PASSES_MAX}");
            return Some(("passes", detail));
        }
        if memory_kib < 8 * lanes || memory_kib > MEMORY_KIB_MAX {
            let least = 8 * lanes;
            let detail = format!("is {memory_kib}; the limits are {least} and {MEMORY_KIB_MAX}");
            return Some(("memory_kib", detail));
        }
        let work = u64::from(memory_kib) * u64::from(passes);
        (work > WORK_KIB_MAX).then(|| {
            let detail = format!(
                "is {passes}, which with memory_kib {memory_kib} makes {work} KiB of work; the limit is {WORK_KIB_MAX}"
            );
            ("passes", detail)
        })
    }

    /// At least as costly in every number that counts.
    pub const fn covers(&self, other: &Self) -> bool {
        self.memory_kib >= other.memory_kib && self.passes >= other.passes
    }
}

/// A hash, read from its string or just made.
#[derive(Clone, PartialEq, Eq)]
pub struct Hash {
    pub variant: Variant,
    pub cost: Cost,
    salt: Vec<u8>,
    tag: Vec<u8>,
}

impl std::fmt::Debug for Hash {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Hash")
            .field("variant", &self.variant)
            .field("cost", &self.cost)
            .finish_non_exhaustive()
    }
}

/// A string that is no such hash, or one that would be run too long.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ParseError {
    #[error("is no argon2 hash of the form $argon2id$v=19$m=19456,t=2,p=1$SALT$HASH")]
    Form,
    #[error("is of argon2d, which is open to side channels; argon2id and argon2i are taken")]
    Variant,
    #[error("asks for too much: its {number} {detail}")]
    Cost {
        number: &'static str,
        detail: String,
    },
}

/// The engine could not do it: there is no memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the system has no memory for the hash")]
pub struct NoMemory;

thread_local! {
    /// Mapped and resident already when the next hash comes; wiped after each.
    static HASHER: RefCell<Option<Hasher>> = const { RefCell::new(None) };
}

fn tag(
    variant: Variant,
    cost: Cost,
    password: &[u8],
    salt: &[u8],
    tag: &mut [u8],
) -> Result<(), NoMemory> {
    let params = Params::builder()
        .memory(Memory::kib(cost.memory_kib.into()))
        .passes(cost.passes)
        .lanes(cost.lanes)
        .threads(1) // other cores belong to other calls
        .tag_len(TagLen::bytes(tag.len() as u64))
        .build()
        .map_err(|_| NoMemory)?; // bounds were checked: nothing else is left
    let algorithm = match variant {
        Variant::Id => Algorithm::Argon2id,
        Variant::I => Algorithm::Argon2i,
    };
    let argon2 = Argon2::new(algorithm, Version::V0x13, params);
    HASHER.with_borrow_mut(|kept| {
        let hasher = kept.get_or_insert_with(|| argon2.hasher());
        hasher.set_argon2(argon2);
        let done = hasher.hash_into(password, salt, tag);
        if hasher.reserved_blocks() as u64 * 1024 > KEPT_BYTES_MAX {
            hasher.clear();
        }
        done.map_err(|_| NoMemory)
    })
}

/// Gives this thread's memory back. For tests and for threads that go idle.
pub fn forget_memory() {
    HASHER.with_borrow_mut(|kept| *kept = None);
}

/// Hashes a new password. `cost` has no [`Cost::problem`].
pub fn hash(password: &[u8], salt: [u8; SALT_BYTES], cost: Cost) -> Result<Hash, NoMemory> {
    let mut hash = Hash {
        variant: Variant::Id,
        cost,
        salt: salt.to_vec(),
        tag: vec![0; TAG_BYTES],
    };
    tag(hash.variant, cost, password, &hash.salt, &mut hash.tag)?;
    Ok(hash)
}

impl Hash {
    /// Reads version 19 of both variants, numbers in the order m, t, p, without key or data fields.
    pub fn parse(text: &str) -> Result<Self, ParseError> {
        let mut parts = text.strip_prefix('$').ok_or(ParseError::Form)?.split('$');
        let mut next = || parts.next().ok_or(ParseError::Form);
        let variant = match next()? {
            "argon2id" => Variant::Id,
            "argon2i" => Variant::I,
            "argon2d" => return Err(ParseError::Variant),
            _ => return Err(ParseError::Form),
        };
        if next()? != "v=19" {
            return Err(ParseError::Form);
        }
        let mut numbers = next()?.split(',');
        let mut number = |name: &str| {
            let text = numbers.next().and_then(|part| part.strip_prefix(name));
            text.and_then(number).ok_or(ParseError::Form)
        };
        let cost = Cost {
            memory_kib: number("m=")?,
            passes: number("t=")?,
            lanes: number("p=")?,
        };
        if numbers.next().is_some() {
            return Err(ParseError::Form);
        }
        let salt = bytes(next()?, SALT_BYTES_RANGE)?;
        let tag = bytes(next()?, TAG_BYTES_RANGE)?;
        if parts.next().is_some() {
            return Err(ParseError::Form);
        }
        if let Some((number, detail)) = cost.problem() {
            return Err(ParseError::Cost { number, detail });
        }
        Ok(Self {
            variant,
            cost,
            salt,
            tag,
        })
    }

    /// Whether this is the password's, compared in a time that does not depend on where they differ.
    pub fn matches(&self, password: &[u8]) -> Result<bool, NoMemory> {
        let mut found = Zeroizing::new(vec![0; self.tag.len()]);
        tag(self.variant, self.cost, password, &self.salt, &mut found)?;
        Ok(aws_lc_rs::constant_time::verify_slices_are_equal(&found, &self.tag).is_ok())
    }
}

/// Decimal, without sign or leading zero.
fn number(text: &str) -> Option<u32> {
    let plain = text.bytes().all(|byte| byte.is_ascii_digit());
    let plain = plain && (text == "0" || !text.starts_with('0'));
    plain.then(|| text.parse().ok()).flatten()
}

fn bytes(text: &str, len: std::ops::RangeInclusive<usize>) -> Result<Vec<u8>, ParseError> {
    let found = base64_simd::STANDARD_NO_PAD.decode_to_vec(text);
    let found = found.map_err(|_| ParseError::Form)?;
    if len.contains(&found.len()) {
        Ok(found)
    } else {
        Err(ParseError::Form)
    }
}

impl std::fmt::Display for Hash {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let name = match self.variant {
            Variant::Id => "argon2id",
            Variant::I => "argon2i",
        };
        let Cost {
            memory_kib,
            passes,
            lanes,
        } = self.cost;
        let text = |bytes: &[u8]| base64_simd::STANDARD_NO_PAD.encode_to_string(bytes);
        let (salt, tag) = (text(&self.salt), text(&self.tag));
        write!(
            f,
            "${name}$v=19$m={memory_kib},t={passes},p={lanes}${salt}${tag}"
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn oracle(variant: Variant, cost: Cost, password: &[u8], salt: &[u8], len: usize) -> Vec<u8> {
        let params = argon2::Params::new(cost.memory_kib, cost.passes, cost.lanes, Some(len));
        let algorithm = match variant {
            Variant::Id => argon2::Algorithm::Argon2id,
            Variant::I => argon2::Algorithm::Argon2i,
        };
        let engine = argon2::Argon2::new(algorithm, argon2::Version::V0x13, params.unwrap());
        let mut out = vec![0; len];
        engine.hash_password_into(password, salt, &mut out).unwrap();
        out
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(96))]

        #[test]
        fn the_fast_engine_equals_the_audited_one(
            variant in prop::sample::select(vec![Variant::Id, Variant::I]),
            lanes in 1_u32..=4,
            memory in 0_u32..600,
            passes in 1_u32..=3,
            password in prop::collection::vec(any::<u8>(), 0..200),
            salt in prop::collection::vec(any::<u8>(), 8..=64),
            len in 16_usize..=64,
        ) {
            let cost = Cost { memory_kib: 8 * lanes + memory, passes, lanes };
            let mut ours = vec![0; len];
            tag(variant, cost, &password, &salt, &mut ours).unwrap();
            prop_assert_eq!(ours, oracle(variant, cost, &password, &salt, len));
        }

        #[test]
        fn any_text_is_parsed_or_refused_and_what_is_parsed_comes_back(
            text in ".{0,80}|\\$argon2(id|i|d)\\$v=19\\$m=[0-9]{1,7},t=[0-9]{1,3},p=[0-9]{1,2}\\$[A-Za-z0-9+/]{0,60}\\$[A-Za-z0-9+/]{0,60}",
        ) {
            if let Ok(hash) = Hash::parse(&text) {
                prop_assert_eq!(hash.to_string(), text);
                prop_assert!(hash.cost.problem().is_none());
            }
        }
    }

    /// From the reference's `test.c` and from strings that the reference program prints.
    #[test]
    fn the_strings_of_the_reference_are_met() {
        let rows = [
            (
                "password",
                "$argon2id$v=19$m=65536,t=2,p=1$c29tZXNhbHQ$CTFhFdXPJO1aFaMaO6Mm5c8y7cJHAph8ArZWb2GRPPc",
            ),
            (
                "password",
                "$argon2id$v=19$m=256,t=2,p=1$c29tZXNhbHQ$nf65EOgLrQMR/uIPnA4rEsF5h7TKyQwu9U1bMCHGi/4",
            ),
            (
                "password",
                "$argon2id$v=19$m=256,t=2,p=2$c29tZXNhbHQ$bQk8UB/VmZZF4Oo79iDXuL5/0ttZwg2f/5U52iv1cDc",
            ),
            (
                "password",
                "$argon2i$v=19$m=65536,t=2,p=1$c29tZXNhbHQ$wWKIMhR9lyDFvRz9YTZweHKfbftvj+qf+YFY4NeBbtA",
            ),
        ];
        for (password, text) in rows {
            let hash = Hash::parse(text).unwrap();
            assert!(hash.matches(password.as_bytes()).unwrap(), "{text}");
            assert!(!hash.matches(b"Password").unwrap(), "{text}");
            assert_eq!(hash.to_string(), text);
        }
    }

    #[test]
    fn parameters_that_would_take_a_minute_are_refused_before_they_run() {
        let text = |m: u64, t: u64, p: u64| {
            format!(
                "$argon2id$v=19$m={m},t={t},p={p}$c29tZXNhbHQ$CTFhFdXPJO1aFaMaO6Mm5c8y7cJHAph8ArZWb2GRPPc"
            )
        };
        #[rustfmt::skip]
        let rows = [
            (262_144, 4, 1, None), (262_144, 5, 1, Some("passes")), (262_145, 1, 1, Some("memory_kib")),
            (4_194_304, 1, 1, Some("memory_kib")), (19_456, 33, 1, Some("passes")), (19_456, 0, 1, Some("passes")),
            (19_456, 1, 9, Some("lanes")), (19_456, 1, 0, Some("lanes")), (31, 1, 4, Some("memory_kib")),
        ];
        for (m, t, p, want) in rows {
            let found = Hash::parse(&text(m, t, p));
            let number = match &found {
                Err(ParseError::Cost { number, .. }) => Some(*number),
                Ok(_) => None,
                other => panic!("{other:?}"),
            };
            assert_eq!(number, want, "m={m} t={t} p={p}");
        }
        assert_eq!(Hash::parse(&text(1 << 33, 1, 1)), Err(ParseError::Form));
        let d = text(64, 1, 1).replace("2id", "2d");
        assert_eq!(Hash::parse(&d), Err(ParseError::Variant));
    }

    #[test]
    fn a_large_hash_leaves_no_large_memory_behind() {
        let large = Cost {
            memory_kib: 80 << 10,
            passes: 1,
            lanes: 1,
        };
        hash(b"x", [1; 16], large).unwrap();
        HASHER.with_borrow(|kept| assert_eq!(kept.as_ref().unwrap().reserved_blocks(), 0));
        hash(
            b"x",
            [1; 16],
            Cost {
                memory_kib: 1024,
                ..large
            },
        )
        .unwrap();
        HASHER.with_borrow(|kept| assert_eq!(kept.as_ref().unwrap().reserved_blocks(), 1024));
    }
}
