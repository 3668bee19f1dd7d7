//! The task `fetch` and its routes on a real server, against a server that misbehaves.
#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

#[path = "support/house.rs"]
mod house;
mod support;

use std::io::{BufRead as _, BufReader, Write as _};
use std::net::TcpStream;

use house::{House, result};
use offloop::store::{InsertOutcome, InsertRefusal, RecordScan};
use offloop::{JobState, TaskName, block_on};
use offloop_fetch::{BreakerRule, FetchOptions};
use serde_json::{Value, json};
use support::SOON;

fn rows_left(house: &House) -> usize {
    let scan = RecordScan {
        collection: TaskName::parse("fetch.done").unwrap(),
        label: None,
        after: None,
        limit: 10_000,
    };
    block_on(house.handle().records(scan))
        .unwrap()
        .records
        .len()
}

#[test]
fn a_job_tells_what_became_of_each_of_its_calls() {
    let folder = tempfile::tempdir().unwrap();
    let house = House::new(folder.path(), |builder| builder);
    let url = |path: &str| house.bad.url(path);
    let job = house.run(&json!({
        "requests": [
            {"id": "good", "url": url("/ok?key=hunter2")}, url("/flaky/2/x"), url("/status/404"), url("/early"),
            {"url": url("/echo"), "method": "POST", "json": {"a": 1}},
        ],
        "retry": {"max": 3, "base_ms": 1, "cap_ms": 5},
    }));
    assert_eq!(job.summary.state, JobState::Completed);
    let result = result(&job);
    assert_eq!(
        (&result["ok"], &result["failed"]),
        (&json!(3), &json!(2)),
        "{result}"
    );
    assert_eq!(result["statuses"], json!({"2xx": 3, "4xx": 1}));
    assert_eq!(result["causes"], json!({"status": 1, "reset": 1}));
    assert_eq!(
        result["retries"], 5,
        "2 for the flaky one, 3 for the one that hangs up"
    );
    let results = result["results"].as_array().unwrap();
    assert_eq!(
        (&results[0]["id"], &results[0]["body"]),
        (&json!("good"), &json!("ok"))
    );
    assert_eq!(results[2]["body"], "{\"a\":1}");
    assert_eq!(result["failures"][0]["status"], 404);
    assert!(
        !result.to_string().contains("hunter2"),
        "a query may be a secret"
    );
    assert_eq!(
        rows_left(&house),
        0,
        "nothing is left of a job that is completed"
    );
}

#[test]
fn what_cannot_be_called_is_refused_at_the_door_by_the_name_of_its_field() {
    let folder = tempfile::tempdir().unwrap();
    let house = House::new(folder.path(), |builder| builder);
    #[rustfmt::skip]
    let rows = [
        (json!({"urls": [house.bad.url("/ok"), "http://169.254.169.254/"]}), "/urls/1"),
        (json!({"urls": ["http://127.0.0.2/"]}), "/urls/0"), (json!({"urls": ["file:///etc/passwd"]}), "/urls/0"),
        (json!({"urls": [house.bad.url("/ok")], "on_result": "task", "task": "nobody"}), "/task"),
        (json!({"urls": [house.bad.url("/ok")], "limt": 3}), "/limt"),
    ];
    for (payload, pointer) in rows {
        let InsertOutcome::Refused(InsertRefusal::Payload { problems, .. }) =
            house.enqueue(&payload)
        else {
            panic!("{payload} was taken in");
        };
        assert_eq!(problems[0].pointer, pointer);
        let (status, answer) = house.post("application/json", &payload.to_string());
        assert_eq!(
            (status, &answer["field"]),
            (422, &json!(pointer)),
            "{answer}"
        );
    }
    assert_eq!(house.bad.seen.count("/ok"), 0);
}

#[test]
fn a_list_that_fails_by_its_rule_fails_its_job_and_says_why() {
    let folder = tempfile::tempdir().unwrap();
    let house = House::new(folder.path(), |builder| builder);
    let url = |path: &str| house.bad.url(path);
    let payload = json!({"urls": [url("/ok"), url("/status/404")], "rule": "all", "limit": 1});
    let mut job = offloop::NewJob {
        task: TaskName::parse("fetch").unwrap(),
        payload: payload.to_string().into(),
        options: offloop::JobOptions::default(),
        idempotency: None,
    };
    job.options.retry.max_attempts = 1;
    let outcome = block_on(house.handle().enqueue(vec![job]))
        .unwrap()
        .remove(0);
    let InsertOutcome::Created { id, .. } = outcome else {
        panic!("{outcome:?}")
    };
    let ended = house.job(id);
    assert_eq!(ended.summary.state, JobState::Failed);
    let failure = ended.summary.failure.unwrap();
    assert!(
        failure.message.contains("1 of 2 calls failed") && failure.message.contains("404"),
        "{failure:?}"
    );
    // By hand once more: what succeeded is not called again, what failed is.
    block_on(house.handle().retry(id)).unwrap();
    house.job(id);
    assert_eq!(house.bad.seen.count("/ok"), 1);
    assert_eq!(house.bad.seen.count("/status/404"), 2);
}

#[test]
fn race_and_any_end_with_the_first_that_counts() {
    let folder = tempfile::tempdir().unwrap();
    let house = House::new(folder.path(), |builder| builder);
    let url = |path: &str| house.bad.url(path);
    let job = house.run(
        &json!({"urls": [url("/hang"), url("/status/404"), url("/delay/300")], "rule": "any"}),
    );
    let told = result(&job);
    assert_eq!(
        (&told["ok"], &told["cancelled"]),
        (&json!(1), &json!(1)),
        "{told}"
    );
    assert_eq!(told["total"], 3);
    assert_eq!(rows_left(&house), 0);
}

#[test]
fn each_answer_becomes_one_job_of_the_task_that_takes_it() {
    let folder = tempfile::tempdir().unwrap();
    let house = House::new(folder.path(), |builder| builder);
    let mut urls: Vec<_> = (0..40)
        .map(|turn| house.bad.url(&format!("/bytes/{turn}")))
        .collect();
    urls.push(house.bad.url("/status/404"));
    let job = house.run(&json!({"urls": urls, "on_result": "task", "task": "take"}));
    assert_eq!(result(&job)["ok"], 40);
    let listed = house.get("/v1/jobs?task=take&limit=100");
    let jobs = listed["jobs"].as_array().unwrap();
    assert_eq!(jobs.len(), 40, "one per success");
    let one = house.get(&format!("/v1/jobs/{}", jobs[0]["id"].as_str().unwrap()));
    assert_eq!(one["payload"]["fetch_job"], job.summary.id.to_string());
    assert_eq!(one["payload"]["answer"]["status"], 200);
}

#[test]
fn answers_wait_for_a_queue_that_is_full_and_none_is_lost() {
    let folder = tempfile::tempdir().unwrap();
    let house = House::new(folder.path(), |builder| builder.queue_jobs_max(5));
    let urls: Vec<_> = (0..30)
        .map(|turn| house.bad.url(&format!("/bytes/{turn}")))
        .collect();
    let job = house.run(&json!({"urls": urls, "on_result": "task", "task": "take", "limit": 30}));
    assert_eq!(result(&job)["ok"], 30);
    let taken = house.until(|| {
        let listed = house.get("/v1/jobs?task=take&state=completed&limit=100");
        let jobs = listed["jobs"].as_array().unwrap().len();
        (jobs == 30).then_some(jobs)
    });
    assert_eq!(taken, 30);
}

#[test]
fn a_stored_body_is_whole_or_not_there_at_all() {
    let folder = tempfile::tempdir().unwrap();
    let bodies = folder.path().join("fetch/bodies");
    std::fs::create_dir_all(&bodies).unwrap();
    // What a crash in the middle of a write leaves.
    std::fs::write(bodies.join("abc.part"), "half").unwrap();
    // Every cut is looked at: nobody is left alone for failing.
    let patient = |options| FetchOptions {
        breaker: BreakerRule {
            calls: u32::MAX,
            ..BreakerRule::default()
        },
        ..options
    };
    let house = House::with(folder.path(), |builder| builder, patient);
    assert!(!bodies.join("abc.part").exists());
    let mut urls: Vec<_> = (0..500)
        .map(|at| house.bad.url(&format!("/cut/{}", at * 2 + 3)))
        .collect();
    urls.push(house.bad.url("/bytes/100000"));
    let job = house.run(
        &json!({"urls": urls, "on_result": "store", "retry": {"max": 0}, "patience_ms": 60_000}),
    );
    let told = result(&job);
    assert_eq!(
        (&told["ok"], &told["failed"]),
        (&json!(1), &json!(500)),
        "{}",
        told["causes"]
    );
    let kept: Vec<_> = std::fs::read_dir(&bodies)
        .unwrap()
        .flat_map(|folder| std::fs::read_dir(folder.unwrap().path()).unwrap())
        .map(|file| file.unwrap().path())
        .collect();
    assert_eq!(kept.len(), 1, "no cut answer left a file: {kept:?}");
    let sha256 = told["results"][0]["sha256"].as_str().unwrap();
    let mut answer = ureq::get(house.url(&format!("/v1/fetch/bodies/{sha256}")))
        .call()
        .unwrap();
    assert_eq!(
        answer.body_mut().read_to_string().unwrap(),
        "x".repeat(100_000)
    );
    for bad in ["..%2f..%2foffloop.db", &"0".repeat(64), "abc"] {
        let refused = ureq::get(house.url(&format!("/v1/fetch/bodies/{bad}"))).call();
        assert!(
            matches!(refused, Err(ureq::Error::StatusCode(404))),
            "{bad}"
        );
    }
}

#[test]
fn a_full_folder_costs_the_item_and_says_so() {
    let folder = tempfile::tempdir().unwrap();
    let small = |options| FetchOptions {
        store_bytes: 1_000,
        ..options
    };
    let house = House::with(folder.path(), |builder| builder, small);
    let url = |path: &str| house.bad.url(path);
    let job = house.run(
        &json!({"urls": [url("/bytes/600"), url("/bytes/601"), url("/bytes/600")],
        "on_result": "store", "limit": 1}),
    );
    let told = result(&job);
    assert_eq!(
        (&told["ok"], &told["causes"]),
        (&json!(2), &json!({"storage": 1})),
        "{told}"
    );
}

fn group_end(house: &House, answer: &Value) -> Value {
    let id = answer["group"]["id"].as_str().unwrap().to_owned();
    house.until(|| {
        let group = house.get(&format!("/v1/groups/{id}?limit=500"));
        (group["state"] != "open").then_some(group)
    })
}

/// On whose account the jobs of a list run.
fn accounts(house: &House, answer: &Value) -> Vec<Value> {
    let group = group_end(house, answer);
    let members = group["members"].as_array().unwrap().iter();
    let job = |member: &Value| house.get(&format!("/v1/jobs/{}", member["id"].as_str().unwrap()));
    members
        .map(|member| job(member)["options"]["group_key"].clone())
        .collect()
}

#[test]
fn jobs_of_a_list_are_not_run_on_nobodys_account() {
    let folder = tempfile::tempdir().unwrap();
    let house = House::new(folder.path(), |builder| builder);
    let url = house.bad.url("/ok");
    let head = json!({"chunk": 1, "on_result": "hash", "group_key": "heron"});
    let mut whole = head.clone();
    whole["urls"] = json!([url, url]);
    for (kind, body) in [
        ("application/json", whole.to_string()),
        ("application/x-ndjson", format!("{head}\n{url}\n{url}\n")),
    ] {
        let (status, answer) = house.post(kind, &body);
        assert_eq!(status, 202, "{answer}");
        assert_eq!(accounts(&house, &answer), ["heron", "heron"], "{kind}");
    }
    for wrong in [json!(""), json!("a\nb"), json!(7)] {
        whole["group_key"] = wrong;
        let (status, answer) = house.post("application/json", &whole.to_string());
        let pointer = &answer["errors"][0]["pointer"];
        assert_eq!((status, pointer), (422, &json!("/group_key")), "{answer}");
    }
}

#[test]
fn a_long_list_is_a_group_of_jobs_and_each_url_is_called_once() {
    let folder = tempfile::tempdir().unwrap();
    let house = House::new(folder.path(), |builder| builder);
    let urls: Vec<_> = (0..250)
        .map(|turn| house.bad.url(&format!("/bytes/{turn}")))
        .collect();
    let body = json!({"urls": urls, "on_result": "hash", "chunk": 100});
    let (status, answer) = house.post("application/json", &body.to_string());
    assert_eq!(
        (status, &answer["calls"], &answer["jobs"]),
        (202, &json!(250), &json!(3)),
        "{answer}"
    );
    let group = group_end(&house, &answer);
    assert_eq!(group["state"], "completed");
    assert_eq!(group["progress"], json!({"done": 3, "total": 3}));
    for turn in 0..250 {
        assert_eq!(house.bad.seen.count(&format!("/bytes/{turn}")), 1);
    }
}

#[test]
fn a_long_list_that_must_be_whole_fails_with_its_first_failure_and_calls_nothing_twice() {
    let folder = tempfile::tempdir().unwrap();
    let house = House::new(folder.path(), |builder| builder);
    let mut urls: Vec<_> = (0..60)
        .map(|turn| house.bad.url(&format!("/bytes/{turn}")))
        .collect();
    urls.push(house.bad.url("/status/404"));
    let body = json!({"urls": urls, "rule": "all", "chunk": 20, "on_result": "hash"});
    let (status, answer) = house.post("application/json", &body.to_string());
    assert_eq!((status, &answer["jobs"]), (202, &json!(4)), "{answer}");
    let group = group_end(&house, &answer);
    assert_eq!(
        (&group["state"], &group["reason"]),
        (&json!("failed"), &json!("member")),
        "{group}"
    );
    assert_eq!(house.bad.seen.count("/status/404"), 1);
    assert!((0..60).all(|turn| house.bad.seen.count(&format!("/bytes/{turn}")) <= 1));
}

#[test]
fn a_line_that_cannot_be_costs_itself_and_a_list_that_breaks_off_costs_no_call() {
    let folder = tempfile::tempdir().unwrap();
    let house = House::new(folder.path(), |builder| builder);
    let good: Vec<_> = (0..5)
        .map(|turn| house.bad.url(&format!("/ok?{turn}")))
        .collect();
    let body = format!(
        "{{\"chunk\": 2, \"on_result\": \"hash\"}}\n{}\n\nhttp://127.0.0.1:1/\n{{\"url\": 5}}\n{{\"u\n{}\n",
        good[..3].join("\n"),
        good[3..].join("\n"),
    );
    let (status, answer) = house.post("application/x-ndjson", &body);
    assert_eq!(
        (status, &answer["calls"], &answer["jobs"]),
        (202, &json!(5), &json!(3)),
        "{answer}"
    );
    assert_eq!(answer["lines"]["refused"], 3);
    let lines: Vec<_> = answer["lines"]["errors"]
        .as_array()
        .unwrap()
        .iter()
        .map(|e| e["line"].clone())
        .collect();
    assert_eq!(lines, [6, 7, 8]);
    assert_eq!(group_end(&house, &answer)["state"], "completed");
    for (kind, body) in [
        (
            "application/x-ndjson",
            "{\"rule\": \"all\", \"rul\": 1}\nhttps://a.example/\n",
        ),
        (
            "application/x-ndjson",
            "{\"rule\": \"all\"}\nhttp://127.0.0.9/\n",
        ),
        ("application/json", "{\"urls\": []}"),
        (
            "application/json",
            "{\"urls\": [\"https://a.example/\"], \"chunk\": 0}",
        ),
    ] {
        let (status, answer) = house.post(kind, body);
        assert_eq!(status, 422, "{body}: {answer}");
    }
    // The body ends before its promised end.
    let mut stream = TcpStream::connect(house.door).unwrap();
    let lines = format!("{{\"chunk\": 1000}}\n{}\n", house.bad.url("/never"));
    let head =
        "POST /v1/fetch HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/x-ndjson\r\n";
    write!(stream, "{head}Content-Length: 10000\r\n\r\n{lines}").unwrap();
    stream.shutdown(std::net::Shutdown::Write).unwrap();
    let cancelled = house.until(|| {
        let groups = house.get("/v1/groups?state=cancelled");
        groups["groups"].as_array().unwrap().first().cloned()
    });
    assert_eq!(cancelled["progress"]["total"], 0);
    assert_eq!(house.bad.seen.count("/never"), 0);
}

#[test]
fn whoever_listens_hears_of_each_answer_before_the_last() {
    let folder = tempfile::tempdir().unwrap();
    let house = House::new(folder.path(), |builder| builder);
    let mut urls = vec![house.bad.url("/delay/1000")];
    urls.extend((0..10).map(|_| house.bad.url("/delay/400")));
    let InsertOutcome::Created { id, .. } = house.enqueue(&json!({"urls": urls})) else {
        panic!()
    };
    let mut stream = TcpStream::connect(house.door).unwrap();
    write!(
        stream,
        "GET /v1/jobs/{id}/events HTTP/1.1\r\nHost: localhost\r\n\r\n"
    )
    .unwrap();
    stream.set_read_timeout(Some(SOON)).unwrap();
    let (mut partial, mut bodies) = (0, 0);
    for line in BufReader::new(stream).lines() {
        let line = line.unwrap();
        partial += usize::from(line == "event: partial");
        bodies += usize::from(line.starts_with("data: ") && line.contains("\"body\":\"ok\""));
        if line == "event: end" {
            break;
        }
    }
    assert_eq!((partial, bodies), (11, 11));
}

#[test]
fn sockets_do_not_lie_idle_for_ever_after_the_last_job() {
    let folder = tempfile::tempdir().unwrap();
    let house = House::new(folder.path(), |builder| builder);
    let urls: Vec<_> = (0..20).map(|_| house.bad.url("/delay/50")).collect();
    house.run(&json!({"urls": urls, "on_result": "hash"}));
    let open = house.bad.seen.open.borrow();
    assert!(*open > 0, "they are kept for the next job at first");
    drop(open);
    house
        .runtime
        .block_on(house.bad.seen.until_open(|open| open == 0));
    assert_eq!(house.get("/v1/fetch")["connections_idle"], 0);
}

#[test]
fn a_list_that_is_sent_twice_under_one_key_is_called_once() {
    const JSON: &str = "application/json";
    let folder = tempfile::tempdir().unwrap();
    let house = House::new(folder.path(), |builder| builder);
    let body = |count: usize| {
        let urls: Vec<_> = (0..count)
            .map(|turn| house.bad.url(&format!("/ok?{turn}")))
            .collect();
        json!({"urls": urls, "chunk": 10}).to_string()
    };
    let group = |told: &Value| told["group"]["id"].as_str().unwrap().to_owned();
    let (status, first) = house.post_with(JSON, Some("sync 7"), &body(25));
    assert_eq!(
        (status, &first["calls"], &first["jobs"]),
        (202, &json!(25), &json!(3)),
        "{first}"
    );
    let ended = house.until(|| {
        let told = house.get(&format!("/v1/groups/{}", group(&first)));
        (told["state"] != "open").then_some(told)
    });
    assert_eq!(ended["state"], "completed", "{ended}");
    // The answer was lost, say, and the caller asks again, also quoted as a structured field is.
    for key in ["sync 7", "\"sync 7\""] {
        let (status, again) = house.post_with(JSON, Some(key), &body(25));
        assert_eq!((status, group(&again)), (200, group(&first)), "{again}");
        assert_eq!(
            (&again["calls"], &again["group"]["state"]),
            (&json!(25), &json!("completed"))
        );
    }
    let (status, problem) = house.post_with(JSON, Some("sync 7"), &body(24));
    assert_eq!(status, 422);
    let kind = problem["type"].as_str().unwrap();
    assert!(kind.ends_with("idempotency-mismatch"), "{problem}");
    assert!(problem["detail"].as_str().unwrap().contains(&group(&first)));
    let (_, other) = house.post_with(JSON, Some("sync 8"), &body(25));
    assert_ne!(group(&other), group(&first));
    let calls = || house.bad.seen.paths.lock().unwrap().values().sum::<usize>();
    house.until(|| (calls() == 50).then_some(()));
    let (status, problem) = house.post_with(JSON, Some(&"k".repeat(10_000)), &body(1));
    assert_eq!(status, 422, "{problem}");
    let lines = format!("{{}}\n{}\n", house.bad.url("/ok"));
    let (status, problem) = house.post_with("application/x-ndjson", Some("k"), &lines);
    assert!(
        status >= 400 && problem.to_string().contains("one JSON body"),
        "{problem}"
    );
}

#[test]
fn a_list_in_one_body_that_makes_too_many_jobs_makes_none() {
    let folder = tempfile::tempdir().unwrap();
    let house = House::new(folder.path(), |builder| builder);
    let urls = vec![house.bad.url("/ok"); 1_025];
    let list = json!({"urls": urls, "chunk": 1}).to_string();
    let (status, problem) = house.post("application/json", &list);
    assert_eq!(
        (status, &problem["field"]),
        (422, &json!("/chunk")),
        "{problem}"
    );
    assert_eq!(house.bad.seen.count("/ok"), 0);
}
