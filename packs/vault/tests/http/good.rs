//! What is asked well is answered well.

use offloop_vault::keys::KeyName;
use offloop_vault::keys::make::{retire, rotate};
use serde_json::{Value, json};

use super::support::{World, b64, unb64};

#[test]
fn a_password_is_hashed_and_only_it_verifies() {
    let world = World::with(|_, _| ());
    for (body, start, old) in [
        (
            json!({"password": "p\u{e4}ss \"w\" \\ ord"}),
            "$argon2id$v=19$m=19456,t=2,p=1$",
            false,
        ),
        (
            json!({"password": "p\u{e4}ss \"w\" \\ ord", "params": {"memory_kib": 64, "passes": 1}}),
            "$argon2id$v=19$m=64,t=1,p=1$",
            true,
        ),
        (
            json!({"password": "p\u{e4}ss \"w\" \\ ord", "algorithm": "bcrypt", "params": {"cost": 4}}),
            "$2b$04$",
            true,
        ),
    ] {
        let made = world.post("/v1/vault/hash", &body.to_string()).ok();
        let hash = made["hash"].as_str().unwrap();
        assert!(hash.starts_with(start), "{hash}");
        let verify = |password: &str| {
            let body = json!({"password": password, "hash": hash}).to_string();
            world.post("/v1/vault/verify", &body).ok()
        };
        let good = verify("p\u{e4}ss \"w\" \\ ord");
        assert_eq!(good, json!({"valid": true, "needs_rehash": old}));
        assert_eq!(verify("another")["valid"], false);
    }
}

#[test]
fn a_batch_answers_in_order_and_a_bad_item_stays_alone() {
    let world = World::with(|_, _| ());
    let weak = json!({"memory_kib": 64, "passes": 1});
    let items = json!({"items": [
        {"password": "a", "params": weak},
        {"password": "a\u{0}b", "algorithm": "bcrypt", "params": {"cost": 4}},
        {"password": "b", "algorithm": "bcrypt", "params": {"cost": 4}},
        {"password": "x".repeat(73), "algorithm": "bcrypt"},
        {"password": "c", "algorithm": "bcrypt", "params": {"cost": 4}},
        {"password": "d", "params": {"memory_kib": 1 << 30}},
    ]});
    let answer = world.post("/v1/vault/hash", &items.to_string()).ok();
    assert_eq!(answer["failed"], 3);
    let rows = answer["items"].as_array().unwrap();
    let field = |at: usize| rows[at]["error"]["field"].as_str();
    assert_eq!(field(1), Some("/items/1/password"));
    assert_eq!(field(3), Some("/items/3/password"));
    assert_eq!(field(5), Some("/items/5/params/memory_kib"));
    assert!(
        rows[3]["error"]["detail"].as_str().unwrap().contains("72"),
        "{}",
        rows[3]
    );
    let checks: Vec<Value> = [(0, "a"), (2, "b"), (4, "c"), (4, "b")]
        .map(|(at, password)| json!({"password": password, "hash": rows[at]["hash"]}))
        .into();
    let verified = world
        .post("/v1/vault/verify", &json!({"items": checks}).to_string())
        .ok();
    let valid: Vec<_> = verified["items"]
        .as_array()
        .unwrap()
        .iter()
        .map(|row| row["valid"] == true)
        .collect();
    assert_eq!(valid, [true, true, true, false]);
}

/// Comes again when there is no room, as a client should.
fn patiently(world: &World, path: &str, body: &Value) -> Value {
    loop {
        let answer = world.post(path, &body.to_string());
        if answer.status != 503 {
            return answer.ok();
        }
    }
}

#[test]
fn many_callers_with_one_cost_are_run_together_and_each_gets_its_own() {
    let world = World::with(|_, _| ());
    let passwords: Vec<String> = (0..16).map(|n| format!("password {n}")).collect();
    std::thread::scope(|scope| {
        for password in &passwords {
            let world = &world;
            scope.spawn(move || {
                let body =
                    json!({"password": password, "algorithm": "bcrypt", "params": {"cost": 8}});
                let hash = patiently(world, "/v1/vault/hash", &body);
                let verify = |password: &str| {
                    let body = json!({"password": password, "hash": hash["hash"]});
                    patiently(world, "/v1/vault/verify", &body)["valid"] == true
                };
                assert!(verify(password) && !verify("password"));
            });
        }
    });
    let seen = world.request("GET", "/v1/vault/keys", "", b"").ok();
    assert!(
        seen["passwords"]["run_together"].as_u64().unwrap() > 0,
        "{seen}"
    );
}

#[test]
fn what_was_sealed_opens_by_both_forms() {
    let world = World::new();
    let text = vec![9; 100_000];
    for signer in [None, Some("ed"), Some("rsa")] {
        let body = json!({"key": "documents", "plaintext": b64(&text), "aad": b64("row 7"), "sign_key": signer});
        let sealed = world.post("/v1/vault/seal", &body.to_string()).ok();
        let by = signer.map(|name| json!({"key": name, "version": 1}));
        assert_eq!(
            (&sealed["key"], &sealed["version"]),
            (&json!("documents"), &json!(1))
        );
        assert_eq!(sealed["signed_by"], json!(by));
        let body =
            json!({"envelope": sealed["envelope"], "aad": b64("row 7"), "signed_by": signer});
        let opened = world.post("/v1/vault/open", &body.to_string()).ok();
        assert_eq!(unb64(&opened["plaintext"]), text);
        assert_eq!(opened["signed_by"], json!(by));

        let aad = format!("offloop-aad: {}\r\n", b64("row 7"));
        let opened = world.raw(
            "/v1/vault/open?key=documents",
            &aad,
            &unb64(&sealed["envelope"]),
        );
        assert_eq!((opened.status, &opened.body), (200, &text));
        assert_eq!(opened.header("offloop-signed-by"), signer);
        let query = signer.map_or(String::new(), |name| format!("&sign_key={name}"));
        let sealed = world.raw(&format!("/v1/vault/seal?key=documents{query}"), &aad, &text);
        assert_eq!(
            sealed.header("content-type"),
            Some("application/octet-stream")
        );
        assert_eq!(sealed.header("offloop-key-version"), Some("1"));
        let body = json!({"envelope": b64(&sealed.body), "aad": b64("row 7")});
        let opened = world.post("/v1/vault/open", &body.to_string()).ok();
        assert_eq!(unb64(&opened["plaintext"]), text);
    }
}

#[test]
fn what_was_signed_checks_by_every_scheme() {
    let world = World::new();
    for (key, algorithm) in [
        ("ed", "ed25519"),
        ("p", "ecdsa-p256-sha256"),
        ("rsa", "rsa-pss-sha256"),
        ("rsa", "rsa-pkcs1-sha256"),
    ] {
        let body = json!({"key": key, "message": b64("m"), "algorithm": algorithm});
        let signed = world.post("/v1/vault/sign", &body.to_string()).ok();
        assert_eq!(signed["algorithm"], algorithm);
        let check = |message: &str, version: Value| {
            let body = json!({"key": key, "message": b64(message), "signature": signed["signature"],
                "algorithm": algorithm, "version": version});
            world.post("/v1/vault/check", &body.to_string()).ok()
        };
        assert_eq!(
            check("m", Value::Null),
            json!({"valid": true, "version": 1})
        );
        assert_eq!(check("m", json!(1))["valid"], true);
        assert_eq!(
            check("n", Value::Null),
            json!({"valid": false, "version": null})
        );

        let path = |op: &str| format!("/v1/vault/{op}?key={key}&algorithm={algorithm}");
        let signature = world.raw(&path("sign"), "", b"m").body;
        let header = format!("offloop-signature: {}\r\n", b64(&signature));
        assert_eq!(world.raw(&path("check"), &header, b"m").ok()["valid"], true);
        assert_eq!(
            world.raw(&path("check"), &header, b"n").ok()["valid"],
            false
        );
    }
    let body = json!({"key": "rsa", "message": ""}).to_string();
    let signed = world.post("/v1/vault/sign", &body).ok();
    assert_eq!(
        signed["algorithm"], "rsa-pss-sha256",
        "PSS where nothing is asked for"
    );
}

#[test]
fn a_thousand_items_are_one_call() {
    let world = World::new();
    let items: Vec<_> = (0..1000)
        .map(|n| json!({"key": "documents", "plaintext": b64(format!("text {n}")), "sign_key": "ed"}))
        .collect();
    let sealed = world
        .post("/v1/vault/seal", &json!({"items": items}).to_string())
        .ok();
    assert_eq!(sealed["failed"], 0);
    let mut items: Vec<_> = sealed["items"]
        .as_array()
        .unwrap()
        .iter()
        .map(|row| json!({"envelope": row["envelope"], "signed_by": "ed"}))
        .collect();
    items[500]["envelope"] = json!(b64("nothing"));
    let opened = world
        .post("/v1/vault/open", &json!({"items": items}).to_string())
        .ok();
    assert_eq!(opened["failed"], 1);
    for (at, row) in opened["items"].as_array().unwrap().iter().enumerate() {
        if at == 500 {
            assert_eq!(
                row["error"]["type"],
                "urn:offloop:problem:vault-cannot-open"
            );
            continue;
        }
        assert_eq!(unb64(&row["plaintext"]), format!("text {at}").as_bytes());
    }
}

#[test]
fn keys_change_without_a_restart_and_are_listed_without_a_secret() {
    let world = World::new();
    let seal = || {
        let body = json!({"key": "documents", "plaintext": b64("x")}).to_string();
        world.post("/v1/vault/seal", &body).ok()
    };
    let old = seal();
    assert_eq!(old["version"], 1);
    let name = KeyName::parse("documents").unwrap();
    rotate(&world.keys(), &name).unwrap();
    retire(&world.keys(), &name, 1, false).unwrap();
    let reloaded = world.request("POST", "/v1/vault/keys/reload", "", b"").ok();
    assert_eq!(
        reloaded,
        json!({"changed": true, "keys": 4, "problem": null})
    );
    assert_eq!(seal()["version"], 2);
    let body = json!({"envelope": old["envelope"]}).to_string();
    let (status, problem, _) = world.post("/v1/vault/open", &body).problem();
    assert_eq!((status, problem.as_str()), (422, "vault-retired-key"));

    let listed = world.request("GET", "/v1/vault/keys", "", b"").ok();
    let states: Vec<_> = listed["keys"]
        .as_array()
        .unwrap()
        .iter()
        .map(|row| format!("{} {} {}", row["name"], row["version"], row["state"]).replace('"', ""))
        .collect();
    assert_eq!(
        states,
        [
            "documents 1 retired",
            "documents 2 active",
            "ed 1 active",
            "p 1 active",
            "rsa 1 active"
        ]
    );
    let text = listed.to_string();
    assert!(
        text.contains("BEGIN PUBLIC KEY") && !text.contains("PRIVATE"),
        "{text}"
    );
}

#[test]
fn the_tasks_are_callable_and_answer_as_their_routes() {
    let world = World::new();
    let body = json!({"payload": {"key": "documents", "plaintext": b64("x")}}).to_string();
    let called = world.post("/v1/call/vault.seal", &body).ok();
    let envelope = &called["result"]["envelope"];
    let body = json!({"envelope": envelope}).to_string();
    assert_eq!(
        unb64(&world.post("/v1/vault/open", &body).ok()["plaintext"]),
        b"x"
    );
}

#[test]
fn the_document_tells_every_route() {
    let world = World::with(|_, _| ());
    let document = world.request("GET", "/openapi.json", "", b"").ok();
    for path in [
        "hash",
        "verify",
        "seal",
        "open",
        "sign",
        "check",
        "keys",
        "keys/reload",
    ] {
        let item = &document["paths"][format!("/v1/vault/{path}")];
        assert!(item.is_object(), "{path}");
    }
    let pages = world.request("GET", "/packs.json", "", b"").ok();
    assert_eq!(pages["packs"][0]["title"], "Vault");
}
