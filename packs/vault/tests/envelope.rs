//! Envelopes: what opens, and that everything else has one answer.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::fs;

use offloop_vault::envelope::{OVERHEAD_BYTES_MAX, open, seal};
use offloop_vault::keys::make::{Algorithm, keygen, retire, rotate};
use offloop_vault::keys::{KeyName, KeySet, folder};
use offloop_vault::{Kind, VaultError};
use proptest::prelude::*;

struct Keys {
    folder: tempfile::TempDir,
    set: KeySet,
}

impl Keys {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("keys");
        for (name, algorithm) in [
            ("documents", Algorithm::Aes256),
            ("other", Algorithm::Aes256),
            ("ed", Algorithm::Ed25519),
            ("p", Algorithm::P256),
            ("rsa", Algorithm::Rsa2048),
        ] {
            keygen(&path, &KeyName::parse(name).unwrap(), algorithm).unwrap();
        }
        let (set, _) = folder::load(&path).unwrap();
        Self { folder, set }
    }

    fn change(&mut self, change: impl Fn(&std::path::Path)) {
        let path = self.folder.path().join("keys");
        change(&path);
        self.set = folder::load(&path).unwrap().0;
    }
}

fn name(text: &str) -> KeyName {
    KeyName::parse(text).unwrap()
}

#[test]
fn what_was_sealed_opens_and_says_by_which_keys() {
    let keys = Keys::new();
    for signer in [None, Some("ed"), Some("p"), Some("rsa")] {
        for len in [0, 1, 1000, 100_000] {
            let text = vec![7; len];
            let sealed = seal(&keys.set, "documents", signer, b"order 7", &text).unwrap();
            assert!(sealed.envelope.len() <= len + OVERHEAD_BYTES_MAX);
            let opened = open(
                &keys.set,
                &sealed.envelope,
                b"order 7",
                Some("documents"),
                signer,
            )
            .unwrap();
            assert_eq!(*opened.plaintext, text);
            let by = opened.signed_by.map(|by| by.name.to_string());
            assert_eq!(by.as_deref(), signer);
            assert_eq!(
                (opened.key.name.as_str(), opened.key.version),
                ("documents", 1)
            );
        }
    }
}

#[test]
fn whatever_is_wrong_with_an_envelope_has_one_answer() {
    let keys = Keys::new();
    let one = VaultError::cannot_open();
    for signer in [None, Some("ed"), Some("p")] {
        let sealed = seal(&keys.set, "documents", signer, b"aad", b"a text")
            .unwrap()
            .envelope;
        let try_open = |envelope: &[u8], aad: &[u8]| open(&keys.set, envelope, aad, None, None);
        // Every bit: of the heads, names, versions, nonce, signature, ciphertext, tag.
        for bit in 0..sealed.len() * 8 {
            let mut bad = sealed.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(
                try_open(&bad, b"aad").unwrap_err(),
                one,
                "{signer:?} bit {bit}"
            );
        }
        for len in 0..sealed.len() {
            assert_eq!(
                try_open(&sealed[..len], b"aad").unwrap_err(),
                one,
                "{signer:?} len {len}"
            );
        }
        let longer = [&sealed[..], &[0]].concat();
        assert_eq!(try_open(&longer, b"aad").unwrap_err(), one);
        for aad in [&b""[..], b"aa", b"aada", b"AAD"] {
            assert_eq!(try_open(&sealed, aad).unwrap_err(), one);
        }
        let insist = |key, by| open(&keys.set, &sealed, b"aad", key, by).unwrap_err();
        assert_eq!(insist(Some("other"), None), one);
        assert_eq!(
            insist(None, Some("rsa")),
            one,
            "signed by another, or by nobody"
        );
    }
}

#[test]
fn a_signature_is_not_moved_to_another_envelope_nor_taken_off_unseen() {
    let keys = Keys::new();
    let a = seal(&keys.set, "documents", Some("ed"), b"", b"pay 10")
        .unwrap()
        .envelope;
    let b = seal(&keys.set, "documents", None, b"", b"pay 99")
        .unwrap()
        .envelope;
    let inner = a.len() - b.len();
    let swapped = [&a[..inner], &b[..]].concat();
    assert!(open(&keys.set, &swapped, b"", None, None).is_err());
    let stripped = &a[inner..];
    assert!(
        open(&keys.set, stripped, b"", None, None).is_ok(),
        "it is a sealed envelope by itself"
    );
    let error = open(&keys.set, stripped, b"", None, Some("ed")).unwrap_err();
    assert_eq!(error, VaultError::cannot_open());
    let twice = [&a[..inner], &a[..]].concat();
    assert!(open(&keys.set, &twice, b"", None, None).is_err());
}

#[test]
fn older_versions_open_and_retired_ones_say_so_only_of_what_is_authentic() {
    let mut keys = Keys::new();
    let old = seal(&keys.set, "documents", Some("ed"), b"", b"text")
        .unwrap()
        .envelope;
    keys.change(|path| {
        rotate(path, &name("documents")).unwrap();
        rotate(path, &name("ed")).unwrap();
    });
    let opened = open(&keys.set, &old, b"", None, None).unwrap();
    assert_eq!(
        (opened.key.version, opened.signed_by.unwrap().version),
        (1, 1)
    );
    let new = seal(&keys.set, "documents", Some("ed"), b"", b"text").unwrap();
    assert_eq!((new.key.version, new.signed_by.unwrap().version), (2, 2));

    keys.change(|path| retire(path, &name("documents"), 1, false).unwrap());
    let error = open(&keys.set, &old, b"", None, None).unwrap_err();
    assert_eq!(error.kind, Kind::RetiredKey);
    let mut bad = old.clone();
    *bad.last_mut().unwrap() ^= 1;
    assert_eq!(
        open(&keys.set, &bad, b"", None, None).unwrap_err(),
        VaultError::cannot_open()
    );
    keys.change(|path| {
        fs::rename(
            path.join("documents.v1.retired.pem"),
            path.join("documents.v1.pem"),
        )
        .unwrap();
        retire(path, &name("ed"), 1, false).unwrap();
    });
    let error = open(&keys.set, &old, b"", None, None).unwrap_err();
    assert!(
        error.kind == Kind::RetiredKey && error.detail.contains("of ed"),
        "{error}"
    );
    keys.change(|path| fs::remove_file(path.join("ed.v1.retired.pem")).unwrap());
    assert_eq!(
        open(&keys.set, &old, b"", None, None).unwrap_err(),
        VaultError::cannot_open()
    );
}

#[test]
fn a_key_that_the_caller_names_wrongly_is_told_as_the_callers_mistake() {
    let keys = Keys::new();
    let rows = [
        (
            seal(&keys.set, "nobody", None, b"", b"").unwrap_err(),
            Kind::UnknownKey,
            "/key",
        ),
        (
            seal(&keys.set, "ed", None, b"", b"").unwrap_err(),
            Kind::Body,
            "/key",
        ),
        (
            seal(&keys.set, "documents", Some("other"), b"", b"").unwrap_err(),
            Kind::Body,
            "/sign_key",
        ),
        (
            seal(&keys.set, "no such name!", None, b"", b"").unwrap_err(),
            Kind::UnknownKey,
            "/key",
        ),
        (
            open(&keys.set, b"", b"", Some("nobody"), None).unwrap_err(),
            Kind::UnknownKey,
            "/key",
        ),
        (
            open(&keys.set, b"", b"", None, Some("nobody")).unwrap_err(),
            Kind::UnknownKey,
            "/signed_by",
        ),
    ];
    for (error, kind, pointer) in rows {
        assert_eq!(
            (error.kind, error.pointer.as_str()),
            (kind, pointer),
            "{error}"
        );
    }
}

#[test]
fn no_plaintext_is_in_what_a_log_may_show() {
    let keys = Keys::new();
    let sealed = seal(&keys.set, "documents", None, b"", b"canary-plaintext").unwrap();
    let opened = open(&keys.set, &sealed.envelope, b"", None, None).unwrap();
    let shown = format!(
        "{opened:?} {:?} {:?}",
        keys.set,
        offloop_vault::password::Ask::hash(
            b"canary-password",
            offloop_vault::password::Method::Bcrypt { cost: 4 }
        )
        .unwrap()
    );
    assert!(
        !shown.contains("canary") && !shown.contains("99, 97, 110"),
        "{shown}"
    );
}

thread_local! {
    static KEYS: Keys = Keys::new();
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    /// Bytes that nobody sealed, some of which begin as an envelope does.
    #[test]
    fn any_bytes_have_the_one_answer(
        start in prop::sample::select(vec![&b""[..], b"\x01\x00\x09documents\x00\x00\x00\x01", b"\x01\x01\x02ed\x00\x00\x00\x01\x01\x00\x40", b"\x01\x01\x02ed\x00\x00\x00\x01\x01\xff\xff"]),
        rest in prop::collection::vec(any::<u8>(), 0..200),
        aad in prop::collection::vec(any::<u8>(), 0..20),
    ) {
        let bytes = [start, &rest[..]].concat();
        let error = KEYS.with(|keys| open(&keys.set, &bytes, &aad, None, None)).unwrap_err();
        prop_assert_eq!(error, VaultError::cannot_open());
    }

    /// Aad and plaintext do not run into each other, nor into the head.
    #[test]
    fn what_was_sealed_opens_with_its_own_aad_alone(
        text in prop::collection::vec(any::<u8>(), 0..300),
        aad in prop::collection::vec(any::<u8>(), 0..60),
        other in prop::collection::vec(any::<u8>(), 0..60),
        signed in any::<bool>(),
    ) {
        let signer = signed.then_some("ed");
        KEYS.with(|keys| {
            let sealed = seal(&keys.set, "documents", signer, &aad, &text).unwrap().envelope;
            let opened = open(&keys.set, &sealed, &aad, None, None).unwrap();
            prop_assert_eq!(&*opened.plaintext, &text);
            prop_assert_eq!(open(&keys.set, &sealed, &other, None, None).is_ok(), aad == other);
            Ok(())
        })?;
    }
}
