//! Schedules over HTTP: made, changed, looked at, triggered; and refused by the field that is wrong.

use offloop_wire::SCHEMAS;
use serde_json::{Value, json};

use crate::support::{Answer, Server};

const PATH: &str = "/v1/schedules/nightly";
const BODY: &str = r#"{"task":"echo","payload":{"a":1},"cron":"30 2 * * *",
    "timezone":"Europe/Berlin","overlap":"skip","tags":["n"]}"#;

async fn put(server: &Server, path: &str, body: &str) -> Answer {
    let headers = "Content-Type: application/json\r\n";
    server.send("PUT", path, headers, body.as_bytes()).await
}

fn has_the_fields_of(value: &Value, name: &str) {
    let all: Value = serde_json::from_str(SCHEMAS).unwrap();
    let known = all[name]["properties"].as_object().unwrap();
    for field in value.as_object().unwrap().keys() {
        assert!(known.contains_key(field), "{name} has no {field}");
    }
}

#[tokio::test]
async fn a_schedule_is_made_shown_changed_and_forgotten() {
    let server = Server::start().await;
    let made = put(&server, PATH, BODY).await;
    assert_eq!(made.status, 201, "{}", made.text());
    let made = made.json();
    has_the_fields_of(&made, "Schedule");
    assert_eq!(
        (&made["when"], &made["origin"]),
        (&json!("cron 30 2 * * *"), &json!("api"))
    );
    assert_eq!(made["spec"]["payload"], json!({"a": 1}));
    let same = put(&server, PATH, BODY).await;
    assert_eq!(
        (same.status, same.json()),
        (200, made.clone()),
        "put twice is once"
    );
    // What is shown can be put again.
    let again = put(&server, PATH, &made["spec"].to_string()).await;
    assert_eq!(again.json()["revision"], 1);
    let changed = put(&server, PATH, &BODY.replace("skip", "queue_one"))
        .await
        .json();
    assert_eq!(
        (&changed["revision"], &changed["next_due_at"]),
        (&json!(2), &made["next_due_at"])
    );
    let list = server.get("/v1/schedules").await.json();
    assert_eq!(list["schedules"][0]["name"], "nightly");
    assert_eq!(
        (&list["schedules"][0]["spec"], &list["next_cursor"]),
        (&Value::Null, &Value::Null)
    );
    let paused = server.post(&format!("{PATH}/pause"), "").await.json();
    assert_eq!(paused["paused"], true);
    let resumed = server.post(&format!("{PATH}/resume"), "").await.json();
    assert_eq!(resumed["paused"], false);
    let gone = server.send("DELETE", PATH, "", b"").await;
    assert_eq!(gone.status, 204);
    for path in [
        PATH,
        "/v1/schedules/nightly/ledger",
        "/v1/schedules/nightly/next",
    ] {
        server.get(path).await.is_problem(404, "not-found");
    }
    let trigger = server.post(&format!("{PATH}/trigger"), "").await;
    trigger.is_problem(404, "not-found");
}

#[tokio::test]
async fn lists_and_ledgers_have_pages() {
    let server = Server::start().await;
    for name in ["a", "b", "c"] {
        assert_eq!(
            put(&server, &format!("/v1/schedules/{name}"), BODY)
                .await
                .status,
            201
        );
    }
    let page = server.get("/v1/schedules?limit=2").await.json();
    assert_eq!(
        (
            page["schedules"].as_array().unwrap().len(),
            &page["next_cursor"]
        ),
        (2, &json!("b"))
    );
    let page = server.get("/v1/schedules?limit=2&cursor=b").await.json();
    assert_eq!(
        (&page["schedules"][0]["name"], &page["next_cursor"]),
        (&json!("c"), &Value::Null)
    );
    let mut jobs = Vec::new();
    for _ in 0..3 {
        let row = server.post("/v1/schedules/a/trigger", "").await;
        assert_eq!(row.status, 201, "{}", row.text());
        let row = row.json();
        has_the_fields_of(&row, "LedgerRow");
        let id = row["job_id"].as_str().unwrap().to_owned();
        assert_eq!(server.end(&id).await["result"], json!({"a": 1}));
        jobs.push(id);
    }
    jobs.reverse();
    let first = server.get("/v1/schedules/a/ledger?limit=2").await.json();
    let cursor = first["next_cursor"].as_str().unwrap();
    let rest = server
        .get(&format!("/v1/schedules/a/ledger?cursor={cursor}"))
        .await
        .json();
    let rows = [&first["ledger"], &rest["ledger"]].map(|rows| rows.as_array().unwrap().clone());
    let rows = rows.concat();
    let shown: Vec<_> = rows
        .iter()
        .map(|row| row["job_id"].as_str().unwrap())
        .collect();
    assert_eq!(shown, jobs, "the newest first");
    assert!(
        rows.iter()
            .all(|row| row["outcome"] == "fired" && row["by_hand"] == true)
    );
    assert_eq!(rest["next_cursor"], Value::Null);
    for bad in ["limit=0", "limit=501", "cursor=x", "cursor=1-2", "colour=1"] {
        let answer = server.get(&format!("/v1/schedules/a/ledger?{bad}")).await;
        answer.is_problem(400, "invalid-parameter");
    }
}

#[tokio::test]
async fn a_preview_shows_the_clock_of_the_zone_and_keeps_nothing() {
    let server = Server::start().await;
    let body = BODY.replace("30 2 * * *", "30 2 29 3 *");
    let asked = body.replace(
        "\"overlap\"",
        "\"starts_at\":\"2026-03-01T00:00:00Z\",\"overlap\"",
    );
    let next = server
        .post("/v1/schedules/preview?count=2", &asked)
        .await
        .json();
    let next = next["next"].as_array().unwrap();
    assert_eq!(next.len(), 2);
    for row in next {
        let local = row["local"].as_str().unwrap();
        // 29 March is in summer time, or the day that it begins, when 2:30 is skipped.
        assert!(
            local.contains("-03-29T0") && local.ends_with("+02:00"),
            "{local}"
        );
    }
    assert_eq!(
        server.get("/v1/schedules").await.json()["schedules"],
        json!([])
    );
    let made = put(&server, PATH, &body).await;
    assert_eq!(made.status, 201);
    let next = server.get(&format!("{PATH}/next?count=1")).await.json();
    assert_eq!(next["next"][0]["due_at"], made.json()["next_due_at"]);
    server
        .get(&format!("{PATH}/next?count=101"))
        .await
        .is_problem(400, "invalid-parameter");
}

#[tokio::test]
async fn what_cannot_be_is_refused_by_its_field_and_with_a_remedy() {
    let server = Server::start().await;
    let rows = [
        (
            r#"{"task":"echo","cron":"0 0 30 2 *"}"#,
            "/cron",
            "never comes",
        ),
        (
            r#"{"task":"echo","cron":"0 24 * * *"}"#,
            "/cron",
            "hour \"24\"",
        ),
        (
            r#"{"task":"echo","cron":"@daily","timezone":"Mars/Olympus"}"#,
            "/timezone",
            "Europe/Berlin",
        ),
        (
            r#"{"task":"echo","every_ms":5}"#,
            "/every_ms",
            "give 100 to",
        ),
        (
            r#"{"task":"echo","every_ms":1000,"jitter_ms":1000}"#,
            "/jitter_ms",
            "give less",
        ),
        (
            r#"{"task":"echo","every_ms":1000,"run_at":"2027-01-01T00:00:00Z"}"#,
            "/run_at",
            "leave it out",
        ),
        (
            r#"{"task":"echo","every_ms":1000,"colour":1}"#,
            "/colour",
            "known are",
        ),
        (r#"{"task":"echo"}"#, "/cron", "give cron, every_ms or at"),
        (
            r#"{"task":"echo","every_ms":1000,"priority":10}"#,
            "/priority",
            "give 0",
        ),
    ];
    for (body, field, detail) in rows {
        for answer in [
            put(&server, PATH, body).await,
            server.post("/v1/schedules/preview", body).await,
        ] {
            answer.is_problem(422, "invalid-body");
            let problem = answer.json();
            assert_eq!(problem["errors"][0]["pointer"], field, "{body}");
            assert!(
                problem["detail"].as_str().unwrap().contains(detail),
                "{problem}"
            );
        }
    }
    let unknown = put(&server, PATH, r#"{"task":"nobody","every_ms":1000}"#).await;
    unknown.is_problem(422, "unknown-task");
    put(&server, PATH, "{")
        .await
        .is_problem(400, "invalid-json");
    put(&server, "/v1/schedules/a%20b", BODY)
        .await
        .is_problem(400, "invalid-parameter");
    assert_eq!(
        server.get("/v1/schedules").await.json()["schedules"],
        json!([])
    );
}

#[tokio::test]
async fn figures_count_schedules_and_those_that_are_silent() {
    let server = Server::start().await;
    put(&server, PATH, BODY).await;
    let text = server.get("/metrics").await.text();
    assert!(text.contains("\noffloop_schedules 1\n"), "{text}");
    assert!(text.contains("\noffloop_schedules_silent 0\n"), "{text}");
}

#[tokio::test]
async fn a_job_shows_its_schedule_and_is_found_by_it() {
    let server = Server::start().await;
    put(&server, PATH, BODY).await;
    let fired = server.post(&format!("{PATH}/trigger"), "").await.json();
    let id = fired["job_id"].as_str().unwrap();
    let job = server.end(id).await;
    has_the_fields_of(&job, "Job");
    let want = json!({"name": "nightly", "due_at": fired["due_at"]});
    assert_eq!(job["schedule"], want);
    let other = server.job(r#"{"task":"echo","tags":["n"]}"#).await;
    let other = server.end(&other).await;
    assert_eq!(other["schedule"], Value::Null);
    let found = server
        .get("/v1/jobs?schedule=nightly&state=completed")
        .await;
    let found = found.json();
    let ids = found["jobs"].as_array().unwrap().iter();
    let ids: Vec<_> = ids.map(|job| job["id"].as_str().unwrap()).collect();
    assert_eq!(ids, [id]);
    let none = server.get("/v1/jobs?schedule=other").await.json();
    assert_eq!(none["jobs"], json!([]));
    server
        .get("/v1/jobs?schedule=no%20name")
        .await
        .is_problem(400, "invalid-parameter");
}
