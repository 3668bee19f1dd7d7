//! Loads over HTTP: what a sender hears, whatever it sends and however it leaves.
#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

mod doors;

use std::io::Write as _;
use std::time::Duration;

use doors::{House, PEOPLE, ids, options, people};
use serde_json::json;

/// Path, header, body; status, and what the answer says.
type Refused<'a> = (&'a str, (&'a str, &'a str), &'a str, u16, &'a str);

const CSV: (&str, &str) = ("content-type", "text/csv");

#[test]
fn one_bad_row_costs_one_row_and_is_told_to_the_sender() {
    let folder = tempfile::tempdir().unwrap();
    let house = House::new(folder.path());
    let text = people(1_000, |row| row % 100 == 7);
    let (status, answer) = house.post("/v1/ingest/people", &[CSV], text.as_bytes());
    assert_eq!(status, 200, "{answer}");
    assert_eq!(
        (&answer["stored"], &answer["rejected"], &answer["rows"]),
        (&json!(990), &json!(10), &json!(1_000)),
        "{answer}"
    );
    assert_eq!(answer["bytes"], text.len());
    assert_eq!(ids(folder.path()).len(), 990);
    let rejects = answer["rejects"].as_str().unwrap();
    let (status, lines) = house.text(rejects, None);
    assert_eq!((status, lines.lines().count()), (200, 10));
    let third: serde_json::Value = serde_json::from_str(lines.lines().nth(2).unwrap()).unwrap();
    assert_eq!(
        (&third["row"], &third["column"]),
        (&json!(207), &json!("id"))
    );
    let (status, part) = house.text(rejects, Some("bytes=0-9"));
    assert_eq!((status, part.as_str()), (206, &lines[..10]));
    let load = answer["load"].as_str().unwrap();
    let view = house.end_of(load);
    assert_eq!(
        (&view["state"], &view["stored"]),
        (&json!("stored"), &json!(990))
    );
    let (_, list) = house.get("/v1/ingest/loads?limit=5");
    assert_eq!(list["loads"][0]["load"], load);
}

#[test]
fn what_cannot_be_is_refused_before_its_first_byte() {
    let folder = tempfile::tempdir().unwrap();
    let mut options = options(folder.path(), &[("people", PEOPLE)]);
    options.upload_bytes = 1_000;
    let house = House::with(folder.path(), options);
    let body = "id,name\n1,a\n";
    let long = people(500, |_| false);
    let rows: [Refused<'_>; 12] = [
        ("/v1/ingest/nobody", CSV, body, 404, "declared are: people"),
        (
            "/v1/ingest/people",
            ("content-type", "image/png"),
            body,
            415,
            "text/csv",
        ),
        (
            "/v1/ingest/people",
            ("content-type", "text/tab-separated-values"),
            body,
            415,
            "delimiter",
        ),
        (
            "/v1/ingest/people",
            ("content-type", "text/csv; charset=utf-16"),
            body,
            415,
            "declared for",
        ),
        (
            "/v1/ingest/people",
            ("content-encoding", "br"),
            body,
            415,
            "gzip, zstd",
        ),
        ("/v1/ingest/people?load=../x", CSV, body, 400, "a-z"),
        ("/v1/ingest/people?tenant=", CSV, body, 400, "tenant"),
        ("/v1/ingest/people?laod=x", CSV, body, 400, "laod"),
        (
            "/v1/ingest/people",
            CSV,
            &long,
            413,
            "ingest.upload_limit is 1000",
        ),
        ("/v1/ingest/loads", CSV, body, 405, "not taken"),
        (
            "/v1/ingest/people?load=x",
            ("idempotency-key", "y"),
            body,
            400,
            "keep one",
        ),
        (
            "/v1/ingest/people",
            ("idempotency-key", ""),
            body,
            400,
            "idempotency-key",
        ),
    ];
    for (path, header, body, want, says) in rows {
        let (status, answer) = house.post(path, &[header], body.as_bytes());
        let told = answer.to_string();
        assert!(
            status == want && told.contains(says),
            "{path} {header:?}: {status} {told}"
        );
    }
    assert!(ids(folder.path()).is_empty());
}

#[test]
fn a_body_of_no_stated_length_is_bounded_too() {
    let folder = tempfile::tempdir().unwrap();
    let mut options = options(folder.path(), &[("people", PEOPLE)]);
    options.upload_bytes = 5_000;
    let house = House::with(folder.path(), options);
    let mut raw = house.begin(
        "POST",
        "/v1/ingest/people",
        "Content-Type: text/csv\r\nTransfer-Encoding: chunked\r\n",
    );
    let text = people(1_000, |_| false);
    raw.send(format!("{:x}\r\n{text}\r\n", text.len()).as_bytes());
    let (status, _, answer) = raw.answer();
    assert_eq!(status, 413, "{answer}");
    assert!(
        answer["detail"]
            .as_str()
            .unwrap()
            .contains("ingest.upload_limit")
    );
    assert_eq!(answer["stored"], ids(folder.path()).len());
}

#[test]
fn an_upload_that_is_cut_keeps_its_complete_rows_and_goes_on_under_its_name() {
    let folder = tempfile::tempdir().unwrap();
    let house = House::new(folder.path());
    let text = people(2_000, |row| row % 500 == 9);
    let mut raw = house.begin(
        "POST",
        "/v1/ingest/people?load=monday",
        &format!("Content-Length: {}\r\n", text.len()),
    );
    raw.send(&text.as_bytes()[..text.len() / 2]);
    raw.hang_up();
    let view = house.end_of("monday");
    assert_eq!(view["state"], "failed", "{view}");
    let stored = ids(folder.path());
    assert_eq!(view["stored"], stored.len());
    assert!(
        stored.len() > 800 && stored.len() < 1_200,
        "{}",
        stored.len()
    );
    let (status, answer) = house.post("/v1/ingest/people?load=monday", &[CSV], text.as_bytes());
    assert_eq!(status, 200, "{answer}");
    assert_eq!(
        (&answer["stored"], &answer["rejected"]),
        (&json!(1_996), &json!(4))
    );
    assert!(answer["resumed_at"].as_u64().unwrap() > 0);
    let wanted: Vec<_> = (1..=2_000).filter(|row| row % 500 != 9).collect();
    assert_eq!(ids(folder.path()), wanted);
    // And once more: nothing is left to do.
    let (status, answer) = house.post("/v1/ingest/people?load=monday", &[CSV], text.as_bytes());
    assert_eq!(
        (status, &answer["was_stored"]),
        (200, &json!(true)),
        "{answer}"
    );
    assert_eq!(ids(folder.path()).len(), 1_996);
}

#[test]
fn a_request_that_is_repeated_by_its_key_stores_its_rows_once() {
    let folder = tempfile::tempdir().unwrap();
    let house = House::new(folder.path());
    let text = people(100, |_| false);
    let key = ("idempotency-key", "upload 7 of 22 November");
    for was_stored in [false, true] {
        let (status, answer) = house.post("/v1/ingest/people", &[CSV, key], text.as_bytes());
        assert_eq!(
            (status, &answer["was_stored"]),
            (200, &json!(was_stored)),
            "{answer}"
        );
    }
    let other = ("idempotency-key", "another");
    house.post("/v1/ingest/people", &[CSV, other], text.as_bytes());
    assert_eq!(ids(folder.path()).len(), 200);
}

#[test]
fn a_sender_that_falls_silent_is_told_what_is_stored_and_lets_its_place_go() {
    let folder = tempfile::tempdir().unwrap();
    let mut options = options(folder.path(), &[("people", PEOPLE)]);
    options.idle = Duration::from_millis(300);
    options.loads = 1;
    let house = House::with(folder.path(), options);
    let mut raw = house.begin(
        "POST",
        "/v1/ingest/people?load=slow",
        "Content-Length: 100000\r\n",
    );
    raw.send(b"id,name\n1,a\n2,b\n3,cc");
    let (status, _, answer) = raw.answer();
    assert_eq!(status, 408, "{answer}");
    assert_eq!(
        (&answer["stored"], &answer["stored_to_row"]),
        (&json!(2), &json!(2)),
        "{answer}"
    );
    let detail = answer["detail"].as_str().unwrap();
    assert!(
        detail.contains("idle deadline") && detail.contains("?load=slow"),
        "{detail}"
    );
    assert_eq!(ids(folder.path()), [1, 2]);
    let (status, _) = house.post("/v1/ingest/people", &[CSV], b"id,name\n9,z\n");
    assert_eq!(status, 200);
}

#[test]
fn one_tenant_does_not_take_every_place() {
    let folder = tempfile::tempdir().unwrap();
    let mut options = options(folder.path(), &[("people", PEOPLE)]);
    (options.loads, options.tenant_loads) = (2, 1);
    let house = House::with(folder.path(), options);
    let hold = |tenant: &str, load: &str| {
        let path = format!("/v1/ingest/people?tenant={tenant}&load={load}");
        let mut raw = house.begin("POST", &path, "Content-Length: 100000\r\n");
        raw.send(b"id,name\n1,a\n");
        house.until(|house| {
            let (status, _) = house.get(&format!("/v1/ingest/loads/{load}"));
            (status == 200).then_some(())
        });
        raw
    };
    let red = hold("red", "one");
    let ask = |path: &str| {
        let raw = house.begin("POST", path, "Content-Length: 0\r\n");
        raw.answer()
    };
    let (status, head, answer) = ask("/v1/ingest/people?tenant=red");
    assert!(
        status == 429 && head.contains("retry-after: "),
        "{head} {answer}"
    );
    assert!(
        answer["detail"].as_str().unwrap().contains("`red`"),
        "{answer}"
    );
    let (status, _, answer) = ask("/v1/ingest/people?load=one");
    assert_eq!(status, 409, "{answer}");
    let blue = hold("blue", "two");
    let (status, head, _) = ask("/v1/ingest/people?tenant=green");
    assert!(status == 429 && head.contains("retry-after: "));
    red.hang_up();
    house.end_of("one");
    let green = hold("green", "three");
    drop((blue, green));
}

#[test]
fn bad_input_is_answered_precisely_and_nothing_is_stored_in_silence() {
    let folder = tempfile::tempdir().unwrap();
    let strict = PEOPLE.replace("people.ndjson", "strict.ndjson") + "on_bad_row = \"stop\"\n";
    let targets = [("people", PEOPLE), ("strict", strict.as_str())];
    let house = House::with(folder.path(), options(folder.path(), &targets));
    let bomb = {
        let mut packed = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
        packed.write_all(b"id,name\n1,a\n").unwrap();
        let zeros = vec![b'0'; 1 << 20];
        for _ in 0..64 {
            packed.write_all(&zeros).unwrap();
        }
        packed.finish().unwrap()
    };
    let mut cut = bomb.clone();
    cut.truncate(40);
    let rows: [(&str, Vec<u8>, u16, &str); 8] = [
        ("people", bomb, 422, "limits.ratio"),
        ("people", cut, 422, "ends early"),
        ("people", b"id,nmae\n1,a\n".to_vec(), 422, "name"),
        ("people", b"id,id,name\n1,1,a\n".to_vec(), 422, "id"),
        ("strict", b"id,name\n1,a\n2,\0\n".to_vec(), 422, "row 2"),
        (
            "strict",
            b"id,name\n1,a\n2,b,c\n3,d\n".to_vec(),
            422,
            "row 2",
        ),
        ("strict", b"id,name\n1,\xff\n".to_vec(), 422, "row 1"),
        (
            "strict",
            b"id,name\n1,\"never closed\n2,b\n".to_vec(),
            422,
            "row 1",
        ),
    ];
    for (target, body, want, says) in rows {
        let (status, answer) = house.post(&format!("/v1/ingest/{target}"), &[], &body);
        let detail = answer["detail"].as_str().unwrap_or_default();
        let shown = String::from_utf8_lossy(&body[..body.len().min(30)]);
        assert_eq!(status, want, "{shown:?}: {answer}");
        assert!(
            detail.contains(says) && detail.contains("stored: "),
            "{shown:?}: {answer}"
        );
        assert!(
            answer["stored"].is_u64() && answer["load"].is_string(),
            "{answer}"
        );
    }
    // The same rows where they may be put aside.
    let body = b"id,name\n1,a\n2,\0\n3,b,c\n4,\xff\n5,e\n";
    let (status, answer) = house.post("/v1/ingest/people", &[CSV], body);
    assert_eq!((status, &answer["rejected"]), (200, &json!(3)), "{answer}");
}

#[test]
fn what_ended_before_a_restart_is_known_behind_it() {
    let folder = tempfile::tempdir().unwrap();
    let house = House::new(folder.path());
    let text = people(100, |row| row == 50);
    let (_, answer) = house.post("/v1/ingest/people?load=before", &[CSV], text.as_bytes());
    assert_eq!(answer["rejected"], 1, "{answer}");
    house.end();
    let house = House::new(folder.path());
    let (status, view) = house.get("/v1/ingest/loads/before");
    assert_eq!((status, &view["stored"]), (200, &json!(99)), "{view}");
    let (status, lines) = house.text(view["rejects"].as_str().unwrap(), None);
    assert_eq!((status, lines.lines().count()), (200, 1));
    let (status, answer) = house.post("/v1/ingest/people?load=before", &[CSV], text.as_bytes());
    assert_eq!(
        (status, &answer["was_stored"]),
        (200, &json!(true)),
        "{answer}"
    );
}

#[test]
fn the_oldest_ends_and_their_reject_files_go() {
    let folder = tempfile::tempdir().unwrap();
    let mut options = options(folder.path(), &[("people", PEOPLE)]);
    options.history = 3;
    let house = House::with(folder.path(), options);
    for turn in 0..5 {
        let path = format!("/v1/ingest/people?load=turn-{turn}");
        let (status, _) = house.post(&path, &[CSV], b"id,name\nx,a\n");
        assert_eq!(status, 200);
    }
    let left = house.until(|_| {
        let files = std::fs::read_dir(folder.path().join("data/ingest/rejects")).unwrap();
        let names = files.map(|file| file.unwrap().file_name().into_string().unwrap());
        let names: Vec<_> = names.collect();
        (names.len() == 3).then_some(names)
    });
    assert!(
        left.iter()
            .all(|name| !name.starts_with("turn-0") && !name.starts_with("turn-1"))
    );
    let (status, _) = house.get("/v1/ingest/loads/turn-0");
    assert_eq!(status, 404);
    let (_, first) = house.get("/v1/ingest/loads?limit=2");
    let cursor = first["next_cursor"].as_str().unwrap();
    let (_, second) = house.get(&format!("/v1/ingest/loads?limit=2&cursor={cursor}"));
    let of = |page: &serde_json::Value| page["loads"].as_array().unwrap().len();
    assert_eq!((of(&first), of(&second)), (2, 1));
}

#[test]
fn who_follows_a_load_hears_its_end() {
    let folder = tempfile::tempdir().unwrap();
    let house = House::new(folder.path());
    let mut raw = house.begin(
        "POST",
        "/v1/ingest/people?load=live",
        "Content-Length: 24\r\n",
    );
    raw.send(b"id,name\n1,a\n");
    house.until(|house| (house.get("/v1/ingest/loads/live").0 == 200).then_some(()));
    let url = house.url("/v1/ingest/loads/live/events");
    let (heard, told) = std::sync::mpsc::channel();
    let reader = std::thread::spawn(move || {
        let mut answer = House::agent().get(url).call().unwrap();
        heard.send(()).unwrap();
        answer.body_mut().read_to_string().unwrap()
    });
    told.recv().unwrap();
    raw.send(b"2,b\n3,cccc\n\n");
    let (status, _, answer) = raw.answer();
    assert_eq!((status, &answer["stored"]), (200, &json!(3)), "{answer}");
    let events = reader.join().unwrap();
    assert!(events.starts_with("event: status\n"), "{events}");
    let (_, end) = events.split_once("event: end\ndata: ").unwrap();
    let end: serde_json::Value = serde_json::from_str(end.trim()).unwrap();
    assert_eq!(
        (&end["state"], &end["stored"]),
        (&json!("stored"), &json!(3))
    );
}

#[test]
fn every_route_is_in_the_servers_description() {
    let folder = tempfile::tempdir().unwrap();
    let house = House::new(folder.path());
    let (_, document) = house.get("/openapi.json");
    for path in [
        "/v1/ingest/targets",
        "/v1/ingest/{target}",
        "/v1/ingest/loads",
        "/v1/ingest/loads/{load}",
        "/v1/ingest/loads/{load}/rejects",
        "/v1/ingest/loads/{load}/events",
    ] {
        assert!(document["paths"][path].is_object(), "{path}");
    }
    let (_, targets) = house.get("/v1/ingest/targets");
    assert_eq!(
        targets["targets"][0]["columns"][0]["type"], "int4",
        "{targets}"
    );
    assert!(
        !targets.to_string().contains("ndjson\",\"people.ndjson"),
        "{targets}"
    );
}
