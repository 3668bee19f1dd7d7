//! `retry`, `delete`, `export`: orders for many finished jobs, and for one.

use std::fmt::Write as _;
use std::io::{IsTerminal as _, Write as _};
use std::process::ExitCode;

use anyhow::{Context, bail};
use clap::Args;
use offloop::job::FailureClass;
use serde_json::Value;

use super::jobs::{self, OneArgs};
use crate::client::{Client, Method, ServerArgs, escape};

/// Which jobs.
#[derive(Args)]
pub(crate) struct Which {
    #[arg(long)]
    task: Option<String>,
    #[arg(long)]
    queue: Option<String>,
    /// waiting, scheduled, ready, running, completed, failed, cancelled or expired
    #[arg(long)]
    state: Option<String>,
    #[arg(long)]
    tag: Option<String>,
    /// Class of the last failure
    #[arg(long, value_parser = FailureClass::ALL.map(FailureClass::as_str))]
    class: Option<String>,
    /// Made by this schedule
    #[arg(long)]
    schedule: Option<String>,
    /// Finished since then: 24h, 7d, or RFC 3339
    #[arg(long, value_name = "TIME")]
    since: Option<String>,
    /// Finished before then
    #[arg(long, value_name = "TIME")]
    before: Option<String>,
}

impl Which {
    fn is_empty(&self) -> bool {
        self.pairs().iter().all(|(_, value)| value.is_none())
    }

    fn pairs(&self) -> [(&'static str, &Option<String>); 8] {
        [
            ("task", &self.task),
            ("queue", &self.queue),
            ("state", &self.state),
            ("tag", &self.tag),
            ("class", &self.class),
            ("schedule", &self.schedule),
            ("finished_from", &self.since),
            ("finished_before", &self.before),
        ]
    }

    pub(super) fn query(&self) -> String {
        let mut query = String::new();
        for (key, value) in self.pairs() {
            if let Some(value) = value {
                let _ = write!(query, "&{key}={}", escape(value));
            }
        }
        query
    }
}

#[derive(Args)]
pub(crate) struct ManyArgs {
    /// One job; without it all that fit
    id: Option<String>,
    #[command(flatten)]
    which: Which,
    /// Jobs per second at most
    #[arg(long)]
    rate: Option<u32>,
    /// Only count
    #[arg(long)]
    dry_run: bool,
    #[command(flatten)]
    server: ServerArgs,
}

#[derive(Args)]
pub(crate) struct ExportArgs {
    #[command(flatten)]
    which: Which,
    /// As `POST /v1/jobs` takes it, instead of everything that is known
    #[arg(long)]
    as_jobs: bool,
    #[command(flatten)]
    server: ServerArgs,
}

pub(crate) fn retry(args: &ManyArgs) -> anyhow::Result<ExitCode> {
    many(args, "retry")
}

pub(crate) fn delete(args: &ManyArgs) -> anyhow::Result<ExitCode> {
    many(args, "delete")
}

fn many(args: &ManyArgs, order: &str) -> anyhow::Result<ExitCode> {
    match (&args.id, args.which.is_empty()) {
        (Some(_), false) => bail!("give the id of one job, or filters for many, not both"),
        (None, true) => bail!(
            "say which: the id of one job, or filters such as --state failed --task report --since 24h"
        ),
        (Some(id), true) if order == "retry" => {
            let one = OneArgs::new(id.clone(), args.server.clone());
            return jobs::order(&one, order);
        }
        (Some(id), true) => return delete_one(id, &args.server),
        (None, false) => {}
    }
    let mut query = args.which.query();
    if let Some(rate) = args.rate {
        let _ = write!(query, "&rate={rate}");
    }
    if args.dry_run {
        query += "&dry_run=true";
    }
    let path = format!("/v1/jobs/{order}?{}", query.trim_start_matches('&'));
    let lines = Client::new(&args.server).lines(Method::Post, &path)?;
    let told = std::io::stderr().is_terminal() && !args.server.json;
    let mut last = Value::Null;
    for line in lines {
        last = serde_json::from_str(&line.context("the answer broke off; send it again to go on")?)
            .context("the server's answer is not JSON")?;
        if told {
            eprint!("\r{}\x1b[K", sentence(&last));
        }
    }
    if told {
        eprint!("\r\x1b[K");
    }
    if args.server.json {
        println!("{last}");
    } else {
        println!("{}", sentence(&last));
    }
    match last["stopped"].as_str() {
        Some(why) => bail!("{why}"),
        None if last["done"] == true => Ok(ExitCode::SUCCESS),
        None => bail!("the answer broke off; send it again to go on"),
    }
}

fn sentence(line: &Value) -> String {
    let count = |key: &str| line[key].as_u64();
    let found = count("found").unwrap_or(0);
    let skipped = match count("skipped") {
        Some(skipped) if skipped > 0 => format!(", {skipped} skipped"),
        _ => String::new(),
    };
    match (count("retried"), count("deleted")) {
        (Some(done), _) => format!("{found} found, {done} retried{skipped}"),
        (_, Some(done)) => format!("{found} found, {done} deleted{skipped}"),
        _ => format!("{found} found"),
    }
}

fn delete_one(id: &str, server: &ServerArgs) -> anyhow::Result<ExitCode> {
    Client::new(server)
        .delete(&format!("/v1/jobs/{}", escape(id)))?
        .ok()?;
    if !server.json {
        println!("{id}  deleted");
    }
    Ok(ExitCode::SUCCESS)
}

pub(crate) fn export(args: &ExportArgs) -> anyhow::Result<ExitCode> {
    let form = if args.as_jobs { "job" } else { "record" };
    let path = format!("/v1/jobs/export?as={form}{}", args.which.query());
    let lines = Client::new(&args.server).lines(Method::Get, &path)?;
    let mut out = std::io::BufWriter::new(std::io::stdout().lock());
    for line in lines {
        let line = line.context("the answer broke off: what is here is not all of it")?;
        match writeln!(out, "{line}") {
            // Whoever reads it has had enough.
            Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => break,
            written => written.context("cannot write the export")?,
        }
    }
    Ok(ExitCode::SUCCESS)
}
