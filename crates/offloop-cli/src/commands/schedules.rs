//! `schedules`: what is due when, and what became of it.

use std::fmt::Write as _;
use std::process::ExitCode;

use anyhow::Context;
use clap::Subcommand;
use serde_json::Value;

use crate::client::{Client, ServerArgs, escape};

#[derive(clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    order: Option<Order>,
    #[command(flatten)]
    server: ServerArgs,
}

#[derive(Subcommand)]
enum Order {
    /// List them, by name (the default)
    List,
    /// Show one, as it was asked for
    Show { name: String },
    /// Make or change one
    Put {
        name: String,
        /// The body as JSON, or @FILE: {"task": "report", "cron": "0 3 * * *"}
        spec: String,
    },
    /// Forget one and its ledger; its jobs go on
    Delete { name: String },
    /// Show what became of its due times, the newest first
    Ledger {
        name: String,
        /// Rows
        #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(u16).range(1..=500))]
        limit: u16,
    },
    /// Show its next due times
    Next {
        name: String,
        #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u16).range(1..=100))]
        count: u16,
    },
    /// Show the next due times of one that is not there yet
    Preview {
        /// The body as JSON, or @FILE
        spec: String,
        #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u16).range(1..=100))]
        count: u16,
    },
    /// Fire it now, whatever its times and rules say
    Trigger { name: String },
    /// Skip its due times until it is resumed
    Pause { name: String },
    /// Keep its due times again
    Resume { name: String },
}

/// JSON itself, or the file that `@FILE` names.
fn body(text: &str) -> anyhow::Result<String> {
    match text.strip_prefix('@') {
        Some(file) => std::fs::read_to_string(file).with_context(|| format!("cannot read {file}")),
        None => Ok(text.to_owned()),
    }
}

pub(crate) fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let client = Client::new(&args.server);
    let path = |name: &str, rest: &str| format!("/v1/schedules/{}{rest}", escape(name));
    let (answer, show): (_, fn(&Value)) = match args.order.as_ref().unwrap_or(&Order::List) {
        Order::List => (list(&client)?, show_list),
        Order::Show { name } => (client.get(&path(name, ""))?.ok()?, show_one),
        Order::Put { name, spec } => (client.put(&path(name, ""), &body(spec)?)?.ok()?, show_one),
        Order::Delete { name } => (client.delete(&path(name, ""))?.ok()?, |_| {}),
        Order::Ledger { name, limit } => {
            let rest = format!("/ledger?limit={limit}");
            (client.get(&path(name, &rest))?.ok()?, show_ledger)
        }
        Order::Next { name, count } => {
            let rest = format!("/next?count={count}");
            (client.get(&path(name, &rest))?.ok()?, show_next)
        }
        Order::Preview { spec, count } => {
            let path = format!("/v1/schedules/preview?count={count}");
            (client.post(&path, &body(spec)?, &[])?.ok()?, show_next)
        }
        Order::Trigger { name } => {
            let answer = client.post(&path(name, "/trigger"), "", &[])?.ok()?;
            (answer, |row| println!("{}", text(&row["job_id"])))
        }
        Order::Pause { name } => (client.post(&path(name, "/pause"), "", &[])?.ok()?, show_one),
        Order::Resume { name } => (
            client.post(&path(name, "/resume"), "", &[])?.ok()?,
            show_one,
        ),
    };
    if args.server.json {
        println!("{answer}");
    } else {
        show(&answer);
    }
    Ok(ExitCode::SUCCESS)
}

/// All of them, page by page.
fn list(client: &Client) -> anyhow::Result<Value> {
    let mut all = Vec::new();
    let mut cursor = String::new();
    loop {
        let page = client
            .get(&format!("/v1/schedules?limit=500{cursor}"))?
            .ok()?;
        all.extend(page["schedules"].as_array().cloned().unwrap_or_default());
        match page["next_cursor"].as_str() {
            Some(next) => cursor = format!("&cursor={}", escape(next)),
            None => return Ok(serde_json::json!({ "schedules": all, "next_cursor": null })),
        }
    }
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or("-")
}

fn show_list(answer: &Value) {
    let rows = answer["schedules"].as_array().cloned().unwrap_or_default();
    if rows.is_empty() {
        println!("no schedules yet");
        return;
    }
    println!(
        "{:<24} {:<20} {:<28} {:<24}",
        "schedule", "task", "when", "next due"
    );
    for row in &rows {
        let paused = if row["paused"] == true {
            "  (paused)"
        } else {
            ""
        };
        let silent = if row["silent"].is_string() {
            "  (silent)"
        } else {
            ""
        };
        println!(
            "{:<24} {:<20} {:<28} {:<24}{paused}{silent}",
            text(&row["name"]),
            text(&row["task"]),
            text(&row["when"]),
            text(&row["next_due_at"]),
        );
    }
}

fn show_one(row: &Value) {
    for field in [
        "name",
        "task",
        "when",
        "timezone",
        "origin",
        "next_due_at",
        "held_due_at",
    ] {
        if let Some(value) = row[field].as_str() {
            println!(
                "{:<12} {value}",
                field.trim_end_matches("_at").replace('_', " ")
            );
        }
    }
    println!("{:<12} {}", "paused", row["paused"]);
    if let Some(why) = row["silent"].as_str() {
        println!("{:<12} {why}", "silent");
    }
    println!("{:<12} {}", "spec", row["spec"]);
}

fn show_ledger(answer: &Value) {
    println!("{:<24} {:<8} {:>9}  what", "due", "outcome", "late ms");
    for row in answer["ledger"].as_array().cloned().unwrap_or_default() {
        let mut what = row["job_id"]
            .as_str()
            .or(row["reason"].as_str())
            .unwrap_or("-")
            .to_owned();
        if row["by_hand"] == true {
            what.push_str(" (triggered)");
        }
        if let Some(until) = row["until"].as_str() {
            let count = row["count"]
                .as_u64()
                .map_or("many".to_owned(), |count| count.to_string());
            let _ = write!(what, " ({count} times, until {until})");
        }
        println!(
            "{:<24} {:<8} {:>9}  {what}",
            text(&row["due_at"]),
            text(&row["outcome"]),
            row["late_ms"].as_u64().unwrap_or(0),
        );
    }
}

fn show_next(answer: &Value) {
    for row in answer["next"].as_array().cloned().unwrap_or_default() {
        println!("{}  {}", text(&row["due_at"]), text(&row["local"]));
    }
}
