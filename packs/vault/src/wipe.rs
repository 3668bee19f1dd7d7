//! Bytes that are wiped when they are dropped, at the speed of memory.
//!
//! `zeroize` writes byte by byte: for 64 KiB that costs ten times what sealing them costs. Keys and
//! passwords, which are short, are left to it; texts of any length are wiped here.
//!
//! Must never: be copied.

use std::ops::{Deref, DerefMut};

/// Overwrites, so that the compiler does not leave it out although nobody reads it afterwards.
pub(crate) fn wipe(bytes: &mut [u8]) {
    bytes.fill(0);
    // The bytes count as used from here on: the writes above must have happened.
    std::hint::black_box(bytes);
}

/// Bytes of a caller: plaintext, aad, messages.
#[derive(Default, PartialEq, Eq)]
pub struct Wiped(Vec<u8>);

impl Wiped {
    /// Gives the bytes out; whoever takes them wipes them or sends them.
    pub fn take(mut self) -> Vec<u8> {
        std::mem::take(&mut self.0)
    }
}

impl From<Vec<u8>> for Wiped {
    fn from(bytes: Vec<u8>) -> Self {
        Self(bytes)
    }
}

impl Deref for Wiped {
    type Target = Vec<u8>;
    fn deref(&self) -> &Vec<u8> {
        &self.0
    }
}

impl DerefMut for Wiped {
    fn deref_mut(&mut self) -> &mut Vec<u8> {
        &mut self.0
    }
}

impl Drop for Wiped {
    fn drop(&mut self) {
        wipe(&mut self.0);
    }
}

impl std::fmt::Debug for Wiped {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Wiped({} bytes)", self.0.len())
    }
}
