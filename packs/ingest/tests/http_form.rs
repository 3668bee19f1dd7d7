//! Forms of browsers and curl, and packed bodies, through the door: the same rows as of a plain body.
#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

mod doors;

use std::io::Write as _;

use doors::{House, PEOPLE, ids, options, people};
use serde_json::json;

const FORM: (&str, &str) = ("content-type", "multipart/form-data; boundary=----form--8");

/// Name, headers, body.
type Sent<'a> = (&'a str, Vec<(&'a str, &'a str)>, Vec<u8>);

/// As a browser sends it.
fn form(kind: &str, file: &[u8]) -> Vec<u8> {
    let head = format!(
        "------form--8\r\nContent-Disposition: form-data; name=\"upload\"; filename=\"people\"\r\nContent-Type: {kind}\r\n\r\n"
    );
    [head.as_bytes(), file, b"\r\n------form--8--\r\n"].concat()
}

fn gzip(text: &[u8]) -> Vec<u8> {
    let mut packer = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    packer.write_all(text).unwrap();
    packer.finish().unwrap()
}

fn zstd(text: &[u8]) -> Vec<u8> {
    let mut packed = vec![0; zstd_safe::compress_bound(text.len())];
    let len = zstd_safe::compress(&mut packed[..], text, 1).unwrap();
    packed.truncate(len);
    packed
}

#[test]
fn a_file_in_a_form_or_packed_is_stored_as_one_that_is_sent_plain() {
    let folder = tempfile::tempdir().unwrap();
    let house = House::new(folder.path());
    let text = people(2_000, |row| row % 500 == 9);
    let (plain, gz) = (text.as_bytes(), gzip(text.as_bytes()));
    let zst = zstd(plain);
    let csv = ("content-type", "text/csv");
    let bytes = ("content-type", "application/octet-stream");
    let encoded = |name| ("content-encoding", name);
    let rows: [Sent<'_>; 9] = [
        ("form", vec![FORM], form("text/csv", plain)),
        (
            "form-excel",
            vec![FORM],
            form("application/vnd.ms-excel", plain),
        ),
        ("form-gz", vec![FORM], form("application/gzip", &gz)),
        (
            "form-zst",
            vec![FORM],
            form("application/octet-stream", &zst),
        ),
        ("gz", vec![csv, encoded("gzip")], gz.clone()),
        ("zst", vec![csv, encoded("zstd")], zst.clone()),
        ("gz-bytes", vec![bytes], gz),
        ("zst-bytes", vec![bytes], zst),
        ("plain", vec![csv], plain.to_vec()),
    ];
    let mut stored = 0;
    for (name, headers, body) in rows {
        for (mode, wanted) in [("now", 200), ("later", 202)] {
            let mut headers = headers.clone();
            if mode == "later" {
                headers.push(("prefer", "respond-async"));
            }
            let path = format!("/v1/ingest/people?load={name}-{mode}");
            let (status, answer) = house.post(&path, &headers, &body);
            assert_eq!(status, wanted, "{name} {mode}: {answer}");
            let view = house.end_of(&format!("{name}-{mode}"));
            let counts = (&view["stored"], &view["rejected"]);
            assert_eq!(counts, (&json!(1_996), &json!(4)), "{name} {mode}: {view}");
            stored += 1_996;
        }
    }
    assert_eq!(ids(folder.path()).len(), stored);
}

#[test]
fn tabs_are_taken_by_their_type_and_by_no_other() {
    let folder = tempfile::tempdir().unwrap();
    let tabs = format!("{PEOPLE}\ndelimiter = \"tab\"");
    let house = House::with(folder.path(), options(folder.path(), &[("people", &tabs)]));
    let body = b"id\tname\n1\ta, b\n2\t\"c\td\"\n";
    let tsv = "text/tab-separated-values";
    let post = |kind: (&str, &str), body: &[u8]| {
        let (status, answer) = house.post("/v1/ingest/people", &[kind], body);
        (
            status,
            answer["stored"].as_u64(),
            answer["detail"].to_string(),
        )
    };
    assert_eq!(post(("content-type", tsv), body).1, Some(2));
    assert_eq!(post(FORM, &form(tsv, body)).1, Some(2));
    for (kind, body) in [
        (("content-type", "text/csv"), body.to_vec()),
        (FORM, form("text/csv", body)),
    ] {
        let (status, _, told) = post(kind, &body);
        assert!(status == 415 && told.contains(tsv), "{status} {told}");
    }
}

#[test]
fn a_form_that_cannot_be_taken_is_told_by_what_is_wrong_with_it() {
    let folder = tempfile::tempdir().unwrap();
    let house = House::new(folder.path());
    let text = people(3, |_| false);
    let good = form("text/csv", text.as_bytes());
    let field = b"------form--8\r\nContent-Disposition: form-data; name=\"tenant\"\r\n\r\nx\r\n";
    let rows = [
        (
            [&field[..], &good].concat(),
            vec![FORM],
            400,
            "`tenant` before its file",
        ),
        (
            good.clone(),
            vec![("content-type", "multipart/form-data")],
            400,
            "boundary",
        ),
        (form("image/png", b"x"), vec![FORM], 415, "image/png"),
        (
            good.clone(),
            vec![FORM, ("content-encoding", "gzip")],
            415,
            "unpacked",
        ),
        (
            good.clone(),
            vec![FORM, ("upload-complete", "?1")],
            415,
            "in parts",
        ),
        (
            good[..good.len() - 20].to_vec(),
            vec![FORM],
            400,
            "closing boundary",
        ),
        (b"hello".to_vec(), vec![FORM], 400, "closing boundary"),
    ];
    for (body, headers, wanted, says) in rows {
        for prefer in [None, Some(("prefer", "respond-async"))] {
            let headers: Vec<_> = headers.iter().copied().chain(prefer).collect();
            let (status, answer) = house.post("/v1/ingest/people", &headers, &body);
            let told = answer["detail"].as_str().unwrap();
            assert!(status == wanted && told.contains(says), "{status} {answer}");
        }
    }
    // Of the forms that are cut, the complete rows of the direct one.
    assert_eq!(ids(folder.path()), [1, 2]);
    let spool = std::fs::read_dir(folder.path().join("data/ingest/spool")).unwrap();
    assert_eq!(spool.count(), 0, "something is left in the spool");
}
