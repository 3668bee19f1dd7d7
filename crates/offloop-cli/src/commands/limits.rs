//! `limits`: what is held back, changed while jobs run; `audit`: who changed what.

use std::process::ExitCode;

use serde_json::{Map, Value};

use super::text::plain;
use crate::client::{Client, ServerArgs, escape};

#[derive(clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    order: Option<Order>,
    #[command(flatten)]
    server: ServerArgs,
}

#[derive(clap::Subcommand)]
enum Order {
    /// Show limits, with what runs under them and what they hold back (the default)
    List,
    /// Set a limit, whole; it is in force at once
    Set(SetArgs),
    /// Remove a limit
    Remove {
        /// queue:NAME, task:NAME, key:KEY, key:* (each), task:NAME/key:KEY or task:NAME/key:*
        target: String,
    },
}

#[derive(clap::Args)]
struct SetArgs {
    /// queue:NAME, task:NAME, key:KEY, key:* (each), task:NAME/key:KEY or task:NAME/key:*
    target: String,
    /// Jobs that run at once, 1 to 1000000
    #[arg(long)]
    concurrency: Option<u32>,
    /// Units (jobs, or what they declare as cost) in a time, such as 100/s, 5/10m or 1000/h
    #[arg(long)]
    rate: Option<String>,
    /// Units that may start at once after a rest; default a tenth of a second's
    #[arg(long, requires = "rate")]
    burst: Option<u32>,
    /// Picks of the key in each round, 1 to 1000; of key:KEY and key:*
    #[arg(long)]
    weight: Option<u16>,
}

#[derive(clap::Args)]
pub(crate) struct AuditArgs {
    /// Changes of this alone, such as queue:mail
    #[arg(long)]
    subject: Option<String>,
    /// Rows, 1 to 500
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u16).range(1..=500))]
    limit: u16,
    #[command(flatten)]
    server: ServerArgs,
}

pub(crate) fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let client = Client::new(&args.server);
    let path = |target: &str| format!("/v1/limits/{}", escape(target));
    match &args.order {
        None | Some(Order::List) => list(&client, args.server.json)?,
        Some(Order::Set(set)) => {
            let body = Value::Object(body(set)).to_string();
            let limit = client.put(&path(&set.target), &body)?.ok()?;
            if args.server.json {
                println!("{limit}");
            } else {
                println!("{}: {}", plain(&set.target), rule(&limit));
            }
        }
        Some(Order::Remove { target }) => {
            client.delete(&path(target))?.ok()?;
            if !args.server.json {
                println!("{}: removed", plain(target));
            }
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn body(set: &SetArgs) -> Map<String, Value> {
    let mut body = Map::new();
    let mut put = |key: &str, value: Option<Value>| {
        body.extend(value.map(|value| (key.to_owned(), value)));
    };
    put("concurrency", set.concurrency.map(Value::from));
    put("rate", set.rate.clone().map(Value::from));
    put("burst", set.burst.map(Value::from));
    put("weight", set.weight.map(Value::from));
    body
}

fn list(client: &Client, json: bool) -> anyhow::Result<()> {
    let mut rows = Vec::new();
    let mut cursor = None::<String>;
    loop {
        let from = cursor.map_or(String::new(), |cursor| {
            format!("&cursor={}", escape(&cursor))
        });
        let page = client.get(&format!("/v1/limits?limit=500{from}"))?.ok()?;
        rows.extend(page["limits"].as_array().cloned().unwrap_or_default());
        cursor = page["next_cursor"].as_str().map(str::to_owned);
        if cursor.is_none() {
            break;
        }
    }
    if json {
        println!("{}", serde_json::json!({ "limits": rows }));
        return Ok(());
    }
    if rows.is_empty() {
        println!("no limits; set one by `offloop limits set TARGET --concurrency N`");
        return Ok(());
    }
    println!(
        "{:<32} {:<40} {:>8}  held back by",
        "target", "limit", "running"
    );
    for row in rows {
        let held = match (row["blocked_by"].as_str(), row["blocked_until"].as_str()) {
            (Some(by), Some(until)) => format!("{by} until {until}"),
            (Some(by), None) => by.to_owned(),
            _ => "-".to_owned(),
        };
        println!(
            "{:<32} {:<40} {:>8}  {held}",
            plain(row["target"].as_str().unwrap_or("?")),
            rule(&row),
            row["running"].as_u64().unwrap_or(0),
        );
    }
    Ok(())
}

/// A limit in one line.
pub(super) fn rule(limit: &Value) -> String {
    let mut parts = Vec::new();
    let number = |key: &str| limit[key].as_u64();
    parts.extend(number("concurrency").map(|most| format!("{most} at once")));
    if let (Some(rate), Some(burst)) = (limit["rate"].as_str(), number("burst")) {
        parts.push(format!("{rate} burst {burst}"));
    }
    parts.extend(number("weight").map(|weight| format!("weight {weight}")));
    parts.join(", ")
}

pub(crate) fn audit(args: &AuditArgs) -> anyhow::Result<ExitCode> {
    let subject = args.subject.as_deref().map(escape);
    let subject = subject.map_or(String::new(), |subject| format!("&subject={subject}"));
    let path = format!("/v1/audit?limit={}{subject}", args.limit);
    let page = Client::new(&args.server).get(&path)?.ok()?;
    if args.server.json {
        println!("{page}");
        return Ok(ExitCode::SUCCESS);
    }
    let entries = page["entries"].as_array().cloned().unwrap_or_default();
    if entries.is_empty() {
        println!("nothing was changed yet");
    }
    for entry in entries {
        let text = |key: &str| plain(entry[key].as_str().unwrap_or("-"));
        println!(
            "{}  {:<8} {:<14} {}  {} -> {}",
            text("at"),
            text("actor"),
            text("action"),
            text("subject"),
            text("before"),
            text("after"),
        );
    }
    Ok(ExitCode::SUCCESS)
}
