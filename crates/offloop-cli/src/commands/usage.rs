//! `usage`: what attempts cost, summed.

use std::fmt::Write as _;
use std::process::ExitCode;

use serde_json::Value;

use super::text::{or_dash, plain, size, span};
use crate::client::{Client, ServerArgs, escape};

#[derive(clap::Args)]
pub(crate) struct Args {
    /// What the sums are made by
    #[arg(long, value_parser = ["task", "queue", "tag"], default_value = "task")]
    by: String,
    /// How long ago, such as 24h, 90min or 7d, or an instant (RFC 3339); whole hours, 31 days at most
    #[arg(long, default_value = "24h")]
    since: String,
    /// Rows, 1 to 1000
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u16).range(1..=1_000))]
    limit: u16,
    #[command(flatten)]
    server: ServerArgs,
}

pub(crate) fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let (by, since, limit) = (&args.by, escape(&args.since), args.limit);
    let path = format!("/v1/usage?by={by}&since={since}&limit={limit}");
    let sums = Client::new(&args.server).get(&path)?.ok()?;
    if args.server.json {
        println!("{sums}");
    } else {
        print!("{}", table(&sums));
    }
    Ok(ExitCode::SUCCESS)
}

const HEAD: [&str; 10] = [
    "attempts",
    "completed",
    "failed",
    "wall",
    "cpu",
    "wait",
    "peak memory",
    "in",
    "out",
    "",
];

fn table(sums: &Value) -> String {
    let by = sums["by"].as_str().unwrap_or("name");
    let rows: Vec<_> = sums["rows"].as_array().into_iter().flatten().collect();
    let since = sums["since"].as_str().unwrap_or("?");
    if rows.is_empty() {
        return format!("no attempt has ended since {since}\n");
    }
    let mut lines: Vec<(String, Vec<String>)> = vec![(
        plain(by),
        HEAD.iter().map(|title| (*title).to_owned()).collect(),
    )];
    lines.extend(rows.iter().map(|row| cells(row)));
    let first = lines.iter().map(|line| line.0.chars().count()).max();
    let first = first.unwrap_or(0);
    let mut out = format!("since {since}\n");
    for (name, cells) in &lines {
        let mut line = format!("{name:<first$}");
        for (at, cell) in cells.iter().enumerate() {
            let widths = lines.iter().map(|line| line.1[at].chars().count());
            let width = widths.max().unwrap_or(0);
            // The last one is a text: it begins where its column begins.
            let _ = if at + 1 == cells.len() {
                write!(line, "  {cell}")
            } else {
                write!(line, "  {cell:>width$}")
            };
        }
        let _ = writeln!(out, "{}", line.trim_end());
    }
    if sums["truncated"] == true {
        out.push_str("there are more rows; ask for them with --limit\n");
    }
    out
}

fn cells(row: &Value) -> (String, Vec<String>) {
    let name = row["name"].as_str().map_or("(others)".into(), plain);
    let number = |key: &str| row[key].as_u64().unwrap_or(0);
    let failed = row["failed"].as_object();
    let classes: Vec<_> = failed
        .into_iter()
        .flatten()
        .map(|(class, count)| format!("{} {count}", plain(class)))
        .collect();
    let cells = vec![
        number("attempts").to_string(),
        number("completed").to_string(),
        number("attempts")
            .saturating_sub(number("completed"))
            .to_string(),
        span(number("wall_ms")),
        or_dash(&row["cpu_ms"], span),
        span(number("wait_ms")),
        or_dash(&row["max_rss_bytes"], size),
        size(number("bytes_in")),
        size(number("bytes_out")),
        classes.join(", "),
    ];
    (name, cells)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_table_lines_up() {
        let row = |name: Value, attempts: u64, failed: Value| {
            json!({"name": name, "attempts": attempts, "completed": 1, "failed": failed,
                "wall_ms": 1500, "cpu_ms": null, "wait_ms": 2, "max_rss_bytes": 2048,
                "bytes_in": 1, "bytes_out": 2})
        };
        let sums = json!({"by": "tag", "since": "S", "truncated": true, "rows": [
            row("ünder".into(), 1, json!({})),
            row(Value::Null, 4, json!({"crashed": 1, "memory_limit": 2})),
        ]});
        let want = "\
since S
tag       attempts  completed  failed   wall  cpu  wait  peak memory   in  out
ünder            1          1       0  1.5 s    -  2 ms      2.0 KiB  1 B  2 B
(others)         4          1       3  1.5 s    -  2 ms      2.0 KiB  1 B  2 B  crashed 1, memory_limit 2
there are more rows; ask for them with --limit
";
        assert_eq!(table(&sums), want);
        let none = json!({"by": "task", "since": "S", "rows": [], "truncated": false});
        assert_eq!(table(&none), "no attempt has ended since S\n");
    }
}
