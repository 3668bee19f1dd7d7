//! Bodies, envelopes and key files that were damaged at random: an answer each time, and never a
//! panic or a repeated secret. Seeds are printed by a failure and run again by `VAULT_SEED` in the
//! source. The same code is the body of the targets in `fuzz/`.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

use offloop_vault::Kind;
use offloop_vault::keys::KeyName;
use offloop_vault::keys::folder;
use offloop_vault::keys::make::{Algorithm, keygen};
use offloop_vault::keys::ring::Keyring;
use offloop_vault::ops::{Op, RawAsk, Vault};
use offloop_vault::password::Gate;

const VAULT_SEED: u64 = 0x0ff1_00b5_eed1_2026;
const ROUNDS: u64 = 4_000;
const CANARY: &str = "canary-77d1";

struct Dice(u64);

impl Dice {
    /// xorshift64*, enough to choose bytes by.
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    fn below(&mut self, limit: usize) -> usize {
        (self.next() % limit.max(1) as u64) as usize
    }

    /// Changes 1 to 4 places: a bit, a byte, a cut, a doubled piece, a piece of JSON.
    fn damage(&mut self, bytes: &mut Vec<u8>) {
        const PIECES: [&[u8]; 12] = [
            b"\"",
            b"{",
            b"}",
            b"[",
            b"null",
            b"1e999",
            b"\\u0000",
            b"\\ud800",
            b"-1",
            b"\"items\":",
            b"\xff\xfe",
            b"18446744073709551616",
        ];
        for _ in 0..=self.below(4) {
            let at = self.below(bytes.len() + 1);
            match self.below(5) {
                0 if at < bytes.len() => bytes[at] ^= 1 << self.below(8),
                1 if at < bytes.len() => bytes[at] = self.next() as u8,
                2 => bytes.truncate(at),
                3 => {
                    let piece = bytes[at..]
                        .iter()
                        .copied()
                        .take(self.below(40))
                        .collect::<Vec<_>>();
                    bytes.splice(at..at, piece);
                }
                _ => {
                    let piece = PIECES[self.below(PIECES.len())];
                    bytes.splice(at..at, piece.iter().copied());
                }
            }
        }
    }
}

fn vault() -> (tempfile::TempDir, Vault) {
    let folder = tempfile::tempdir().unwrap();
    let keys = folder.path().join("keys");
    for (name, algorithm) in [("documents", Algorithm::Aes256), ("ed", Algorithm::Ed25519)] {
        keygen(&keys, &KeyName::parse(name).unwrap(), algorithm).unwrap();
    }
    let vault = Vault {
        keys: Keyring::open(&keys).unwrap(),
        memory: Gate::new(64 << 20),
    };
    (folder, vault)
}

#[test]
fn no_damaged_body_panics_or_is_repeated() {
    let (_folder, vault) = vault();
    let text = base64_simd::STANDARD.encode_to_string(CANARY);
    let sealed =
        format!(r#"{{"key":"documents","plaintext":"{text}","aad":"AAAA","sign_key":"ed"}}"#);
    let bodies = [
        (
            Op::Hash,
            format!(r#"{{"password":"{CANARY}","params":{{"memory_kib":64,"passes":1}}}}"#),
        ),
        (
            Op::Hash,
            format!(
                r#"{{"items":[{{"password":"{CANARY}"}},{{"password":"{CANARY}","algorithm":"bcrypt","params":{{"cost":4}}}}]}}"#
            ),
        ),
        (
            Op::Verify,
            format!(
                r#"{{"password":"{CANARY}","hash":"$argon2id$v=19$m=64,t=1,p=1$c29tZXNhbHQ$CTFhFdXPJO1aFaMaO6Mm5c8y7cJHAph8ArZWb2GRPPc"}}"#
            ),
        ),
        (
            Op::Verify,
            format!(
                r#"{{"password":"{CANARY}","hash":"$2b$04$/OK.fbVrR/bpIqNJ5ianF.Sa7shbm4.OzKpvFnX1pQLmQW96oUlCq"}}"#
            ),
        ),
        (Op::Seal, sealed.clone()),
        (Op::Seal, format!(r#"{{"items":[{sealed},{sealed}]}}"#)),
        (
            Op::Open,
            format!(r#"{{"envelope":"{text}","key":"documents","signed_by":"ed"}}"#),
        ),
        (
            Op::Sign,
            format!(r#"{{"key":"ed","message":"{text}","algorithm":"ed25519"}}"#),
        ),
        (
            Op::Check,
            format!(r#"{{"key":"ed","message":"{text}","signature":"{text}","version":1}}"#),
        ),
    ];
    // Passwords are read and bounded, and then stopped: their run is not what is tried here.
    let stop = || true;
    let mut refused = 0_u64;
    for round in 0..ROUNDS {
        for (op, body) in &bodies {
            let mut dice = Dice(VAULT_SEED ^ (round << 8) ^ *op as u64);
            let mut bad = body.clone().into_bytes();
            dice.damage(&mut bad);
            if let Err(error) = vault.json(*op, &bad, &stop) {
                refused += 1;
                let told = serde_json::to_string(&error.problem()).unwrap();
                // A damaged body may turn a secret into a field's name, which is told: then the
                // name ends where the secret does not.
                let named = told.contains("is no field here");
                assert!(named || !told.contains(CANARY), "seed {round}: {told}");
                assert!(told.len() < 4_096, "seed {round}: {told}");
            }
        }
    }
    assert!(refused > ROUNDS, "only {refused} were refused");
}

#[test]
fn no_damaged_envelope_opens_or_tells_why_not() {
    let (_folder, vault) = vault();
    let ask = |sign_key: Option<&str>| RawAsk {
        key: Some("documents".into()),
        sign_key: sign_key.map(Into::into),
        ..RawAsk::default()
    };
    let mut told = std::collections::BTreeSet::new();
    for signer in [None, Some("ed")] {
        let offloop_vault::ops::Reply::Raw(sealed, _) = vault
            .raw(Op::Seal, &ask(signer), CANARY.as_bytes())
            .unwrap()
        else {
            panic!("bytes are answered with bytes");
        };
        for round in 0..ROUNDS {
            let mut bad = sealed.to_vec();
            Dice(VAULT_SEED ^ (round << 8)).damage(&mut bad);
            if bad == *sealed {
                continue;
            }
            // A signed envelope that lost its signature whole is a sealed one; damage does not.
            let error = vault.raw(Op::Open, &RawAsk::default(), &bad).unwrap_err();
            assert_eq!(error.kind, Kind::CannotOpen, "seed {round}");
            told.insert(error.to_string());
        }
    }
    assert_eq!(told.len(), 1, "{told:?}");
}

#[test]
fn no_damaged_key_file_panics_or_is_repeated() {
    let folder = tempfile::tempdir().unwrap();
    let keys = folder.path().join("keys");
    for algorithm in [
        Algorithm::Aes256,
        Algorithm::Ed25519,
        Algorithm::P256,
        Algorithm::Rsa2048,
    ] {
        let name = KeyName::parse(algorithm.name()).unwrap();
        keygen(&keys, &name, algorithm).unwrap();
        let good = std::fs::read(keys.join(format!("{name}.v1.pem"))).unwrap();
        let body = String::from_utf8(good.clone()).unwrap();
        let body = body.lines().nth(1).unwrap();
        for round in 0..ROUNDS / 4 {
            let mut bad = good.clone();
            Dice(VAULT_SEED ^ (round << 8)).damage(&mut bad);
            if let Err(said) = folder::material(&bad) {
                assert!(
                    !said.contains(&body[..16]) && said.len() < 300,
                    "seed {round}: {said}"
                );
            }
        }
    }
}
