//! Digests that senders give: what came damaged is not loaded from the spool, and told of otherwise.
#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

mod doors;

use std::path::Path;
use std::time::Duration;

use doors::{House, PEOPLE, ids, options, people};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256, Sha512};

fn sha256(bytes: &[u8]) -> String {
    let sum = base64_simd::STANDARD.encode_to_string(Sha256::digest(bytes));
    format!("sha-256=:{sum}:")
}

fn sha512(bytes: &[u8]) -> String {
    let sum = base64_simd::STANDARD.encode_to_string(Sha512::digest(bytes));
    format!("md5=:AA==:, sha-512=:{sum}:")
}

fn spooled(folder: &Path) -> Vec<String> {
    let files = std::fs::read_dir(folder.join("data/ingest/spool")).unwrap();
    let names = files.map(|file| file.unwrap().file_name().into_string().unwrap());
    names.collect()
}

const LATER: (&str, &str) = ("prefer", "respond-async");

#[test]
fn a_body_that_is_not_what_its_sender_has_loads_nothing_from_the_spool() {
    let folder = tempfile::tempdir().unwrap();
    let house = House::new(folder.path());
    let text = people(500, |_| false);
    let (good, bad) = (sha256(text.as_bytes()), sha256(b"something else"));
    for (count, field) in ["content-digest", "repr-digest"].into_iter().enumerate() {
        let path = format!("/v1/ingest/people?load=wrong-{count}");
        let (status, answer) = house.post(&path, &[LATER, (field, &bad)], text.as_bytes());
        let told = answer["detail"].as_str().unwrap();
        assert_eq!(status, 400, "{answer}");
        // The right one would help who guesses at a body that is not his.
        assert!(told.contains(&bad) && !told.contains(&good), "{told}");
        let header = ["Content-Digest", "Repr-Digest"][count];
        let provided = bad.strip_prefix("sha-256=").unwrap();
        let entry = json!({"algorithm": "sha-256", "header": header, "provided_digest": provided});
        assert_eq!(answer["mismatched_digests"], json!([entry]), "{answer}");
        let kind = "https://iana.org/assignments/http-problem-types#digest-mismatched-values";
        assert_eq!(answer["type"], kind);
        assert!(told.ends_with("nothing of it is kept or loaded"), "{told}");
        let mine = format!("wrong-{count}.");
        let left = spooled(folder.path());
        assert!(!left.iter().any(|name| name.starts_with(&mine)), "{left:?}");
        // The same name, sent as it should be.
        let digest = if count == 0 {
            good.clone()
        } else {
            sha512(text.as_bytes())
        };
        let (status, answer) = house.post(&path, &[LATER, (field, &digest)], text.as_bytes());
        assert_eq!(status, 202, "{answer}");
        assert_eq!(house.end_of(&format!("wrong-{count}"))["stored"], 500);
    }
    assert_eq!(ids(folder.path()).len(), 1_000);
}

#[test]
fn a_body_that_was_stored_while_it_came_is_told_as_not_what_its_sender_has() {
    let folder = tempfile::tempdir().unwrap();
    let house = House::new(folder.path());
    let text = people(500, |_| false);
    let wrong = sha512(b"something else");
    let headers = [("content-digest", wrong.as_str())];
    let (status, answer) = house.post("/v1/ingest/people?load=direct", &headers, text.as_bytes());
    assert_eq!((status, &answer["stored"]), (400, &json!(500)), "{answer}");
    let algorithm = &answer["mismatched_digests"][0]["algorithm"];
    assert_eq!(algorithm, "sha-512", "{answer}");
    let told = answer["detail"].as_str().unwrap();
    assert!(
        told.contains("sha-512=:") && !told.contains("to go on"),
        "{told}"
    );
    let view = house.end_of("direct");
    assert_eq!(view["state"], "failed", "{view}");
    let good = sha512(text.as_bytes());
    let (status, _) = house.post(
        "/v1/ingest/people",
        &[("repr-digest", &good)],
        text.as_bytes(),
    );
    assert_eq!(status, 200);
}

#[test]
fn a_digest_that_cannot_be_checked_is_not_taken_for_one_that_is_right() {
    let folder = tempfile::tempdir().unwrap();
    let house = House::new(folder.path());
    let of_field =
        |kind: &str| format!("https://iana.org/assignments/http-problem-types#digest-{kind}");
    let unsupported = (of_field("unsupported-algorithms"), "unsupported_algorithms");
    let invalid = (of_field("invalid-values"), "invalid_digests");
    // What cannot be read is none of these.
    let unread = ("urn:offloop:problem:invalid-parameter".to_owned(), "");
    for (digest, says, (kind, list)) in [
        (
            "md5=:AAAA:, crc32c=:AAAA:",
            "sha-256 or sha-512",
            &unsupported,
        ),
        ("sha-256=AAAA", "32 bytes", &unread),
        ("sha-256=:AAAA:, sha-512=:AA==:", "32 bytes", &invalid),
        ("sha-256", "BASE64", &unread),
    ] {
        let headers = [("content-digest", digest)];
        let (status, answer) = house.post("/v1/ingest/people", &headers, b"id,name\n1,a\n");
        let told = answer["detail"].to_string();
        assert!(status == 400 && told.contains(says), "{digest}: {answer}");
        assert_eq!(answer["type"], *kind, "{answer}");
        let entries = answer[*list].as_array().into_iter().flatten();
        let headers: Vec<_> = entries.map(|entry| &entry["header"]).collect();
        let want = if list.is_empty() { 0 } else { 2 };
        assert_eq!(headers, vec!["Content-Digest"; want], "{answer}");
    }
    assert!(ids(folder.path()).is_empty());
}

fn part(house: &House, at: usize, more: &str, body: &[u8]) -> (u16, String, Value) {
    let headers = format!(
        "Content-Type: application/partial-upload\r\nUpload-Offset: {at}\r\n{more}\r\nContent-Length: {}\r\n",
        body.len()
    );
    let mut raw = house.begin("PATCH", "/v1/ingest/uploads/parts", &headers);
    raw.send(body);
    raw.answer()
}

#[test]
fn a_damaged_part_is_dropped_and_the_upload_goes_on_where_it_was() {
    let folder = tempfile::tempdir().unwrap();
    let house = House::new(folder.path());
    let text = people(600, |_| false);
    let (first, rest) = text.as_bytes().split_at(5_000);
    let begin = |repr: &str| {
        let headers = [("upload-complete", "?0"), ("repr-digest", repr)];
        house
            .post("/v1/ingest/people?load=parts", &headers, first)
            .0
    };
    assert_eq!(begin(&sha256(text.as_bytes())), 201);
    let wrong = format!("Upload-Complete: ?1\r\nContent-Digest: {}", sha256(b"x"));
    let (status, _, problem) = part(&house, 5_000, &wrong, rest);
    let told = problem["detail"].as_str().unwrap();
    assert!(
        status == 400 && told.contains("5000 bytes are kept"),
        "{problem}"
    );
    let right = format!("Upload-Complete: ?1\r\nContent-Digest: {}", sha256(rest));
    let (status, _, answer) = part(&house, 5_000, &right, rest);
    assert_eq!(status, 202, "{answer}");
    assert_eq!(house.end_of("parts")["stored"], 600);

    // All parts came, but they are not what was announced.
    house.until(|house| (begin(&sha256(b"x")) == 201).then_some(house.door));
    let (status, head, problem) = part(&house, 5_000, &right, rest);
    let told = problem["detail"].as_str().unwrap();
    assert_eq!(problem["mismatched_digests"][0]["header"], "Repr-Digest");
    assert!(
        head.contains("upload-complete: ?1"),
        "there is nothing to go on with: {head}"
    );
    assert!(
        status == 400 && told.contains("the upload is dropped"),
        "{problem}"
    );
    assert!(
        spooled(folder.path()).is_empty(),
        "{:?}",
        spooled(folder.path())
    );
    assert_eq!(ids(folder.path()).len(), 600);
}

#[test]
fn bodies_of_a_killed_server_and_old_ones_are_swept_and_give_their_space_back() {
    let folder = tempfile::tempdir().unwrap();
    let spool = folder.path().join("data/ingest/spool");
    std::fs::create_dir_all(&spool).unwrap();
    let put = |name: &str, text: &str| std::fs::write(spool.join(name), text).unwrap();
    let about = |resumable: bool| {
        json!({ "target": "people", "tenant": null, "length": null, "resumable": resumable })
            .to_string()
    };
    // As a server leaves them that is killed while they come.
    put("lost.part", &"x".repeat(4_000));
    put("lost.json", &about(false));
    put("torn.part", "");
    put("torn.json", "");
    put("goes-on.part", &"x".repeat(4_000));
    put("goes-on.json", &about(true));
    let mut options = options(folder.path(), &[("people", PEOPLE)]);
    options.spool_bytes = 10_000;
    options.sweep_every = Duration::from_millis(20);
    options.parts_for = Duration::from_secs(3_600);
    let house = House::with(folder.path(), options.clone());
    house.until(|_| {
        let mut names = spooled(folder.path());
        names.sort();
        (names == ["goes-on.json", "goes-on.part"]).then_some(())
    });
    // What was swept counts no more.
    let text = people(200, |_| false);
    assert!(text.len() > 3_000 && text.len() < 6_000);
    let (status, answer) = house.post("/v1/ingest/people", &[LATER], text.as_bytes());
    assert_eq!(status, 202, "{answer}");
    house.end_of(answer["load"].as_str().unwrap());
    // Nobody went on with it for longer than it may stay.
    house.end();
    options.parts_for = Duration::from_millis(1);
    let house = House::with(folder.path(), options);
    house.until(|_| spooled(folder.path()).is_empty().then_some(()));
}
