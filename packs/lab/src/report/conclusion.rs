//! Two sentences that follow from the figures: who kept the loop free, and which way to take.

use std::fmt::Write as _;

use super::{Probe, Record, Row, span};
use crate::strategy::Kind;

/// A loop is free while the p99 of `/` stays within this of the idle server's: the goal that offloop
/// sets itself.
const FREE_WITHIN_MS: f64 = 1.0;
/// Rates that are this near are the same: a run of some seconds tells no more.
const SAME_RATE: f64 = 0.9;

/// What to conclude on this machine, at this load.
pub fn conclusion(record: &Record) -> String {
    let rows = &record.strategies;
    if rows.is_empty() {
        return "Nothing was measured under load. `/` alone says nothing about work.".into();
    }
    let (free, held): (Vec<&Row>, Vec<&Row>) = rows
        .iter()
        .partition(|row| is_free(&row.probe, &record.idle));
    format!("{} {}", who(record, &free, &held), which(record, &free))
}

fn is_free(probe: &Probe, idle: &Probe) -> bool {
    let all_answered = probe.unanswered == 0 && probe.failed == 0;
    all_answered && probe.p99_ms <= idle.p99_ms + FREE_WITHIN_MS
}

fn worst<'a>(rows: &[&'a Row]) -> Option<&'a Row> {
    rows.iter()
        .copied()
        .max_by(|a, b| a.probe.p99_ms.total_cmp(&b.probe.p99_ms))
}

fn p99(row: &Row) -> String {
    let least = if row.probe.unanswered > 0 {
        "more than "
    } else {
        ""
    };
    format!("{least}{}", span(row.probe.p99_ms))
}

fn named(rows: &[&Row]) -> String {
    let mut text = String::new();
    for (at, row) in rows.iter().enumerate() {
        let gap = match at {
            0 => "",
            _ if at + 1 == rows.len() => " and ",
            _ => ", ",
        };
        let _ = write!(text, "{gap}`{}` ({})", row.strategy.name(), p99(row));
    }
    text
}

/// The first sentence.
fn who(record: &Record, free: &[&Row], held: &[&Row]) -> String {
    let idle = span(record.idle.p99_ms);
    let work = format!(
        "{} ms of work at {}x of what {} can do",
        record.parameters.cpu_time_ms,
        record.parameters.offered,
        match record.machine.cores {
            1 => "the one core".to_owned(),
            cores => format!("the {cores} cores"),
        }
    );
    let work = match record.others() {
        Some(others) => format!(
            "{work}, and other programs on up to {:.0} % of them",
            others * 100.0
        ),
        None => work,
    };
    match (worst(free), worst(held)) {
        (Some(worst), None) => format!(
            "With {work}, every way that was measured left the loop free: the p99 of `/` was {} at \
             most (`{}`), {idle} when idle.",
            p99(worst),
            worst.strategy.name()
        ),
        (None, Some(worst)) => format!(
            "With {work}, no way that was measured left the loop free: the p99 of `/` was {idle} when \
             idle and up to {} (`{}`) under load.",
            p99(worst),
            worst.strategy.name()
        ),
        (Some(_), Some(_)) => format!(
            "With {work}, the p99 of `/` stayed within a millisecond of the idle server's {idle} for {}, \
             while {} held the loop up.",
            names(free),
            named(held)
        ),
        (None, None) => String::new(),
    }
}

fn names(rows: &[&Row]) -> String {
    let all: Vec<_> = rows
        .iter()
        .map(|row| format!("`{}`", row.strategy.name()))
        .collect();
    match all.split_last() {
        Some((last, rest)) if !rest.is_empty() => format!("{} and {last}", rest.join(", ")),
        _ => all.join(""),
    }
}

fn rate(row: &Row) -> f64 {
    row.work.done_per_s
}

fn best<'a>(rows: &[&'a Row]) -> Option<&'a Row> {
    rows.iter()
        .copied()
        .max_by(|a, b| rate(a).total_cmp(&rate(b)))
}

/// Callers wait much longer from here on.
const MUCH: f64 = 3.0;

/// The one that does most; another that does about as much, where its callers wait far less.
fn soonest<'a>(rows: &[&'a Row]) -> Option<&'a Row> {
    let most = best(rows)?;
    let sooner: Vec<&Row> = rows
        .iter()
        .copied()
        .filter(|row| rate(row) >= SAME_RATE * rate(most))
        .filter(|row| row.work.p50_ms * MUCH < most.work.p50_ms)
        .collect();
    best(&sooner).or(Some(most))
}

/// The second sentence.
fn which(record: &Record, free: &[&Row]) -> String {
    let all: Vec<&Row> = record.strategies.iter().collect();
    let Some(first) = soonest(free) else {
        let gentlest = all
            .iter()
            .min_by(|a, b| a.probe.p99_ms.total_cmp(&b.probe.p99_ms));
        return gentlest.map_or_else(String::new, |row| {
            format!(
                "The least harm was `{}` with {}: give the server more cores or less load, and measure \
                 again when nothing else runs here.",
                row.strategy.name(),
                p99(row)
            )
        });
    };
    if rate(first) <= 0.0 {
        let done = names(
            &all.into_iter()
                .filter(|row| rate(row) > 0.0)
                .collect::<Vec<_>>(),
        );
        let who = if done.is_empty() { "no way" } else { &done };
        return format!(
            "But those finished no piece in time (only {who} did): clients that wait {} ms are asked \
             for more than this machine can give.",
            record.parameters.patience_ms
        );
    }
    choice(record, free, first)
}

fn choice(record: &Record, free: &[&Row], first: &Row) -> String {
    let of_capacity = 100.0 * rate(first) / record.capacity_per_s.max(f64::MIN_POSITIVE);
    let mut text = format!(
        "Take `{}`: it finished {:.0} pieces a second, {of_capacity:.0} % of the cores' capacity",
        first.strategy.name(),
        rate(first),
    );
    let mut others: Vec<&&Row> = free
        .iter()
        .filter(|row| row.strategy != first.strategy && why(row.strategy).is_some())
        .collect();
    others.sort_by(|a, b| rate(b).total_cmp(&rate(a)));
    for (at, row) in others.iter().enumerate() {
        let gap = if at == 0 { "; `" } else { ", `" };
        let same = rate(row) >= SAME_RATE * rate(first);
        let share = 100.0 * rate(row) / rate(first);
        let much = if same {
            "as much".to_owned()
        } else {
            format!("{share:.0} % of that")
        };
        let reason = why(row.strategy).unwrap_or_default();
        let _ = write!(
            text,
            "{gap}{}` did {much}{} and is for {reason}",
            row.strategy.name(),
            slower(row, first),
        );
    }
    let all: Vec<&Row> = record.strategies.iter().collect();
    if let Some(most) = best(&all)
        && rate(most) * SAME_RATE > rate(first)
    {
        let more = 100.0 * (rate(most) / rate(first) - 1.0);
        let _ = write!(
            text,
            "; `{}` did {more:.0} % more, at the price of the loop",
            most.strategy.name()
        );
    }
    text.push('.');
    text
}

/// Where callers wait much longer for it.
fn slower(row: &Row, first: &Row) -> String {
    if row.work.p50_ms > MUCH * first.work.p50_ms {
        format!(
            " ({:.0} ms to an answer, not {:.0})",
            row.work.p50_ms, first.work.p50_ms
        )
    } else {
        String::new()
    }
}

/// When a way is worth less work.
const fn why(kind: Kind) -> Option<&'static str> {
    match kind {
        Kind::Process => Some("code that may crash, leak or never end"),
        Kind::Exec => Some("whole commands"),
        Kind::Job => Some("work that must survive a restart"),
        Kind::Inline | Kind::Chunked | Kind::SpawnBlocking | Kind::Cpu => None,
    }
}

#[cfg(test)]
mod tests {
    use super::super::samples::{record, row};
    use super::*;

    /// p99 of `/` and pieces a second by way; what the sentences must say, and must not.
    type Case<'a> = (&'a [(Kind, f64, f64)], &'a [&'a str], &'a [&'a str]);

    fn said(rows: &[(Kind, f64, f64)]) -> String {
        let rows = rows
            .iter()
            .map(|(kind, p99, done)| row(*kind, *p99, *done))
            .collect();
        conclusion(&record(rows))
    }

    #[test]
    fn of_ways_that_do_as_much_the_one_that_answers_soonest_is_named() {
        let mut rows = vec![row(Kind::Cpu, 0.6, 377.0), row(Kind::Job, 0.4, 378.0)];
        (rows[0].work.p50_ms, rows[1].work.p50_ms) = (20.0, 898.0);
        let said = conclusion(&record(rows));
        assert!(said.contains("Take `cpu`: it finished 377"), "{said}");
        let job = "`job` did as much (898 ms to an answer, not 20)";
        assert!(said.contains(job), "{said}");
    }

    #[test]
    #[rustfmt::skip]
    fn other_figures_give_other_sentences() {
        let cases: [Case<'_>; 7] = [
            // As on a machine where the lanes hold what they promise.
            (
                &[(Kind::Inline, 2_400.0, 150.0), (Kind::SpawnBlocking, 900.0, 120.0), (Kind::Cpu, 0.9, 396.0),
                  (Kind::Process, 1.1, 380.0), (Kind::Exec, 1.2, 200.0), (Kind::Job, 1.0, 300.0)],
                &["idle server's 0.30 ms for `cpu`, `process`, `exec` and `job`", "while `inline` (2.4 s) and `spawn_blocking` (900 ms) held the loop up",
                  "Take `cpu`: it finished 396 pieces a second, 99 %", "`process` did as much", "`job` did 76 % of that", "`exec` did 51 % of that"],
                &["price", "no way", "every way"],
            ),
            // Light work: nothing needs a lane.
            (
                &[(Kind::Inline, 0.5, 300.0), (Kind::Cpu, 0.4, 301.0)],
                &["every way that was measured left the loop free", "0.50 ms at most (`inline`)", "Take `cpu`"],
                &["held", "price"],
            ),
            // A machine that is too small, or not ours.
            (
                &[(Kind::Inline, 3_000.0, 100.0), (Kind::Cpu, 9.0, 300.0)],
                &["no way that was measured left the loop free", "3.0 s (`inline`)", "The least harm was `cpu` with 9.0 ms"],
                &["Take", "price"],
            ),
            // The lane loses: it must be said.
            (
                &[(Kind::SpawnBlocking, 0.8, 400.0), (Kind::Cpu, 25.0, 390.0)],
                &["for `spawn_blocking`, while `cpu` (25 ms) held the loop up", "Take `spawn_blocking`"],
                &["Take `cpu`"],
            ),
            // More work was done by a way that held the loop up.
            (
                &[(Kind::SpawnBlocking, 700.0, 400.0), (Kind::Process, 0.9, 200.0)],
                &["Take `process`", "`spawn_blocking` did 100 % more, at the price of the loop"],
                &["and is for"],
            ),
            // The loop is free because nothing was done.
            (
                &[(Kind::Inline, 700.0, 30.0), (Kind::Exec, 0.9, 0.0)],
                &["finished no piece in time (only `inline` did)", "wait 1000 ms"],
                &["Take"],
            ),
            (&[], &["Nothing was measured"], &["Take"]),
        ];
        for (rows, says, never) in cases {
            let text = said(rows);
            for part in says {
                assert!(text.contains(part), "no {part:?} in: {text}");
            }
            for part in never {
                assert!(!text.contains(part), "{part:?} in: {text}");
            }
            assert!(text.ends_with('.') && text.matches(". ").count() == 1, "two sentences: {text}");
        }
    }

    #[test]
    fn what_was_measured_beside_others_is_not_told_as_the_machines_own() {
        let mut taken = record(vec![row(Kind::Cpu, 0.4, 10.0)]);
        assert!(!conclusion(&taken).contains("other programs"));
        taken.strategies[0].others_busy = 0.62;
        let text = conclusion(&taken);
        assert!(
            text.contains("and other programs on up to 62 % of them, every"),
            "{text}"
        );
    }

    #[test]
    fn a_loop_that_left_questions_unanswered_is_not_free_whatever_its_p99() {
        let mut rows = vec![row(Kind::Inline, 0.4, 10.0), row(Kind::Cpu, 0.4, 10.0)];
        rows[0].probe.unanswered = 1;
        let text = conclusion(&record(rows));
        assert!(
            text.contains("while `inline` (more than 0.40 ms) held the loop up"),
            "{text}"
        );
    }
}
