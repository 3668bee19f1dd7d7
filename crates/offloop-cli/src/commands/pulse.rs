//! `pulse`: the server as it is now.

use std::fmt::Write as _;
use std::io::{IsTerminal as _, Write as _};
use std::process::ExitCode;
use std::time::Duration;

use serde_json::Value;

use super::text::{field, or_dash, plain, size};
use crate::client::{Client, ServerArgs};

#[derive(clap::Args)]
pub(crate) struct Args {
    /// Show it again every second until interrupted; with --json a line each
    #[arg(long)]
    watch: bool,
    #[command(flatten)]
    server: ServerArgs,
}

const EVERY: Duration = Duration::from_secs(1);
/// Clears the terminal and goes to its first column.
const CLEAR: &str = "\x1b[2J\x1b[H";

pub(crate) fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let client = Client::new(&args.server);
    let mut out = std::io::stdout().lock();
    loop {
        let pulse = client.get("/v1/pulse")?.ok()?;
        let text = if args.server.json {
            format!("{pulse}\n")
        } else if args.watch && out.is_terminal() {
            format!("{CLEAR}{}", page(&pulse))
        } else {
            page(&pulse)
        };
        // A reader that has seen enough (`| head`) ends it.
        if out.write_all(text.as_bytes()).is_err() || out.flush().is_err() || !args.watch {
            return Ok(ExitCode::SUCCESS);
        }
        std::thread::sleep(EVERY);
    }
}

fn rows<'v>(value: &'v Value, key: &str) -> impl Iterator<Item = &'v Value> {
    value[key].as_array().into_iter().flatten()
}

/// `0.123`, `12.3`, `1234`; milliseconds.
fn ms(value: &Value) -> String {
    match value.as_f64() {
        None => "-".into(),
        Some(ms) if ms < 10.0 => format!("{ms:.3}"),
        Some(ms) if ms < 1_000.0 => format!("{ms:.1}"),
        Some(ms) => format!("{ms:.0}"),
    }
}

fn percent(value: &Value) -> String {
    format!("{:.0} %", value.as_f64().unwrap_or(0.0) * 100.0)
}

fn what(value: &Value) -> String {
    value.as_str().map_or("code without a name".into(), plain)
}

fn task_name(task: &Value) -> String {
    task["task"].as_str().map_or("(others)".into(), plain)
}

fn page(pulse: &Value) -> String {
    if pulse["state"] == "off" {
        return "the pulse of this server is off ([pulse] enabled in offloop.toml)\n".into();
    }
    let mut out = String::new();
    blocks(&mut out, pulse);
    loops(&mut out, pulse);
    lanes(&mut out, pulse);
    tasks(&mut out, pulse);
    machine(&mut out, pulse);
    out
}

/// What needs a person, first.
fn blocks(out: &mut String, pulse: &Value) {
    for on in rows(pulse, "loops") {
        for block in rows(on, "blocked") {
            let _ = writeln!(
                out,
                "BLOCKED  {} holds a thread of the loop {} for {} ms; {}",
                what(&block["what"]),
                field(&on["name"]),
                ms(&block["for_ms"]),
                field(&block["remedy"]),
            );
        }
    }
    for block in rows(pulse, "recent").take(3) {
        let ago = block["ago_ms"].as_f64().unwrap_or(0.0) / 1e3;
        let _ = writeln!(
            out,
            "earlier  {} held a thread of the loop {} for {} ms, {ago:.0} s ago",
            what(&block["what"]),
            field(&block["loop"]),
            ms(&block["lasted_ms"]),
        );
    }
}

fn loops(out: &mut String, pulse: &Value) {
    let _ = writeln!(
        out,
        "{:<16} {:>7} {:>6}  {:>9} {:>9} {:>9} {:>9} {:>9}  delay of the loop, ms",
        "loop", "threads", "use", "now", "p50", "p99", "max", "parked"
    );
    for on in rows(pulse, "loops") {
        let delay = &on["delay"];
        let _ = writeln!(
            out,
            "{:<16} {:>7} {:>6}  {:>9} {:>9} {:>9} {:>9} {:>9}",
            field(&on["name"]),
            field(&on["threads"]),
            percent(&on["utilisation"]),
            ms(&delay["now_ms"]),
            ms(&delay["p50_ms"]),
            ms(&delay["p99_ms"]),
            ms(&delay["max_ms"]),
            ms(&delay["idle_ms"]),
        );
    }
}

fn lanes(out: &mut String, pulse: &Value) {
    let _ = writeln!(
        out,
        "{:<16} {:>7} {:>6}  {:>9} {:>9} {:>9}",
        "lane", "slots", "full", "running", "in line", "head ms"
    );
    for lane in rows(pulse, "lanes") {
        let _ = writeln!(
            out,
            "{:<16} {:>7} {:>6}  {:>9} {:>9} {:>9}",
            field(&lane["name"]),
            field(&lane["slots"]),
            percent(&lane["saturation"]),
            field(&lane["running"]),
            field(&lane["queued"]),
            ms(&lane["head_age_ms"]),
        );
    }
}

fn tasks(out: &mut String, pulse: &Value) {
    if rows(pulse, "tasks").next().is_some() {
        let _ = writeln!(
            out,
            "{:<24} {:>8}  {:>9} {:>9}  {:>9} {:>9} {:>9}",
            "task, last minute", "ended", "wait p50", "wait p99", "run p50", "run p99", "run max"
        );
    }
    for task in rows(pulse, "tasks") {
        let (wait, run) = (&task["wait"], &task["run"]);
        let name = task_name(task);
        let _ = writeln!(
            out,
            "{name:<24} {:>8}  {:>9} {:>9}  {:>9} {:>9} {:>9}",
            field(&run["count"]),
            ms(&wait["p50_ms"]),
            ms(&wait["p99_ms"]),
            ms(&run["p50_ms"]),
            ms(&run["p99_ms"]),
            ms(&run["max_ms"]),
        );
    }
    for task in rows(pulse, "tasks") {
        for hint in rows(task, "hints").filter(|hint| hint["kind"] == "too_short") {
            let _ = writeln!(out, "hint     {}: {}", task_name(task), field(&hint["say"]));
        }
    }
    for polls in rows(pulse, "polls").filter(|polls| polls["hint"].is_object()) {
        let say = field(&polls["hint"]["say"]);
        let _ = writeln!(out, "hint     {}: {say}", what(&polls["what"]));
    }
}

fn machine(out: &mut String, pulse: &Value) {
    let (memory, stall, own) = (&pulse["memory"], &pulse["stall"], &pulse["own"]);
    let _ = write!(out, "memory {}", or_dash(&memory["rss_bytes"], size));
    let group = &memory["cgroup"];
    if group.is_object() {
        let current = or_dash(&group["current_bytes"], size);
        let max = group["max_bytes"].as_u64().map_or("no limit".into(), size);
        let _ = write!(out, ", control group {current} of {max}");
    }
    for (name, title) in [("cpu", "processor"), ("memory", "memory"), ("io", "disk")] {
        if let Some(share) = stall[name]["some_avg10"].as_f64() {
            let _ = write!(out, "; waited for {title} {share:.0} %");
        }
    }
    let cpu = own["cpu"].as_f64().unwrap_or(0.0) * 100.0;
    let _ = writeln!(
        out,
        "; the pulse itself: {cpu:.2} % of a processor, {:.0} wakes/s",
        own["wakes_per_s"].as_f64().unwrap_or(0.0)
    );
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn the_first_line_says_who_blocks_and_what_to_do() {
        let pulse = json!({
            "state": "blocked",
            "loops": [{"name": "doors", "threads": 2, "utilisation": 0.5,
                "delay": {"now_ms": 1234.5, "p50_ms": 0.031, "p99_ms": 12.34, "max_ms": null, "idle_ms": null},
                "blocked": [{"what": "GET /x\u{1b}[2J", "for_ms": 812.0, "remedy": "move it"}]}],
            "recent": [{"loop": "io", "what": null, "lasted_ms": 70.0, "ago_ms": 5000.0}],
            "lanes": [{"name": "cpu", "slots": 2, "saturation": 1.0, "running": 2, "queued": 7, "head_age_ms": null}],
            "tasks": [{"task": null, "wait": null, "run": {"count": 9, "p50_ms": 0.004, "p99_ms": 1.0, "max_ms": 2.0},
                "hints": [{"kind": "too_short", "say": "run it inline"}]}],
            "polls": [{"what": "fetch", "hint": {"say": "move it too"}}],
            "memory": {"rss_bytes": 1 << 20, "cgroup": null},
            "stall": {"cpu": {"some_avg10": 12.6}, "memory": null, "io": null},
            "own": {"cpu": 0.0012, "wakes_per_s": 71.0},
        });
        let want = "\
BLOCKED  GET /x\\u{1b}[2J holds a thread of the loop doors for 812.0 ms; move it
earlier  code without a name held a thread of the loop io for 70.0 ms, 5 s ago
loop             threads    use        now       p50       p99       max    parked  delay of the loop, ms
doors                  2   50 %       1234     0.031      12.3         -         -
lane               slots   full    running   in line   head ms
cpu                    2  100 %          2         7         -
task, last minute           ended   wait p50  wait p99    run p50   run p99   run max
(others)                        9          -         -      0.004     1.000     2.000
hint     (others): run it inline
hint     fetch: move it too
memory 1.0 MiB; waited for processor 13 %; the pulse itself: 0.12 % of a processor, 71 wakes/s
";
        assert_eq!(page(&pulse), want);
        let off = page(&json!({"state": "off"}));
        assert!(off.contains("enabled"));
    }
}
