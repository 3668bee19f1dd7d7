//! Named keys with versions, as a folder of files holds them.
//!
//! [`folder`] reads, [`make`] writes, [`ring`] keeps the set that is in force. A key `documents` has
//! files `documents.v1.pem`, `documents.v2.pem`; the highest version that is not retired seals and
//! signs, all that are not retired open and check. `documents.v1.retired.pem` is retired.
//!
//! Must never: be changed once it is made. A change is a new set, whole or not at all.

pub mod folder;
pub mod make;
pub mod ring;

use std::collections::BTreeMap;
use std::fmt;

use crate::error::{Kind, VaultError};
use crate::seal::SealingKey;
use crate::sign::SigningKey;

pub const NAME_BYTES_MAX: usize = 64;
pub const VERSION_MAX: u32 = 999_999;
/// Files of one folder.
pub const FILES_MAX: usize = 1_000;

/// 1 to 64 bytes of `a-z 0-9 _ -`, a letter or digit first.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct KeyName(Box<str>);

/// A text that is no name of a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("is no name of a key: give 1 to {NAME_BYTES_MAX} of a-z 0-9 _ -, a letter or digit first")]
pub struct NameError;

impl KeyName {
    pub fn parse(text: &str) -> Result<Self, NameError> {
        let bytes = text.as_bytes();
        let first = bytes.first().is_some_and(u8::is_ascii_alphanumeric);
        let plain = |byte: &u8| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'_' | b'-');
        if first && bytes.len() <= NAME_BYTES_MAX && bytes.iter().all(plain) {
            Ok(Self(text.into()))
        } else {
            Err(NameError)
        }
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl std::borrow::Borrow<str> for KeyName {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for KeyName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// What a key can do.
#[derive(Debug)]
pub enum Material {
    Seal(Box<SealingKey>),
    Sign(SigningKey),
}

impl Material {
    /// `aes256`, `ed25519`, `p256`, `rsa2048` and so on.
    pub fn algorithm(&self) -> String {
        match self {
            Self::Seal(_) => "aes256".into(),
            Self::Sign(key) => key.name(),
        }
    }

    /// Whether both do the same work by the same kind of key; RSA may grow.
    fn fits(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Seal(_), Self::Seal(_)) => true,
            (Self::Sign(a), Self::Sign(b)) => a.kind() == b.kind(),
            _ => false,
        }
    }
}

/// One version of a key.
#[derive(Debug)]
pub struct Version {
    pub number: u32,
    pub retired: bool,
    pub material: Material,
}

/// All versions of one name, oldest first. Never empty, all of one kind.
#[derive(Debug)]
pub struct Key {
    pub versions: Vec<Version>,
}

impl Key {
    /// The one that seals and signs.
    pub fn active(&self) -> Option<&Version> {
        self.versions.iter().rev().find(|version| !version.retired)
    }

    pub fn version(&self, number: u32) -> Option<&Version> {
        self.versions
            .iter()
            .find(|version| version.number == number)
    }
}

/// Every key of a folder, at one moment.
#[derive(Debug, Default)]
pub struct KeySet {
    keys: BTreeMap<KeyName, Key>,
}

impl KeySet {
    /// Adds a version; answers what is wrong with it beside the others.
    fn add(&mut self, name: KeyName, version: Version) -> Result<(), String> {
        let key = self.keys.entry(name).or_insert(Key {
            versions: Vec::new(),
        });
        if let Some(first) = key.versions.first()
            && !first.material.fits(&version.material)
        {
            return Err(format!(
                "is {}, and version {} of the same name is {}; use another name",
                version.material.algorithm(),
                first.number,
                first.material.algorithm()
            ));
        }
        match key
            .versions
            .binary_search_by_key(&version.number, |v| v.number)
        {
            Ok(_) => Err("is there twice, once as retired".into()),
            Err(at) => {
                key.versions.insert(at, version);
                Ok(())
            }
        }
    }

    pub fn get(&self, name: &str) -> Option<&Key> {
        self.keys.get(name)
    }

    pub fn iter(&self) -> impl Iterator<Item = (&KeyName, &Key)> {
        self.keys.iter()
    }

    pub fn len(&self) -> usize {
        self.keys.len()
    }

    pub fn is_empty(&self) -> bool {
        self.keys.is_empty()
    }

    fn find(&self, name: &str, field: &str) -> Result<&Key, VaultError> {
        self.get(name).ok_or_else(|| {
            let detail = match KeyName::parse(name) {
                Ok(name) => format!(
                    "names {name}, which is not in the key folder; GET /v1/vault/keys lists what is"
                ),
                Err(error) => error.to_string(),
            };
            VaultError::new(Kind::UnknownKey, format!("/{field}"), detail)
        })
    }

    fn active(&self, name: &str, field: &str) -> Result<(u32, &Material), VaultError> {
        let key = self.find(name, field)?;
        let active = key.active().ok_or_else(|| {
            let detail = format!(
                "names {name}, of which every version is retired; add one with `offloop vault rotate {name}`"
            );
            VaultError::new(Kind::RetiredKey, format!("/{field}"), detail)
        })?;
        Ok((active.number, &active.material))
    }

    /// The version that seals now. `field`: where a problem is told.
    pub fn sealing(&self, name: &str, field: &str) -> Result<(u32, &SealingKey), VaultError> {
        match self.active(name, field)? {
            (number, Material::Seal(key)) => Ok((number, key)),
            (_, other) => Err(wrong_use(name, field, other, "seals nothing")),
        }
    }

    /// The version that signs now.
    pub fn signing(&self, name: &str, field: &str) -> Result<(u32, &SigningKey), VaultError> {
        match self.active(name, field)? {
            (number, Material::Sign(key)) => Ok((number, key)),
            (_, other) => Err(wrong_use(name, field, other, "signs nothing")),
        }
    }

    /// Every version that a signature may be of, newest first; or the one that is asked for.
    pub fn checking(
        &self,
        name: &str,
        version: Option<u32>,
    ) -> Result<Vec<(u32, &SigningKey)>, VaultError> {
        let key = self.find(name, "key")?;
        let mut found = Vec::new();
        for own in key.versions.iter().rev() {
            let Material::Sign(signing) = &own.material else {
                return Err(wrong_use(name, "key", &own.material, "signs nothing"));
            };
            match version {
                Some(asked) if asked != own.number => {}
                Some(asked) if own.retired => {
                    let detail = format!("is {asked}, which was retired");
                    return Err(VaultError::new(Kind::RetiredKey, "/version", detail));
                }
                None if own.retired => {}
                _ => found.push((own.number, signing)),
            }
        }
        match (found.is_empty(), version) {
            (false, _) => Ok(found),
            (true, Some(asked)) => {
                let detail = format!("is {asked}, which the key {name} does not have");
                Err(VaultError::new(Kind::UnknownKey, "/version", detail))
            }
            (true, None) => {
                let detail = format!("names {name}, of which every version is retired");
                Err(VaultError::new(Kind::RetiredKey, "/key", detail))
            }
        }
    }
}

fn wrong_use(name: &str, field: &str, found: &Material, what: &str) -> VaultError {
    let detail = format!("names {name}, which is {} and {what}", found.algorithm());
    VaultError::field(field, detail)
}
