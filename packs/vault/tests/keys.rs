//! The key folder: what is taken, what is refused, and how keys change under a server.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::fs::{self, Permissions};
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};

use offloop_vault::keys::folder::{self, FileName};
use offloop_vault::keys::make::{self, Algorithm};
use offloop_vault::keys::ring::Keyring;
use offloop_vault::keys::{KeyName, KeySet};
use offloop_vault::{Kind, envelope};
use proptest::prelude::*;
use tempfile::TempDir;

struct Folder(TempDir);

impl Folder {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        fs::set_permissions(folder.path(), Permissions::from_mode(0o700)).unwrap();
        Self(folder)
    }

    fn path(&self) -> &Path {
        self.0.path()
    }

    fn file(&self, name: &str) -> PathBuf {
        self.path().join(name)
    }

    fn put(&self, name: &str, text: &str, mode: u32) {
        fs::write(self.file(name), text).unwrap();
        fs::set_permissions(self.file(name), Permissions::from_mode(mode)).unwrap();
    }

    fn load(&self) -> Result<KeySet, String> {
        folder::load(self.path())
            .map(|(set, _)| set)
            .map_err(|error| error.to_string())
    }

    fn keygen(&self, name: &str, algorithm: Algorithm) {
        make::keygen(self.path(), &key(name), algorithm).unwrap();
    }
}

fn key(name: &str) -> KeyName {
    KeyName::parse(name).unwrap()
}

/// A sealing key whose bytes can be searched for.
const CANARY: &str = "Q0FOQVJZLWtleS1tYXRlcmlhbC1ub2JvZHktc2Vlcy4=";

fn sealing(bytes: &str) -> String {
    format!("-----BEGIN OFFLOOP SEALING KEY-----\n{bytes}\n-----END OFFLOOP SEALING KEY-----\n")
}

#[test]
fn what_is_no_safe_key_is_refused_by_name_without_a_byte_of_it() {
    let good = sealing(CANARY);
    let wrong_label = good.replace("SEALING", "CURIOUS");
    let encrypted = good.replace("OFFLOOP SEALING KEY", "ENCRYPTED PRIVATE KEY");
    let pkcs8 = good.replace("OFFLOOP SEALING KEY", "PRIVATE KEY");
    #[rustfmt::skip]
    let rows: [(&str, &str, u32, &str); 13] = [
        ("a.v1.pem", &good, 0o600, ""),
        ("a.v1.pem", &good, 0o400, ""),
        ("a.v1.pem", &good, 0o640, "mode 640"),
        ("a.v1.pem", &good, 0o604, "chmod 600"),
        ("a.v01.pem", &good, 0o600, "NAME.vN.pem"),
        ("a.v0.pem", &good, 0o600, "NAME.vN.pem"),
        ("A.v1.pem", &good, 0o600, "NAME.vN.pem"),
        ("a.pem", &good, 0o600, "NAME.vN.pem"),
        ("a.v1.pem", CANARY, 0o600, "no PEM text"),
        ("a.v1.pem", &wrong_label, 0o600, "labelled otherwise"),
        ("a.v1.pem", &encrypted, 0o600, "openssl pkcs8"),
        ("a.v1.pem", &pkcs8, 0o600, "no private key in PKCS#8"),
        ("a.v1.pem", &sealing("c2hvcnQ="), 0o600, "holds 5 bytes"),
    ];
    for (name, text, mode, says) in rows {
        let folder = Folder::new();
        folder.put(name, text, mode);
        match (folder.load(), says) {
            (Ok(set), "") => assert_eq!(set.len(), 1),
            (Err(said), says) if !says.is_empty() => {
                assert!(said.contains(says) && said.contains(name), "{name}: {said}");
                assert!(!said.contains(&CANARY[..8]), "{said}");
            }
            (found, _) => panic!("{name} {mode:o}: {:?}", found.map(|set| set.len())),
        }
    }
}

#[test]
fn links_pipes_giants_and_folders_of_others_are_refused() {
    let folder = Folder::new();
    folder.put("elsewhere", &sealing(CANARY), 0o600);
    symlink(folder.file("elsewhere"), folder.file("a.v1.pem")).unwrap();
    assert!(folder.load().unwrap_err().contains("is a link"));
    fs::remove_file(folder.file("a.v1.pem")).unwrap();

    rustix::fs::mkfifoat(rustix::fs::CWD, folder.file("a.v1.pem"), 0o600.into()).unwrap();
    assert!(folder.load().unwrap_err().contains("no plain file"));
    fs::remove_file(folder.file("a.v1.pem")).unwrap();

    folder.put("a.v1.pem", &"A".repeat(20_000), 0o600);
    assert!(folder.load().unwrap_err().contains("more than 16384 bytes"));
    fs::remove_file(folder.file("a.v1.pem")).unwrap();

    folder.put("notes.txt", "not a key", 0o644);
    folder.put(".a.v1.pem.part", "half", 0o644);
    assert_eq!(
        folder.load().unwrap().len(),
        0,
        "what is no key file is left alone"
    );
    for mode in [0o770, 0o702, 0o777] {
        fs::set_permissions(folder.path(), Permissions::from_mode(mode)).unwrap();
        assert!(
            folder.load().unwrap_err().contains("written by others"),
            "{mode:o}"
        );
    }
    fs::set_permissions(folder.path(), Permissions::from_mode(0o755)).unwrap();
    assert!(folder.load().is_ok());
    assert!(folder::load(&folder.file("nowhere")).is_err());
}

#[test]
fn one_name_is_one_kind_of_key() {
    let folder = Folder::new();
    folder.keygen("a", Algorithm::Aes256);
    folder.keygen("b", Algorithm::Ed25519);
    fs::rename(folder.file("b.v1.pem"), folder.file("a.v2.pem")).unwrap();
    let said = folder.load().unwrap_err();
    assert!(
        said.contains("a.v2.pem is ed25519, and version 1 of the same name is aes256"),
        "{said}"
    );
    fs::copy(folder.file("a.v1.pem"), folder.file("a.v1.retired.pem")).unwrap();
    fs::remove_file(folder.file("a.v2.pem")).unwrap();
    assert!(folder.load().unwrap_err().contains("is there twice"));
}

#[test]
fn every_algorithm_is_made_rotated_and_read_back() {
    let folder = Folder::new();
    for algorithm in Algorithm::ALL {
        // A key of 4,096 bits takes seconds without optimisation; its path is that of 3,072.
        if algorithm == Algorithm::Rsa4096 {
            continue;
        }
        let name = algorithm.name();
        folder.keygen(name, algorithm);
        let again = make::keygen(folder.path(), &key(name), algorithm).unwrap_err();
        assert!(again.to_string().contains("is there already"), "{again}");
        assert_eq!(make::rotate(folder.path(), &key(name)).unwrap(), 2);
        let set = folder.load().unwrap();
        let made = set.get(name).unwrap();
        assert_eq!(made.active().unwrap().number, 2);
        assert_eq!(made.active().unwrap().material.algorithm(), name);
        let mode = fs::metadata(folder.file(&format!("{name}.v1.pem"))).unwrap();
        assert_eq!(mode.permissions().mode() & 0o7777, 0o600);
    }
    let left = fs::read_dir(folder.path()).unwrap().flatten();
    let left = left.filter(|entry| entry.file_name().to_string_lossy().starts_with('.'));
    assert_eq!(left.count(), 0, "no half-written file stays");
}

#[test]
fn the_version_in_use_is_not_retired_by_mistake() {
    let folder = Folder::new();
    folder.keygen("a", Algorithm::Aes256);
    let retire = |version, force| make::retire(folder.path(), &key("a"), version, force);
    assert!(
        retire(1, false)
            .unwrap_err()
            .to_string()
            .contains("the one in use")
    );
    make::rotate(folder.path(), &key("a")).unwrap();
    retire(1, false).unwrap();
    assert!(
        retire(1, false)
            .unwrap_err()
            .to_string()
            .contains("retired already")
    );
    assert!(
        retire(7, false)
            .unwrap_err()
            .to_string()
            .contains("no version 7")
    );
    retire(2, true).unwrap();
    let set = folder.load().unwrap();
    assert!(set.get("a").unwrap().active().is_none());
    assert_eq!(make::rotate(folder.path(), &key("a")).unwrap(), 3);
}

#[test]
fn a_server_follows_its_folder_and_never_takes_half_of_it() {
    let folder = Folder::new();
    folder.keygen("a", Algorithm::Aes256);
    let ring = Keyring::open(folder.path()).unwrap();
    let old = ring.set().unwrap();
    let sealed = envelope::seal(&old, "a", None, b"", b"text").unwrap();
    assert_eq!(sealed.key.version, 1);

    make::rotate(folder.path(), &key("a")).unwrap();
    folder.keygen("b", Algorithm::Ed25519);
    let looked = ring.reload().unwrap();
    assert_eq!(
        (looked.changed, looked.keys, looked.problem),
        (true, 2, None)
    );
    let new = ring.set().unwrap();
    assert_eq!(
        envelope::seal(&new, "a", None, b"", b"x")
            .unwrap()
            .key
            .version,
        2
    );
    let open = |set: &KeySet| envelope::open(set, &sealed.envelope, b"", None, None);
    assert_eq!(*open(&new).unwrap().plaintext, b"text");
    assert!(!ring.reload().unwrap().changed, "nothing changed");

    // A bad file beside good changes: nothing of it is taken.
    make::rotate(folder.path(), &key("a")).unwrap();
    folder.put("c.v1.pem", "broken", 0o600);
    let looked = ring.reload().unwrap();
    assert!(
        !looked.changed && looked.problem.as_ref().unwrap().contains("c.v1.pem"),
        "{looked:?}"
    );
    assert_eq!(
        envelope::seal(&ring.set().unwrap(), "a", None, b"", b"x")
            .unwrap()
            .key
            .version,
        2
    );

    fs::remove_file(folder.file("c.v1.pem")).unwrap();
    make::retire(folder.path(), &key("a"), 1, false).unwrap();
    let looked = ring.reload().unwrap();
    assert_eq!((looked.changed, looked.problem), (true, None));
    let error = open(&ring.set().unwrap()).unwrap_err();
    assert_eq!(error.kind, Kind::RetiredKey);
    assert!(error.detail.contains("version 1 of a"), "{error}");
    // The set that was taken before goes on as it was.
    assert!(open(&new).is_ok());
}

#[test]
fn keys_that_openssl_writes_are_read_and_its_signatures_hold() {
    let folder = Folder::new();
    let openssl = |args: &[&str]| {
        #[expect(clippy::disallowed_methods, reason = "another program is the oracle")]
        let done = std::process::Command::new("openssl")
            .args(args)
            .current_dir(folder.path())
            .output();
        let done = done.unwrap();
        assert!(
            done.status.success(),
            "{args:?}: {}",
            String::from_utf8_lossy(&done.stderr)
        );
        done.stdout
    };
    openssl(&["genpkey", "-algorithm", "ed25519", "-out", "ed.v1.pem"]);
    openssl(&[
        "genpkey",
        "-algorithm",
        "EC",
        "-pkeyopt",
        "ec_paramgen_curve:P-256",
        "-out",
        "ec.v1.pem",
    ]);
    openssl(&[
        "genpkey",
        "-algorithm",
        "RSA",
        "-pkeyopt",
        "rsa_keygen_bits:2048",
        "-out",
        "rsa.v1.pem",
    ]);
    for name in ["ed", "ec", "rsa"] {
        let file = folder.file(&format!("{name}.v1.pem"));
        fs::set_permissions(file, Permissions::from_mode(0o600)).unwrap();
    }
    let set = folder.load().unwrap();
    fs::write(
        folder.file("message"),
        b"signed by one, checked by the other",
    )
    .unwrap();
    let rows: [(&str, &[&str]); 2] = [
        ("ec", &["-sha256"]),
        (
            "rsa",
            &[
                "-sha256",
                "-sigopt",
                "rsa_padding_mode:pss",
                "-sigopt",
                "rsa_pss_saltlen:digest",
            ],
        ),
    ];
    let message = fs::read(folder.file("message")).unwrap();
    for (name, options) in rows {
        let (_, signing) = set.signing(name, "key").unwrap();
        let scheme = signing.kind().default_scheme();
        let signature = signing.sign(scheme, &message).unwrap();
        fs::write(folder.file("ours"), signature).unwrap();
        let private = format!("{name}.v1.pem");
        let check = [
            &["dgst"],
            options,
            &["-prverify", &private, "-signature", "ours", "message"],
        ];
        assert!(
            openssl(&check.concat()).starts_with(b"Verified OK"),
            "{name}"
        );
        let sign = [
            &["dgst"],
            options,
            &["-sign", &private, "-out", "theirs", "message"],
        ];
        openssl(&sign.concat());
        let theirs = fs::read(folder.file("theirs")).unwrap();
        assert!(signing.public().check(scheme, &message, &theirs), "{name}");
    }
    let (_, signing) = set.signing("ed", "key").unwrap();
    let signature = signing
        .sign(signing.kind().default_scheme(), &message)
        .unwrap();
    fs::write(folder.file("ours"), signature).unwrap();
    openssl(&[
        "pkeyutl",
        "-verify",
        "-inkey",
        "ed.v1.pem",
        "-rawin",
        "-in",
        "message",
        "-sigfile",
        "ours",
    ]);
}

#[test]
fn a_weak_rsa_key_is_refused() {
    let folder = Folder::new();
    #[expect(
        clippy::disallowed_methods,
        reason = "another program makes what we refuse to make"
    )]
    let done = std::process::Command::new("openssl")
        .args([
            "genpkey",
            "-algorithm",
            "RSA",
            "-pkeyopt",
            "rsa_keygen_bits:1024",
        ])
        .output()
        .unwrap();
    folder.put(
        "weak.v1.pem",
        &String::from_utf8(done.stdout).unwrap(),
        0o600,
    );
    let said = folder.load().unwrap_err();
    assert!(
        said.contains("weak.v1.pem") && said.contains("2048"),
        "{said}"
    );
}

proptest! {
    #[test]
    fn any_name_of_a_file_is_parsed_or_refused_and_comes_back(text in ".{0,40}|[a-z0-9_-]{1,5}\\.v[0-9]{1,7}(\\.retired)?\\.pem") {
        if let Some(name) = FileName::parse(&text) {
            prop_assert_eq!(name.to_string(), text);
        }
    }

    #[test]
    fn any_text_is_a_key_or_a_sentence(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
        if let Err(said) = folder::material(&bytes) {
            prop_assert!(said.len() < 300);
        }
    }
}
