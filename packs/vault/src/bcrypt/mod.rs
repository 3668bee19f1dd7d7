//! bcrypt: the strings `$2b$10$...`, and hashing of several at a time on one core ([`kernel`]).
//!
//! bcrypt itself looks at 72 bytes and ends at the first zero byte. Passwords over that are refused
//! here: two of them that begin alike would open each other's doors.
//!
//! Must never: cut a password short, or draw a salt itself.

mod kernel;
mod tables;

use kernel::{HASH_BYTES, KEY_BYTES_MAX, Key, SALT_BYTES};

/// Passwords that are walked together on one core.
pub const LANES_MAX: usize = kernel::LANES_MAX;
/// Longest password in bytes.
pub const PASSWORD_BYTES_MAX: usize = KEY_BYTES_MAX;
/// Least cost of the format.
pub const COST_MIN: u8 = 4;
/// Highest cost that is run here: a second or less on one core.
pub const COST_MAX: u8 = 14;

/// bcrypt's own order of the 64 digits.
const DIGITS: &[u8; 64] = b"./ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789";
const SALT_DIGITS: usize = 22;
const HASH_DIGITS: usize = 31;
const STRING_BYTES: usize = 7 + SALT_DIGITS + HASH_DIGITS;

/// Why a password is no password for bcrypt.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PasswordError {
    #[error(
        "has {len} bytes; bcrypt looks at {PASSWORD_BYTES_MAX} at most: use argon2id for longer passwords"
    )]
    TooLong { len: usize },
    #[error("holds a zero byte, where bcrypt would end it: use argon2id, or refuse such passwords")]
    Zero,
}

/// A string that is no bcrypt hash, or one that would be run too long.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ParseError {
    #[error("is no bcrypt hash of the form $2b$10$ and 53 digits")]
    Form,
    #[error("has cost {cost}; {COST_MIN} to {COST_MAX} are taken here")]
    Cost { cost: u8 },
}

/// A hash, read from its string.
#[derive(Clone, PartialEq, Eq)]
pub struct Hash {
    pub cost: u8,
    salt: [u8; SALT_BYTES],
    digest: [u8; HASH_BYTES],
}

impl std::fmt::Debug for Hash {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Hash")
            .field("cost", &self.cost)
            .finish_non_exhaustive()
    }
}

/// One password with its salt, ready to be run.
pub struct Ask {
    key: Key,
    salt: [u8; SALT_BYTES],
}

impl std::fmt::Debug for Ask {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Ask")
    }
}

impl Ask {
    pub fn new(password: &[u8], salt: [u8; SALT_BYTES]) -> Result<Self, PasswordError> {
        let len = password.len();
        if len > PASSWORD_BYTES_MAX {
            return Err(PasswordError::TooLong { len });
        }
        if password.contains(&0) {
            return Err(PasswordError::Zero);
        }
        let key = Key::new(password);
        Ok(Self { key, salt })
    }

    /// With the salt of a hash, to compare with it.
    pub fn of(password: &[u8], hash: &Hash) -> Result<Self, PasswordError> {
        Self::new(password, hash.salt)
    }
}

/// Runs all asks at one cost, [`LANES_MAX`] at a time, on this thread. `None` when it was stopped.
///
/// - `cost`: [`COST_MIN`] to 31.
/// - `should_stop` is asked at least every 100 us.
pub fn run(cost: u8, asks: Vec<Ask>, should_stop: &dyn Fn() -> bool) -> Option<Vec<Hash>> {
    let asks: Vec<_> = asks.into_iter().map(|ask| (ask.key, ask.salt)).collect();
    let hashes = kernel::hash(cost, &asks, should_stop)?;
    let of = |(hash, (_, salt)): ([u8; HASH_BYTES], &(Key, [u8; SALT_BYTES]))| Hash {
        cost,
        salt: *salt,
        digest: hash,
    };
    Some(hashes.into_iter().zip(&asks).map(of).collect())
}

impl Hash {
    /// Reads `$2a$`, `$2b$` and `$2y$`, which are one and the same for passwords of at most 72 bytes.
    /// `$2x$` is a known mistake of one implementation and is not taken.
    pub fn parse(text: &str) -> Result<Self, ParseError> {
        let bytes = text.as_bytes();
        let [
            b'$',
            b'2',
            b'a' | b'b' | b'y',
            b'$',
            tens,
            ones,
            b'$',
            digits @ ..,
        ] = bytes
        else {
            return Err(ParseError::Form);
        };
        if bytes.len() != STRING_BYTES || !tens.is_ascii_digit() || !ones.is_ascii_digit() {
            return Err(ParseError::Form);
        }
        let cost = (tens - b'0') * 10 + (ones - b'0');
        let (salt, hash) = digits.split_at(SALT_DIGITS);
        let hash = Self {
            cost,
            salt: decode(salt).ok_or(ParseError::Form)?,
            digest: decode(hash).ok_or(ParseError::Form)?,
        };
        if !(COST_MIN..=COST_MAX).contains(&cost) {
            return Err(ParseError::Cost { cost });
        }
        Ok(hash)
    }

    /// Whether both are the same, in a time that does not depend on where they differ.
    pub fn same(&self, other: &Self) -> bool {
        aws_lc_rs::constant_time::verify_slices_are_equal(&self.digest, &other.digest).is_ok()
    }
}

impl std::fmt::Display for Hash {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "$2b${:02}$", self.cost)?;
        encode(&self.salt, f)?;
        encode(&self.digest, f)
    }
}

fn encode(bytes: &[u8], f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
    use std::fmt::Write as _;
    for group in bytes.chunks(3) {
        let mut word = 0_u32;
        for at in 0..3 {
            word = (word << 8) | u32::from(group.get(at).copied().unwrap_or(0));
        }
        for at in 0..=group.len() {
            let digit = (word >> (18 - 6 * at)) & 63;
            f.write_char(char::from(DIGITS[digit as usize]))?;
        }
    }
    Ok(())
}

/// Bits over the last byte are ignored, as other implementations do.
fn decode<const N: usize>(digits: &[u8]) -> Option<[u8; N]> {
    let mut bytes = [0; N];
    let mut at = 0;
    for group in digits.chunks(4) {
        let mut word = 0_u32;
        for place in 0..4 {
            let value = match group.get(place) {
                Some(digit) => DIGITS.iter().position(|known| known == digit)?,
                None => 0,
            };
            word = (word << 6) | value as u32;
        }
        for byte in word.to_be_bytes().into_iter().skip(1) {
            if at < N {
                bytes[at] = byte;
                at += 1;
            }
        }
    }
    (at == N).then_some(bytes)
}

#[cfg(test)]
mod tests;
