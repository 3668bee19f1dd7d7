//! What attempts cost, what lanes suffer from, and jobs by their failure.

use std::sync::Arc;
use std::time::Duration;

use offloop_job::{FailureClass, Lease, StopReason};
use offloop_lane::{ExitCount, Lane, LaneOpenError, LaneSink, LaneStatus, Slots, TaskInfo, Work};
use serde_json::Value;

use crate::support::{Server, info};

const TIMED_OUT: &str =
    r#"{"task":"hold","timeout_ms":20,"max_attempts":1,"tags":["slow"],"queue":"q"}"#;

/// Two that complete, one that is refused by its task, one that runs into its timeout.
async fn lived(server: &Server) -> Vec<Value> {
    let mut jobs = Vec::new();
    for body in [
        r#"{"task":"echo","payload":{"a":1},"tags":["x","y","x"]}"#,
        r#"{"task":"echo","tags":["x"],"queue":"q"}"#,
        r#"{"task":"fail","tags":["y"]}"#,
        TIMED_OUT,
    ] {
        let id = server.job(body).await;
        jobs.push(server.end(&id).await);
    }
    jobs
}

fn row<'v>(sums: &'v Value, name: &str) -> &'v Value {
    let mut rows = sums["rows"].as_array().unwrap().iter();
    rows.find(|row| row["name"] == name)
        .unwrap_or_else(|| panic!("no row {name}: {sums}"))
}

#[tokio::test]
async fn sums_come_to_what_the_attempts_show() {
    let server = Server::start().await;
    let jobs = lived(&server).await;
    let attempts = |fits: &dyn Fn(&Value) -> bool| -> Vec<Value> {
        let jobs = jobs.iter().filter(|job| fits(job));
        jobs.flat_map(|job| job["attempts"].as_array().unwrap().clone())
            .collect()
    };
    let has_tag = |job: &Value, tag: &str| {
        let tags = job["tags"].as_array().unwrap();
        tags.iter().any(|one| one == tag)
    };
    for (by, name, count) in [
        ("task", "echo", 2),
        ("task", "fail", 1),
        ("queue", "default", 2),
        ("queue", "q", 2),
        ("tag", "x", 2),
        ("tag", "slow", 1),
    ] {
        let sums = server
            .get(&format!("/v1/usage?by={by}&since=1h"))
            .await
            .json();
        assert_eq!(sums["by"], by);
        assert_eq!(sums["truncated"], false);
        assert!(sums["since"].as_str().unwrap().ends_with(":00:00.000Z"));
        let fits = |job: &Value| match by {
            "tag" => has_tag(job, name),
            by => job[by] == name,
        };
        let (row, attempts) = (row(&sums, name), attempts(&fits));
        assert_eq!((attempts.len(), &row["attempts"]), (count, &count.into()));
        for part in ["wall_ms", "cpu_ms", "wait_ms", "bytes_in", "bytes_out"] {
            let shown = attempts.iter().map(|one| one[part].as_u64().unwrap_or(0));
            let (shown, sum) = (shown.sum::<u64>(), row[part].as_u64().unwrap_or(0));
            // Each attempt is shown in whole milliseconds, rounded down.
            let within = shown..=shown + count as u64;
            assert!(within.contains(&sum), "{by} {name} {part}: {row}");
        }
    }
    let sums = server.get("/v1/usage").await.json();
    assert_eq!(sums["by"], "task", "the default");
    assert_eq!(sums["rows"][0]["name"], "hold", "the most wall time first");
    assert_eq!(sums["rows"][0]["failed"], serde_json::json!({"timeout": 1}));
    assert_eq!(row(&sums, "echo")["completed"], 2);
    let one = server.get("/v1/usage?limit=1").await.json();
    assert_eq!(one["rows"].as_array().unwrap().len(), 1);
    assert_eq!(one["truncated"], true);
    let later = server.get("/v1/usage?since=2100-01-01T00:00:00Z").await;
    assert_eq!(later.json()["rows"], serde_json::json!([]));
}

#[tokio::test]
async fn a_question_that_means_nothing_is_refused_with_what_would() {
    let server = Server::start().await;
    for (query, says) in [
        ("by=node", "task, queue, tag"),
        ("since=yesterday", "24h"),
        ("since=-1h", "24h"),
        ("limit=0", "1 to 1000"),
        ("limit=1001", "1 to 1000"),
        ("since=1h&since=2h", "given twice"),
        ("class=x", "by, since, limit"),
    ] {
        let answer = server.get(&format!("/v1/usage?{query}")).await;
        answer.is_problem(400, "invalid-parameter");
        let detail = answer.json()["detail"].as_str().unwrap().to_owned();
        assert!(detail.contains(says), "{query}: {detail}");
    }
}

#[tokio::test]
async fn jobs_are_found_by_the_class_of_their_failure() {
    let server = Server::start().await;
    lived(&server).await;
    for class in FailureClass::ALL {
        let list = server.get(&format!("/v1/jobs?class={class}")).await.json();
        let want = match class {
            FailureClass::Timeout => vec!["hold"],
            FailureClass::Invalid => vec!["fail"],
            _ => vec![],
        };
        let jobs = list["jobs"].as_array().unwrap();
        let tasks: Vec<_> = jobs
            .iter()
            .map(|job| job["task"].as_str().unwrap())
            .collect();
        assert_eq!(tasks, want, "{class}");
    }
    let unknown = server.get("/v1/jobs?class=oom").await;
    unknown.is_problem(400, "invalid-parameter");
    let detail = unknown.json()["detail"].as_str().unwrap().to_owned();
    for class in FailureClass::ALL {
        assert!(detail.contains(class.as_str()), "{class}: {detail}");
    }
}

#[tokio::test]
async fn retry_rules_take_every_class() {
    let server = Server::start().await;
    for class in FailureClass::ALL {
        let body = format!(r#"{{"task":"noop","retry_by_class":{{"{class}":2}}}}"#);
        let id = server.job(&body).await;
        let job = server.get(&format!("/v1/jobs/{id}")).await.json();
        assert_eq!(
            job["options"]["retry_by_class"][class.as_str()],
            2,
            "{class}"
        );
    }
    let body = r#"{"task":"noop","retry_by_class":{"oom":1}}"#;
    let refused = server.post("/v1/jobs", body).await;
    refused.is_problem(422, "invalid-job");
    assert!(refused.text().contains("process_limit"), "{refused:?}");
}

#[tokio::test]
async fn an_attempt_shows_what_it_cost_and_how_it_ended() {
    let server = Server::start().await;
    let jobs = lived(&server).await;
    let failed = &jobs[2]["attempts"][0];
    assert_eq!(failed["end"]["class"], "invalid");
    assert_eq!(failed["end"]["message"], "no rows <b>at all</b>");
    assert_eq!(
        failed["last_log_lines"],
        serde_json::json!(["about to fail"])
    );
    let late = &jobs[3]["attempts"][0];
    assert_eq!(late["end"]["class"], "timeout");
    let message = late["end"]["message"].as_str().unwrap();
    assert!(message.contains("20ms"), "the limit is named: {message}");
    assert!(late["wall_ms"].as_u64().unwrap() >= 20);
    for part in ["wait_ms", "cpu_ms", "bytes_in", "bytes_out"] {
        assert!(late[part].is_u64(), "{part}: {late}");
    }
    assert!(
        late["executor"]
            .as_str()
            .is_some_and(|name| !name.is_empty())
    );
    assert_eq!(late["last_log_lines"], serde_json::json!([]));
}

#[tokio::test]
async fn attempts_are_counted_for_machines() {
    let server = Server::start().await;
    lived(&server).await;
    let metrics = server.get("/metrics").await.text();
    for line in [
        "offloop_attempts_total{task=\"echo\",end=\"completed\"} 2",
        "offloop_attempts_total{task=\"fail\",end=\"invalid\"} 1",
        "offloop_attempts_total{task=\"hold\",end=\"timeout\"} 1",
        "offloop_attempt_wall_seconds_total{task=\"hold\"} 0.",
        "offloop_attempt_cpu_seconds_total{task=\"hold\"} ",
        "offloop_attempt_out_bytes_total{task=\"echo\"} ",
        "offloop_lane_late_total{lane=\"cpu\"} 0",
        "offloop_lane_head_age_seconds{lane=\"cpu\"} 0",
        "offloop_lane_trouble{lane=\"cpu\"} 0",
    ] {
        assert!(metrics.contains(line), "{line} is not in\n{metrics}");
    }
}

/// A lane whose children do not come up: it holds its work and says so.
#[derive(Debug)]
struct Sick([TaskInfo; 1]);

impl Lane for Sick {
    fn name(&self) -> &'static str {
        "process:sick"
    }
    fn tasks(&self) -> &[TaskInfo] {
        &self.0
    }
    fn slots(&self) -> Slots {
        let (running, ahead) = (1, 0);
        Slots { running, ahead }
    }
    fn open(&self, _: Arc<dyn LaneSink>) -> Result<(), LaneOpenError> {
        Ok(())
    }
    fn start(&self, _: Vec<Work>) {}
    fn stop(&self, _: Lease, _: StopReason) {}
    fn close(&self) {}
    fn terminate(&self, _: Duration) -> Vec<Lease> {
        Vec::new()
    }
    fn status(&self) -> LaneStatus {
        LaneStatus {
            queued: 3,
            head_age: Some(Duration::from_millis(90_500)),
            late: 4,
            ..LaneStatus::default()
        }
    }
    fn exits(&self) -> Vec<ExitCount> {
        let exit = |reason, count| ExitCount { reason, count };
        vec![exit("start_failed", 5), exit("crashed", 2)]
    }
    fn trouble(&self) -> Option<Box<str>> {
        Some("5 children ended while starting; next try in 30 s".into())
    }
}

#[tokio::test]
async fn a_sick_lane_says_what_is_stuck_and_does_not_stop_the_server() {
    let server = Server::with_lane(Arc::new(Sick([info("sick")]))).await;
    let node = &server.get("/v1/nodes").await.json()["nodes"][0];
    assert_eq!(node["trouble"], Value::Null);
    let lanes = node["lanes"].as_array().unwrap();
    let lane = |name| lanes.iter().find(|lane| lane["name"] == name).unwrap();
    let sick = lane("process:sick");
    assert!(sick["trouble"].as_str().unwrap().contains("next try"));
    assert_eq!(
        (&sick["head_age_ms"], &sick["late"]),
        (&90_500.into(), &4.into())
    );
    let exits = serde_json::json!({"crashed": 2, "start_failed": 5});
    assert_eq!(sick["exits"], exits);
    let well = lane("cpu");
    assert_eq!(
        (&well["trouble"], &well["head_age_ms"]),
        (&Value::Null, &Value::Null)
    );
    assert_eq!(server.get("/readyz").await.status, 200, "others go on");
    let id = server.job(r#"{"task":"echo"}"#).await;
    assert_eq!(server.end(&id).await["state"], "completed");
    let metrics = server.get("/metrics").await.text();
    for line in [
        "offloop_executor_exits_total{lane=\"process:sick\",reason=\"start_failed\"} 5",
        "offloop_lane_trouble{lane=\"process:sick\"} 1",
        "offloop_lane_head_age_seconds{lane=\"process:sick\"} 90.5",
        "offloop_lane_late_total{lane=\"process:sick\"} 4",
        "offloop_ready 1",
    ] {
        assert!(metrics.contains(line), "{line} is not in\n{metrics}");
    }
}
