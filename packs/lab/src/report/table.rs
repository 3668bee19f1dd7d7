//! The record as a person reads it on a terminal.

use std::fmt::Write as _;

use super::{Record, Row, span};

const HEAD: [&str; 11] = [
    "p50",
    "p99",
    "max",
    "done/s",
    "refused/s",
    "late/s",
    "work p50",
    "p99",
    "hang-up",
    "threads",
    "memory",
];

/// Two lines of parameters, the table, and what must be known to read it. Ends with a newline.
pub fn table(record: &Record) -> String {
    let (machine, asked) = (&record.machine, &record.parameters);
    let mut out = String::new();
    let _ = writeln!(
        out,
        "{}, {} cores, {}, {}",
        machine.processor, machine.cores, machine.kernel, machine.disk
    );
    let _ = writeln!(
        out,
        "work of {} ms, {:.0} pieces/s offered: {}x of the {:.0} that the cores can do; clients wait {} ms; seed {}\n",
        asked.cpu_time_ms,
        record.capacity_per_s * asked.offered,
        asked.offered,
        record.capacity_per_s,
        asked.patience_ms,
        asked.seed,
    );
    let mut lines = vec![HEAD.map(String::from)];
    let mut idle = [const { String::new() }; HEAD.len()];
    idle[0] = span(record.idle.p50_ms);
    idle[1] = span(record.idle.p99_ms);
    idle[2] = span(record.idle.max_ms);
    lines.push(idle);
    lines.extend(record.strategies.iter().map(cells));
    let mut names = vec!["latency of /", "(idle)"];
    names.extend(record.strategies.iter().map(|row| row.strategy.name()));
    let first = names.iter().map(|name| name.len()).max().unwrap_or(0);
    for (name, line) in names.iter().zip(&lines) {
        let mut text = format!("{name:<first$}");
        for (at, cell) in line.iter().enumerate() {
            let width = lines.iter().map(|line| line[at].len()).max().unwrap_or(0);
            let _ = write!(text, "  {cell:>width$}");
        }
        let _ = writeln!(out, "{}", text.trim_end());
    }
    notes(record, &mut out);
    out
}

fn cells(row: &Row) -> [String; HEAD.len()] {
    let (probe, work) = (&row.probe, &row.work);
    let least = if probe.unanswered > 0 { ">" } else { "" };
    // Without a piece that was done there is nothing to tell of it.
    let of_work = |ms| if work.done == 0 { "-".into() } else { span(ms) };
    let mib = row.rss_bytes as f64 / f64::from(1 << 20);
    [
        span(probe.p50_ms),
        format!("{least}{}", span(probe.p99_ms)),
        format!("{least}{}", span(probe.max_ms)),
        format!("{:.0}", work.done_per_s),
        format!("{:.0}", work.refused_per_s),
        format!("{:.0}", work.late_per_s + work.failed_per_s),
        of_work(work.p50_ms),
        of_work(work.p99_ms),
        format!("{} ms", row.hang_up.cpu_after_ms),
        row.threads.to_string(),
        format!("{mib:.0} MiB"),
    ]
}

fn notes(record: &Record, out: &mut String) {
    if let Some(row) = record.strategies.first() {
        let hang_up = &row.hang_up;
        let _ = writeln!(
            out,
            "\nhang-up: processor time burned after the client of a {} ms piece hung up at {} ms; late: \
             the client had hung up; threads and memory: server and children",
            hang_up.piece_ms, hang_up.after_ms
        );
    }
    let who = if record.parameters.short_slices {
        "The loop, the prober and the load"
    } else {
        "The prober and the load"
    };
    let _ = writeln!(
        out,
        "{who} run on the same cores, with a short scheduling slice (sched_setattr, no privilege) and no \
         higher priority."
    );
    if record.machine.disk == "tmpfs" {
        out.push_str("The data folder is in memory: durable jobs paid nothing for a flush. Give --data a folder on a disk.\n");
    }
    if let Some(others) = record.others() {
        let _ = writeln!(
            out,
            "Other programs kept the processors up to {:.0} % busy: figures are theirs too. Try again when the machine is quiet.",
            others * 100.0
        );
    }
}

#[cfg(test)]
mod tests {
    use super::super::samples::{record, row};
    use super::*;
    use crate::strategy::Kind;

    #[test]
    fn every_way_has_a_line_and_a_doubtful_machine_is_told() {
        let mut taken = record(vec![
            row(Kind::Inline, 2_400.0, 120.0),
            row(Kind::Cpu, 0.9, 390.0),
        ]);
        taken.strategies[0].probe.unanswered = 3;
        taken.strategies[0].work.done = 0;
        let text = table(&taken);
        let line = |name: &str| text.lines().find(|line| line.starts_with(name)).unwrap();
        assert!(line("inline").contains(">2.4 s"), "{text}");
        assert!(
            line("inline").contains("  -  ") && !line("cpu").contains("  -  "),
            "{text}"
        );
        assert!(
            line("cpu").contains(" 390 ") && line("cpu").contains("0.90 ms"),
            "{text}"
        );
        assert!(line("(idle)").contains("0.30 ms"), "{text}");
        let columns = line("latency").len();
        assert!(text.lines().all(|line| !line.ends_with(' ')), "{text}");
        assert!(columns < 120, "{text}");
        assert!(!text.contains("Try again") && !text.contains("in memory"));
        taken.strategies[1].others_busy = 0.4;
        taken.machine.disk = "tmpfs".into();
        let text = table(&taken);
        assert!(text.contains("40 % busy") && text.contains("in memory"));
    }
}
