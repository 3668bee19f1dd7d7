//! `call`: a task's answer, now.

use std::process::ExitCode;

use serde_json::{Value, json};

use super::jobs::payload;
use super::text::plain;
use crate::client::{Client, ServerArgs, escape};

#[derive(clap::Args)]
pub(crate) struct Args {
    /// Name of the task
    task: String,
    /// Its payload: JSON, @FILE, or - for standard input
    #[arg(default_value = "null")]
    payload: String,
    /// From now to the answer, in milliseconds, waiting included; at most 300000
    #[arg(long, value_name = "MS", value_parser = clap::value_parser!(u64).range(1..=300_000))]
    timeout_ms: Option<u64>,
    /// 0 first to 9 last; the last are refused first
    #[arg(long, value_parser = clap::value_parser!(u8).range(0..=9))]
    priority: Option<u8>,
    #[command(flatten)]
    server: ServerArgs,
}

pub(crate) fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let mut body = json!({ "payload": payload(&args.payload)? });
    if let Some(timeout) = args.timeout_ms {
        body["timeout_ms"] = timeout.into();
    }
    if let Some(priority) = args.priority {
        body["priority"] = priority.into();
    }
    let path = format!("/v1/call/{}", escape(&args.task));
    let answer = Client::new(&args.server)
        .post(&path, &body.to_string(), &[])?
        .ok()?;
    if args.server.json {
        println!("{answer}");
        return Ok(ExitCode::SUCCESS);
    }
    println!("{}", answer["result"]);
    let ms = |key: &str| answer[key].as_f64().unwrap_or(0.0);
    let text = |value: &Value| plain(value.as_str().unwrap_or("?"));
    eprintln!(
        "waited {:.1} ms, ran {:.1} ms on {} ({})",
        ms("wait_ms"),
        ms("wall_ms"),
        text(&answer["lane"]),
        text(&answer["executor"]),
    );
    Ok(ExitCode::SUCCESS)
}
