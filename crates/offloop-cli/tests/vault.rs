//! The vault from the command line: keys are made, and a server that runs follows them.
#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]
#![allow(
    clippy::disallowed_methods,
    reason = "the program itself is under test"
)]

use std::path::Path;

use serde_json::{Value, json};

mod support;

use support::{program, serve, told};

fn run(folder: &Path, words: &[&str], code: i32) -> String {
    told(&program(folder).args(words).output().unwrap(), words, code)
}

#[test]
fn a_key_is_made_used_rotated_and_retired_without_being_shown() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    let file = "[packs.vault]\nkeys = \"keys\"\n";
    std::fs::write(at.join("offloop.toml"), file).unwrap();
    let made = run(at, &["vault", "keygen", "documents", "--json"], 0);
    let made: Value = serde_json::from_str(&made).unwrap();
    let want = json!({"key": "documents", "version": 1, "algorithm": "aes256"});
    assert_eq!(made, want);
    let mut server = serve(at);
    let url = server.url.clone();
    let post = |path: &str, body: Value| -> Value {
        let answer = ureq::post(format!("{url}/v1/vault/{path}")).send_json(body);
        answer.unwrap().body_mut().read_json().unwrap()
    };
    let sealed = post("seal", json!({"key": "documents", "plaintext": "c2VjcmV0"}));
    assert_eq!(sealed["version"], 1);
    run(at, &["vault", "rotate", "documents"], 0);
    assert_eq!(post("keys/reload", json!({}))["changed"], true);
    let again = post("seal", json!({"key": "documents", "plaintext": "c2VjcmV0"}));
    assert_eq!(again["version"], 2);
    let opened = post("open", json!({"envelope": sealed["envelope"]}));
    assert_eq!(opened["plaintext"], "c2VjcmV0");
    server.kill();

    assert!(run(at, &["vault", "retire", "documents", "2"], 1).contains("the one in use"));
    run(at, &["vault", "retire", "documents", "1"], 0);
    let listed = run(at, &["vault", "keys"], 0);
    assert!(listed.contains("v1     retired  aes256"), "{listed}");
    let material = std::fs::read_to_string(at.join("keys/documents.v2.pem")).unwrap();
    let material = material.lines().nth(1).unwrap();
    assert!(!listed.contains(material));
    assert!(run(at, &["vault", "keygen", "documents"], 1).contains("is there already"));
    assert!(run(at, &["vault", "keygen", "a/b"], 1).contains("no name of a key"));
    assert!(run(at, &["vault", "keygen", "x", "--algorithm", "des"], 2).contains("rsa4096"));
    let help = run(at, &["vault", "rotate", "--help"], 0);
    assert!(help.contains("offloop vault rotate documents"), "{help}");
}

#[test]
fn a_server_does_not_start_with_keys_that_others_can_read() {
    use std::os::unix::fs::PermissionsExt as _;
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    run(at, &["vault", "keygen", "a", "--folder", "keys"], 0);
    let open = std::fs::Permissions::from_mode(0o644);
    std::fs::set_permissions(at.join("keys/a.v1.pem"), open).unwrap();
    let file = "[packs.vault]\nkeys = \"keys\"\n";
    std::fs::write(at.join("offloop.toml"), file).unwrap();
    let said = run(at, &["check"], 1);
    assert!(
        said.contains("a.v1.pem") && said.contains("chmod 600"),
        "{said}"
    );
}
