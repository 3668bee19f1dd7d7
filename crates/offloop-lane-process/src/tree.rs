//! Who belongs to the tree of a living child.

use crate::cgroup::Group;
use crate::host::Tag;
use crate::procfs;

/// Adopted processes that are looked at for one child. Where there are more, a bomb of some task is
/// being buried: that is the undertaker's, and must not slow the watch over all other children.
const ADOPTED_MAX: usize = 16;

/// How the processes of one child are found.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Roots<'a> {
    pub(crate) leader: i32,
    pub(crate) group: Option<&'a Group>,
    pub(crate) marker: &'a str,
}

/// The living processes of a tree, its leader among them: by its control group; else by parenthood,
/// and by their tag those that have daemonised themselves and were adopted by this process.
pub(crate) fn members(roots: Roots<'_>) -> Vec<i32> {
    let members = roots.group.map(Group::members).unwrap_or_default();
    if members.contains(&roots.leader) {
        return members;
    }
    // Not yet entered, or no groups here.
    let mut found = procfs::descendants(roots.leader);
    found.push(roots.leader);
    let me = std::process::id() as i32;
    let own = Tag::of(roots.marker);
    let adopted = procfs::children_of_thread(me, me).into_iter();
    for orphan in adopted
        .take(ADOPTED_MAX)
        .filter(|pid| Tag::of_process(*pid) == own && own.is_some())
    {
        found.push(orphan);
        found.extend(procfs::descendants(orphan));
    }
    found.sort_unstable();
    found.dedup();
    found
}
