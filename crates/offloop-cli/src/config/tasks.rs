//! Tasks in the user's language: what `[tasks.NAME]` means.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use offloop::job::Webhook;
use offloop::lane_process::{Budgets, Recycle, Sandbox, Wire};
use offloop::lane_remote::{LEASE_DEFAULT, LEASE_MAX, LEASE_MIN};
use offloop::{CallSettings, Redact, Schema, TaskName};

use super::raw::{RawCalls, RawRecycle, RawSandbox, RawTask};
use super::resolve::Problems;
use super::webhooks;
use offloop::units::{Size, Span};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum TaskLane {
    Process { processes: u16 },
    Exec { slots: u16 },
    Remote { lease: Duration },
}

/// A task in the user's language.
#[derive(Clone, Debug)]
pub(crate) struct TaskConfig {
    pub(crate) name: TaskName,
    pub(crate) webhook: Option<Webhook>,
    /// Key that what its jobs work on is sealed with.
    pub(crate) encrypt: Option<String>,
    pub(crate) about: String,
    pub(crate) lane: TaskLane,
    pub(crate) command: Vec<String>,
    pub(crate) timeout: Option<Duration>,
    pub(crate) grace: Option<Duration>,
    pub(crate) cwd: Option<PathBuf>,
    pub(crate) env: BTreeMap<String, String>,
    pub(crate) args_from_payload: bool,
    pub(crate) memory_limit_bytes: Option<u64>,
    pub(crate) cpu_limit: Option<Duration>,
    pub(crate) stall_timeout: Option<Duration>,
    pub(crate) start_timeout: Option<Duration>,
    pub(crate) memory_retry_bytes: Option<u64>,
    pub(crate) data_limit_bytes: Option<u64>,
    pub(crate) budgets: Budgets,
    pub(crate) recycle: Recycle,
    pub(crate) spare: bool,
    pub(crate) wire: Wire,
    pub(crate) sandbox: Sandbox,
    pub(crate) calls: Option<CallsConfig>,
    pub(crate) redact: Redact,
    pub(crate) max_queued: Option<u64>,
    pub(crate) max_wait: Option<Duration>,
    pub(crate) max_snoozes: Option<u16>,
    pub(crate) keep: Option<Duration>,
    pub(crate) schema: Option<Arc<Schema>>,
}

/// Children that serve calls of the task, beside those for its jobs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct CallsConfig {
    pub(crate) processes: u16,
    pub(crate) grace: Duration,
    pub(crate) settings: CallSettings,
}

/// Who hangs up wants the processor back, not a long farewell: half of it is for the task to listen,
/// half from SIGTERM to SIGKILL.
const CALL_GRACE_DEFAULT: Duration = Duration::from_millis(10);
const CALL_TIMEOUT_MAX: Duration = offloop::job::limits::CALL_TIMEOUT_MAX;
const LINE_MAX: u32 = 100_000;

pub(super) fn task(
    name: &str,
    raw: RawTask,
    folder: &Path,
    problems: &mut Problems,
) -> Option<TaskConfig> {
    let key = |field: &str| format!("tasks.{name}.{field}");
    if name.starts_with("offloop.") {
        problems.say(
            format!("tasks.{name}"),
            "names that start with `offloop.` are taken",
        );
    }
    let parsed = match TaskName::parse(name) {
        Ok(name) => Some(name),
        Err(error) => {
            problems.say(format!("tasks.{name}"), format!("the name {error}"));
            None
        }
    };
    let lane = lane(&raw, &key, problems);
    if raw.lane == "remote" {
        remote_only(&raw, &key, problems);
    } else if raw.command.first().is_none_or(String::is_empty) {
        problems.say(
            key("command"),
            "is empty; give the program and its arguments as a list",
        );
    }
    if raw.args_from_payload && raw.lane != "exec" {
        problems.say(key("args_from_payload"), "is for lane = \"exec\" only");
    }
    warm_only(&raw, &key, problems);
    if raw.lease.is_some() && raw.lane != "remote" {
        problems.say(key("lease"), "is for lane = \"remote\" only");
    }
    let memory_limit_bytes = raw.memory_limit.map(|Size(bytes)| bytes);
    let memory_retry_bytes = raw.on_memory_limit.as_ref().map(|rule| rule.retry_with.0);
    if let Some(retry) = memory_retry_bytes
        && memory_limit_bytes.is_none_or(|limit| limit >= retry)
    {
        problems.say(
            key("on_memory_limit.retry_with"),
            "needs a memory_limit that is smaller; give both, or leave it out",
        );
    }
    if raw.max_queued == Some(0) {
        problems.say(key("max_queued"), "is 0; give at least 1");
    }
    let webhook = raw.webhook.as_ref();
    let webhook = webhook.map(|raw| webhooks::webhook(raw, &key, problems));
    let budgets = budgets(&raw, &key, problems);
    let wire = wire(&raw, &key, problems);
    Some(TaskConfig {
        name: parsed?,
        webhook,
        encrypt: raw.encrypt,
        about: raw.about,
        lane,
        command: raw.command,
        timeout: problems.span(key("timeout"), raw.timeout),
        grace: raw.grace.map(|Span(span)| span),
        cwd: Some(folder.join(raw.cwd.unwrap_or_default())),
        env: raw.env,
        args_from_payload: raw.args_from_payload,
        memory_limit_bytes,
        cpu_limit: problems.span(key("cpu_limit"), raw.cpu_limit),
        stall_timeout: problems.span(key("stall_timeout"), raw.stall_timeout),
        start_timeout: problems.span(key("start_timeout"), raw.start_timeout),
        memory_retry_bytes,
        data_limit_bytes: raw.data_limit.map(|Size(bytes)| bytes),
        budgets,
        recycle: recycle(&raw.recycle.unwrap_or_default(), &key, problems),
        spare: raw.spare,
        wire,
        redact: redact(&raw.redact, &key, problems),
        max_queued: raw.max_queued,
        max_wait: problems.span(key("max_wait"), raw.max_wait),
        max_snoozes: raw.max_snoozes,
        keep: raw.keep.map(|Span(span)| span),
        schema: raw
            .schema
            .and_then(|file| schema(&folder.join(file), key("schema"), problems)),
        calls: raw.calls.as_ref().map(|raw| calls(raw, &key, problems)),
        sandbox: sandbox(raw.sandbox.unwrap_or_default(), folder, &key, problems),
    })
}

fn schema(file: &Path, key: String, problems: &mut Problems) -> Option<Arc<Schema>> {
    let read = std::fs::read(file)
        .map_err(|error| format!("cannot be read: {error}"))
        .and_then(|text| Schema::parse(&text).map_err(|error| error.to_string()));
    match read {
        Ok(schema) => Some(Arc::new(schema)),
        Err(error) => {
            problems.say(key, format!("{} {error}", file.display()));
            None
        }
    }
}

fn budgets(raw: &RawTask, key: &impl Fn(&str) -> String, problems: &mut Problems) -> Budgets {
    let usual = Budgets::default();
    let mut within = |field, value: Option<u32>, least: u32, most: u32| {
        if value.is_some_and(|value| value < least || value > most) {
            problems.say(key(field), format!("give {least} to {most}"));
        }
        value
    };
    let open_files = within("file_limit", raw.file_limit, 16, 1 << 20);
    let processes = within("process_limit", raw.process_limit, 1, 1 << 16);
    if raw.output_limit == Some(Size(0)) {
        problems.say(
            key("output_limit"),
            "is 0; give a size such as \"64MiB\", or leave it out for no limit",
        );
    }
    Budgets {
        output_bytes: raw.output_limit.map(|Size(bytes)| bytes),
        open_files: open_files.unwrap_or(usual.open_files),
        processes: processes.unwrap_or(usual.processes),
    }
}

fn recycle(raw: &RawRecycle, key: &impl Fn(&str) -> String, problems: &mut Problems) -> Recycle {
    if raw.jobs == Some(0) {
        problems.say(key("recycle.jobs"), "is 0; give at least 1");
    }
    Recycle {
        jobs: raw.jobs,
        age: problems.span(key("recycle.age"), raw.age),
        memory_bytes: raw.memory.map(|Size(bytes)| bytes),
    }
}

fn redact(raw: &[String], key: &impl Fn(&str) -> String, problems: &mut Problems) -> Redact {
    let mut redact = Redact::default();
    for what in raw {
        match what.as_str() {
            "payload" => redact.payload = true,
            "result" => redact.result = true,
            "log" => redact.log = true,
            other => problems.say(
                key("redact"),
                format!("names {other:?}; give some of \"payload\", \"result\", \"log\""),
            ),
        }
    }
    redact
}

fn calls(raw: &RawCalls, key: &impl Fn(&str) -> String, problems: &mut Problems) -> CallsConfig {
    let usual = CallSettings::default();
    let timeout = problems.span(key("calls.timeout"), raw.timeout);
    if timeout.is_some_and(|timeout| timeout > CALL_TIMEOUT_MAX) {
        problems.say(
            key("calls.timeout"),
            format!("give at most {CALL_TIMEOUT_MAX:?}; what takes longer is a job"),
        );
    }
    if raw.line.is_some_and(|line| line == 0 || line > LINE_MAX) {
        problems.say(key("calls.line"), format!("give 1 to {LINE_MAX}"));
    }
    let max_wait = problems.span(key("calls.max_wait"), raw.max_wait);
    let processes = problems.slots(&key("calls.processes"), raw.processes);
    CallsConfig {
        processes: processes.unwrap_or(1),
        grace: raw.grace.map_or(CALL_GRACE_DEFAULT, |Span(span)| span),
        settings: CallSettings {
            timeout: timeout.unwrap_or(usual.timeout),
            max_wait: max_wait.unwrap_or(usual.max_wait),
            line: raw.line.unwrap_or(usual.line),
            single_flight: raw.single_flight,
        },
    }
}

fn sandbox(
    raw: RawSandbox,
    folder: &Path,
    key: &impl Fn(&str) -> String,
    problems: &mut Problems,
) -> Sandbox {
    if !raw.writable.is_empty() && !raw.read_only {
        problems.say(
            key("sandbox.writable"),
            "needs read_only = true: without it everything can be written",
        );
    }
    let from_here = |paths: Vec<PathBuf>| paths.iter().map(|path| folder.join(path)).collect();
    Sandbox {
        no_network: raw.network == Some(false),
        read_only: raw.read_only,
        writable: from_here(raw.writable),
        hidden: from_here(raw.hidden),
    }
}

fn lane(raw: &RawTask, key: &impl Fn(&str) -> String, problems: &mut Problems) -> TaskLane {
    let processes = problems.slots(&key("processes"), raw.processes);
    match raw.lane.as_str() {
        "process" => TaskLane::Process {
            processes: processes.unwrap_or(1),
        },
        "exec" => TaskLane::Exec {
            slots: processes.unwrap_or(2),
        },
        "remote" => TaskLane::Remote {
            lease: lease(raw, key, problems),
        },
        other => {
            problems.say(
                key("lane"),
                format!("is {other:?}; give \"process\" (warm children), \"exec\" (one command per job) or \"remote\" (workers elsewhere that ask for it)"),
            );
            TaskLane::Exec { slots: 1 }
        }
    }
}

fn lease(raw: &RawTask, key: &impl Fn(&str) -> String, problems: &mut Problems) -> Duration {
    let lease = raw.lease.map_or(LEASE_DEFAULT, |Span(span)| span);
    if !(LEASE_MIN..=LEASE_MAX).contains(&lease) {
        problems.say(
            key("lease"),
            format!("is {lease:?}; give {LEASE_MIN:?} to {LEASE_MAX:?}"),
        );
    }
    lease
}

/// What is about executors of this machine says nothing about workers elsewhere.
fn remote_only(raw: &RawTask, key: &impl Fn(&str) -> String, problems: &mut Problems) {
    let given = [
        ("command", !raw.command.is_empty()),
        ("processes", raw.processes.is_some()),
        ("cwd", raw.cwd.is_some()),
        ("env", !raw.env.is_empty()),
        ("memory_limit", raw.memory_limit.is_some()),
        ("cpu_limit", raw.cpu_limit.is_some()),
        ("start_timeout", raw.start_timeout.is_some()),
        ("on_memory_limit", raw.on_memory_limit.is_some()),
        ("output_limit", raw.output_limit.is_some()),
        ("file_limit", raw.file_limit.is_some()),
        ("process_limit", raw.process_limit.is_some()),
        ("data_limit", raw.data_limit.is_some()),
        ("recycle", raw.recycle.is_some()),
        ("spare", raw.spare),
        ("protocol", raw.protocol.is_some()),
        ("sandbox", raw.sandbox.is_some()),
        ("calls", raw.calls.is_some()),
    ];
    for (field, is_given) in given {
        if is_given {
            problems.say(
                key(field),
                "is not for lane = \"remote\": a worker elsewhere sees to that itself",
            );
        }
    }
}

fn warm_only(raw: &RawTask, key: &impl Fn(&str) -> String, problems: &mut Problems) {
    let given = [
        ("recycle", raw.recycle.is_some()),
        ("spare", raw.spare),
        ("protocol", raw.protocol.is_some()),
    ];
    for (field, is_given) in given {
        if is_given && raw.lane == "exec" {
            problems.say(
                key(field),
                "is for lane = \"process\" only: each exec job has a process of its own",
            );
        }
    }
}

fn wire(raw: &RawTask, key: &impl Fn(&str) -> String, problems: &mut Problems) -> Wire {
    match raw.protocol.as_deref() {
        None | Some("frames") => Wire::Frames,
        Some("json_lines") => Wire::Lines,
        Some(other) => {
            problems.say(
                key("protocol"),
                format!(
                    "is {other:?}; give \"frames\" or \"json_lines\" (standard input and output)"
                ),
            );
            Wire::Frames
        }
    }
}
