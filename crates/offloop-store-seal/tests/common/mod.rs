//! A cipher that hides nothing and shows every mistake: the content backwards, behind its aad.
#![allow(
    unreachable_pub,
    dead_code,
    reason = "shared by tests that use parts of it"
)]

use std::sync::{Arc, Mutex};

use offloop_job::TaskName;
use offloop_store::Engine;
use offloop_store_seal::{Cipher, CipherError, Sealed, SealedStore};

/// Keys are versions that are there, newest first.
#[derive(Debug)]
pub struct Backwards {
    pub versions: Mutex<Vec<u32>>,
    drawn: Mutex<u64>,
}

impl Backwards {
    pub fn new(versions: &[u32]) -> Arc<Self> {
        Arc::new(Self {
            versions: Mutex::new(versions.to_vec()),
            drawn: Mutex::default(),
        })
    }
}

impl Cipher for Backwards {
    fn versions(&self, _: &str) -> Vec<u32> {
        self.versions.lock().unwrap().clone()
    }

    fn seal(
        &self,
        key: &str,
        version: Option<u32>,
        aad: &[u8],
        plain: &[u8],
        same: Option<&[u8]>,
    ) -> Result<Sealed, CipherError> {
        let versions = self.versions.lock().unwrap();
        let missing = || CipherError(format!("no key {key}"));
        let version = version.or(versions.first().copied()).ok_or_else(missing)?;
        let mut drawn = self.drawn.lock().unwrap();
        *drawn += 1;
        let nonce = same.map_or_else(|| drawn.to_be_bytes().to_vec(), <[u8]>::to_vec);
        let head = [(nonce.len() as u32).to_be_bytes().to_vec(), nonce].concat();
        let aad = [(aad.len() as u32).to_be_bytes().to_vec(), aad.to_vec()].concat();
        let back: Vec<u8> = plain.iter().rev().copied().collect();
        let bytes = [head, aad, version.to_be_bytes().to_vec(), back].concat();
        Ok(Sealed { version, bytes })
    }

    fn open(
        &self,
        key: &str,
        version: u32,
        aad: &[u8],
        sealed: &[u8],
    ) -> Result<Vec<u8>, CipherError> {
        if !self.versions.lock().unwrap().contains(&version) {
            return Err(CipherError(format!("no version {version} of {key}")));
        }
        let part = |from: &mut &[u8]| {
            let (len, rest) = from.split_at(4);
            let len = u32::from_be_bytes(len.try_into().unwrap()) as usize;
            let (part, rest) = rest.split_at(len);
            *from = rest;
            part.to_vec()
        };
        let mut rest = sealed;
        part(&mut rest);
        assert_eq!(part(&mut rest), aad, "opened as another kind");
        assert_eq!(rest[..4], version.to_be_bytes());
        Ok(rest[4..].iter().rev().copied().collect())
    }
}

/// Every task that the suite names.
pub const TASKS: [&str; 12] = [
    "t", "a", "b", "c", "x", "other", "resize", "task", "noop", "work", "parent", "child",
];

pub fn sealed(inner: Arc<dyn Engine>) -> SealedStore {
    let keys = TASKS.map(|task| (TaskName::parse(task).unwrap(), "k".into()));
    SealedStore::new(inner, Backwards::new(&[2, 1]), keys).unwrap()
}
