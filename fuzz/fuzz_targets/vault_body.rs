//! Any body of any request of the vault: the first byte chooses which. Nothing may panic.
#![no_main]

use std::sync::OnceLock;

use libfuzzer_sys::fuzz_target;
use offloop_vault::keys::KeyName;
use offloop_vault::keys::make::{Algorithm, keygen};
use offloop_vault::keys::ring::Keyring;
use offloop_vault::ops::{Op, Vault};
use offloop_vault::password::Gate;

fn vault() -> &'static Vault {
    static VAULT: OnceLock<Vault> = OnceLock::new();
    VAULT.get_or_init(|| {
        let keys = tempfile::tempdir().expect("a folder").keep().join("keys");
        for (name, algorithm) in [("documents", Algorithm::Aes256), ("ed", Algorithm::Ed25519)] {
            let name = KeyName::parse(name).expect("a name");
            keygen(&keys, &name, algorithm).expect("a key");
        }
        Vault {
            keys: Keyring::open(&keys).expect("keys"),
            memory: Gate::new(64 << 20),
        }
    })
}

fuzz_target!(|data: &[u8]| {
    let Some((first, body)) = data.split_first() else {
        return;
    };
    let op = Op::ALL[usize::from(*first) % Op::ALL.len()];
    // Passwords are read and bounded, and then stopped.
    let _ = vault().json(op, body, &|| true);
});
