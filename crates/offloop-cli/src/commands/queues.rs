//! `queues`: what waits where.

use std::fmt::Write as _;
use std::process::ExitCode;

use super::limits::rule;
use super::text::plain;
use crate::client::{Client, ServerArgs, escape};

#[derive(clap::Args)]
pub(crate) struct Args {
    /// Give no more jobs of this queue out; what runs goes on
    #[arg(long, value_name = "QUEUE", conflicts_with_all = ["resume", "drain"])]
    pause: Option<String>,
    /// Take them in and give them out again
    #[arg(long, value_name = "QUEUE")]
    resume: Option<String>,
    /// Take no new jobs into this queue; what it has runs to its end
    #[arg(long, value_name = "QUEUE", conflicts_with = "resume")]
    drain: Option<String>,
    #[command(flatten)]
    server: ServerArgs,
}

pub(crate) fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let client = Client::new(&args.server);
    let orders = [
        ("pause", &args.pause),
        ("resume", &args.resume),
        ("drain", &args.drain),
    ];
    for (order, queue) in orders {
        if let Some(queue) = queue {
            client
                .post(&format!("/v1/queues/{}/{order}", escape(queue)), "", &[])?
                .ok()?;
        }
    }
    let answer = client.get("/v1/queues")?.ok()?;
    if args.server.json {
        println!("{answer}");
        return Ok(ExitCode::SUCCESS);
    }
    let queues = answer["queues"].as_array().cloned().unwrap_or_default();
    if queues.is_empty() {
        println!("no queues yet");
        return Ok(ExitCode::SUCCESS);
    }
    println!(
        "{:<24} {:>10} {:>10} {:>10} {:>10}  oldest ready",
        "queue", "waiting", "scheduled", "ready", "running"
    );
    for queue in queues {
        let count = |state: &str| queue["counts"][state].as_u64().unwrap_or(0);
        let oldest = queue["oldest_ready_ms"]
            .as_u64()
            .map(|ms| humantime::format_duration(std::time::Duration::from_millis(ms)).to_string());
        println!(
            "{:<24} {:>10} {:>10} {:>10} {:>10}  {}{}",
            queue["name"].as_str().unwrap_or("?"),
            count("waiting"),
            count("scheduled"),
            count("ready"),
            count("running"),
            oldest.as_deref().unwrap_or("-"),
            shut(&queue["mode"]),
        );
        print!("{}", held_by(&queue));
    }
    Ok(ExitCode::SUCCESS)
}

/// A line for each limit that holds its jobs back.
fn held_by(queue: &serde_json::Value) -> String {
    let mut lines = String::new();
    for limit in queue["limits"].as_array().into_iter().flatten() {
        let target = plain(limit["target"].as_str().unwrap_or("?"));
        let running = limit["running"].as_u64().unwrap_or(0);
        let _ = writeln!(
            lines,
            "  limit {target}: {}; {running} running",
            rule(limit)
        );
    }
    lines
}

/// What to add to a line that is not open.
pub(super) fn shut(mode: &serde_json::Value) -> String {
    match mode.as_str() {
        None | Some("open") => String::new(),
        Some(mode) => format!("  ({mode})"),
    }
}
