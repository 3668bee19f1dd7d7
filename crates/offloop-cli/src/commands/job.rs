//! `job`: one job with everything that is known of it.

use std::fmt::Write as _;
use std::process::ExitCode;

use anyhow::bail;
use clap::Args;
use serde_json::Value;

use super::text::{field, or_dash, plain, size, span};
use crate::client::{Client, ServerArgs, escape};

#[derive(Args)]
pub(crate) struct ShowArgs {
    /// The job
    id: String,
    /// Print the log of its last attempt
    #[arg(long)]
    logs: bool,
    #[command(flatten)]
    server: ServerArgs,
}

/// A payload or a result is shown up to here; `--json` has it whole.
const SHOWN_CHARS_MAX: usize = 400;

pub(crate) fn show(args: &ShowArgs) -> anyhow::Result<ExitCode> {
    let client = Client::new(&args.server);
    let id = escape(&args.id);
    if args.logs {
        let answer = client.get(&format!("/v1/jobs/{id}/logs"))?;
        if answer.status != 200 {
            answer.ok()?;
            bail!("the server sent no log");
        }
        print!("{}", answer.text);
        return Ok(ExitCode::SUCCESS);
    }
    let job = client.get(&format!("/v1/jobs/{id}"))?.ok()?;
    if args.server.json {
        println!("{job}");
    } else {
        print!("{}", life(&job));
    }
    Ok(ExitCode::SUCCESS)
}

fn life(job: &Value) -> String {
    let mut out = String::new();
    let stopping = if job["cancelling"] == true {
        ", stopping"
    } else {
        ""
    };
    let _ = writeln!(
        out,
        "{}  {}  {}{stopping}",
        field(&job["id"]),
        field(&job["task"]),
        field(&job["state"])
    );
    let tags: Vec<_> = job["tags"].as_array().into_iter().flatten().collect();
    let tags: Vec<_> = tags.into_iter().map(field).collect();
    let facts = [
        ("queue", field(&job["queue"])),
        ("priority", field(&job["priority"])),
        ("tags", tags.join(", ")),
        ("created", field(&job["created_at"])),
        ("due", field(&job["due_at"])),
        ("schedule", scheduled(&job["schedule"])),
        ("started", field(&job["started_at"])),
        ("finished", field(&job["finished_at"])),
        (
            "attempts",
            format!("{} of {}", job["attempt"], job["max_attempts"]),
        ),
        ("reason", field(&job["reason"])),
        ("payload", cut(&job["payload"])),
        ("progress", cut(&job["progress"]["note"])),
        ("result", cut(&job["result"])),
    ];
    for (name, value) in facts {
        if !value.is_empty() && value != "-" {
            let _ = writeln!(out, "  {name:<9} {value}");
        }
    }
    for attempt in job["attempts"].as_array().into_iter().flatten() {
        out.push('\n');
        write_attempt(&mut out, attempt);
    }
    out
}

/// Which due time of which schedule it was made for.
fn scheduled(by: &Value) -> String {
    match by["name"].as_str() {
        Some(name) => format!("{}, due {}", plain(name), field(&by["due_at"])),
        None => String::new(),
    }
}

/// JSON as it is kept, its start.
fn cut(value: &Value) -> String {
    if value.is_null() {
        return String::new();
    }
    let text = plain(&value.to_string());
    match text.char_indices().nth(SHOWN_CHARS_MAX) {
        None => text,
        Some((end, _)) => format!(
            "{}... ({} bytes, whole with --json)",
            &text[..end],
            text.len()
        ),
    }
}

fn write_attempt(out: &mut String, attempt: &Value) {
    let end = &attempt["end"];
    let mut how = end["class"].as_str().map_or("running".into(), plain);
    for (name, key) in [("exit code", "exit_code"), ("signal", "signal")] {
        if let Some(number) = end[key].as_i64() {
            let _ = write!(how, ", {name} {number}");
        }
    }
    let _ = writeln!(out, "attempt {}: {how}", attempt["number"]);
    if let Some(message) = end["message"].as_str() {
        for line in message.lines() {
            let _ = writeln!(out, "  {}", plain(line));
        }
    }
    let _ = writeln!(
        out,
        "  wait {}, wall {}, cpu {}, peak memory {}, in {}, out {}",
        or_dash(&attempt["wait_ms"], span),
        or_dash(&attempt["wall_ms"], span),
        or_dash(&attempt["cpu_ms"], span),
        or_dash(&attempt["max_rss_bytes"], size),
        or_dash(&attempt["bytes_in"], size),
        or_dash(&attempt["bytes_out"], size),
    );
    let executor = [&attempt["lane"], &attempt["executor"]]
        .iter()
        .filter_map(|part| part.as_str().filter(|text| !text.is_empty()))
        .map(plain)
        .collect::<Vec<_>>();
    if !executor.is_empty() {
        let age = attempt["executor_age_ms"].as_u64();
        let age = age.map_or(String::new(), |ms| format!(", {} old", span(ms)));
        let node = field(&attempt["node"]);
        let _ = writeln!(out, "  by {}{age}, on {node}", executor.join(" / "));
    }
    let lines = attempt["last_log_lines"].as_array();
    let lines: Vec<_> = lines.into_iter().flatten().collect();
    if !lines.is_empty() {
        let bytes = attempt["log_bytes"].as_u64().unwrap_or(0)
            + attempt["log_dropped_bytes"].as_u64().unwrap_or(0);
        let _ = writeln!(out, "  last lines of its {} of output:", size(bytes));
        for line in lines {
            let _ = writeln!(out, "  | {}", field(line));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_life_reads_from_the_top() {
        let job = json!({
            "id": "0199", "task": "report", "state": "failed", "queue": "default", "priority": 5,
            "tags": ["a", "b"], "created_at": "c", "due_at": "d", "started_at": null,
            "finished_at": "f", "schedule": {"name": "nightly", "due_at": "e"}, "attempt": 2, "max_attempts": 2, "reason": "exhausted",
            "cancelling": false, "payload": {"rows": 1}, "result": null,
            "attempts": [
                {"number": 1, "node": "n1", "lane": "process:report", "executor": "pid 7",
                 "wait_ms": 3, "wall_ms": 1200, "cpu_ms": 1100, "max_rss_bytes": 314_572_800,
                 "bytes_in": 2, "bytes_out": 2048, "executor_age_ms": 61_000,
                 "end": {"class": "memory_limit", "message": "held 1\nand more",
                         "exit_code": null, "signal": 9},
                 "log_bytes": 30, "log_dropped_bytes": 0,
                 "last_log_lines": ["one", "\u{1b}[31mtwo"]},
                {"number": 2, "node": "n1", "lane": "", "executor": "", "wait_ms": 0, "wall_ms": 0,
                 "cpu_ms": null, "max_rss_bytes": null, "bytes_in": 0, "bytes_out": 0,
                 "executor_age_ms": null,
                 "end": {"class": "lost", "message": "gone", "exit_code": null, "signal": null},
                 "log_bytes": 0, "log_dropped_bytes": 0, "last_log_lines": []},
            ],
        });
        let want = "\
0199  report  failed
  queue     default
  priority  5
  tags      a, b
  created   c
  due       d
  schedule  nightly, due e
  finished  f
  attempts  2 of 2
  reason    exhausted
  payload   {\"rows\":1}

attempt 1: memory_limit, signal 9
  held 1
  and more
  wait 3 ms, wall 1.2 s, cpu 1.1 s, peak memory 300.0 MiB, in 2 B, out 2.0 KiB
  by process:report / pid 7, 1 min 1 s old, on n1
  last lines of its 30 B of output:
  | one
  | \\u{1b}[31mtwo

attempt 2: lost
  gone
  wait 0 ms, wall 0 ms, cpu -, peak memory -, in 0 B, out 0 B
";
        assert_eq!(life(&job), want);
        let long = json!({"state": "ready", "payload": "ü".repeat(900), "attempts": []});
        let text = life(&long);
        assert!(
            text.contains("... (1802 bytes, whole with --json)"),
            "{text}"
        );
    }
}
