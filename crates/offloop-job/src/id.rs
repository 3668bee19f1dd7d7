//! Identities: of a job, of one run of it, of the node that runs it.

use std::fmt;
use std::str::FromStr;

use crate::Timestamp;

/// A job's name for ever: a UUID version 7 (RFC 9562).
///
/// The upper half is unique within one store by itself: 48 bits of milliseconds and the 12 bits of
/// `rand_a`, used as a counter (RFC 9562 §6.2, method 1). An embedded engine may therefore use
/// [`JobId::order`] as its row number.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct JobId(u128);

const VERSION: u128 = 0x7 << 76;
const VARIANT: u128 = 0b10 << 62;
const RANDOM_MASK: u64 = (1 << 62) - 1;

impl JobId {
    /// `order`: 60 bits, milliseconds and counter. `random`: its low 62 bits are used.
    pub const fn from_parts(order: u64, random: u64) -> Self {
        let ms = (order >> 12) as u128;
        let counter = (order & 0xfff) as u128;
        let low = (random & RANDOM_MASK) as u128;
        Self((ms << 80) | VERSION | (counter << 64) | VARIANT | low)
    }

    /// Milliseconds and counter: grows with every id that one source makes. Fits an `i64`.
    pub const fn order(self) -> u64 {
        let ms = (self.0 >> 80) as u64;
        let counter = ((self.0 >> 64) & 0xfff) as u64;
        (ms << 12) | counter
    }

    /// The 62 random bits.
    pub const fn random(self) -> u64 {
        (self.0 as u64) & RANDOM_MASK
    }

    pub const fn as_u128(self) -> u128 {
        self.0
    }

    /// Any bits are taken: an id from outside is only ever looked up.
    pub const fn from_u128(bits: u128) -> Self {
        Self(bits)
    }

    /// When it was made, to the millisecond. May run ahead of the clock under a burst.
    pub const fn created(self) -> Timestamp {
        Timestamp::from_millis((self.0 >> 80) as u64)
    }
}

impl fmt::Display for JobId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut text = [0_u8; 36];
        f.write_str(self.encode(&mut text))
    }
}

impl JobId {
    /// The canonical text, written into a buffer of the caller's: no allocation on hot paths.
    pub fn encode(self, text: &mut [u8; 36]) -> &str {
        const HEX: &[u8; 16] = b"0123456789abcdef";
        let bytes = self.0.to_be_bytes();
        let mut at = 0;
        for (index, byte) in bytes.iter().enumerate() {
            if matches!(index, 4 | 6 | 8 | 10) {
                text[at] = b'-';
                at += 1;
            }
            text[at] = HEX[usize::from(byte >> 4)];
            text[at + 1] = HEX[usize::from(byte & 0xf)];
            at += 2;
        }
        std::str::from_utf8(text).unwrap_or_default()
    }
}

impl fmt::Debug for JobId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "JobId({self})")
    }
}

/// A text that is not a UUID.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a job id is a UUID of 36 characters, such as 0199f3c2-7c1e-7a40-8000-1f2e3d4c5b6a")]
pub struct ParseJobIdError;

impl FromStr for JobId {
    type Err = ParseJobIdError;

    fn from_str(text: &str) -> Result<Self, ParseJobIdError> {
        let bytes = text.as_bytes();
        if bytes.len() != 36 {
            return Err(ParseJobIdError);
        }
        let mut bits = 0_u128;
        for (at, byte) in bytes.iter().enumerate() {
            if matches!(at, 8 | 13 | 18 | 23) {
                if *byte != b'-' {
                    return Err(ParseJobIdError);
                }
                continue;
            }
            let digit = char::from(*byte).to_digit(16).ok_or(ParseJobIdError)?;
            bits = (bits << 4) | u128::from(digit);
        }
        Ok(Self(bits))
    }
}

/// Makes job ids that grow, also when the clock stands still, steps back, or the process restarts.
#[derive(Clone, Debug)]
pub struct JobIdSource {
    last_order: u64,
    seed: u64,
}

impl JobIdSource {
    /// `after`: the largest [`JobId::order`] that the store holds, 0 for none.
    pub const fn new(after: u64, seed: u64) -> Self {
        Self {
            last_order: after,
            seed,
        }
    }

    /// More than 4,096 ids in a millisecond borrow from the next one (RFC 9562 §6.2 allows it).
    pub fn next_id(&mut self, now: Timestamp) -> JobId {
        let by_clock = now.as_millis() << 12;
        self.last_order = by_clock.max(self.last_order + 1);
        JobId::from_parts(self.last_order, self.next_random())
    }

    /// SplitMix64 (Steele, Lea, Flood 2014): spreads a seed; it is no secret.
    fn next_random(&mut self) -> u64 {
        self.seed = self.seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.seed;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
}

/// The fencing token of one attempt: grows with every claim that a store makes, for all jobs.
///
/// Not the attempt count: that can be given back (shutdown, snooze) and would then repeat.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Lease(pub u64);

impl fmt::Display for Lease {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

/// One run of the server on one machine. A restarted server is another node.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NodeId(pub Box<str>);

impl fmt::Display for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_grow_when_the_clock_stands_still_or_steps_back() {
        let mut source = JobIdSource::new(0, 1);
        let mut last = source.next_id(Timestamp::from_millis(1_000));
        for step in 0..10_000_u64 {
            let now = Timestamp::from_millis(1_000 - (step % 7));
            let id = source.next_id(now);
            assert!(id > last && id.order() > last.order());
            last = id;
        }
    }

    #[test]
    fn an_id_is_a_version_7_uuid_and_survives_its_text() {
        let id = JobIdSource::new(0, 7).next_id(Timestamp::from_millis(0x0199_f3c2_7c1e));
        let text = id.to_string();
        assert_eq!(&text[..13], "0199f3c2-7c1e");
        assert_eq!(&text[14..15], "7");
        assert!(matches!(&text[19..20], "8" | "9" | "a" | "b"));
        assert_eq!(text.parse(), Ok(id));
        assert_eq!(JobId::from_parts(id.order(), id.random()), id);
        assert_eq!(text.to_uppercase().parse(), Ok(id));
        for bad in [
            "",
            "x",
            &text[1..],
            &text.replace('-', "_"),
            &format!("{text}0"),
        ] {
            assert_eq!(bad.parse::<JobId>(), Err(ParseJobIdError));
        }
    }
}
