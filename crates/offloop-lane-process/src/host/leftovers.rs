//! Ends what a killed server left running.
//!
//! Its direct children died with it (parent-death signal); what they had started themselves did
//! not. Three ways lead to it: the control group of the dead run, which holds all of it; the roster;
//! and the marks on each process, in its environment and among its limits. The warden goes them at
//! once, and the next server when the warden was killed too. Every
//! kill goes through a pidfd that was opened before the process was identified.

use std::collections::{HashMap, HashSet};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

use super::tag::{RunTag, Tag};
use super::{MARKER_VARIABLE, kept};
use crate::cgroup::{self, Group};
use crate::procfs::{self, Stat};

/// Nothing that can be killed lives longer after its SIGKILL.
const PATIENCE: Duration = Duration::from_secs(10);
const PAUSE: Duration = Duration::from_millis(2);

/// A child that a dead server had: its file, its pid and its start time.
struct Entry {
    file: PathBuf,
    /// Of its run's processes.
    run: RunTag,
    pid: i32,
    start: u64,
}

pub(super) fn clear(run_dir: &Path, place: &str) -> Result<u32, String> {
    #[cfg(feature = "sabotage")]
    if crate::sabotage::is("leftovers") {
        return Ok(0);
    }
    let entries = read_roster(&run_dir.join("roster"), place)?;
    let groups = cgroup::leftovers(&run_dir.join("groups"), place, is_alive);
    let deadline = Instant::now() + PATIENCE;
    let mut ended = HashSet::new();
    loop {
        let mut found = find(&entries, place);
        for leftover in &groups {
            let members = leftover.group.members().into_iter();
            found.extend(members.filter_map(procfs::stat).filter(|s| !s.is_dead()));
            leftover.group.kill();
        }
        if found.is_empty() {
            break;
        }
        for stat in &found {
            ended.insert((stat.pid, stat.start));
            kill_if_same(stat);
        }
        if Instant::now() > deadline {
            let pids: Vec<String> = found.iter().map(|stat| stat.pid.to_string()).collect();
            return Err(format!(
                "processes {} do not die within {PATIENCE:?} of SIGKILL",
                pids.join(", ")
            ));
        }
        std::thread::sleep(PAUSE);
    }
    for entry in &entries {
        let _ = std::fs::remove_file(&entry.file); // a stale entry harms nobody
    }
    for leftover in &groups {
        let _ = leftover.remove(); // an empty group harms nobody, and is tried again
    }
    kept::clear_folders(&run_dir.join("executors"), is_alive);
    Ok(ended.len() as u32)
}

/// Ends what is in the group of a dead run, and removes the group.
pub(super) fn clear_group(folder: PathBuf) {
    let group = Group::at(folder);
    let deadline = Instant::now() + PATIENCE;
    group.kill();
    if let Ok(events) = group.events() {
        while events.is_populated() && Instant::now() < deadline {
            let mut changed = [PollFd::new(&events.file, PollFlags::PRI)];
            let _ = poll(&mut changed, Timespec::try_from(PATIENCE).ok().as_ref());
        }
    }
    let _ = group.remove(); // an empty one harms nobody
}

/// Entries of servers that are dead.
fn read_roster(roster: &Path, place: &str) -> Result<Vec<Entry>, String> {
    let error = |e: std::io::Error| format!("cannot read the roster {}: {e}", roster.display());
    let boot = procfs::boot_id();
    let mut entries = Vec::new();
    for file in std::fs::read_dir(roster).map_err(error)? {
        let file = file.map_err(error)?.path();
        let name = file.file_name().and_then(|name| name.to_str());
        let run = name
            .and_then(|name| name.rsplit_once('.'))
            .map(|(run, _)| run);
        let Some(run) = run.filter(|run| !is_alive(run)) else {
            continue;
        };
        let run = RunTag::of(&format!("{place}.{run}"));
        let text = std::fs::read_to_string(&file).unwrap_or_default();
        let fields: Vec<&str> = text.split_whitespace().collect();
        let (pid, start) = match fields[..] {
            [pid, start, its_boot, _] if its_boot == boot => (pid.parse(), start.parse()),
            _ => (Ok(0), Ok(0)), // torn, or of another boot: only the file is to be removed
        };
        entries.push(Entry {
            file,
            run,
            pid: pid.unwrap_or(0),
            start: start.unwrap_or(0),
        });
    }
    Ok(entries)
}

/// Whether the server of a run, `PID-START-NUMBER`, still lives.
fn is_alive(run: &str) -> bool {
    let mut parts = run.split('-');
    let pid = parts.next().and_then(|pid| pid.parse().ok());
    let start: Option<u64> = parts.next().and_then(|start| start.parse().ok());
    let now = pid.and_then(procfs::stat);
    now.is_some_and(|stat| Some(stat.start) == start && !stat.is_dead())
}

/// Living processes of dead servers of this place, with everything below them.
fn find(entries: &[Entry], place: &str) -> Vec<Stat> {
    let all = procfs::all();
    let by_roster = entries.iter().filter_map(|entry| {
        let stat = all.get(&entry.pid)?;
        (stat.start == entry.start).then_some(entry.pid)
    });
    let by_marker = all.keys().copied().filter(|pid| {
        let marker = procfs::variable(*pid, MARKER_VARIABLE);
        marker.is_some_and(|marker| is_leftover(&marker, place))
    });
    let by_group = all
        .values()
        .filter(|stat| is_group_mate(stat, entries, &all));
    let by_group = by_group.map(|stat| stat.pid);
    // Whatever else it has shed.
    let by_tag = all.keys().copied().filter(|pid| {
        let tag = Tag::of_process(*pid);
        tag.is_some_and(|tag| entries.iter().any(|entry| entry.run == tag.run()))
    });
    let mut hit: HashSet<i32> = by_roster.chain(by_marker).collect();
    hit.extend(by_group.chain(by_tag));
    add_descendants(&all, &mut hit);
    hit.remove(&(std::process::id() as i32)); // a server that was started by such a task
    hit.iter()
        .filter_map(|pid| all.get(pid).copied())
        .filter(|stat| !stat.is_dead())
        .collect()
}

/// `PLACE.RUN:NUMBER` of a run whose server is dead.
fn is_leftover(marker: &str, place: &str) -> bool {
    let run = marker
        .strip_prefix(place)
        .and_then(|rest| rest.strip_prefix('.'))
        .and_then(|rest| rest.split_once(':'));
    run.is_some_and(|(run, _)| !is_alive(run))
}

/// Of a group that a dead server's child led, also without a marker (`env -i`).
///
/// If the leader is there, alive or not yet reaped, the group is its own. If it is gone, its number
/// is given to nobody while the group lives, so without a process of that number it is most likely
/// the old group; no_new_privs, which the shim sets and nobody can shed, settles it.
fn is_group_mate(stat: &Stat, entries: &[Entry], all: &HashMap<i32, Stat>) -> bool {
    let led =
        |entry: &&Entry| entry.pid > 1 && entry.pid == stat.group && stat.start >= entry.start;
    entries
        .iter()
        .filter(led)
        .any(|entry| match all.get(&entry.pid) {
            Some(leader) => leader.start == entry.start,
            None => procfs::no_new_privs(stat.pid),
        })
}

fn add_descendants(all: &HashMap<i32, Stat>, hit: &mut HashSet<i32>) {
    loop {
        let before = hit.len();
        for stat in all.values() {
            if hit.contains(&stat.parent) {
                hit.insert(stat.pid);
            }
        }
        if hit.len() == before {
            return;
        }
    }
}

/// Kills a process if it is still the one that was identified.
fn kill_if_same(seen: &Stat) {
    let Some(pid) = Pid::from_raw(seen.pid) else {
        return;
    };
    let Ok(held) = pidfd_open(pid, PidfdFlags::empty()) else {
        return;
    };
    // Held now: if this pid is still that process, the descriptor is too.
    if procfs::stat(seen.pid).is_some_and(|now| now.start == seen.start) {
        let _ = pidfd_send_signal(&held, Signal::KILL);
    }
}
