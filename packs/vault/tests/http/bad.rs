//! What cannot be is refused with the field and the limit, and the server goes on.

use std::io::Write as _;

use serde_json::{Value, json};

use super::support::{World, b64};

#[test]
fn every_bad_body_has_its_own_answer() {
    let world = World::new();
    let long = "x".repeat(4097);
    let hash =
        "$argon2id$v=19$m=4194304,t=9,p=1$c29tZXNhbHQ$CTFhFdXPJO1aFaMaO6Mm5c8y7cJHAph8ArZWb2GRPPc";
    let many = Value::from(vec![json!({"password": "x"}); 1001]);
    #[rustfmt::skip]
    let rows: Vec<(&str, Value, u16, &str, &str, &str)> = vec![
        ("hash", json!({}), 422, "invalid-body", "/password", "missing"),
        ("hash", json!({"password": 5}), 422, "invalid-body", "/password", "give a string"),
        ("hash", json!({"password": null}), 422, "invalid-body", "/password", "give a string"),
        ("hash", json!({"password": "x", "pepper": 1}), 422, "invalid-body", "/pepper", "no field here"),
        ("hash", json!({"password": "x", "params": {"iterations": 1}}), 422, "invalid-body", "/params/iterations", "memory_kib"),
        ("hash", json!({"password": long}), 422, "invalid-body", "/password", "4096"),
        ("hash", json!({"password": "x", "algorithm": "md5"}), 422, "invalid-body", "/algorithm", "argon2id or bcrypt"),
        ("hash", json!({"password": "x", "params": {"cost": 10}}), 422, "invalid-body", "/params/cost", "no parameter of argon2id"),
        ("hash", json!({"password": "x", "params": {"memory_kib": -1}}), 422, "invalid-body", "/params/memory_kib", "whole number"),
        ("hash", json!({"password": "x", "params": {"memory_kib": 4_194_304}}), 422, "invalid-body", "/params/memory_kib", "262144"),
        ("hash", json!({"password": "x", "params": {"passes": 1000}}), 422, "invalid-body", "/params/passes", "32"),
        ("hash", json!({"password": "x", "params": {"memory_kib": 262_144, "passes": 30}}), 422, "invalid-body", "/params/passes", "1048576"),
        ("hash", json!({"password": "x", "algorithm": "bcrypt", "params": {"cost": 31}}), 422, "invalid-body", "/params/cost", "14"),
        ("hash", json!({"password": "x".repeat(73), "algorithm": "bcrypt"}), 422, "invalid-body", "/password", "72"),
        ("hash", json!({"password": "a\u{0}b", "algorithm": "bcrypt"}), 422, "invalid-body", "/password", "zero byte"),
        ("hash", json!({"items": many}), 422, "invalid-body", "/items", "1000"),
        ("hash", json!({"items": [{"password": "x"}, {"password": "y", "extra": 1}]}), 422, "invalid-body", "/items/1/extra", "no field"),
        ("hash", json!({"items": [], "more": 1}), 422, "invalid-body", "/more", "no field"),
        ("hash", json!([1]), 422, "invalid-body", "", "an object"),
        ("hash", json!({"items": [["x"]]}), 422, "invalid-body", "/items/0", "an object"),
        ("hash", json!({"items": 7}), 422, "invalid-body", "/items", "array"),
        ("hash", json!({"password": "x", "params": [64]}), 422, "invalid-body", "/params", "an object"),
        ("verify", json!({"password": "x", "hash": hash}), 422, "invalid-body", "/hash", "limits"),
        ("verify", json!({"password": "x", "hash": "$2b$20$/OK.fbVrR/bpIqNJ5ianF.Sa7shbm4.OzKpvFnX1pQLmQW96oUlCq"}), 422, "invalid-body", "/hash", "4 to 14"),
        ("verify", json!({"password": "x", "hash": "plain"}), 422, "invalid-body", "/hash", "argon2"),
        ("verify", json!({"password": "x", "hash": "$2b$".repeat(200)}), 422, "invalid-body", "/hash", "512"),
        ("seal", json!({"key": "nobody", "plaintext": ""}), 422, "vault-unknown-key", "/key", "nobody"),
        ("seal", json!({"key": "no name!", "plaintext": ""}), 422, "vault-unknown-key", "/key", "a-z 0-9"),
        ("seal", json!({"key": "ed", "plaintext": ""}), 422, "invalid-body", "/key", "seals nothing"),
        ("seal", json!({"key": "documents", "plaintext": "", "sign_key": "documents"}), 422, "invalid-body", "/sign_key", "signs nothing"),
        ("seal", json!({"key": "documents", "plaintext": "no base64"}), 422, "invalid-body", "/plaintext", "base64"),
        ("seal", json!({"key": "documents", "plaintext": "", "aad": "x"}), 422, "invalid-body", "/aad", "base64"),
        ("open", json!({"envelope": b64("garbage")}), 422, "vault-cannot-open", "/envelope", "cannot be opened"),
        ("open", json!({"envelope": ""}), 422, "vault-cannot-open", "/envelope", "cannot be opened"),
        ("open", json!({"envelope": "", "key": "nobody"}), 422, "vault-unknown-key", "/key", "nobody"),
        ("sign", json!({"key": "documents", "message": ""}), 422, "invalid-body", "/key", "aes256"),
        ("sign", json!({"key": "ed", "message": "", "algorithm": "rsa-pss-sha256"}), 422, "invalid-body", "/algorithm", "ed25519"),
        ("check", json!({"key": "ed", "message": "", "signature": "", "version": 9}), 422, "vault-unknown-key", "/version", "9"),
        ("check", json!({"key": "ed", "message": "", "signature": "", "version": 1e10}), 422, "invalid-body", "/version", "whole number"),
    ];
    for (op, body, status, name, field, says) in rows {
        let answer = world.post(&format!("/v1/vault/{op}"), &body.to_string());
        let text = String::from_utf8_lossy(&answer.body).into_owned();
        let found = answer.problem();
        assert_eq!(
            found,
            (status, name.to_owned(), field.to_owned()),
            "{op} {text}"
        );
        let detail = answer.json()["detail"].as_str().unwrap().to_owned();
        let errors = answer.json()["errors"].to_string();
        // A name that the caller gave is repeated by the pointer alone.
        assert!(
            detail.contains(says) || errors.contains(says) || says == "nobody",
            "{op} {says}: {text}"
        );
    }
}

#[test]
fn what_is_no_json_is_told_where() {
    let world = World::new();
    for (body, says) in [
        ("", "ends too early"),
        ("{\"password\":", "ends too early"),
        ("{\"password\":\"x\"", "ends too early"),
        ("{password}", "is no JSON at line 1"),
        ("{\"password\":\"x\"} more", "is no JSON"),
        ("{\"items\":[{\"password\":\"x\"}", "ends too early"),
        ("\u{feff}{}", "is no JSON"),
    ] {
        let answer = world.post("/v1/vault/hash", body);
        assert_eq!(answer.problem().0, 400, "{body}");
        assert!(
            answer.json()["detail"].as_str().unwrap().contains(says),
            "{body}: {:?}",
            answer.json()
        );
    }
    let deep = format!("{{\"password\":{}", "[".repeat(100_000));
    assert!(matches!(
        world.post("/v1/vault/hash", &deep).status,
        400 | 422
    ));
}

#[test]
fn half_a_body_and_a_giant_end_their_own_request_alone() {
    let world = World::with(|_, _| ());
    assert_eq!(world.half("/v1/vault/hash").problem().1, "body-cut");
    let giant = format!("{{\"password\":\"{}\"}}", "x".repeat(10 << 20));
    let answer = world.post("/v1/vault/hash", &giant);
    assert_eq!(answer.problem().1, "too-large");
    assert!(
        answer.json()["detail"]
            .as_str()
            .unwrap()
            .contains("8388608")
    );
    // Promised, not sent: refused by the promise.
    let mut stream = world.connect();
    stream.write_all(b"POST /v1/vault/hash HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\ncontent-length: 9999999999\r\n\r\n").unwrap();
    let mut start = [0; 12];
    std::io::Read::read_exact(&mut stream, &mut start).unwrap();
    assert_eq!(&start, b"HTTP/1.1 413");
    let five = format!("{{\"password\":\"{}\"}}", "x".repeat(5 << 20));
    let (status, _, field) = world.post("/v1/vault/hash", &five).problem();
    assert_eq!((status, field.as_str()), (422, "/password"));
}

#[test]
fn parameters_of_the_raw_form_are_judged_as_strictly() {
    let world = World::new();
    #[rustfmt::skip]
    let rows = [
        ("seal", "", 422, "invalid-body", "/key"),
        ("seal?key=nobody", "", 422, "vault-unknown-key", "/key"),
        ("seal?key=documents&key=documents", "", 400, "invalid-parameter", "key"),
        ("seal?key=documents&signed_by=ed", "", 400, "invalid-parameter", "signed_by"),
        ("seal?key=documents", "offloop-aad: no base64\r\n", 400, "invalid-parameter", "/offloop-aad"),
        ("seal?key=documents", "offloop-signature: AAAA\r\n", 400, "invalid-parameter", "offloop-signature"),
        ("check?key=ed&version=one", "", 400, "invalid-parameter", "version"),
        ("open", "", 422, "vault-cannot-open", "/envelope"),
    ];
    for (path, headers, status, name, field) in rows {
        let answer = world.raw(&format!("/v1/vault/{path}"), headers, b"body");
        let found = answer.problem();
        assert_eq!(found, (status, name.to_owned(), field.to_owned()), "{path}");
    }
    assert_eq!(world.raw("/v1/vault/hash", "", b"x").status, 415);
    assert_eq!(
        world.request("POST", "/v1/vault/seal", "", b"{}").status,
        415
    );
    assert_eq!(world.post("/v1/vault/seal?key=documents", "{}").status, 400);
    assert_eq!(world.request("GET", "/v1/vault/seal", "", b"").status, 405);
}

#[test]
fn without_a_folder_passwords_work_and_keys_say_what_to_configure() {
    let world = World::with(|_, _| ());
    let body = json!({"key": "documents", "plaintext": ""}).to_string();
    let answer = world.post("/v1/vault/seal", &body);
    assert_eq!(answer.problem().1, "vault-no-keys");
    assert!(
        answer.json()["detail"]
            .as_str()
            .unwrap()
            .contains("[packs.vault]")
    );
    let listed = world.request("GET", "/v1/vault/keys", "", b"").ok();
    assert_eq!(
        (&listed["keys"], &listed["folder"]),
        (&json!([]), &Value::Null)
    );
    assert_eq!(
        world
            .request("POST", "/v1/vault/keys/reload", "", b"")
            .problem()
            .1,
        "vault-no-keys"
    );
    world
        .post(
            "/v1/vault/hash",
            r#"{"password":"x","params":{"memory_kib":64}}"#,
        )
        .ok();
}

#[test]
fn memory_of_all_hashes_together_is_bounded() {
    let world = World::with(|options, _| options.memory_bytes = Some(32 << 20));
    let body = |memory: u32| {
        json!({"password": "x", "params": {"memory_kib": memory, "passes": 1}}).to_string()
    };
    let answer = world.post("/v1/vault/hash", &body(40 << 10));
    assert_eq!(
        answer.problem(),
        (422, "invalid-body".into(), "/params/memory_kib".into())
    );
    assert!(
        answer.json()["detail"]
            .as_str()
            .unwrap()
            .contains("packs.vault.memory")
    );
    // Each fits, two do not: the second waits for the first.
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| world.post("/v1/vault/hash", &body(20 << 10)).ok());
        }
    });
}
