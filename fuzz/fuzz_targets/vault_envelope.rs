//! Any bytes as an envelope: nothing that was not sealed opens, and every refusal is the same.
#![no_main]

use std::sync::OnceLock;

use libfuzzer_sys::fuzz_target;
use offloop_vault::VaultError;
use offloop_vault::envelope::open;
use offloop_vault::keys::make::{Algorithm, keygen};
use offloop_vault::keys::{KeyName, KeySet, folder};

fn keys() -> &'static KeySet {
    static KEYS: OnceLock<KeySet> = OnceLock::new();
    KEYS.get_or_init(|| {
        let keys = tempfile::tempdir().expect("a folder").keep().join("keys");
        for (name, algorithm) in [("documents", Algorithm::Aes256), ("ed", Algorithm::Ed25519)] {
            let name = KeyName::parse(name).expect("a name");
            keygen(&keys, &name, algorithm).expect("a key");
        }
        folder::load(&keys).expect("keys").0
    })
}

fuzz_target!(|data: &[u8]| {
    let error = open(keys(), data, b"aad", None, None).expect_err("a forgery opened");
    assert_eq!(error, VaultError::cannot_open());
});
