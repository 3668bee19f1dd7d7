//! The schemas say what the types write.
#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use std::collections::BTreeSet;

use offloop_job::{
    Attempt, Backoff, BackoffKind, EventKind, Failure, FailureClass, FinalReason, Job, JobEvent,
    JobId, JobOptions, JobState, JobSummary, Lease, NewJob, NodeId, Progress, QueueName,
    ScheduleEvent, ScheduleEventKind, ScheduleName, ScheduledBy, SilentWhy, Tag, TaskName,
    Timestamp, Unique, UniqueKey, Usage,
};
use offloop_wire::{
    CALL_FIELDS, CallFacts, EventView, FieldProblem, JOB_FIELDS, JobView, LaneRow, LedgerRowView,
    Problem, SCHEDULE_FIELDS, SCHEMAS, ScheduleEventView, ScheduleView, SlotsView, UsageRowView,
    UsageView, call_json, event_json, new_job_json,
};
use serde_json::Value;

fn schema(name: &str) -> Value {
    let all: Value = serde_json::from_str(SCHEMAS).unwrap();
    all[name].clone()
}

fn keys(object: &Value) -> BTreeSet<String> {
    object.as_object().unwrap().keys().cloned().collect()
}

fn options() -> JobOptions {
    let mut options = JobOptions {
        timeout: Some(std::time::Duration::from_secs(1)),
        cpu_limit: Some(std::time::Duration::from_secs(1)),
        stall_timeout: Some(std::time::Duration::from_secs(1)),
        memory_limit_bytes: Some(1 << 20),
        run_at: Some(Timestamp::from_millis(1)),
        deadline: Some(Timestamp::from_millis(1)),
        expires_at: Some(Timestamp::from_millis(2)),
        unique: Some(Unique {
            key: UniqueKey::parse("k").unwrap(),
            scope: offloop_job::UniqueScope::For(std::time::Duration::from_secs(1)),
            on_conflict: offloop_job::OnConflict::Debounce(std::time::Duration::from_secs(1)),
        }),
        group_key: Some(Tag::parse("g").unwrap()),
        tags: vec![
            Tag::parse("a \"quoted\" tag").unwrap(),
            Tag::parse("b").unwrap(),
        ],
        trace: Some("00-x".into()),
        schedule: Some(Box::new(ScheduledBy {
            name: ScheduleName::parse("nightly").unwrap(),
            due_at: Timestamp::from_millis(1),
        })),
        keep: Some(std::time::Duration::from_secs(1)),
        webhook: Some(Box::new(offloop_job::Webhook {
            url: "https://example.com/".into(),
            on: offloop_job::EndStates::ALL,
            secret: Some("default".into()),
        })),
        group: Some(offloop_job::GroupId::from_parts(1, 1)),
        follows: Some(offloop_job::GroupId::from_parts(1, 1)),
        after: vec![offloop_job::After {
            parent: offloop_job::Parent::Job(JobId::from_parts(1, 1)),
            on_failure: offloop_job::OnFailure::Ignore,
        }],
        ..JobOptions::default()
    };
    options.retry.by_class = vec![(FailureClass::Timeout, 1)];
    options.retry.backoff = Backoff {
        kind: BackoffKind::Custom([std::time::Duration::from_secs(1)].into()),
        ..Backoff::default()
    };
    options
}

fn job() -> Job {
    let failure = Failure::new(FailureClass::Crashed, "exit 1").with_exit(Some(1), None);
    let at = Timestamp::from_millis(1_800_000_000_000);
    Job {
        summary: JobSummary {
            id: JobId::from_parts(at.as_millis() << 12, 1),
            task: TaskName::parse("t").unwrap(),
            queue: QueueName::default(),
            state: JobState::Failed,
            priority: 5,
            tags: options().tags,
            created_at: at,
            due_at: at,
            started_at: Some(at),
            finished_at: Some(at),
            attempt: 1,
            max_attempts: 5,
            snoozes: 2,
            reason: Some(FinalReason::Poison),
            failure: Some(failure.clone()),
            cancelling: false,
        },
        payload: "{}".into(),
        options: options(),
        attempts: vec![Attempt {
            number: 1,
            lease: Lease(1),
            node: NodeId("n".into()),
            lane: "cpu".into(),
            executor: "thread 1".into(),
            started_at: at,
            ended_at: Some(at),
            wait: std::time::Duration::from_millis(2),
            usage: Usage::default(),
            failure: Some(failure),
            log: offloop_job::LogTail::default(),
        }],
        progress: Some(Progress {
            at,
            note: "no json".into(),
        }),
        result: Some("\u{fffd}".into()),
        checkpoint: Some("7".into()),
    }
}

#[test]
fn a_request_has_the_fields_of_its_schema() {
    let want: BTreeSet<_> = JOB_FIELDS.iter().map(|field| (*field).to_owned()).collect();
    assert_eq!(keys(&schema("JobRequest")["properties"]), want);
}

#[test]
fn a_job_and_its_parts_have_the_fields_of_their_schemas() {
    let view = serde_json::to_value(JobView::from(&job())).unwrap();
    for (value, name, leave) in [
        (&view, "Job", None),
        (&view["options"], "Options", Some("delay_ms")),
        (&view["options"]["backoff"], "Backoff", None),
        (&view["options"]["unique"], "Unique", None),
        (&view["options"]["after"][0], "After", None),
        (&view["attempts"][0], "Attempt", None),
        (&view["attempts"][0]["end"], "End", None),
    ] {
        let mut want = keys(&schema(name)["properties"]);
        leave.map(|field| want.remove(field));
        assert_eq!(keys(value), want, "{name}");
    }
    assert_eq!(view["progress"]["note"], "no json");
    assert_eq!(view["result"], "\u{fffd}");
}

#[test]
fn a_class_of_failure_has_its_place_in_every_list_of_classes() {
    let classes: Vec<Value> = FailureClass::ALL.map(|class| class.as_str().into()).into();
    let ends = &schema("End")["properties"]["class"]["enum"];
    assert_eq!(ends[0], "completed");
    assert_eq!(ends.as_array().unwrap()[1..], classes);
    let told = &schema("Event")["properties"]["class"]["enum"];
    assert_eq!(told.as_array().unwrap(), &classes);
    for (name, field) in [
        ("JobRequest", "retry_by_class"),
        ("Options", "retry_by_class"),
        ("UsageRow", "failed"),
    ] {
        let names = &schema(name)["properties"][field]["propertyNames"]["enum"];
        assert_eq!(names.as_array().unwrap(), &classes, "{name}");
    }
}

#[test]
fn sums_and_lanes_have_the_fields_of_their_schemas() {
    let row = UsageRowView {
        name: None,
        attempts: 1,
        completed: 1,
        failed: [("lost".to_owned(), 1)].into(),
        wall_ms: 1,
        cpu_ms: None,
        wait_ms: 1,
        max_rss_bytes: None,
        bytes_in: 1,
        bytes_out: 1,
    };
    let sums = UsageView {
        by: "task".into(),
        since: "x".into(),
        rows: vec![row],
        truncated: false,
    };
    let lane = LaneRow {
        name: "cpu".into(),
        slots: SlotsView {
            running: 1,
            ahead: 1,
        },
        running: 1,
        queued: 1,
        stuck: 0,
        executors: 1,
        head_age_ms: None,
        late: 0,
        exits: [("crashed".to_owned(), 1)].into(),
        trouble: None,
        tasks: vec![],
    };
    let (sums, lane) = (
        serde_json::to_value(sums).unwrap(),
        serde_json::to_value(lane).unwrap(),
    );
    for (value, name) in [
        (&sums, "Usage"),
        (&sums["rows"][0], "UsageRow"),
        (&lane, "Lane"),
    ] {
        assert_eq!(keys(value), keys(&schema(name)["properties"]), "{name}");
    }
}

#[test]
fn a_view_survives_its_text() {
    let text = serde_json::to_string(&JobView::from(&job())).unwrap();
    let again: JobView = serde_json::from_str(&text).unwrap();
    assert_eq!(serde_json::to_string(&again).unwrap(), text);
}

#[test]
fn an_event_and_its_quick_form_are_the_same() {
    let at = Timestamp::from_millis(1_800_000_000_123);
    let class = FailureClass::Timeout;
    for kind in [
        EventKind::Enqueued,
        EventKind::Retrying { class, due_at: at },
        EventKind::Snoozed { due_at: at },
        EventKind::Failed { class },
        EventKind::Completed,
    ] {
        let (task, queue) = (TaskName::parse("t:1").unwrap(), QueueName::default());
        let event = JobEvent {
            at,
            job: JobId::from_parts(9, 9),
            task,
            queue,
            kind,
        };
        let mut quick = Vec::new();
        event_json(&mut quick, &event);
        assert_eq!(
            String::from_utf8(quick.clone()).unwrap(),
            serde_json::to_string(&EventView::from(&event)).unwrap()
        );
        let value = serde_json::from_slice(&quick).unwrap();
        assert!(keys(&value).is_subset(&keys(&schema("Event")["properties"])));
    }
}

#[test]
fn an_alert_about_a_schedule_says_what_its_schema_says() {
    let at = Timestamp::from_millis(1_800_000_000_123);
    let schedule = ScheduleName::parse("nightly").unwrap();
    let event = |kind| {
        ScheduleEventView::from(&ScheduleEvent {
            at,
            schedule: schedule.clone(),
            kind,
        })
    };
    let schema = schema("ScheduleEvent");
    let known = &schema["properties"];
    for why in SilentWhy::ALL {
        let view = event(ScheduleEventKind::Silent {
            why,
            due_at: Some(at),
            late: std::time::Duration::from_millis(1_500),
        });
        let value = serde_json::to_value(&view).unwrap();
        assert_eq!(keys(&value), keys(known));
        assert_eq!(value["late_ms"], 1_500);
        let named = |value: &Value, field: &str| {
            let names = known[field]["enum"].as_array().unwrap();
            names.contains(&value[field])
        };
        assert!(named(&value, "why") && named(&value, "kind"), "{value}");
    }
    let back = serde_json::to_value(event(ScheduleEventKind::Back)).unwrap();
    assert_eq!(back["kind"], "schedule_back");
    let fields: Vec<_> = keys(&back).into_iter().collect();
    assert_eq!(fields, ["at", "kind", "schedule"]);
}

#[test]
fn the_quick_answer_to_an_enqueue_is_a_row_of_a_list() {
    let at = Timestamp::from_millis(1_800_000_000_123);
    let id = JobId::from_parts(at.as_millis() << 12, 1);
    let new = NewJob {
        task: TaskName::parse("t").unwrap(),
        payload: "{}".into(),
        options: options(),
        idempotency: None,
    };
    let row = JobSummary {
        id,
        state: JobState::Ready,
        created_at: at,
        due_at: at,
        started_at: None,
        finished_at: None,
        attempt: 0,
        snoozes: 0,
        reason: None,
        failure: None,
        ..job().summary
    };
    let quick = String::from_utf8(new_job_json(id, JobState::Ready, &new, at, None)).unwrap();
    assert_eq!(quick, serde_json::to_string(&JobView::from(&row)).unwrap());
}

#[test]
fn a_call_and_its_answer_have_the_fields_of_their_schemas() {
    let asked: BTreeSet<String> = CALL_FIELDS.iter().map(|name| (*name).to_owned()).collect();
    assert_eq!(asked, keys(&schema("CallRequest")["properties"]));
    let facts = CallFacts {
        task: "t",
        lane: "cpu:calls",
        executor: "x",
        waited: std::time::Duration::ZERO,
        wall: std::time::Duration::ZERO,
        cpu: None,
        shared: false,
    };
    let answer: Value = serde_json::from_slice(&call_json(facts, None)).unwrap();
    assert_eq!(keys(&answer), keys(&schema("CallAnswer")["properties"]));
}

#[test]
fn a_problem_has_the_fields_of_its_schema() {
    let problem = Problem {
        detail: "d".into(),
        field: Some("/x".into()),
        errors: vec![FieldProblem::new("/x", "d")],
        retry_after: Some(1),
        estimated_wait_ms: Some(1),
        class: Some("error".into()),
        job: Some("j".into()),
        ..Problem::default()
    };
    let value = serde_json::to_value(problem).unwrap();
    assert_eq!(keys(&value), keys(&schema("Problem")["properties"]));
    assert_eq!(
        keys(&value["errors"][0]),
        keys(&schema("FieldProblem")["properties"])
    );
}

#[test]
fn schedules_have_the_fields_of_their_schemas() {
    let not_of_many = [
        "delay_ms",
        "run_at",
        "deadline",
        "expires_at",
        "idempotency_key",
        "after",
    ];
    let job = JOB_FIELDS
        .iter()
        .filter(|field| !not_of_many.contains(field));
    let want: BTreeSet<String> = job
        .chain(&SCHEDULE_FIELDS)
        .map(|field| (*field).to_owned())
        .collect();
    assert_eq!(keys(&schema("ScheduleRequest")["properties"]), want);
    let view = ScheduleView {
        name: "s".into(),
        task: "t".into(),
        when: "every 1 ms".into(),
        timezone: "UTC".into(),
        paused: false,
        origin: "api".into(),
        revision: 1,
        created_at: "x".into(),
        updated_at: "x".into(),
        next_due_at: None,
        held_due_at: None,
        silent: None,
        spec: None,
    };
    let mut shown = keys(&serde_json::to_value(view).unwrap());
    shown.insert("spec".into());
    assert_eq!(shown, keys(&schema("Schedule")["properties"]));
    let row = LedgerRowView {
        due_at: "x".into(),
        outcome: "fired".into(),
        reason: None,
        late_ms: 1,
        job_id: None,
        by_hand: false,
        until: None,
        count: None,
        at: "x".into(),
    };
    let row = serde_json::to_value(row).unwrap();
    assert_eq!(keys(&row), keys(&schema("LedgerRow")["properties"]));
}

#[test]
fn a_group_and_its_parts_have_the_fields_of_their_schemas() {
    use offloop_job::{Failures, Group, GroupId, GroupReason, GroupRule, GroupState, Input, Tally};
    use offloop_wire::{FlowJob, GroupView, InputRow, MemberRow};
    let id = JobId::from_parts(7, 7);
    let group = Group {
        id: GroupId::from_parts(9, 9),
        rule: GroupRule::Any,
        state: GroupState::Failed,
        hold: false,
        created_at: Timestamp::from_millis(1),
        deadline: Some(Timestamp::from_millis(2)),
        decided_at: Some(Timestamp::from_millis(2)),
        reason: Some(GroupReason::Member),
        tally: Tally::default(),
        failures: Failures::default(),
        then_on: Some(offloop_job::ThenOn::Any),
        then_task: Some(TaskName::parse("t").unwrap()),
        then_job: Some(id),
    };
    let view = GroupView {
        members: Some(vec![MemberRow::from(&(id, Some(JobState::Failed)))]),
        next_cursor: Some("x".into()),
        ..GroupView::from(&group)
    };
    let view = serde_json::to_value(view).unwrap();
    let input = InputRow::from(&Input {
        id,
        state: None,
        class: None,
        result: None,
        omitted: true,
    });
    let flow = serde_json::to_value(FlowJob {
        name: Some("a".into()),
        id: Some(String::new()),
        existing: Some(String::new()),
        state: Some(String::new()),
        error: Some(Problem::default()),
    });
    for (value, name) in [
        (&view, "Group"),
        (&view["then"], "GroupThen"),
        (&view["members"][0], "Member"),
        (&serde_json::to_value(input).unwrap(), "Input"),
        (&flow.unwrap(), "FlowJob"),
    ] {
        assert_eq!(keys(value), keys(&schema(name)["properties"]), "{name}");
    }
    for (fields, name) in [
        (&offloop_wire::GROUP_FIELDS[..], "GroupRequest"),
        (&offloop_wire::THEN_FIELDS[..], "ThenRequest"),
        (&offloop_wire::FLOW_FIELDS[..], "FlowRequest"),
    ] {
        let want: BTreeSet<_> = fields.iter().map(|field| (*field).to_owned()).collect();
        assert_eq!(keys(&schema(name)["properties"]), want, "{name}");
    }
}
