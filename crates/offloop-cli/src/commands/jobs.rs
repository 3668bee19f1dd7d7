//! `enqueue`, `jobs`, `cancel`: jobs of a running server.

use std::fmt::Write as _;
use std::io::Read as _;
use std::process::ExitCode;

use anyhow::Context;
use clap::Args;
use serde_json::{Map, Value, json};

use super::sweep::Which;
use super::text::plain;
use crate::client::{Client, ServerArgs, escape};

#[derive(Args)]
pub(crate) struct EnqueueArgs {
    /// Task to run
    task: String,
    /// Its payload: JSON, `@FILE`, or `-` for standard input
    #[arg(default_value = "null")]
    payload: String,
    /// Queue to put it in
    #[arg(long)]
    queue: Option<String>,
    /// 0 (first) to 9 (last)
    #[arg(long)]
    priority: Option<u8>,
    /// Not before this has passed, such as 5min
    #[arg(long, value_parser = humantime::parse_duration)]
    delay: Option<std::time::Duration>,
    /// Wall-clock limit of one attempt, such as 30s
    #[arg(long, value_parser = humantime::parse_duration)]
    timeout: Option<std::time::Duration>,
    /// Runs in all
    #[arg(long)]
    max_attempts: Option<u16>,
    /// Label to find it by; may be repeated
    #[arg(long = "tag")]
    tags: Vec<String>,
    /// Sent again with the same key, the same job is answered
    #[arg(long)]
    idempotency_key: Option<String>,
    /// Seconds to wait for the result, up to 60
    #[arg(long, value_name = "SECONDS")]
    wait: Option<u8>,
    #[command(flatten)]
    server: ServerArgs,
}

#[derive(Args)]
pub(crate) struct ListArgs {
    #[command(flatten)]
    which: Which,
    /// 1 to 500
    #[arg(long, default_value_t = 50)]
    limit: u16,
    #[command(flatten)]
    server: ServerArgs,
}

#[derive(Args)]
pub(crate) struct OneArgs {
    /// The job
    id: String,
    #[command(flatten)]
    server: ServerArgs,
}

impl OneArgs {
    pub(crate) fn new(id: String, server: ServerArgs) -> Self {
        Self { id, server }
    }
}

/// The payload's text, wherever it is.
pub(super) fn payload(text: &str) -> anyhow::Result<Value> {
    let text = match text.strip_prefix('@') {
        Some(file) => {
            std::fs::read_to_string(file).with_context(|| format!("cannot read payload {file}"))?
        }
        None if text == "-" => {
            let mut read = String::new();
            std::io::stdin()
                .read_to_string(&mut read)
                .context("cannot read the payload")?;
            read
        }
        None => text.to_owned(),
    };
    serde_json::from_str(&text)
        .context("the payload is not JSON; quote it for your shell, such as '{\"ms\": 5}'")
}

pub(crate) fn enqueue(args: &EnqueueArgs) -> anyhow::Result<ExitCode> {
    let mut body = Map::new();
    body.insert("task".into(), args.task.clone().into());
    body.insert("payload".into(), payload(&args.payload)?);
    let millis = |span: std::time::Duration| u64::try_from(span.as_millis()).unwrap_or(u64::MAX);
    let options = [
        ("queue", args.queue.clone().map(Value::from)),
        ("priority", args.priority.map(Value::from)),
        ("delay_ms", args.delay.map(|delay| millis(delay).into())),
        (
            "timeout_ms",
            args.timeout.map(|timeout| millis(timeout).into()),
        ),
        ("max_attempts", args.max_attempts.map(Value::from)),
        ("tags", (!args.tags.is_empty()).then(|| json!(args.tags))),
    ];
    for (key, value) in options {
        if let Some(value) = value {
            body.insert(key.into(), value);
        }
    }
    let wait = args.wait.map(|seconds| format!("wait={seconds}"));
    let mut headers = Vec::new();
    if let Some(key) = &args.idempotency_key {
        headers.push(("idempotency-key", key.as_str()));
    }
    if let Some(wait) = &wait {
        headers.push(("prefer", wait.as_str()));
    }
    let text = Value::Object(body).to_string();
    let job = Client::new(&args.server)
        .post("/v1/jobs", &text, &headers)?
        .ok()?;
    if args.server.json {
        println!("{job}");
    } else {
        let id = job["id"].as_str().unwrap_or("?");
        let mut text = format!("{id}  {}\n", state_line(&job));
        if !job["result"].is_null() {
            let _ = writeln!(text, "{}", job["result"]);
        }
        // In one piece: a reader that wants the first line alone may have gone before the second.
        print!("{text}");
    }
    let failed = matches!(
        job["state"].as_str(),
        Some("failed" | "cancelled" | "expired")
    );
    Ok(if failed {
        ExitCode::FAILURE
    } else {
        ExitCode::SUCCESS
    })
}

pub(crate) fn list(args: &ListArgs) -> anyhow::Result<ExitCode> {
    let query = format!("?limit={}{}", args.limit, args.which.query());
    let client = Client::new(&args.server);
    let mut rows = Vec::new();
    let mut cursor: Option<String> = None;
    // A page may be short and still have a next one.
    loop {
        let next = cursor
            .as_ref()
            .map(|c| format!("&cursor={}", escape(c)))
            .unwrap_or_default();
        let page = client.get(&format!("/v1/jobs{query}{next}"))?.ok()?;
        rows.extend(page["jobs"].as_array().cloned().unwrap_or_default());
        cursor = page["next_cursor"].as_str().map(str::to_owned);
        if rows.len() >= usize::from(args.limit) || cursor.is_none() {
            break;
        }
    }
    rows.truncate(args.limit.into());
    if args.server.json {
        println!("{}", json!({ "jobs": rows, "next_cursor": cursor }));
        return Ok(ExitCode::SUCCESS);
    }
    if rows.is_empty() {
        println!("no jobs");
    }
    for job in &rows {
        let text = |key: &str| job[key].as_str().unwrap_or("").to_owned();
        println!(
            "{}  {:<24} {:<12} {}",
            text("id"),
            text("task"),
            text("queue"),
            state_line(job)
        );
    }
    Ok(ExitCode::SUCCESS)
}

/// The state, for when it is scheduled, and the failure if there is one.
fn state_line(job: &Value) -> String {
    let state = job["state"].as_str().unwrap_or("?");
    let due = job["due_at"].as_str().filter(|_| state == "scheduled");
    let state = due.map_or_else(|| state.to_owned(), |due| format!("{state} for {due}"));
    let failure = &job["failure"];
    match failure["class"].as_str() {
        Some(class) if state != "completed" => {
            format!(
                "{state} ({class}: {})",
                plain(failure["message"].as_str().unwrap_or(""))
            )
        }
        _ => state,
    }
}

pub(crate) fn order(args: &OneArgs, order: &str) -> anyhow::Result<ExitCode> {
    let path = format!("/v1/jobs/{}/{order}", escape(&args.id));
    let answer = Client::new(&args.server).post(&path, "", &[])?.ok()?;
    if args.server.json {
        println!("{answer}");
        return Ok(ExitCode::SUCCESS);
    }
    let state = match answer["state"].as_str() {
        // Final once its executor is proven gone.
        Some("running") if order == "cancel" => "stopping",
        Some(state) => state,
        None => "done",
    };
    println!("{}  {state}", args.id);
    Ok(ExitCode::SUCCESS)
}
