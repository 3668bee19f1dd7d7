//! What was measured, and how it is shown: a record, a table, a chart, two sentences.

mod chart;
mod conclusion;
mod table;

pub use chart::chart;
pub use conclusion::conclusion;
pub use table::table;

use serde::Serialize;

use crate::strategy::Kind;

/// The whole experiment. As JSON it is `offloop lab --json`.
#[derive(Clone, Debug, Serialize)]
pub struct Record {
    /// The version that measured.
    pub offloop: String,
    /// Milliseconds since 1970, UTC.
    pub taken_at: u64,
    pub machine: Machine,
    pub parameters: Parameters,
    /// Pieces that all processors together could do in a second, if they did nothing else.
    pub capacity_per_s: f64,
    /// `/` of a server without work.
    pub idle: Probe,
    pub strategies: Vec<Row>,
    pub conclusion: String,
}

/// From here on, a machine was not quiet.
const OTHERS_MAX: f64 = 0.1;

impl Record {
    /// How busy others kept the processors at worst, 0 to 1, if it was so much that the figures are
    /// theirs too.
    pub(crate) fn others(&self) -> Option<f64> {
        let rows = self.strategies.iter().map(|row| row.others_busy);
        let most = rows.fold(self.machine.others_busy, f64::max);
        (most > OTHERS_MAX).then_some(most)
    }
}

#[derive(Clone, Debug, Serialize)]
pub struct Machine {
    pub processor: String,
    /// That this process may use.
    pub cores: usize,
    pub memory_bytes: u64,
    pub kernel: String,
    /// File system of the durable jobs.
    pub disk: String,
    /// How busy others kept the processors during the idle measurement, 0 to 1.
    pub others_busy: f64,
}

#[derive(Clone, Debug, Serialize)]
pub struct Parameters {
    pub seconds_per_strategy: f64,
    pub cpu_time_ms: u32,
    /// As a multiple of `capacity_per_s`.
    pub offered: f64,
    pub patience_ms: u64,
    pub seed: u64,
    /// Whether the loop asked to be served soon.
    pub short_slices: bool,
    /// The pace of the work on this machine: what a millisecond of processor time holds.
    pub rounds_per_ms: u64,
}

/// Latency of `/`, from the time at which each question was due.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub struct Probe {
    pub p50_ms: f64,
    pub p99_ms: f64,
    pub max_ms: f64,
    pub sent: u64,
    /// Due while an answer was late, and counted with it.
    pub imputed: u64,
    /// Counted with the time that they waited until the end: at least that.
    pub unanswered: u64,
    pub failed: u64,
    /// How late the prober itself was, which is in the figures above.
    pub own_late_p99_ms: f64,
}

/// What became of the work. Latencies are from the due time to the answer.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub struct WorkDone {
    pub offered_per_s: f64,
    /// Answered in time, with the right checksum.
    pub done_per_s: f64,
    /// Turned away with 429 or 503.
    pub refused_per_s: f64,
    /// The client had hung up.
    pub late_per_s: f64,
    pub failed_per_s: f64,
    pub done: u64,
    /// Answers with another checksum; a record has none.
    pub wrong: u64,
    pub p50_ms: f64,
    pub p99_ms: f64,
    pub refused_p99_ms: f64,
}

/// What a server still burned for a client that had gone.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub struct HangUp {
    /// Processor time of the piece that was asked for.
    pub piece_ms: u32,
    /// When its client hung up.
    pub after_ms: u64,
    /// Processor time from then on, to 10 ms.
    pub cpu_after_ms: u64,
}

/// One way to work.
#[derive(Clone, Debug, Serialize)]
pub struct Row {
    pub strategy: Kind,
    pub probe: Probe,
    pub work: WorkDone,
    pub hang_up: HangUp,
    /// Of the server and its children, the most at once.
    pub threads: u64,
    /// Of the server and its children, the most at once; pages that they share count for each.
    pub rss_bytes: u64,
    /// How busy others kept the processors meanwhile, 0 to 1.
    pub others_busy: f64,
}

/// `0.08 ms`, `4.2 ms`, `310 ms`, `2.4 s`.
pub(crate) fn span(ms: f64) -> String {
    match ms {
        ..1.0 => format!("{ms:.2} ms"),
        ..10.0 => format!("{ms:.1} ms"),
        ..999.5 => format!("{ms:.0} ms"),
        ..9_950.0 => format!("{:.1} s", ms / 1e3),
        _ => format!("{:.0} s", ms / 1e3),
    }
}

#[cfg(test)]
pub(crate) mod samples {
    //! Made-up records: the sentences, the table and the chart must follow the figures.

    use super::*;

    pub(crate) fn row(strategy: Kind, p99_ms: f64, done_per_s: f64) -> Row {
        Row {
            strategy,
            probe: Probe {
                p50_ms: p99_ms / 3.0,
                p99_ms,
                max_ms: p99_ms * 2.0,
                sent: 1_000,
                ..Probe::default()
            },
            work: WorkDone {
                offered_per_s: 640.0,
                done_per_s,
                refused_per_s: (630.0 - done_per_s).max(0.0),
                late_per_s: 10.0,
                done: 1_000,
                p50_ms: 12.0,
                p99_ms: 60.0,
                ..WorkDone::default()
            },
            hang_up: HangUp {
                piece_ms: 500,
                after_ms: 150,
                cpu_after_ms: 0,
            },
            threads: 12,
            rss_bytes: 20 << 20,
            others_busy: 0.02,
        }
    }

    pub(crate) fn record(rows: Vec<Row>) -> Record {
        Record {
            offloop: "0.1.0".into(),
            taken_at: 1_700_000_000_000,
            machine: Machine {
                processor: "Some <CPU> & \"more\"".into(),
                cores: 2,
                memory_bytes: 8 << 30,
                kernel: "Linux 6.18.0".into(),
                disk: "ext4".into(),
                others_busy: 0.01,
            },
            parameters: Parameters {
                seconds_per_strategy: 5.0,
                cpu_time_ms: 5,
                offered: 1.6,
                patience_ms: 1_000,
                seed: 1,
                short_slices: true,
                rounds_per_ms: 1_000,
            },
            capacity_per_s: 400.0,
            idle: row(Kind::Inline, 0.3, 0.0).probe,
            strategies: rows,
            conclusion: String::new(),
        }
    }

    #[test]
    fn the_record_has_the_shape_that_programs_read() {
        let json = serde_json::to_value(record(vec![row(Kind::SpawnBlocking, 3.0, 9.0)])).unwrap();
        let row = &json["strategies"][0];
        assert_eq!(row["strategy"], "spawn_blocking");
        for figure in ["p50_ms", "p99_ms", "max_ms"] {
            assert!(row["probe"][figure].is_f64(), "{figure}");
        }
        assert!(row["work"]["done_per_s"].is_f64() && row["work"]["p99_ms"].is_f64());
        assert!(row["threads"].is_u64() && row["rss_bytes"].is_u64());
        assert!(json["conclusion"].is_string());
    }

    #[test]
    fn a_span_is_read_at_a_glance() {
        let rows = [
            (0.084, "0.08 ms"),
            (4.24, "4.2 ms"),
            (309.6, "310 ms"),
            (999.7, "1.0 s"),
            (2_440.0, "2.4 s"),
            (12_400.0, "12 s"),
        ];
        for (ms, want) in rows {
            assert_eq!(span(ms), want);
        }
    }
}
