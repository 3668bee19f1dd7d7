//! Judges a run by three witnesses that know nothing of each other: what clients were told, what
//! jobs did, and what the server says once it is quiet.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::bail;
use serde_json::Value;

use super::http::{Answer, CallError, Client};
use super::journal::{Effects, Ledger, Mark};

/// The six counters; all must be 0.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Counters {
    /// Acknowledged and not there, not ended, or "completed" without having run.
    pub(crate) lost: u64,
    /// Refused and yet there.
    pub(crate) ghost: u64,
    /// Jobs with more than one accepted completion.
    pub(crate) dup_accept: u64,
    /// Completions accepted from an attempt that was not the last one started.
    pub(crate) stale_accept: u64,
    /// Attempts that began while an earlier one of the same job still lived.
    pub(crate) live_rerun: u64,
    /// Keys, sent again after a broken call, that made two jobs.
    pub(crate) unknown_dup: u64,
}

impl Counters {
    pub(crate) fn add(&mut self, more: &Self) {
        self.lost += more.lost;
        self.ghost += more.ghost;
        self.dup_accept += more.dup_accept;
        self.stale_accept += more.stale_accept;
        self.live_rerun += more.live_rerun;
        self.unknown_dup += more.unknown_dup;
    }

    pub(crate) const fn rows(&self) -> [(&'static str, u64); 6] {
        [
            ("lost", self.lost),
            ("ghost", self.ghost),
            ("dup_accept", self.dup_accept),
            ("stale_accept", self.stale_accept),
            ("live_rerun", self.live_rerun),
            ("unknown_dup", self.unknown_dup),
        ]
    }
}

/// A job as the server shows it.
#[derive(Clone, Debug)]
pub(crate) struct Shown {
    pub(crate) task: String,
    pub(crate) state: String,
    pub(crate) reason: Option<String>,
    pub(crate) attempt: u64,
    /// The first tag: the client's key.
    pub(crate) key: Option<String>,
    /// Attempts that ended `completed`.
    pub(crate) completions: usize,
    /// The lease that the task itself returned.
    pub(crate) lease: Option<u64>,
}

/// All jobs by id.
pub(crate) type History = BTreeMap<String, Shown>;

/// A call that must be answered.
pub(crate) fn ask(client: &mut Client, path: &str) -> anyhow::Result<Answer> {
    for _ in 0..3 {
        match client.get(path) {
            Ok(answer) if answer.status == 200 => return Ok(answer),
            Ok(answer) => bail!("GET {path}: {}", String::from_utf8_lossy(&answer.body)),
            Err(CallError::NotSent | CallError::Cut { .. }) => {
                std::thread::sleep(Duration::from_millis(50));
            }
        }
    }
    bail!("GET {path} is not answered")
}

/// Waits until no job of an unpaused queue is unfinished. Returns how many are left at the limit.
pub(crate) fn quiesce(client: &mut Client, limit: Duration) -> anyhow::Result<u64> {
    let began = Instant::now();
    loop {
        let queues = ask(client, "/v1/queues")?.json();
        let open = queues["queues"].as_array().into_iter().flatten();
        let left: u64 = open
            .filter(|queue| queue["paused"] != true)
            .flat_map(|queue| queue["counts"].as_object().into_iter().flatten())
            .filter_map(|(_, count)| count.as_u64())
            .sum();
        if left == 0 || began.elapsed() > limit {
            return Ok(left);
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Every job, page by page, and each in full.
pub(crate) fn history(client: &mut Client) -> anyhow::Result<History> {
    let mut history = History::new();
    let mut cursor = String::new();
    loop {
        let page = ask(client, &format!("/v1/jobs?limit=500{cursor}"))?.json();
        for row in page["jobs"].as_array().into_iter().flatten() {
            let id = row["id"].as_str().unwrap_or_default().to_owned();
            let job = ask(client, &format!("/v1/jobs/{id}"))?.json();
            history.insert(id, shown(&job));
        }
        match page["next_cursor"].as_str() {
            Some(next) => cursor = format!("&cursor={next}"),
            None => return Ok(history),
        }
    }
}

fn shown(job: &Value) -> Shown {
    let text = |field: &str| job[field].as_str().map(ToOwned::to_owned);
    let attempts = job["attempts"].as_array();
    let completed = |attempt: &&Value| attempt["end"]["class"] == "completed";
    Shown {
        task: text("task").unwrap_or_default(),
        state: text("state").unwrap_or_default(),
        reason: text("reason"),
        attempt: job["attempt"].as_u64().unwrap_or(0),
        key: job["tags"][0].as_str().map(ToOwned::to_owned),
        completions: attempts.map_or(0, |all| all.iter().filter(completed).count()),
        lease: job["result"]["lease"].as_u64(),
    }
}

fn is_final(state: &str) -> bool {
    matches!(state, "completed" | "failed" | "cancelled" | "expired")
}

/// The verdict; each breach is told in `told`.
pub(crate) fn judge(
    ledger: &Ledger,
    effects: &Effects,
    history: &History,
    told: &mut Vec<String>,
) -> Counters {
    let mut counters = Counters::default();
    let mut by_key: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for (id, job) in history {
        if let Some(key) = &job.key {
            by_key.entry(key).or_default().push(id);
        }
    }
    for (key, known) in &ledger.keys {
        let there = by_key.get(key.as_str()).map_or(&[][..], Vec::as_slice);
        if there.len() > 1 || known.ids.len() > 1 {
            counters.unknown_dup += 1;
            told.push(format!(
                "unknown_dup: key {key} made {there:?}, told {:?}",
                known.ids
            ));
        }
        for id in &known.ids {
            let state = history.get(id).map(|job| job.state.as_str());
            if !state.is_some_and(is_final) {
                counters.lost += 1;
                told.push(format!(
                    "lost: job {id} of key {key} is {}",
                    state.unwrap_or("gone")
                ));
            }
        }
        if known.refused && !known.unknown && known.ids.is_empty() && !there.is_empty() {
            counters.ghost += 1;
            told.push(format!("ghost: key {key} was refused and made {there:?}"));
        }
    }
    let nothing = Vec::new();
    for (id, job) in history {
        let marks = effects.get(id).unwrap_or(&nothing);
        judge_job(id, job, marks, &mut counters, told);
    }
    counters
}

fn judge_job(
    id: &str,
    job: &Shown,
    marks: &[Mark],
    counters: &mut Counters,
    told: &mut Vec<String>,
) {
    if job.completions > 1 {
        counters.dup_accept += 1;
        told.push(format!(
            "dup_accept: job {id} completed {} times",
            job.completions
        ));
    }
    let mut newest = 0;
    for mark in marks {
        if mark.lease < newest {
            counters.live_rerun += 1;
            told.push(format!(
                "live_rerun: job {id} lease {} at work ({}) after lease {newest} began",
                mark.lease, mark.what
            ));
            break;
        }
        newest = mark.lease;
    }
    let leaves_marks = job.task.starts_with("mark");
    if job.state != "completed" || !leaves_marks {
        return;
    }
    let ended = |mark: &Mark| mark.what == "end" && Some(mark.lease) == job.lease;
    if !marks.iter().any(ended) {
        counters.lost += 1;
        told.push(format!(
            "lost: job {id} is completed and its attempt never ended"
        ));
    }
    let last_started = marks
        .iter()
        .filter(|mark| mark.what == "start")
        .map(|mark| mark.lease)
        .max();
    if last_started > job.lease {
        counters.stale_accept += 1;
        told.push(format!(
            "stale_accept: job {id} took lease {:?}, lease {last_started:?} had begun",
            job.lease
        ));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::campaign::journal::Known;

    fn mark(what: &str, lease: u64) -> Mark {
        Mark {
            what: what.into(),
            lease,
            at: 0,
            pid: 1,
        }
    }

    fn job(state: &str, key: &str, completions: usize, lease: Option<u64>) -> Shown {
        Shown {
            task: "mark".into(),
            state: state.into(),
            reason: None,
            attempt: 1,
            key: Some(key.into()),
            completions,
            lease,
        }
    }

    fn known(id: Option<&str>, refused: bool, unknown: bool) -> Known {
        Known {
            ids: id.map(ToOwned::to_owned).into_iter().collect(),
            refused,
            unknown,
        }
    }

    type Row = (Known, Vec<Mark>, Vec<(&'static str, Shown)>, &'static str);

    /// One row: what clients know of key `k`, what job `j` did, how the server shows it, and the
    /// counter that must be the only one over 0.
    #[test]
    fn every_harm_turns_its_own_counter_and_no_other() {
        let (start, end) = (|lease| mark("start", lease), |lease| mark("end", lease));
        let whole = vec![start(1), end(1)];
        #[rustfmt::skip]
        let rows: Vec<Row> = vec![
            (known(Some("j"), false, false), whole.clone(), vec![("j", job("completed", "k", 1, Some(1)))], ""),
            (known(Some("j"), false, true), whole.clone(), vec![("j", job("completed", "k", 1, Some(1)))], ""),
            (known(None, true, true), whole.clone(), vec![("j", job("completed", "k", 1, Some(1)))], ""),
            (known(Some("j"), false, false), vec![], vec![], "lost"),
            (known(Some("j"), false, false), vec![], vec![("j", job("ready", "k", 0, None))], "lost"),
            (known(Some("j"), false, false), vec![start(1)], vec![("j", job("completed", "k", 1, Some(1)))], "lost"),
            (known(None, true, false), vec![], vec![("j", job("cancelled", "k", 0, None))], "ghost"),
            (known(Some("j"), false, false), whole.clone(), vec![("j", job("completed", "k", 2, Some(1)))], "dup_accept"),
            (known(Some("j"), false, false), vec![start(1), end(1), start(2)], vec![("j", job("completed", "k", 1, Some(1)))], "stale_accept"),
            (known(Some("j"), false, false), vec![start(1), start(2), end(1), end(2)], vec![("j", job("completed", "k", 1, Some(2)))], "live_rerun"),
            (known(Some("j"), false, true), vec![], vec![("i", job("failed", "k", 0, None)), ("j", job("failed", "k", 0, None))], "unknown_dup"),
        ];
        for (at, (known, marks, jobs, want)) in rows.into_iter().enumerate() {
            let ledger = Ledger {
                keys: [("k".to_owned(), known)].into(),
                acked_at: Vec::new(),
            };
            let effects: Effects = [("j".to_owned(), marks)].into();
            let history: History = jobs
                .into_iter()
                .map(|(id, job)| (id.to_owned(), job))
                .collect();
            let mut told = Vec::new();
            let counters = judge(&ledger, &effects, &history, &mut told);
            for (name, count) in counters.rows() {
                assert_eq!(count, u64::from(name == want), "row {at}, {name}: {told:?}");
            }
        }
    }
}
