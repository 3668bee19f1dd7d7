//! Counters of the door.

use std::fmt::Write as _;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use axum::http::{Method, StatusCode};

use crate::conn::Overdue;

const METHODS: [&str; 6] = ["GET", "HEAD", "POST", "PUT", "DELETE", "other"];
#[rustfmt::skip]
const STATUSES: [u16; 25] = [
    200, 201, 202, 204, 304, 400, 401, 403, 404, 405, 408, 409, 413, 415, 421, 422, 429, 500, 503,
    507, 206, 301, 410, 431, 0,
];
/// Upper bounds in microseconds.
#[rustfmt::skip]
const BUCKETS_US: [u64; 13] = [
    250, 500, 1_000, 2_500, 5_000, 10_000, 25_000, 50_000, 100_000, 250_000, 500_000, 1_000_000,
    5_000_000,
];

/// Why the door closed or refused a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Closed {
    Overdue(Overdue),
    Full,
}

/// Reads and writes cost an atomic add each.
#[derive(Debug, Default)]
pub(crate) struct Metrics {
    requests: [[AtomicU64; STATUSES.len()]; METHODS.len()],
    buckets: [AtomicU64; BUCKETS_US.len() + 1],
    sum_us: AtomicU64,
    closed: [AtomicU64; 4],
    pub(crate) bulk_lines: AtomicU64,
}

impl Metrics {
    /// `timed`: its time says something about the server (not a wait that was asked for).
    pub(crate) fn request(&self, method: &Method, status: StatusCode, took: Duration, timed: bool) {
        let last = METHODS.len() - 1;
        let method = METHODS
            .iter()
            .position(|name| *name == method.as_str())
            .unwrap_or(last);
        let last = STATUSES.len() - 1;
        let status = STATUSES
            .iter()
            .position(|code| *code == status.as_u16())
            .unwrap_or(last);
        self.requests[method][status].fetch_add(1, Ordering::Relaxed);
        if timed {
            let us = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
            let bucket = BUCKETS_US.iter().position(|bound| us <= *bound);
            self.buckets[bucket.unwrap_or(BUCKETS_US.len())].fetch_add(1, Ordering::Relaxed);
            self.sum_us.fetch_add(us, Ordering::Relaxed);
        }
    }

    pub(crate) fn closed(&self, why: Closed) {
        let index = match why {
            Closed::Overdue(Overdue::Header) => 0,
            Closed::Overdue(Overdue::Idle) => 1,
            Closed::Overdue(Overdue::SlowReader) => 2,
            Closed::Full => 3,
        };
        self.closed[index].fetch_add(1, Ordering::Relaxed);
    }

    /// Prometheus text (exposition format 0.0.4).
    pub(crate) fn write(&self, out: &mut String) {
        head(
            out,
            "offloop_http_requests_total",
            "counter",
            "Answers by method and status.",
        );
        for (method, row) in METHODS.iter().zip(&self.requests) {
            for (status, count) in STATUSES.iter().zip(row) {
                let count = count.load(Ordering::Relaxed);
                if count > 0 {
                    let _ = writeln!(
                        out,
                        "offloop_http_requests_total{{method=\"{method}\",status=\"{status}\"}} {count}"
                    );
                }
            }
        }
        let name = "offloop_http_request_seconds";
        head(
            out,
            name,
            "histogram",
            "From the head of a request to the head of its answer.",
        );
        let mut below = 0;
        for (index, count) in self.buckets.iter().enumerate() {
            below += count.load(Ordering::Relaxed);
            match BUCKETS_US.get(index) {
                Some(us) => {
                    let bound = *us as f64 / 1e6;
                    let _ = writeln!(out, "{name}_bucket{{le=\"{bound}\"}} {below}");
                }
                None => {
                    let _ = writeln!(out, "{name}_bucket{{le=\"+Inf\"}} {below}");
                }
            }
        }
        let sum = self.sum_us.load(Ordering::Relaxed) as f64 / 1e6;
        let _ = writeln!(out, "{name}_sum {sum}\n{name}_count {below}");
        let name = "offloop_http_connections_closed_total";
        head(
            out,
            name,
            "counter",
            "Connections that the door ended or refused, by reason.",
        );
        for (why, count) in ["header", "idle", "slow_reader", "full"]
            .iter()
            .zip(&self.closed)
        {
            let count = count.load(Ordering::Relaxed);
            let _ = writeln!(out, "{name}{{reason=\"{why}\"}} {count}");
        }
        let name = "offloop_http_bulk_lines_total";
        head(
            out,
            name,
            "counter",
            "Lines of bulk requests that were read.",
        );
        let _ = writeln!(out, "{name} {}", self.bulk_lines.load(Ordering::Relaxed));
    }
}

/// `# HELP` and `# TYPE`.
pub(crate) fn head(out: &mut String, name: &str, kind: &str, help: &str) {
    let _ = writeln!(out, "# HELP {name} {help}\n# TYPE {name} {kind}");
}
