//! `groups`, `group`: jobs that settle together.

use std::fmt::Write as _;
use std::process::ExitCode;

use anyhow::bail;
use clap::Args;
use serde_json::Value;

use super::text::{field, plain};
use crate::client::{Client, ServerArgs, escape};

#[derive(Args)]
pub(crate) struct ListArgs {
    /// open, completed, failed or cancelled
    #[arg(long)]
    state: Option<String>,
    /// Rows, 1 to 500
    #[arg(long, default_value_t = 50)]
    limit: u16,
    #[command(flatten)]
    server: ServerArgs,
}

pub(crate) fn list(args: &ListArgs) -> anyhow::Result<ExitCode> {
    let client = Client::new(&args.server);
    let mut path = format!("/v1/groups?limit={}", args.limit);
    if let Some(state) = &args.state {
        let _ = write!(path, "&state={}", escape(state));
    }
    let answer = client.get(&path)?.ok()?;
    if args.server.json {
        println!("{answer}");
        return Ok(ExitCode::SUCCESS);
    }
    let groups = answer["groups"].as_array().cloned().unwrap_or_default();
    if groups.is_empty() {
        println!("no groups");
        return Ok(ExitCode::SUCCESS);
    }
    println!(
        "{:<36} {:<11} {:<9} {:>17}  {:<24}",
        "group", "rule", "state", "done of total", "created"
    );
    for group in &groups {
        println!(
            "{:<36} {:<11} {:<9} {:>17}  {:<24}",
            field(&group["id"]),
            field(&group["rule"]),
            field(&group["state"]),
            progress(group),
            field(&group["created_at"]),
        );
    }
    if answer["next_cursor"].is_string() {
        println!("there are more; raise --limit, or narrow by --state");
    }
    Ok(ExitCode::SUCCESS)
}

fn progress(group: &Value) -> String {
    let count = |name: &str| group["progress"][name].as_u64().unwrap_or(0);
    format!("{} / {}", count("done"), count("total"))
}

#[derive(Args)]
pub(crate) struct OneArgs {
    /// The group
    id: String,
    /// No more members come: it is over when all have ended
    #[arg(long, conflicts_with = "cancel")]
    seal: bool,
    /// End it; members that run are stopped for certain
    #[arg(long)]
    cancel: bool,
    /// Members to show, 1 to 500
    #[arg(long, default_value_t = 20)]
    members: u16,
    #[command(flatten)]
    server: ServerArgs,
}

pub(crate) fn show(args: &OneArgs) -> anyhow::Result<ExitCode> {
    let client = Client::new(&args.server);
    let id = escape(&args.id);
    for (asked, order) in [(args.seal, "seal"), (args.cancel, "cancel")] {
        if asked {
            let path = format!("/v1/groups/{id}/{order}");
            client.post(&path, "", &[])?.ok()?;
        }
    }
    if args.members == 0 {
        bail!("--members is 0; give 1 to 500");
    }
    let path = format!("/v1/groups/{id}?limit={}", args.members);
    let group = client.get(&path)?.ok()?;
    if args.server.json {
        println!("{group}");
    } else {
        print!("{}", told(&group));
    }
    Ok(ExitCode::SUCCESS)
}

fn told(group: &Value) -> String {
    let mut out = String::new();
    let held = if group["hold"] == true { ", held" } else { "" };
    let _ = writeln!(
        out,
        "{}  {}  {}{held}",
        field(&group["id"]),
        field(&group["rule"]),
        field(&group["state"])
    );
    let count = |name: &str| group["counts"][name].as_u64().unwrap_or(0);
    let _ = writeln!(
        out,
        "done      {} ({} completed, {} failed, {} cancelled, {} expired)",
        progress(group),
        count("completed"),
        count("failed"),
        count("cancelled"),
        count("expired")
    );
    for (name, title) in [
        ("created_at", "created"),
        ("deadline", "deadline"),
        ("decided_at", "decided"),
        ("reason", "reason"),
    ] {
        if group[name].is_string() {
            let _ = writeln!(out, "{title:<9} {}", field(&group[name]));
        }
    }
    if let Some(message) = group["message"].as_str() {
        let _ = writeln!(out, "because   {}", plain(message));
    }
    if group["then"].is_object() {
        let then = &group["then"];
        let job = then["job"].as_str().unwrap_or("not made");
        let _ = writeln!(
            out,
            "then      {} (on {}): {job}",
            field(&then["task"]),
            field(&then["on"])
        );
    }
    let members = group["members"].as_array().cloned().unwrap_or_default();
    for member in &members {
        let state = member["state"].as_str().unwrap_or("deleted");
        let _ = writeln!(out, "  {}  {state}", field(&member["id"]));
    }
    if group["next_cursor"].is_string() {
        let _ = writeln!(out, "  ... there are more; raise --members");
    }
    out
}
