//! The costly part of bcrypt for several passwords at a time on one core.
//!
//! One Blowfish is a chain: each lookup waits for the one before, and most of a core lies idle. Up
//! to [`LANES_MAX`] independent states are walked in step, round by round, so that their lookups
//! overlap. Four states are 17 KiB and stay in the first-level cache.
//!
//! Source: N. Provos, D. Mazieres, "A Future-Adaptable Password Scheme", 1999; the order of work
//! after the analysis of bcrypt on CPUs by Openwall.
//!
//! Must never: know about strings, salts from a generator, or time.

#![expect(
    clippy::inline_always,
    clippy::needless_range_loop,
    reason = "each count of lanes is one flat loop, or the lookups do not overlap"
)]

use zeroize::{Zeroize as _, Zeroizing};

use super::tables::{P, S};

/// States that are walked together; more do not fit the cache.
pub(super) const LANES_MAX: usize = 4;
/// Bytes of a password that count, its closing zero included.
pub(super) const KEY_BYTES_MAX: usize = 72;
pub(super) const SALT_BYTES: usize = 16;
/// Of a hash: the 24th byte is left out, for history's sake.
pub(super) const HASH_BYTES: usize = 23;

/// `OrpheanBeholderScryDoubt`.
const MAGIC: [u32; 6] = [
    0x4f72_7068,
    0x6561_6e42,
    0x6568_6f6c,
    0x6465_7253,
    0x6372_7944,
    0x6f75_6274,
];

/// One Blowfish.
#[derive(Clone)]
struct State {
    p: [u32; 18],
    s: [[u32; 256]; 4],
}

impl State {
    const FIRST: Self = Self { p: P, s: S };
}

impl Drop for State {
    fn drop(&mut self) {
        self.p.zeroize();
        self.s.zeroize();
    }
}

/// A password as bcrypt sees it.
#[derive(Clone)]
pub(super) struct Key([u32; 18]);

impl Key {
    /// The password and its closing zero, over and over. At most 72 bytes count; the caller refuses
    /// more.
    pub(super) fn new(password: &[u8]) -> Self {
        let mut bytes = password.iter().copied().chain([0]).cycle();
        let mut words = [0; 18];
        for word in &mut words {
            for _ in 0..4 {
                *word = (*word << 8) | u32::from(bytes.next().unwrap_or(0));
            }
        }
        Self(words)
    }
}

impl Drop for Key {
    fn drop(&mut self) {
        self.0.zeroize();
    }
}

/// By shifts: bytes through an array would go by way of memory.
#[inline(always)]
fn mix(tables: &[[u32; 256]; 4], half: u32) -> u32 {
    let sum = tables[0][(half >> 24) as usize].wrapping_add(tables[1][(half >> 16 & 255) as usize]);
    (sum ^ tables[2][(half >> 8 & 255) as usize]).wrapping_add(tables[3][(half & 255) as usize])
}

/// The two halves of one block, of every lane.
type Blocks<const N: usize> = ([u32; N], [u32; N]);

/// Sixteen rounds of every state, each round for all of them before the next. Counts are constants
/// and halves travel by value, so that they stay in registers: written with iterators or through
/// references the same loop is three times slower.
#[inline(always)]
fn encipher<const N: usize>(states: &[State; N], blocks: Blocks<N>) -> Blocks<N> {
    let (mut left, mut right) = blocks;
    for k in 0..N {
        left[k] ^= states[k].p[0];
    }
    for pair in 0..8 {
        for k in 0..N {
            right[k] ^= mix(&states[k].s, left[k]) ^ states[k].p[2 * pair + 1];
        }
        for k in 0..N {
            left[k] ^= mix(&states[k].s, right[k]) ^ states[k].p[2 * pair + 2];
        }
    }
    for k in 0..N {
        right[k] ^= states[k].p[17];
    }
    (right, left)
}

/// Stirs one half of each salt into the blocks.
#[inline(always)]
fn stir<const N: usize>(blocks: &mut Blocks<N>, salts: &[[u32; 4]; N], second: bool) {
    let at = usize::from(second) * 2;
    for k in 0..N {
        blocks.0[k] ^= salts[k][at];
        blocks.1[k] ^= salts[k][at + 1];
    }
}

/// Replaces every word of every state by the chain of encryptions. With `SALTED` the salts are
/// stirred in, half by half.
#[inline(never)]
fn expand<const N: usize, const SALTED: bool>(
    states: &mut [State; N],
    keys: &[[u32; 18]; N],
    salts: &[[u32; 4]; N],
) {
    for k in 0..N {
        for at in 0..18 {
            states[k].p[at] ^= keys[k][at];
        }
    }
    let mut blocks = ([0; N], [0; N]);
    for pair in 0..9 {
        if SALTED {
            stir(&mut blocks, salts, pair % 2 == 1);
        }
        blocks = encipher(states, blocks);
        for k in 0..N {
            states[k].p[2 * pair] = blocks.0[k];
            states[k].p[2 * pair + 1] = blocks.1[k];
        }
    }
    for table in 0..4 {
        for pair in 0..128 {
            if SALTED {
                // Nine pairs came before: here the second half is first.
                stir(&mut blocks, salts, pair % 2 == 0);
            }
            blocks = encipher(states, blocks);
            for k in 0..N {
                states[k].s[table][2 * pair] = blocks.0[k];
                states[k].s[table][2 * pair + 1] = blocks.1[k];
            }
        }
    }
}

fn words(salt: &[u8; SALT_BYTES]) -> [u32; 4] {
    let mut words = [0; 4];
    for (word, bytes) in words.iter_mut().zip(salt.chunks_exact(4)) {
        *word = bytes
            .iter()
            .fold(0, |word, byte| (word << 8) | u32::from(*byte));
    }
    words
}

fn cycled(salt: [u32; 4]) -> [u32; 18] {
    std::array::from_fn(|at| salt[at % 4])
}

/// The hashes of exactly N passwords.
fn run<const N: usize>(
    cost: u8,
    keys: &[&Key; N],
    salts: &[[u8; SALT_BYTES]; N],
    should_stop: &dyn Fn() -> bool,
) -> Option<[[u8; HASH_BYTES]; N]> {
    let mut states: Box<[State; N]> = Box::new(std::array::from_fn(|_| State::FIRST));
    let salts: [[u32; 4]; N] = std::array::from_fn(|k| words(&salts[k]));
    let keys: Zeroizing<[[u32; 18]; N]> = Zeroizing::new(std::array::from_fn(|k| keys[k].0));
    let long_salts: [[u32; 18]; N] = std::array::from_fn(|k| cycled(salts[k]));
    expand::<N, true>(&mut states, &keys, &salts);
    for _ in 0..1_u64 << cost {
        // Twenty to a hundred microseconds lie between two questions.
        if should_stop() {
            return None;
        }
        expand::<N, false>(&mut states, &keys, &salts);
        expand::<N, false>(&mut states, &long_salts, &salts);
    }
    let mut hashes = [[0; HASH_BYTES]; N];
    for pair in 0..3 {
        let mut blocks = ([MAGIC[pair * 2]; N], [MAGIC[pair * 2 + 1]; N]);
        for _ in 0..64 {
            blocks = encipher(&states, blocks);
        }
        let (left, right) = blocks;
        for k in 0..N {
            let bytes = [left[k].to_be_bytes(), right[k].to_be_bytes()];
            let bytes = bytes.as_flattened();
            let room = &mut hashes[k][pair * 8..];
            let len = room.len().min(8);
            room[..len].copy_from_slice(&bytes[..len]);
        }
    }
    Some(hashes)
}

/// Hashes of 1 to [`LANES_MAX`] passwords, in their order; `None` when it was stopped. More than
/// that many are walked in turns.
///
/// - `cost`: 4 to 31; the work is 2^cost.
/// - `should_stop`: asked every 20 to 100 us.
pub(super) fn hash(
    cost: u8,
    asks: &[(Key, [u8; SALT_BYTES])],
    should_stop: &dyn Fn() -> bool,
) -> Option<Vec<[u8; HASH_BYTES]>> {
    let mut all = Vec::with_capacity(asks.len());
    for asks in asks.chunks(LANES_MAX) {
        match asks {
            [a] => all.extend(run(cost, &[&a.0], &[a.1], should_stop)?),
            [a, b] => all.extend(run(cost, &[&a.0, &b.0], &[a.1, b.1], should_stop)?),
            [a, b, c] => {
                let keys = [&a.0, &b.0, &c.0];
                all.extend(run(cost, &keys, &[a.1, b.1, c.1], should_stop)?);
            }
            [a, b, c, d, ..] => {
                let keys = [&a.0, &b.0, &c.0, &d.0];
                all.extend(run(cost, &keys, &[a.1, b.1, c.1, d.1], should_stop)?);
            }
            [] => {}
        }
    }
    Some(all)
}
