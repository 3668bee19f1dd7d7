//! Sealing: XAES-256-GCM, which is AES-256-GCM with a key of its own for each nonce.
//!
//! A nonce has 192 bits and comes from the kernel's generator, so none is ever kept, counted or
//! divided among processes: two servers, a restart, or a copy of a running machine draw
//! independently, and after 2^80 messages under one key two of them are equal with probability 2^-33
//! (docs/adr/0017). Source: C2SP XAES-256-GCM v1, a key derivation by CMAC after NIST SP 800-108r1.
//!
//! Must never: take a nonce from a caller outside tests, or tell why something does not open.

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use aws_lc_rs::cipher::{AES_256, EncryptingKey, UnboundCipherKey};
use aws_lc_rs::hmac;
use zeroize::Zeroizing;

use crate::wipe::Wiped;

pub const KEY_BYTES: usize = 32;
pub const NONCE_BYTES: usize = 24;
pub const TAG_BYTES: usize = 16;
const BLOCK_BYTES: usize = 16;
/// Of the nonce: what the key of a message is derived by.
const DERIVED_BY_BYTES: usize = 12;

/// A key that seals and opens, expanded once.
pub struct SealingKey {
    /// AES-256 of single blocks: what keys are derived by.
    blocks: EncryptingKey,
    /// CMAC's first subkey.
    subkey: Zeroizing<[u8; BLOCK_BYTES]>,
}

impl std::fmt::Debug for SealingKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SealingKey").finish_non_exhaustive()
    }
}

/// The library failed; it does not when lengths are right.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the cipher failed")]
pub struct SealError;

/// It does not open. Nothing else is known, on purpose.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("cannot be opened")]
pub struct OpenError;

impl SealingKey {
    pub fn new(key: &[u8; KEY_BYTES]) -> Result<Self, SealError> {
        let blocks = UnboundCipherKey::new(&AES_256, key).map_err(|_| SealError)?;
        let blocks = EncryptingKey::ecb(blocks).map_err(|_| SealError)?;
        let mut subkey = Zeroizing::new([0; BLOCK_BYTES]);
        blocks.encrypt(&mut *subkey).map_err(|_| SealError)?;
        // Doubling in GF(2^128), NIST SP 800-38B, without a branch on the key.
        let value = u128::from_be_bytes(*subkey);
        let over = (value >> 127) * 0x87;
        *subkey = ((value << 1) ^ over).to_be_bytes();
        Ok(Self { blocks, subkey })
    }

    /// The key of one nonce; the 96 bits that are left of it are the nonce under that key.
    fn derive(&self, first: &[u8]) -> Result<Zeroizing<[u8; KEY_BYTES]>, SealError> {
        let mut key = Zeroizing::new([0; 2 * BLOCK_BYTES]);
        for (counter, block) in (1..).zip(key.chunks_exact_mut(BLOCK_BYTES)) {
            block[..4].copy_from_slice(&[0, counter, b'X', 0]);
            block[4..].copy_from_slice(first); // 12 bytes
            for (byte, subkey) in block.iter_mut().zip(self.subkey.iter()) {
                *byte ^= subkey;
            }
        }
        self.blocks.encrypt(&mut *key).map_err(|_| SealError)?;
        Ok(key)
    }

    /// A nonce that is the same for the same parts and cannot be told from a drawn one without the key:
    /// HMAC-SHA256 of the parts, under a key of its own. Whoever seals with it binds all of the message
    /// into the parts, so that equal nonces mean equal messages (the synthetic nonce of RFC 5297).
    pub fn nonce_of(&self, parts: &[&[u8]]) -> Result<[u8; NONCE_BYTES], SealError> {
        // No message's key is derived by this text, but for one drawn nonce of 2^96.
        let key = hmac::Key::new(hmac::HMAC_SHA256, &*self.derive(b"same nonce: ")?);
        let mut context = hmac::Context::with_key(&key);
        for part in parts {
            context.update(&(part.len() as u64).to_be_bytes());
            context.update(part);
        }
        let mut nonce = [0; NONCE_BYTES];
        nonce.copy_from_slice(&context.sign().as_ref()[..NONCE_BYTES]);
        Ok(nonce)
    }

    /// Seals `plaintext` into `out`, which has room for it and for the tag behind it.
    ///
    /// `nonce`: from [`nonce`], never used before.
    pub fn seal(
        &self,
        nonce: &[u8; NONCE_BYTES],
        aad: &[u8],
        plaintext: &[u8],
        out: &mut [u8],
    ) -> Result<(), SealError> {
        if out.len() != plaintext.len() + TAG_BYTES {
            return Err(SealError);
        }
        let (first, last) = nonce.split_at(DERIVED_BY_BYTES);
        let (key, nonce) = gcm(&*self.derive(first)?, last)?;
        let (ciphertext, tag) = out.split_at_mut(plaintext.len());
        key.seal_out_of_place_scatter(nonce, Aad::from(aad), plaintext, ciphertext, &[], tag)
            .map_err(|_| SealError)
    }

    /// Opens what [`SealingKey::seal`] wrote: ciphertext and tag. Nothing unauthenticated is given
    /// out, and nothing of it stays in memory.
    pub fn open(
        &self,
        nonce: &[u8; NONCE_BYTES],
        aad: &[u8],
        sealed: &[u8],
    ) -> Result<Wiped, OpenError> {
        let (first, last) = nonce.split_at(DERIVED_BY_BYTES);
        let key = self.derive(first).map_err(|_| OpenError)?;
        open_gcm(&key, last, aad, sealed)
    }
}

fn gcm(key: &[u8; KEY_BYTES], nonce: &[u8]) -> Result<(LessSafeKey, Nonce), SealError> {
    let key = UnboundKey::new(&AES_256_GCM, key).map_err(|_| SealError)?;
    let nonce = Nonce::try_assume_unique_for_key(nonce).map_err(|_| SealError)?;
    Ok((LessSafeKey::new(key), nonce))
}

/// Opens plain AES-256-GCM: the second half of XAES, by itself for the vectors of others.
#[doc(hidden)]
pub fn open_gcm(
    key: &[u8; KEY_BYTES],
    nonce: &[u8],
    aad: &[u8],
    sealed: &[u8],
) -> Result<Wiped, OpenError> {
    let len = sealed.len().checked_sub(TAG_BYTES).ok_or(OpenError)?;
    let (ciphertext, tag) = sealed.split_at(len);
    let (key, nonce) = gcm(key, nonce).map_err(|_| OpenError)?;
    let mut plaintext = Wiped::from(vec![0; len]);
    let opened = key.open_separate_gather(nonce, Aad::from(aad), ciphertext, tag, &mut plaintext);
    if opened.is_err() {
        // What was decrypted before the tag was seen is wiped as it is dropped.
        return Err(OpenError);
    }
    Ok(plaintext)
}

/// Bytes of the kernel's generator. It cannot fail on kernels from 3.17 on, once it is seeded.
pub fn random(bytes: &mut [u8]) -> Result<(), SealError> {
    let mut filled = 0;
    while filled < bytes.len() {
        let flags = rustix::rand::GetRandomFlags::empty();
        match rustix::rand::getrandom(&mut bytes[filled..], flags) {
            Ok(count) => filled += count,
            Err(rustix::io::Errno::INTR) => {}
            Err(_) => return Err(SealError),
        }
    }
    Ok(())
}

/// A nonce for one message.
pub fn nonce() -> Result<[u8; NONCE_BYTES], SealError> {
    let mut nonce = [0; NONCE_BYTES];
    random(&mut nonce)?;
    Ok(nonce)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hex(text: &str) -> Vec<u8> {
        let digit = |at: usize| u8::from_str_radix(&text[at..at + 2], 16).unwrap();
        (0..text.len()).step_by(2).map(digit).collect()
    }

    /// The two vectors of the specification; the second key's subkey needs no reduction, the first
    /// one's does.
    #[test]
    fn the_vectors_of_the_specification_are_met() {
        let nonce = b"ABCDEFGHIJKLMNOPQRSTUVWX";
        let rows: [(u8, &[u8], &str); 2] = [
            (
                1,
                b"",
                "ce546ef63c9cc60765923609b33a9a1974e96e52daf2fcf7075e2271",
            ),
            (
                3,
                b"c2sp.org/XAES-256-GCM",
                "986ec1832593df5443a179437fd083bf3fdb41abd740a21f71eb769d",
            ),
        ];
        for (key, aad, want) in rows {
            let key = SealingKey::new(&[key; 32]).unwrap();
            let mut sealed = vec![0; 12 + TAG_BYTES];
            key.seal(nonce, aad, b"XAES-256-GCM", &mut sealed).unwrap();
            assert_eq!(sealed, hex(want));
            assert_eq!(*key.open(nonce, aad, &sealed).unwrap(), b"XAES-256-GCM");
        }
    }

    #[test]
    fn no_bit_may_be_turned_and_no_byte_left_out() {
        let key = SealingKey::new(&[9; 32]).unwrap();
        let drawn = nonce().unwrap();
        let mut sealed = vec![0; 40 + TAG_BYTES];
        key.seal(&drawn, b"who", &[5; 40], &mut sealed).unwrap();
        for bit in 0..sealed.len() * 8 {
            let mut bad = sealed.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(key.open(&drawn, b"who", &bad), Err(OpenError));
        }
        for len in 0..sealed.len() {
            assert_eq!(key.open(&drawn, b"who", &sealed[..len]), Err(OpenError));
        }
        for bit in 0..NONCE_BYTES * 8 {
            let mut other = drawn;
            other[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(key.open(&other, b"who", &sealed), Err(OpenError));
        }
        assert_eq!(key.open(&drawn, b"whom", &sealed), Err(OpenError));
        assert!(key.open(&drawn, b"who", &sealed).is_ok());
    }

    #[test]
    fn nonces_do_not_come_from_a_state_of_this_process() {
        let mut seen = std::collections::HashSet::new();
        for _ in 0..10_000 {
            assert!(seen.insert(nonce().unwrap()));
        }
    }
}
