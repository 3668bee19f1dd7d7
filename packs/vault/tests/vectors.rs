//! Project Wycheproof's vectors: what known mistakes would let through.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

use offloop_vault::seal::open_gcm;
use offloop_vault::sign::{KeyKind, Scheme, VerifyingKey};
use wycheproof::TestResult;

/// At least so many must be in a set, so that an empty one does not pass.
fn enough(seen: usize, least: usize) {
    assert!(seen >= least, "only {seen} vectors");
}

#[test]
fn no_forged_or_damaged_aes_256_gcm_opens() {
    let set = wycheproof::aead::TestSet::load(wycheproof::aead::TestName::AesGcm).unwrap();
    let mut seen = 0;
    for group in set.test_groups {
        if (group.key_size, group.nonce_size, group.tag_size) != (256, 96, 128) {
            continue;
        }
        for test in group.tests {
            seen += 1;
            let key: &[u8; 32] = test.key.as_ref().try_into().unwrap();
            let sealed = [test.ct.as_ref(), test.tag.as_ref()].concat();
            let opened = open_gcm(key, &test.nonce, &test.aad, &sealed);
            match test.result {
                TestResult::Invalid => assert!(opened.is_err(), "{}", test.tc_id),
                _ => assert_eq!(*opened.unwrap(), test.pt.as_ref(), "{}", test.tc_id),
            }
        }
    }
    enough(seen, 60);
}

fn judge(
    scheme: Scheme,
    key: &VerifyingKey,
    message: &[u8],
    signature: &[u8],
    want: TestResult,
    id: usize,
) {
    let valid = key.check(scheme, message, signature);
    match want {
        TestResult::Valid => assert!(valid, "{scheme:?} {id}"),
        TestResult::Invalid => assert!(!valid, "{scheme:?} {id}"),
        // BER where DER is asked for, and such: either is right.
        TestResult::Acceptable => {}
    }
}

#[test]
fn no_forged_ed25519_signature_is_valid() {
    let set = wycheproof::eddsa::TestSet::load(wycheproof::eddsa::TestName::Ed25519).unwrap();
    let mut seen = 0;
    for group in set.test_groups {
        let key = VerifyingKey::new(KeyKind::Ed25519, &group.key.pk).unwrap();
        for test in group.tests {
            seen += 1;
            judge(
                Scheme::Ed25519,
                &key,
                &test.msg,
                &test.sig,
                test.result,
                test.tc_id,
            );
        }
    }
    enough(seen, 100);
}

#[test]
fn no_forged_p256_signature_is_valid() {
    let name = wycheproof::ecdsa::TestName::EcdsaSecp256r1Sha256;
    let set = wycheproof::ecdsa::TestSet::load(name).unwrap();
    let mut seen = 0;
    for group in set.test_groups {
        let key = VerifyingKey::new(KeyKind::P256, &group.key.key).unwrap();
        for test in group.tests {
            seen += 1;
            judge(
                Scheme::EcdsaP256,
                &key,
                &test.msg,
                &test.sig,
                test.result,
                test.tc_id,
            );
        }
    }
    enough(seen, 300);
}

#[test]
fn no_forged_rsa_pss_signature_is_valid() {
    use wycheproof::rsa_pss_verify::{TestName, TestSet};
    let names = [
        TestName::RsaPss2048Sha256Mgf1SaltLen32,
        TestName::RsaPss3072Sha256Mgf1SaltLen32,
        TestName::RsaPss4096Sha256Mgf1SaltLen32,
    ];
    let mut seen = 0;
    for name in names {
        for group in TestSet::load(name).unwrap().test_groups {
            let key = VerifyingKey::new(KeyKind::Rsa, &group.asn_key).unwrap();
            for test in group.tests {
                seen += 1;
                judge(
                    Scheme::RsaPss,
                    &key,
                    &test.msg,
                    &test.sig,
                    test.result,
                    test.tc_id,
                );
            }
        }
    }
    enough(seen, 250);
}

#[test]
fn no_forged_rsa_pkcs1_signature_is_valid() {
    use wycheproof::rsa_pkcs1_verify::{TestName, TestSet};
    let names = [
        TestName::Rsa2048Sha256,
        TestName::Rsa3072Sha256,
        TestName::Rsa4096Sha256,
    ];
    let mut seen = 0;
    for name in names {
        for group in TestSet::load(name).unwrap().test_groups {
            let key = VerifyingKey::new(KeyKind::Rsa, &group.asn_key).unwrap();
            for test in group.tests {
                seen += 1;
                judge(
                    Scheme::RsaPkcs1,
                    &key,
                    &test.msg,
                    &test.sig,
                    test.result,
                    test.tc_id,
                );
            }
        }
    }
    enough(seen, 600);
}
