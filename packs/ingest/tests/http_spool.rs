//! Bodies that wait for their job, and bodies that come in parts: over cuts, restarts and full disks.
#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

mod doors;

use std::path::Path;
use std::task::Poll;

use doors::{House, PEOPLE, ids, options, people};
use offloop::http::axum::body::Body;
use offloop::http::axum::extract::Request;
use serde_json::{Value, json};
use tower_service::Service as _;

fn spooled(folder: &Path) -> Vec<String> {
    let files = std::fs::read_dir(folder.join("data/ingest/spool")).unwrap();
    let names = files.map(|file| file.unwrap().file_name().into_string().unwrap());
    names.collect()
}

/// The job once it is over.
fn job(house: &House, path: &str) -> Value {
    house.until(|house| {
        let (_, job) = house.get(path);
        job["finished_at"].is_string().then_some(job)
    })
}

#[test]
fn an_acknowledged_body_is_stored_by_its_job_and_leaves_nothing_behind() {
    let folder = tempfile::tempdir().unwrap();
    let house = House::new(folder.path());
    let text = people(1_000, |row| row % 250 == 1);
    let prefer = ("prefer", "respond-async");
    let (status, answer) = house.post("/v1/ingest/people?load=later", &[prefer], text.as_bytes());
    assert_eq!(
        (status, &answer["state"]),
        (202, &json!("waiting")),
        "{answer}"
    );
    let path = format!("/v1/jobs/{}", answer["job"].as_str().unwrap());
    let job = job(&house, &path);
    assert_eq!(job["state"], "completed", "{job}");
    assert_eq!(
        (&job["result"]["stored"], &job["result"]["rejected"]),
        (&json!(996), &json!(4))
    );
    let view = house.end_of("later");
    assert_eq!(
        (&view["state"], &view["stored"], &view["job"]),
        (&json!("stored"), &json!(996), &answer["job"])
    );
    assert_eq!(ids(folder.path()).len(), 996);
    assert!(
        spooled(folder.path()).is_empty(),
        "{:?}",
        spooled(folder.path())
    );
}

#[test]
fn a_body_that_is_cut_before_its_end_has_no_job() {
    let folder = tempfile::tempdir().unwrap();
    let house = House::new(folder.path());
    let headers = "Prefer: respond-async\r\nContent-Length: 5000\r\n";
    let mut raw = house.begin("POST", "/v1/ingest/people?load=cut", headers);
    raw.send(b"id,name\n1,a\n");
    house.until(|_| {
        spooled(folder.path())
            .contains(&"cut.part".to_owned())
            .then_some(())
    });
    raw.hang_up();
    house.until(|_| spooled(folder.path()).is_empty().then_some(()));
    let (_, jobs) = house.get("/v1/jobs?task=ingest");
    assert_eq!(jobs["jobs"], json!([]));
    assert!(ids(folder.path()).is_empty());
}

#[test]
fn an_upload_in_parts_goes_on_over_a_restart_of_the_server() {
    let folder = tempfile::tempdir().unwrap();
    let house = House::new(folder.path());
    let text = people(3_000, |_| false);
    let (first, rest) = text.as_bytes().split_at(20_000);
    let raw = {
        let headers = format!(
            "Upload-Complete: ?0\r\nUpload-Length: {}\r\nContent-Length: 20000\r\n",
            text.len()
        );
        let mut raw = house.begin("POST", "/v1/ingest/people?load=parts", &headers);
        raw.send(first);
        raw
    };
    let (status, head, _) = raw.answer();
    assert_eq!(status, 201, "{head}");
    for says in [
        "location: /v1/ingest/uploads/parts",
        "upload-offset: 20000",
        "upload-complete: ?0",
        "max-size=",
    ] {
        assert!(head.contains(says), "{says}: {head}");
    }
    house.end();
    let house = House::new(folder.path());
    let ask = |method: &str, headers: &str, body: &[u8]| {
        let headers = format!("{headers}Content-Length: {}\r\n", body.len());
        let mut raw = house.begin(method, "/v1/ingest/uploads/parts", &headers);
        raw.send(body);
        raw.answer()
    };
    let (status, head, _) = ask("GET", "", b"");
    assert!(
        status == 204 && head.contains("upload-offset: 20000"),
        "{head}"
    );
    let part = "Content-Type: application/partial-upload\r\n";
    let (status, _, problem) = ask(
        "PATCH",
        &format!("{part}Upload-Offset: 7\r\nUpload-Complete: ?0\r\n"),
        b"x",
    );
    assert_eq!(
        (status, &problem["expected-offset"]),
        (409, &json!(20_000)),
        "{problem}"
    );
    let (status, _, problem) = ask(
        "PATCH",
        "Upload-Offset: 20000\r\nUpload-Complete: ?0\r\n",
        b"x",
    );
    assert_eq!(status, 415, "{problem}");
    // A part whose connection is lost.
    let headers = format!(
        "{part}Upload-Offset: 20000\r\nUpload-Complete: ?1\r\nContent-Length: {}\r\n",
        rest.len()
    );
    let mut raw = house.begin("PATCH", "/v1/ingest/uploads/parts", &headers);
    raw.send(&rest[..10_000]);
    raw.hang_up();
    let at = house.until(|_| {
        let (_, head, _) = ask("GET", "", b"");
        let at = head
            .lines()
            .find_map(|line| line.strip_prefix("upload-offset: ").map(str::to_owned));
        let at: usize = at.unwrap().parse().unwrap();
        (at > 20_000).then_some(at)
    });
    let last = format!("{part}Upload-Offset: {at}\r\nUpload-Complete: ?1\r\n");
    let (status, head, answer) = ask("PATCH", &last, &text.as_bytes()[at..]);
    assert_eq!(status, 202, "{head} {answer}");
    let path = format!("/v1/jobs/{}", answer["job"].as_str().unwrap());
    assert_eq!(job(&house, &path)["state"], "completed");
    assert_eq!(ids(folder.path()), (1..=3_000).collect::<Vec<_>>());
}

#[test]
fn the_spool_takes_no_more_than_it_may_and_says_so() {
    let folder = tempfile::tempdir().unwrap();
    let mut options = options(folder.path(), &[("people", PEOPLE)]);
    options.spool_bytes = 10_000;
    options.upload_bytes = 50_000;
    let house = House::with(folder.path(), options);
    let begin = |path: &str, headers: &str, body: &[u8]| {
        let mut raw = house.begin("POST", path, headers);
        raw.send(body);
        raw.answer()
    };
    let (status, head, problem) = begin(
        "/v1/ingest/people?load=a",
        "Upload-Complete: ?0\r\nUpload-Length: 20000\r\nContent-Length: 1\r\n",
        b"x",
    );
    assert!(
        status == 507 && head.contains("retry-after"),
        "{head} {problem}"
    );
    assert!(
        problem["detail"]
            .as_str()
            .unwrap()
            .contains("ingest.spool_limit"),
        "{problem}"
    );
    let (status, _, problem) = begin(
        "/v1/ingest/people?load=b",
        "Upload-Complete: ?0\r\nUpload-Length: 60000\r\nContent-Length: 1\r\n",
        b"x",
    );
    assert_eq!(status, 413, "{problem}");
    let chunk = vec![b'x'; 9_000];
    let (status, _, _) = begin(
        "/v1/ingest/people?load=c",
        "Upload-Complete: ?0\r\nContent-Length: 9000\r\n",
        &chunk,
    );
    assert_eq!(status, 201);
    let text = people(300, |_| false);
    let headers = "Prefer: respond-async\r\nTransfer-Encoding: chunked\r\n";
    let body = format!("{:x}\r\n{text}\r\n0\r\n\r\n", text.len());
    let (status, _, problem) = begin("/v1/ingest/people?load=d", headers, body.as_bytes());
    assert_eq!(status, 507, "{problem}");
    // Giving an upload up makes room.
    let raw = house.begin("DELETE", "/v1/ingest/uploads/c", "");
    assert_eq!(raw.answer().0, 204);
    let (status, _, answer) = begin("/v1/ingest/people?load=e", headers, body.as_bytes());
    assert_eq!(status, 202, "{answer}");
    assert_eq!(house.end_of("e")["stored"], 300);
}

#[test]
fn what_is_said_of_an_uploads_length_is_held_to_and_limits_are_told() {
    let folder = tempfile::tempdir().unwrap();
    let mut options = options(folder.path(), &[("people", PEOPLE)]);
    options.upload_bytes = 50_000;
    let house = House::with(folder.path(), options);
    let ask = |method: &str, path: &str, headers: &str, body: &[u8]| {
        let headers = format!("{headers}Content-Length: {}\r\n", body.len());
        let mut raw = house.begin(method, path, &headers);
        raw.send(body);
        raw.answer()
    };
    let (status, head, _) = ask("OPTIONS", "/v1/ingest/people", "", b"");
    let limit = head.contains("upload-limit: max-size=50000");
    assert!(status == 204 && limit, "{status} {head}");
    let length = |problem: &Value| problem["type"].as_str().unwrap().to_owned();
    let other = "https://iana.org/assignments/http-problem-types#inconsistent-upload-length";
    let create = |load: &str, headers: &str, body: &[u8]| {
        ask(
            "POST",
            &format!("/v1/ingest/people?load={load}"),
            headers,
            body,
        )
    };
    let (status, _, problem) = create("a", "Upload-Complete: ?1\r\nUpload-Length: 7\r\n", b"x");
    assert_eq!((status, length(&problem)), (400, other.into()), "{problem}");
    let (status, head, _) = create("b", "Upload-Complete: ?0\r\nUpload-Length: 60000\r\n", b"x");
    assert!(
        status == 413 && head.contains("upload-limit: max-size=50000"),
        "{head}"
    );
    // It is the upload that is refused, not its file.
    assert!(head.contains("upload-complete: ?0"), "{head}");

    let text = people(100, |_| false);
    let (first, rest) = text.as_bytes().split_at(100);
    assert_eq!(create("c", "Upload-Complete: ?0\r\n", first).0, 201);
    let path = "/v1/ingest/uploads/c";
    let part = "Content-Type: application/partial-upload\r\nUpload-Offset: 100\r\n";
    let say = |more: &str, body: &[u8]| ask("PATCH", path, &format!("{part}{more}"), body);
    // The length is known from here on, and the next request says another one.
    let all = format!("Upload-Complete: ?0\r\nUpload-Length: {}\r\n", text.len());
    assert_eq!(say(&all, b"").0, 204);
    let (_, head, _) = ask("GET", path, "", b"");
    let known = format!("upload-length: {}", text.len());
    assert!(
        head.contains(&known) && head.contains("max-age=86"),
        "{head}"
    );
    let (status, _, problem) = say("Upload-Complete: ?1\r\n", b"short");
    assert_eq!((status, length(&problem)), (400, other.into()), "{problem}");
    let (status, head, answer) = say("Upload-Complete: ?1\r\n", rest);
    assert!(
        status == 202 && head.contains("upload-complete: ?1"),
        "{head} {answer}"
    );
    assert_eq!(house.end_of("c")["stored"], 100);

    // More than was announced: the upload is over.
    let two = "Upload-Complete: ?0\r\nUpload-Length: 101\r\n";
    assert_eq!(create("d", two, first).0, 201);
    let head = format!("{part}Upload-Complete: ?0\r\n");
    let (status, _, problem) = ask("PATCH", "/v1/ingest/uploads/d", &head, b"xyz");
    assert_eq!((status, length(&problem)), (400, other.into()), "{problem}");
    assert_eq!(ask("GET", "/v1/ingest/uploads/d", "", b"").0, 404);
    assert!(spooled(folder.path()).is_empty());
}

#[test]
fn a_client_that_lost_its_last_answer_gets_it_once_more_and_adds_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let house = House::new(folder.path());
    let (status, _) = house.post("/v1/queues/ingest/pause", &[], b"");
    assert_eq!(status, 200);
    let text = people(300, |_| false);
    let parts = [("upload-complete", "?0")];
    let (status, _) = house.post(
        "/v1/ingest/people?load=lost",
        &parts,
        &text.as_bytes()[..50],
    );
    assert_eq!(status, 201);
    let say = |at: usize, complete: &str, body: &[u8]| {
        let headers = format!(
            "Content-Type: application/partial-upload\r\nUpload-Offset: {at}\r\nUpload-Complete: {complete}\r\nContent-Length: {}\r\n",
            body.len()
        );
        let mut raw = house.begin("PATCH", "/v1/ingest/uploads/lost", &headers);
        raw.send(body);
        raw.answer()
    };
    let (status, _, answer) = say(50, "?1", &text.as_bytes()[50..]);
    assert_eq!(status, 202, "{answer}");
    let end = text.len();
    let (status, head, again) = say(end, "?1", b"");
    assert_eq!((status, &again["job"]), (202, &answer["job"]), "{again}");
    assert!(head.contains("upload-complete: ?1"), "{head}");
    for (at, complete, body, want, kind) in [
        (50, "?1", &b""[..], 409, "mismatching-upload-offset"),
        (end, "?1", b"x", 400, "inconsistent-upload-length"),
        (end, "?0", b"", 400, "inconsistent-upload-length"),
    ] {
        let (status, head, problem) = say(at, complete, body);
        let is_kind = problem["type"].as_str().unwrap().ends_with(kind);
        assert!(status == want && is_kind, "{problem}");
        assert!(head.contains("upload-complete: ?0"), "{head}");
    }
    let (status, _) = house.post("/v1/queues/ingest/resume", &[], b"");
    assert_eq!(status, 200);
    assert_eq!(house.end_of("lost")["stored"], 300);
    assert_eq!(ids(folder.path()).len(), 300);
}

/// Its job is done and comes no more: it lay there, and was told to wait for ever.
#[test]
fn a_body_that_is_stored_already_is_not_kept_when_it_is_sent_again() {
    let folder = tempfile::tempdir().unwrap();
    let house = House::new(folder.path());
    let text = people(10, |_| false);
    let prefer = ("prefer", "respond-async");
    for round in 0..2 {
        let (status, told) = house.post("/v1/ingest/people?load=twice", &[prefer], text.as_bytes());
        assert_eq!(status, 202, "round {round}: {told}");
        let view = house.end_of("twice");
        assert_eq!(
            (&view["state"], &view["stored"]),
            (&json!("stored"), &json!(10))
        );
        house.until(|_| spooled(folder.path()).is_empty().then_some(()));
    }
    assert_eq!(ids(folder.path()).len(), 10);
}

/// Asks, and forgets the handler after so many looks at it, as a server does whose client resets a stream.
/// `None`: it was forgotten.
fn forgotten_after(house: &House, looks: u32, request: Request<Body>) -> Option<u16> {
    let mut router = house.router.clone();
    house.runtime.block_on(async {
        let mut call = std::pin::pin!(router.call(request));
        let mut left = looks;
        let end = std::future::poll_fn(|context| {
            if left == 0 {
                return Poll::Ready(None);
            }
            left -= 1;
            call.as_mut().poll(context).map(Some)
        });
        end.await.map(|answer| answer.unwrap().status().as_u16())
    })
}

/// Its name stayed taken for as long as the server lived, or its body was whole and never had a job.
#[test]
fn a_sender_that_is_gone_at_any_moment_leaves_a_body_that_can_be_sent_again() {
    let folder = tempfile::tempdir().unwrap();
    let house = House::new(folder.path());
    let text = people(3, |_| false);
    let mut answered = 0;
    let mut sent = 0;
    for looks in 1..=40 {
        let path = format!("/v1/ingest/people?load=gone-{looks}");
        let request = Request::post(&path).header("prefer", "respond-async");
        let request = request.body(Body::from(text.clone())).unwrap();
        let first = forgotten_after(&house, looks, request);
        answered += u32::from(first.is_some());
        // What was under way when it was forgotten may still be: then the second one comes behind it.
        let again = [("prefer", "respond-async")];
        let (status, told) = house.post(&path, &again, text.as_bytes());
        let why = told["detail"].as_str().unwrap_or_default();
        assert!(
            status == 202 || status == 409 && why.contains("in the spool already"),
            "{looks} looks, {first:?}: {status} {told}"
        );
        sent += 1;
        assert_eq!(house.end_of(&format!("gone-{looks}"))["state"], "stored");
    }
    assert!(answered > 0, "40 looks are enough for an answer");
    assert_eq!(ids(folder.path()).len(), sent * 3, "each once");
    // One that was stored already was taken and not kept.
    house.until(|_| spooled(folder.path()).is_empty().then_some(()));
}
