//! What an upload is told while it comes (104): where it can be gone on with, and how far it is for certain.
#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

mod doors;

use doors::{House, Raw, ids, people};
use serde_json::Value;

/// More than from one offset that is told to the next.
const LONG: usize = 17 << 20;

fn value<'h>(head: &'h str, name: &str) -> Option<&'h str> {
    let lines = head.lines().filter_map(|line| line.split_once(": "));
    let mut lines = lines.filter(|(known, _)| *known == name);
    lines.next().map(|(_, value)| value)
}

fn create(house: &House, load: &str, headers: &str, length: usize) -> Raw {
    let path = format!("/v1/ingest/people?load={load}");
    let headers = format!("{headers}Content-Length: {length}\r\n");
    house.begin("POST", &path, &headers)
}

/// How far the upload is; `None`: there is none.
fn offset(house: &House, load: &str) -> Option<u64> {
    let path = format!("/v1/ingest/uploads/{load}");
    let (status, head, _) = house.begin("GET", &path, "").answer();
    assert!(matches!(status, 204 | 404), "{head}");
    Some(value(&head, "upload-offset")?.parse().unwrap())
}

#[test]
fn an_upload_that_is_cut_before_its_answer_is_found_by_what_was_told() {
    let folder = tempfile::tempdir().unwrap();
    let house = House::new(folder.path());
    let text = people(1_000, |_| false);
    for (round, version) in ["10", "9"].into_iter().enumerate() {
        // Without a name of its own: only the answer in between tells it.
        let headers = format!(
            "Upload-Complete: ?1\r\nUpload-Draft-Interop-Version: {version}\r\nExpect: 100-continue\r\nContent-Length: {}\r\n",
            text.len()
        );
        let mut raw = house.begin("POST", "/v1/ingest/people", &headers);
        let head = raw.head();
        assert!(
            head.starts_with("http/1.1 104 upload resumption supported\r\n"),
            "{head}"
        );
        assert!(
            value(&head, "upload-limit").unwrap().contains("max-size="),
            "{head}"
        );
        assert_eq!(value(&head, "upload-draft-interop-version"), Some(version));
        let path = value(&head, "location").unwrap().to_owned();
        let load = path.rsplit('/').next().unwrap().to_owned();
        assert_eq!(raw.head(), "http/1.1 100 continue\r\n\r\n");
        raw.send(&text.as_bytes()[..5_000]);
        raw.hang_up();
        // Who asks takes the upload over, so that what was still on its way is not waited for.
        let at = offset(&house, &load).unwrap();
        assert!(at <= 5_000, "{at}");
        let rest = &text.as_bytes()[at as usize..];
        let headers = format!(
            "Content-Type: application/partial-upload\r\nUpload-Offset: {at}\r\nUpload-Complete: ?1\r\nContent-Length: {}\r\n",
            rest.len()
        );
        let mut raw = house.begin("PATCH", &path, &headers);
        raw.send(rest);
        let (status, head, answer) = raw.answer();
        assert_eq!(
            (status, value(&head, "upload-complete")),
            (202, Some("?1")),
            "{answer}"
        );
        assert_eq!(house.end_of(&load)["stored"], 1_000);
        assert_eq!(ids(folder.path()).len(), 1_000 * (round + 1));
    }
}

#[test]
fn a_client_that_does_not_ask_is_told_nothing_in_between() {
    let folder = tempfile::tempdir().unwrap();
    let house = House::new(folder.path());
    let text = people(100, |_| false);
    let spoken = "Upload-Draft-Interop-Version: 10\r\n";
    let part = "Upload-Complete: ?0\r\n";
    for (load, headers, want) in [
        ("a", part.to_owned(), 201),
        (
            "b",
            format!("{part}Upload-Draft-Interop-Version: 8\r\n"),
            201,
        ),
        (
            "c",
            format!("{part}Upload-Draft-Interop-Version: 100\r\n"),
            201,
        ),
        ("d", spoken.to_owned(), 200),
        ("e", format!("{spoken}Prefer: respond-async\r\n"), 202),
    ] {
        let mut raw = create(&house, load, &headers, text.len());
        raw.send(text.as_bytes());
        let (status, head, _) = raw.answer();
        assert_eq!(status, want, "{headers} {head}");
    }
}

#[test]
fn an_offset_that_was_told_is_never_taken_back() {
    let folder = tempfile::tempdir().unwrap();
    let house = House::new(folder.path());
    let asks = "Upload-Complete: ?0\r\nUpload-Draft-Interop-Version: 10\r\n";
    let mut raw = create(&house, "sure", asks, LONG * 2);
    assert!(value(&raw.head(), "location").is_some());
    raw.send(&vec![b'x'; LONG]);
    let head = raw.head();
    assert!(
        head.starts_with("http/1.1 104 ") && value(&head, "location").is_none(),
        "{head}"
    );
    let told: u64 = value(&head, "upload-offset").unwrap().parse().unwrap();
    assert!((1 << 24..=LONG as u64).contains(&told), "{told}");
    raw.hang_up();
    assert!(offset(&house, "sure") >= Some(told));

    // What may be dropped for its digest is not told before that is known.
    let sum = base64_simd::STANDARD.encode_to_string([7; 32]);
    let digest = format!("{asks}Content-Digest: sha-256=:{sum}:\r\n");
    let mut raw = create(&house, "other", &digest, LONG);
    assert!(value(&raw.head(), "location").is_some());
    raw.send(&vec![b'x'; LONG]);
    let (status, head, problem) = raw.answer();
    assert_eq!(
        (status, value(&head, "upload-complete")),
        (400, Some("?0")),
        "{head}"
    );
    let digests = problem["mismatched_digests"].as_array().map(Vec::len);
    assert_eq!(digests, Some(1), "{problem}");
    assert_eq!(problem["status"], Value::from(400));
    assert_eq!(offset(&house, "other"), Some(0));
}
