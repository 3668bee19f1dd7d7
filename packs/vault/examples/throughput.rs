//! What one core does, without HTTP: bcrypt by 1 to 4 lanes, argon2id by our engine and by
//! RustCrypto's, signatures and seals. Prints medians of rounds that took turns.
//!
//! `cargo run --release -p offloop-vault --example throughput [ROUNDS [PART OF A NAME]]`
#![allow(clippy::unwrap_used, reason = "a trial may panic")]

use std::hint::black_box;
use std::time::{Duration, Instant};

use offloop_vault::keys::make::{Algorithm, keygen};
use offloop_vault::keys::ring::Keyring;
use offloop_vault::keys::{KeyName, folder};
use offloop_vault::ops::{Op, Vault};
use offloop_vault::password::Gate;
use offloop_vault::{argon, bcrypt, envelope};

const ROUND: Duration = Duration::from_millis(700);

/// Runs per second of `work`, which does `count` of them.
fn rate(count: usize, mut work: impl FnMut()) -> f64 {
    let began = Instant::now();
    let mut done = 0;
    while began.elapsed() < ROUND {
        work();
        done += count;
    }
    done as f64 / began.elapsed().as_secs_f64()
}

fn bcrypt_lanes(lanes: usize, cost: u8) -> f64 {
    rate(lanes, || {
        let ask = |n: usize| bcrypt::Ask::new(b"correct horse battery", [n as u8; 16]).unwrap();
        let hashes = bcrypt::run(cost, (0..lanes).map(ask).collect(), &|| false);
        black_box(hashes.unwrap());
    })
}

fn other_bcrypt(cost: u8) -> f64 {
    rate(1, || {
        let hash = bcrypt_crate::hash_with_salt("correct horse battery", cost.into(), [7; 16]);
        black_box(hash.unwrap());
    })
}

fn argon_ours() -> f64 {
    rate(1, || {
        let hash = argon::hash(b"correct horse battery", [7; 16], argon::Cost::DEFAULT);
        black_box(hash.unwrap());
    })
}

fn argon_other() -> f64 {
    let argon::Cost {
        memory_kib,
        passes,
        lanes,
    } = argon::Cost::DEFAULT;
    let params = argon2::Params::new(memory_kib, passes, lanes, Some(32)).unwrap();
    let engine = argon2::Argon2::new(argon2::Algorithm::Argon2id, argon2::Version::V0x13, params);
    rate(1, || {
        let mut out = [0; 32];
        let salt = [7; 16];
        engine
            .hash_password_into(b"correct horse battery", &salt, &mut out)
            .unwrap();
        black_box(out);
    })
}

type Measure = (String, Box<dyn FnMut() -> f64>);

fn measures() -> Vec<Measure> {
    let mut all: Vec<Measure> = Vec::new();
    for lanes in 1..=bcrypt::LANES_MAX {
        let name = format!("bcrypt cost 10, {lanes} lanes");
        all.push((name, Box::new(move || bcrypt_lanes(lanes, 10))));
    }
    all.push((
        "bcrypt cost 10, crate bcrypt".into(),
        Box::new(|| other_bcrypt(10)),
    ));
    all.push((
        "argon2id 19 MiB t=2, argon2-rust".into(),
        Box::new(argon_ours),
    ));
    all.push((
        "argon2id 19 MiB t=2, RustCrypto".into(),
        Box::new(argon_other),
    ));
    let folder = tempfile::tempdir().unwrap();
    let keys = folder.path().join("keys");
    for algorithm in Algorithm::ALL {
        keygen(&keys, &KeyName::parse(algorithm.name()).unwrap(), algorithm).unwrap();
    }
    let (set, _) = folder::load(&keys).unwrap();
    let set: &'static _ = Box::leak(Box::new(set)); // for as long as the trial
    for name in ["ed25519", "p256", "rsa2048", "rsa4096"] {
        let sign = move || {
            let (_, key) = set.signing(name, "key").unwrap();
            let scheme = key.kind().default_scheme();
            rate(1, || {
                black_box(key.sign(scheme, &[7; 1024]).unwrap());
            })
        };
        all.push((format!("sign 1 KiB, {name}"), Box::new(sign)));
    }
    let vault: &'static _ = Box::leak(Box::new(Vault {
        keys: Keyring::open(&keys).unwrap(),
        memory: Gate::new(0),
    }));
    for len in [1 << 10, 64 << 10] {
        let text = base64_simd::STANDARD.encode_to_string(vec![7; len]);
        let body = format!("{{\"key\":\"aes256\",\"plaintext\":\"{text}\"}}");
        let seal = move || {
            rate(1, || {
                let json = vault.json(Op::Seal, body.as_bytes(), &|| false);
                black_box(json.unwrap());
            })
        };
        all.push((format!("seal {} KiB as JSON", len >> 10), Box::new(seal)));
    }
    for len in [1 << 10, 64 << 10] {
        let text = vec![7; len];
        let seal = move || {
            rate(1, || {
                black_box(envelope::seal(set, "aes256", None, b"", &text).unwrap());
            })
        };
        all.push((format!("seal {} KiB", len >> 10), Box::new(seal)));
    }
    all
}

fn main() {
    let rounds = std::env::args()
        .nth(1)
        .map_or(5, |text| text.parse().unwrap());
    let only = std::env::args().nth(2).unwrap_or_default();
    let mut measures = measures();
    measures.retain(|(name, _)| name.contains(&only));
    let mut found = vec![Vec::new(); measures.len()];
    for _ in 0..rounds {
        for ((_, measure), found) in measures.iter_mut().zip(&mut found) {
            found.push(measure());
        }
    }
    println!("per second on one core: median (least to most) of {rounds} rounds");
    for ((name, _), mut found) in measures.into_iter().zip(found) {
        found.sort_by(f64::total_cmp);
        let (least, most) = (found[0], found[found.len() - 1]);
        println!(
            "{name:<36} {:>10.1} ({least:.1} to {most:.1})",
            found[found.len() / 2]
        );
    }
}
