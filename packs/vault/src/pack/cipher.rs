//! The vault's keys for what jobs leave in the store (`encrypt` of a task).
//!
//! Works with the set of keys that is in force: a door's thread and the keeper's never look at the
//! folder. A thread of its own follows it, once a second.
//!
//! Must never: seal with a retired version, or say more of what does not open than which key it needs.

use std::sync::{Arc, Weak};
use std::time::Duration;

use offloop::seal::{Cipher, CipherError, Sealed};

use super::Shared;
use crate::keys::{KeySet, Material};
use crate::seal::{NONCE_BYTES, SealingKey, TAG_BYTES, nonce};

/// Pause between two looks at the folder.
const FOLLOW_EVERY: Duration = Duration::from_secs(1);

#[derive(Debug)]
pub(crate) struct VaultCipher(Arc<Shared>);

impl VaultCipher {
    /// Starts to follow the folder, for as long as the pack lives.
    pub(crate) fn start(shared: &Arc<Shared>) -> std::io::Result<Self> {
        let weak = Arc::downgrade(shared);
        std::thread::Builder::new()
            .name("offloop-keys".into())
            .spawn(move || follow(&weak))?;
        Ok(Self(Arc::clone(shared)))
    }

    fn keys(&self) -> Result<Arc<KeySet>, CipherError> {
        let known = self.0.vault.keys.known().map(|(set, ..)| set);
        let missing = "no key folder is configured; set `keys` under [packs.vault]";
        known.ok_or_else(|| CipherError(missing.into()))
    }
}

fn follow(shared: &Weak<Shared>) {
    loop {
        std::thread::sleep(FOLLOW_EVERY);
        let Some(shared) = shared.upgrade() else {
            return;
        };
        let _ = shared.vault.keys.set(); // what is wrong with the folder is logged there
    }
}

/// A version that seals, or opens if it is not the newest.
fn version<'k>(set: &'k KeySet, key: &str, number: u32) -> Result<&'k SealingKey, CipherError> {
    let missing = || {
        CipherError(format!(
            "version {number} of the key {key} is not in the key folder"
        ))
    };
    let found = set
        .get(key)
        .and_then(|key| key.version(number))
        .ok_or_else(missing)?;
    match &found.material {
        _ if found.retired => Err(CipherError(format!(
            "version {number} of the key {key} is retired"
        ))),
        Material::Seal(sealing) => Ok(sealing),
        Material::Sign(_) => Err(CipherError(format!(
            "the key {key} signs and seals nothing"
        ))),
    }
}

impl Cipher for VaultCipher {
    fn versions(&self, key: &str) -> Vec<u32> {
        let Ok(set) = self.keys() else {
            return Vec::new();
        };
        let versions = set.get(key).map(|key| key.versions.iter().rev());
        let open = versions
            .into_iter()
            .flatten()
            .filter(|version| !version.retired);
        open.map(|version| version.number).collect()
    }

    fn seal(
        &self,
        key: &str,
        number: Option<u32>,
        aad: &[u8],
        plain: &[u8],
        same: Option<&[u8]>,
    ) -> Result<Sealed, CipherError> {
        let set = self.keys()?;
        let (number, sealing) = if let Some(number) = number {
            (number, version(&set, key, number)?)
        } else {
            let active = set.sealing(key, "encrypt");
            active.map_err(|error| CipherError(format!("the key {key}: {}", error.detail)))?
        };
        let broken = |_| CipherError("the cipher failed".into());
        let nonce = match same {
            Some(same) => sealing.nonce_of(&[aad, same, plain]).map_err(broken)?,
            None => nonce().map_err(broken)?,
        };
        let mut bytes = vec![0; NONCE_BYTES + plain.len() + TAG_BYTES];
        let (head, rest) = bytes.split_at_mut(NONCE_BYTES);
        head.copy_from_slice(&nonce);
        sealing.seal(&nonce, aad, plain, rest).map_err(broken)?;
        Ok(Sealed {
            version: number,
            bytes,
        })
    }

    fn open(
        &self,
        key: &str,
        number: u32,
        aad: &[u8],
        sealed: &[u8],
    ) -> Result<Vec<u8>, CipherError> {
        let set = self.keys()?;
        let sealing = version(&set, key, number)?;
        let shut = || {
            CipherError(format!(
                "it does not open with version {number} of the key {key}"
            ))
        };
        let (nonce, rest) = sealed.split_first_chunk::<NONCE_BYTES>().ok_or_else(shut)?;
        let plain = sealing.open(nonce, aad, rest).map_err(|_| shut())?;
        Ok(plain.take())
    }
}
