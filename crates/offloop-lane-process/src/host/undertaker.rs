//! Sees to it that of a dead child's tree nothing is left, and says so only then.
//!
//! The leader is dead and not yet reaped, so its pid and its group's number cannot be given to
//! anybody else: signals to the group hit its own. What has left the group was adopted by this
//! process (child subreaper) when its parent died, so it is found among our own children: a living
//! descendant always has a topmost living ancestor, and that one is our child. When a look finds no
//! such child, none is left. Where there are control groups, the tree's must be empty as well: that
//! needs no argument, whatever the task did to its environment and its sessions.

use std::collections::HashMap;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, TryRecvError, channel};
use std::time::Duration;

use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};
use rustix::process::{
    Pid, PidfdFlags, Signal, kill_process, kill_process_group, pidfd_open, pidfd_send_signal,
};

use super::family::{self, Family};
use super::tag::Tag;
use super::{Kept, MARKER_VARIABLE};
use crate::cgroup::{self, Events, Group};
use crate::procfs::{self, Stat, Variable};
use crate::sys::{self, Exit, Spent};

/// Between two looks at a tree that does not want to die.
const PAUSE_MIN: Duration = Duration::from_micros(500);
const PAUSE_MAX: Duration = Duration::from_millis(20);
/// Between two looks for adopted processes that ended by themselves.
const SWEEP: Duration = Duration::from_secs(1);

/// Looks at a process without an environment before it is taken for one that has none: with the
/// growing pauses about 50 ms, far longer than an execve.
const UNCLEAR_LOOKS_MAX: u32 = 7;

/// Living adopted processes of one tree from which on all of it is ended at once, wherever it is:
/// from the top down, a bomb would grow below as fast as it is cut.
const MANY: usize = 4;

/// What can be said of a process that was adopted.
enum Belongs {
    Yes,
    No,
    Unclear,
}

/// A tree that is gone.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Buried {
    pub(crate) exit: Exit,
    pub(crate) spent: Spent,
    /// The kernel killed in it because its memory was at its bound; the most that it held.
    pub(crate) out_of_memory: Option<u64>,
}

/// A dead child to be seen off.
pub(crate) struct Burial {
    pub(crate) pid: i32,
    pub(crate) marker: String,
    pub(crate) roster: PathBuf,
    pub(crate) reply: Box<dyn FnOnce(Buried) + Send>,
}

struct Open {
    burial: Burial,
    tag: Option<Tag>,
    group: Option<(Group, Events)>,
    /// Processes outside the group that were killed for it.
    hunted: Vec<i32>,
    /// Processes whose environment could not be read, and how often they were looked at.
    unclear: HashMap<i32, u32>,
    spent: Spent,
}

impl Open {
    fn new(burial: Burial, kept: &Kept) -> Self {
        let group = kept.group(&burial.roster);
        Self {
            group: group.and_then(|group| group.events().ok().map(|events| (group, events))),
            tag: Tag::of(&burial.marker),
            burial,
            hunted: Vec::new(),
            unclear: HashMap::new(),
            spent: Spent::default(),
        }
    }

    /// Ends what is in its group. True: some of it still lives.
    fn is_populated(&self) -> bool {
        let Some((group, events)) = &self.group else {
            return false;
        };
        if !events.is_populated() {
            return false;
        }
        group.kill();
        events.is_populated()
    }
}

/// The control group of a living child, and who may end it.
///
/// Writing to a group can wait for every fork on the machine, so it is never done by whoever holds
/// a pool's lock.
#[derive(Debug)]
pub(crate) struct GroupKill {
    group: Arc<Group>,
    line: Line,
}

impl GroupKill {
    pub(super) fn new(group: Arc<Group>, line: Line) -> Self {
        Self { group, line }
    }

    pub(crate) const fn group(&self) -> &Arc<Group> {
        &self.group
    }

    /// Soon, by the undertaker.
    pub(crate) fn kill(&self) {
        self.line.give(Order::Kill(self.group.clone()));
    }
}

enum Order {
    Bury(Burial),
    Kill(Arc<Group>),
}

/// The way to the undertaker. Its thread ends when the last one is dropped and all is buried.
#[derive(Clone, Debug)]
pub(super) struct Line {
    sender: Option<Sender<Order>>,
    bell: Arc<OwnedFd>,
}

impl Line {
    pub(super) fn send(&self, burial: Burial) {
        self.give(Order::Bury(burial));
    }

    fn give(&self, order: Order) {
        if let Some(sender) = &self.sender {
            let _ = sender.send(order); // its thread lives as long as any line
        }
        self.ring();
    }

    fn ring(&self) {
        let _ = rustix::io::write(&*self.bell, &1_u64.to_ne_bytes()); // full: it rings already
    }
}

impl Drop for Line {
    fn drop(&mut self) {
        self.sender = None; // before the bell: who wakes up must see it
        self.ring();
    }
}

pub(super) struct Inbox {
    orders: Receiver<Order>,
    bell: Arc<OwnedFd>,
}

pub(super) fn line() -> std::io::Result<(Line, Inbox)> {
    let (sender, orders) = channel();
    let bell = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
    let bell = Arc::new(bell);
    let line = Line {
        sender: Some(sender),
        bell: bell.clone(),
    };
    Ok((line, Inbox { orders, bell }))
}

impl Inbox {
    /// Until somebody rings, a group of an open burial changes, or time is up.
    fn wait(&self, open: &[Open], most: Duration) {
        let mut fds = vec![PollFd::new(&*self.bell, PollFlags::IN)];
        let groups = open.iter().filter_map(|open| open.group.as_ref());
        fds.extend(groups.map(|(_, events)| PollFd::new(&events.file, PollFlags::PRI)));
        let _ = poll(&mut fds, Timespec::try_from(most).ok().as_ref());
        let mut count = [0; 8];
        let _ = rustix::io::read(&*self.bell, &mut count);
    }
}

pub(super) fn run(inbox: &Inbox, kept: &Kept) {
    let me = Me::read();
    let mut open: Vec<Open> = Vec::new();
    let mut pause = PAUSE_MIN;
    loop {
        inbox.wait(&open, if open.is_empty() { SWEEP } else { pause });
        pause = (pause * 2).min(PAUSE_MAX);
        loop {
            match inbox.orders.try_recv() {
                Ok(Order::Kill(group)) => group.kill(),
                Ok(Order::Bury(burial)) => {
                    open.push(Open::new(burial, kept));
                    pause = PAUSE_MIN;
                }
                Err(TryRecvError::Disconnected) if open.is_empty() => return,
                Err(TryRecvError::Disconnected | TryRecvError::Empty) => break,
            }
        }
        if open.is_empty() {
            me.sweep(&mut family::lock());
        }
        let (mut waiting, mut gone) = (Vec::new(), Vec::new());
        for mut one in open {
            match me.bury(&mut one, kept) {
                Some(buried) => gone.push((one.burial.reply, buried)),
                None => waiting.push(one),
            }
        }
        open = waiting;
        for (reply, buried) in gone {
            reply(buried);
        }
    }
}

/// What does not change while the process lives.
struct Me {
    pid: i32,
    group: i32,
    no_new_privs: bool,
}

impl Me {
    fn read() -> Self {
        let pid = std::process::id() as i32;
        Self {
            pid,
            group: procfs::stat(pid).map_or(0, |stat| stat.group),
            no_new_privs: procfs::no_new_privs(pid),
        }
    }

    /// One look at a tree; the answer when nothing of it is left.
    fn bury(&self, open: &mut Open, kept: &Kept) -> Option<Buried> {
        let mut family = family::lock();
        signal_group(open.burial.pid);
        let populated = open.is_populated();
        while self.hunt(&family, open)? {}
        if populated && open.is_populated() {
            return None; // its group tells when it empties
        }
        let (exit, mut spent) = sys::reap(open.burial.pid)?;
        spent.cpu += open.spent.cpu;
        spent.max_rss_bytes = spent.max_rss_bytes.max(open.spent.max_rss_bytes);
        family.buried(open.burial.pid, &open.burial.marker);
        drop(family);
        let mut out_of_memory = None;
        if let Some((group, _)) = &open.group {
            spent.cpu = spent.cpu.max(group.cpu().unwrap_or_default());
            let peak = group.memory_peak().unwrap_or(0);
            spent.max_rss_bytes = spent.max_rss_bytes.max(peak);
            out_of_memory = (group.memory_kills() > 0).then_some(peak);
        }
        kept.discard(&open.burial.roster);
        let _ = std::fs::remove_file(&open.burial.roster); // the shim may not have come that far
        Some(Buried {
            exit,
            spent,
            out_of_memory,
        })
    }

    /// Kills and reaps what belongs to the tree among our adopted children. `None`: something was
    /// killed and must die first. True: something was reaped, whose children may be ours now.
    fn hunt(&self, family: &Family, open: &mut Open) -> Option<bool> {
        #[cfg(feature = "sabotage")]
        if crate::sabotage::is("hunt") {
            return Some(false);
        }
        let (mut reaped, mut alive, mut hits) = (false, false, 0);
        for stat in self.adopted(family) {
            if stat.is_dead() {
                reaped |= Self::reap_adopted(&stat, open);
                continue;
            }
            match self.belongs(&stat, family, open) {
                Belongs::No => {}
                Belongs::Unclear => alive = true,
                Belongs::Yes => {
                    alive = true;
                    if !open.hunted.contains(&stat.pid) {
                        open.hunted.push(stat.pid);
                    }
                    hit(&stat);
                    hits += 1;
                }
            }
        }
        if hits >= MANY
            && let Some(own) = open.tag
        {
            kill_tagged(own);
        }
        (!alive).then_some(reaped)
    }

    /// Our children that no spawner started.
    fn adopted(&self, family: &Family) -> Vec<Stat> {
        procfs::children_of_thread(self.pid, self.pid)
            .into_iter()
            .filter(|pid| !family.known.contains(pid))
            .filter_map(procfs::stat)
            // A child of some other part of this program is born into our group; one that a task
            // left was born into the task's.
            .filter(|stat| stat.parent == self.pid && stat.group != self.group)
            .collect()
    }

    fn reap_adopted(stat: &Stat, open: &mut Open) -> bool {
        let Some((_, spent)) = sys::reap(stat.pid) else {
            return false;
        };
        let its_group = stat.group == open.burial.pid;
        if its_group || open.hunted.contains(&stat.pid) {
            open.spent.cpu += spent.cpu;
            open.spent.max_rss_bytes = open.spent.max_rss_bytes.max(spent.max_rss_bytes);
        }
        true
    }

    /// Whether a living adopted process is of this tree, or of none that lives.
    fn belongs(&self, stat: &Stat, family: &Family, open: &mut Open) -> Belongs {
        // Its number says it, whatever its environment does; also one of another host of this process.
        if let (Some(own), Some(tag)) = (open.tag, Tag::of_process(stat.pid)) {
            if own == tag {
                return Belongs::Yes;
            }
            if family.is_live_tag(tag) {
                return Belongs::No;
            }
            if own.run() == tag.run() {
                return Belongs::Yes;
            }
        }
        let path = procfs::cgroup(stat.pid).unwrap_or_default();
        let mut others = false;
        for marker in cgroup::markers_in(&path) {
            if marker == open.burial.marker {
                return Belongs::Yes;
            }
            others |= family.is_live(&marker);
        }
        if others {
            return Belongs::No;
        }
        let yes = match procfs::look_up(stat.pid, MARKER_VARIABLE) {
            Variable::Value(its) if its == open.burial.marker => true,
            Variable::Value(its) => !family.is_live(&its),
            // It was started with another environment. The shim's no_new_privs cannot be shed.
            Variable::Absent => self.is_of_a_task(stat),
            Variable::Nothing => {
                // In the middle of an execve it may be of a tree that lives.
                let looks = open.unclear.entry(stat.pid).or_default();
                *looks += 1;
                if *looks <= UNCLEAR_LOOKS_MAX {
                    return Belongs::Unclear;
                }
                self.is_of_a_task(stat)
            }
        };
        if yes { Belongs::Yes } else { Belongs::No }
    }

    fn is_of_a_task(&self, stat: &Stat) -> bool {
        self.no_new_privs || procfs::no_new_privs(stat.pid)
    }

    /// Reaps adopted processes that ended by themselves, and ends those whose tree is buried.
    fn sweep(&self, family: &mut Family) {
        #[cfg(feature = "sabotage")]
        if crate::sabotage::is("hunt") {
            return;
        }
        for stat in self.adopted(family) {
            if stat.is_dead() {
                let _ = sys::reap(stat.pid);
            } else if procfs::variable(stat.pid, MARKER_VARIABLE)
                .is_some_and(|its| !family.is_live(&its))
            {
                hit(&stat);
            }
        }
    }
}

/// Kills an unreaped child of ours, with its group if it leads one.
fn hit(stat: &Stat) {
    if stat.group == stat.pid {
        signal_group(stat.pid);
    }
    if let Some(pid) = Pid::from_raw(stat.pid) {
        let _ = kill_process(pid, Signal::KILL);
    }
}

fn signal_group(group: i32) {
    if let Some(pid) = Pid::from_raw(group) {
        let _ = kill_process_group(pid, Signal::KILL);
    }
}

/// SIGKILL to every process that carries the tag. Each is held by a pidfd before its tag is read, so
/// that the signal cannot hit who got its number.
fn kill_tagged(tag: Tag) {
    for pid in procfs::pids() {
        let Some(named) = Pid::from_raw(pid) else {
            continue;
        };
        if Tag::of_process(pid) != Some(tag) {
            continue;
        }
        let Ok(held) = pidfd_open(named, PidfdFlags::empty()) else {
            continue;
        };
        if Tag::of_process(pid) == Some(tag) {
            let _ = pidfd_send_signal(&held, Signal::KILL);
        }
    }
}
