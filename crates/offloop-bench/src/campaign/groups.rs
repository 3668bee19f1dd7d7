//! SIGKILL in the middle of every rule of a group and of a flow: one decision, one follow-up, no
//! member of a decided group that goes on, every dependent run once or ended as it was told.

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::{Value, json};

use super::http::{Answer, CallError, Client};
use super::journal::{Effects, effects, now_ms};
use super::oracle::{ask, quiesce};
use super::server::Setup;
use super::{Run, procfs};

const CYCLES: u32 = 60;
const RULES: [&str; 4] = ["all", "all_settled", "race", "any"];
const QUIET_WITHIN: Duration = Duration::from_secs(120);
/// How long a member takes.
const MEMBER_MS: u64 = 40;
const JSON: [(&str, &str); 1] = [("content-type", "application/json")];

/// What the server acknowledged.
#[derive(Default)]
struct Acked {
    /// Group to the tag of its follow-up.
    groups: BTreeMap<String, String>,
    flows: Vec<Value>,
    /// When the server was killed, in milliseconds since 1970.
    kills: Vec<u64>,
}

pub(crate) fn run(run: &mut Run) -> anyhow::Result<()> {
    let cycles = run.cycles.unwrap_or(CYCLES);
    let setup = run.setup("")?;
    let mut acked = Acked::default();
    for cycle in 1..=cycles {
        let mut server = setup.start()?;
        run.recovery.push(server.ready_after);
        let (client, bad) = (setup.client(), run.dice.between(0, 12) as usize);
        let sender = std::thread::spawn(move || send(client, cycle, bad));
        std::thread::sleep(Duration::from_millis(run.dice.between(5, 500)));
        acked.kills.push(now_ms());
        server.kill();
        if let Err(left) = procfs::wait_gone(server.pid(), Duration::from_secs(2)) {
            run.survivors += left.len() as u64;
        }
        match sender.join() {
            Ok(sent) => {
                acked.groups.extend(sent.groups);
                acked.flows.extend(sent.flows);
            }
            Err(_) => run.breach("the sender panicked"),
        }
    }
    let _server = setup.start()?;
    let left = quiesce(&mut setup.client(), QUIET_WITHIN)?;
    if left > 0 {
        run.breach(format!(
            "{left} jobs are unfinished {QUIET_WITHIN:?} after the end"
        ));
    }
    run.figure("cycles", cycles);
    run.figure("groups_acked", acked.groups.len());
    run.figure("flows_acked", acked.flows.len());
    if acked.groups.is_empty() || acked.flows.is_empty() {
        run.breach("nothing was acknowledged before a kill: nothing was tested");
    }
    check_groups(run, &setup, &acked)?;
    check_flows(run, &setup, &acked)
}

/// One group of each rule with a follow-up, one member of which may fail; and a flow.
fn send(mut client: Client, cycle: u32, bad: usize) -> Acked {
    let mut acked = Acked::default();
    for (number, rule) in RULES.into_iter().enumerate() {
        let tag = format!("then-{cycle}-{rule}");
        let jobs = (0..6)
            .map(|at| member(at == bad + number))
            .collect::<Vec<_>>();
        let then = json!({"job": {"task": "offloop.noop", "tags": [tag]}});
        let body = json!({"rule": rule, "jobs": jobs, "then": then});
        let Some(made) = post(&mut client, "/v1/groups", &body) else {
            continue;
        };
        if let Some(id) = made["id"].as_str() {
            acked.groups.insert(id.into(), tag);
        }
    }
    if let Some(made) = post(&mut client, "/v1/flows", &flow()) {
        acked.flows.push(made);
    }
    acked
}

fn member(fails: bool) -> Value {
    if fails {
        return json!({"task": "offloop.sleep", "payload": {"ms": 60_000}, "timeout_ms": 20, "max_attempts": 1});
    }
    json!({"task": "mark", "payload": {"ms": MEMBER_MS}, "max_attempts": 50})
}

/// A diamond, and one job that fails with a dependent of each kind.
fn flow() -> Value {
    let mark = |name: &str, after: Value| json!({"ref": name, "task": "mark", "payload": {"ms": MEMBER_MS}, "max_attempts": 50, "after": after});
    let mut bad = member(true);
    bad["ref"] = "bad".into();
    json!({"jobs": [
        mark("start", json!([])), mark("left", json!(["start"])), mark("right", json!(["start"])),
        mark("join", json!(["left", "right"])), bad,
        mark("fail", json!(["bad"])),
        mark("grandchild", json!(["fail"])),
        mark("ignore", json!([{"ref": "bad", "on_failure": "ignore"}, "start"])),
        mark("continue", json!([{"ref": "bad", "on_failure": "continue"}, "join"])),
    ]})
}

/// `None`: refused, or broken off.
fn post(client: &mut Client, path: &str, body: &Value) -> Option<Value> {
    let sent: Result<Answer, CallError> =
        client.call("POST", path, &JSON, body.to_string().as_bytes());
    let answer = sent.ok().filter(|answer| answer.status == 201)?;
    let made = answer.json();
    made.is_object().then_some(made)
}

fn check_groups(run: &mut Run, setup: &Setup, acked: &Acked) -> anyhow::Result<()> {
    let mut client = setup.client();
    let open = ask(&mut client, "/v1/groups?state=open&limit=500")?.json();
    for group in open["groups"].as_array().into_iter().flatten() {
        run.breach(format!("a group is open for ever: {group}"));
    }
    let mut states: BTreeMap<String, u64> = BTreeMap::new();
    let mut middle: BTreeMap<&str, u64> = RULES.into_iter().map(|rule| (rule, 0)).collect();
    for (id, tag) in &acked.groups {
        let group = ask(&mut client, &format!("/v1/groups/{id}?limit=500"))?.json();
        let (rule, state) = (group["rule"].as_str(), group["state"].as_str());
        let told = format!("{}/{}", rule.unwrap_or("?"), state.unwrap_or("?"));
        *states.entry(told).or_default() += 1;
        if was_undecided(&group, &acked.kills)?
            && let Some(count) = rule.and_then(|rule| middle.get_mut(rule))
        {
            *count += 1;
        }
        if group["progress"]["done"] != 6 || group["progress"]["total"] != 6 {
            run.breach(format!("group {id} has not come to its end: {group}"));
        }
        if let Some(wrong) = wrong_decision(&group) {
            run.breach(format!("group {id}: {wrong}: {group}"));
        }
        let made = ask(&mut client, &format!("/v1/jobs?tag={tag}&limit=10"))?.json();
        let made = made["jobs"].as_array().cloned().unwrap_or_default();
        let done = made
            .iter()
            .filter(|job| job["state"] == "completed")
            .count();
        if made.len() != 1 || done != 1 || made[0]["id"] != group["then"]["job"] {
            run.breach(format!("group {id} has the follow-ups {made:?}"));
        }
    }
    run.figure("decisions", json!(states));
    run.figure("killed_while_undecided", json!(middle));
    for (rule, count) in middle {
        if count == 0 {
            run.breach(format!("no server was killed in the middle of rule {rule}"));
        }
    }
    Ok(())
}

/// A kill fell between the making of the group and its decision.
fn was_undecided(group: &Value, kills: &[u64]) -> anyhow::Result<bool> {
    let at = |field: &str| {
        let at = offloop_wire::parse_time(group[field].as_str().unwrap_or_default());
        at.map_err(|error| anyhow::anyhow!("{field} of {group}: {error}"))
    };
    let (made, decided) = (at("created_at")?, at("decided_at")?);
    let within = made.as_millis()..decided.as_millis();
    Ok(kills.iter().any(|kill| within.contains(kill)))
}

/// Against the states of the members.
fn wrong_decision(group: &Value) -> Option<&'static str> {
    let counts = |name: &str| group["counts"][name].as_u64().unwrap_or(0);
    let (ok, failed, cancelled) = (counts("completed"), counts("failed"), counts("cancelled"));
    let shown = group["members"].as_array().into_iter().flatten();
    let completed = shown.filter(|member| member["state"] == "completed");
    if completed.count() as u64 != ok {
        return Some("its counts are not its members'");
    }
    match (group["rule"].as_str()?, group["state"].as_str()?) {
        ("all", "completed") if ok != 6 => Some("completed without all"),
        ("all_settled", state) if state != "completed" => Some("settled otherwise"),
        ("all_settled", _) if cancelled > 0 => Some("somebody was cancelled"),
        ("any" | "race", "completed") if ok == 0 => Some("completed without a success"),
        ("any", "failed") if ok > 0 => Some("failed with a success"),
        ("all" | "race", "failed") if failed == 0 => Some("failed without a failure"),
        (_, "completed" | "failed") => None,
        _ => Some("not decided"),
    }
}

fn check_flows(run: &mut Run, setup: &Setup, acked: &Acked) -> anyhow::Result<()> {
    let mut client = setup.client();
    let marks = effects(&run.effects());
    for flow in &acked.flows {
        let mut jobs = BTreeMap::new();
        for row in flow["jobs"].as_array().into_iter().flatten() {
            let id = row["id"].as_str().unwrap_or_default();
            let job = ask(&mut client, &format!("/v1/jobs/{id}"))?.json();
            jobs.insert(row["ref"].as_str().unwrap_or_default().to_owned(), job);
        }
        // One that was running at three kills in a row is set aside, and what follows it is told so.
        let poisoned = jobs.values().any(|job| job["reason"] == "poison");
        for (name, state, reason) in [
            ("start", "completed", Value::Null),
            ("join", "completed", Value::Null),
            ("bad", "failed", "exhausted".into()),
            ("fail", "failed", "dependency".into()),
            ("grandchild", "failed", "dependency".into()),
            ("ignore", "completed", Value::Null),
            ("continue", "completed", Value::Null),
        ] {
            let job = &jobs[name];
            let as_told = job["state"] == state && job["reason"] == reason;
            if !as_told && !poisoned {
                run.breach(format!("`{name}` of a flow ended otherwise: {job}"));
            }
        }
        for (child, parent) in [("left", "start"), ("join", "left"), ("join", "right")] {
            if let Some(wrong) = out_of_order(&marks, &jobs[child], &jobs[parent]) {
                run.breach(format!("`{child}` of a flow {wrong}"));
            }
        }
        if !jobs["fail"]["attempts"]
            .as_array()
            .is_none_or(Vec::is_empty)
        {
            run.breach("a job ran whose parent had failed");
        }
    }
    Ok(())
}

/// By the marks that the jobs left, which no server wrote.
fn out_of_order(marks: &Effects, child: &Value, parent: &Value) -> Option<String> {
    let of = |job: &Value| marks.get(job["id"].as_str().unwrap_or_default());
    let first = of(child)?.iter().filter(|mark| mark.what == "start");
    let first = first.map(|mark| mark.at).min()?;
    let ended = of(parent)?.iter().filter(|mark| mark.what == "end");
    let ended = ended.map(|mark| mark.at).min();
    match ended {
        Some(ended) if ended <= first => None,
        ended => Some(format!("began at {first}, its parent ended at {ended:?}")),
    }
}
