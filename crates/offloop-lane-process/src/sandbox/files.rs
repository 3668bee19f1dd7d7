//! The file side, by Landlock.
//!
//! Landlock has no rule that denies: what no rule allows is denied, and a rule holds for everything
//! below its folder. So a folder is hidden by allowing all others: from the root down, the folders
//! on the way to a hidden one get no rule of their own and each of their neighbours gets one. The
//! price: such a folder can be passed through, and neither listed nor added to, and what is put
//! there later is not seen.

use std::path::{Path, PathBuf};

use landlock::{
    ABI, Access as _, AccessFs, AccessNet, BitFlags, CompatLevel, Compatible as _, PathBeneath,
    Ruleset, RulesetAttr as _, RulesetCreated, RulesetCreatedAttr as _, RulesetStatus, Scope,
};
use rustix::fs::{FileType, Mode, OFlags, fstat, open};

use super::Order;
use crate::sys;

/// Neighbours of the folders on the way to a hidden one. More cost too much at each start.
const RULES_MAX: usize = 20_000;

/// Beside ordinary files in `/dev`, which is no place for a task: disks are there.
const DEVICES: [&str; 5] = ["null", "zero", "full", "random", "urandom"];
/// Terminals and shared memory: as everything else, so not to be written with `read_only`.
const DEVICES_AS_FILES: [&str; 4] = ["tty", "ptmx", "pts", "shm"];

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Level {
    Nothing,
    Read,
    All,
}

/// Which folder is to be lower than the rest.
struct Plan {
    base: Level,
    lower: Vec<(PathBuf, Level)>,
}

/// Takes a rule: the folder or file, held open, and its level.
type Allow<'a> = dyn FnMut(rustix::fd::OwnedFd, Level) -> Result<(), String> + 'a;

impl Plan {
    fn of(order: &Order) -> Self {
        let base = if order.read_only {
            Level::Read
        } else {
            Level::All
        };
        let mut lower: Vec<_> = order
            .hidden
            .iter()
            .map(|path| (path.clone(), Level::Nothing))
            .collect();
        lower.push(("/dev".into(), Level::Nothing));
        if base == Level::All {
            // Where root, even without its capabilities, changes the kernel's ways.
            lower.push(("/proc".into(), Level::Read));
            lower.push(("/sys".into(), Level::Read));
        }
        Self { base, lower }
    }

    fn walk(&self, path: &Path, count: &mut usize, allow: &mut Allow<'_>) -> Result<(), String> {
        let own = self.lower.iter().filter(|(lower, _)| lower == path);
        let own = own
            .map(|(_, level)| *level)
            .min_by_key(|level| *level as u8);
        let mut below = self
            .lower
            .iter()
            .filter(|(lower, _)| lower != path && lower.starts_with(path))
            .peekable();
        if own == Some(Level::Nothing) {
            return Ok(());
        }
        let level = own.unwrap_or(self.base);
        // Opened without following: a link is allowed where it leads to.
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let Ok(held) = open(path, flags, Mode::empty()) else {
            return Ok(()); // gone since it was listed
        };
        *count += 1;
        if *count > RULES_MAX {
            return Err(format!(
                "the folders around the hidden ones have more than {RULES_MAX} entries; \
                 put what is hidden into folders with fewer neighbours"
            ));
        }
        if below.peek().is_none() {
            return allow(held, level);
        }
        if below.all(|(_, level)| *level == Level::Read) {
            allow(held, Level::Read)?;
        }
        let entries = std::fs::read_dir(path)
            .map_err(|error| format!("cannot list {}: {error}", path.display()))?;
        for entry in entries.flatten() {
            self.walk(&entry.path(), count, allow)?;
        }
        Ok(())
    }
}

/// Restricts this process and all that it starts.
pub(super) fn restrict(order: &Order) -> Result<(), String> {
    let abi = sys::landlock_abi();
    let rights = Rights::of(abi);
    let refused = |error: landlock::RulesetError| format!("the kernel refuses it: {error}");
    let mut ruleset = Ruleset::default()
        .set_compatibility(CompatLevel::HardRequirement)
        .handle_access(rights.all)
        .map_err(refused)?;
    if order.no_network && abi >= 4 {
        let all = AccessNet::from_all(ABI::V4);
        ruleset = ruleset.handle_access(all).map_err(refused)?;
    }
    if abi >= 6 {
        let mut scope = BitFlags::from(Scope::Signal);
        if order.no_network {
            scope |= Scope::AbstractUnixSocket;
        }
        ruleset = ruleset.scope(scope).map_err(refused)?;
    }
    let mut ruleset = Some(ruleset.create().map_err(refused)?);
    let mut count = 0;
    let mut allow = |held, level| add(&mut ruleset, &rights, held, level);
    let plan = Plan::of(order);
    plan.walk(Path::new("/"), &mut count, &mut allow)?;
    let dev = Path::new("/dev");
    let raised = (order
        .readable
        .iter()
        .map(|path| (path.clone(), Level::Read)))
    .chain(order.writable.iter().map(|path| (path.clone(), Level::All)))
    .chain(DEVICES.iter().map(|name| (dev.join(name), Level::All)))
    .chain(
        DEVICES_AS_FILES
            .iter()
            .map(|name| (dev.join(name), plan.base)),
    );
    for (path, level) in raised {
        match open(&path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty()) {
            Ok(held) => allow(held, level)?,
            Err(_) if path.starts_with(dev) => {}
            Err(error) => return Err(format!("cannot open {}: {error}", path.display())),
        }
    }
    let done = ruleset
        .ok_or("no rules")?
        .restrict_self()
        .map_err(refused)?;
    match done.ruleset {
        RulesetStatus::FullyEnforced => Ok(()),
        weaker => Err(format!("the kernel enforces it in part only ({weaker:?})")),
    }
}

struct Rights {
    all: BitFlags<AccessFs>,
    read: BitFlags<AccessFs>,
    full: BitFlags<AccessFs>,
    of_files: BitFlags<AccessFs>,
}

impl Rights {
    fn of(abi: u32) -> Self {
        let abi = if abi >= 5 { ABI::V5 } else { ABI::V3 };
        let all = AccessFs::from_all(abi);
        Self {
            all,
            read: AccessFs::from_read(abi),
            // A device that a task makes is a door to the disk.
            full: all & !(AccessFs::MakeBlock | AccessFs::MakeChar),
            of_files: AccessFs::from_file(abi),
        }
    }
}

fn add(
    ruleset: &mut Option<RulesetCreated>,
    rights: &Rights,
    held: rustix::fd::OwnedFd,
    level: Level,
) -> Result<(), String> {
    let kind = fstat(&held).map_or(FileType::Unknown, |stat| {
        FileType::from_raw_mode(stat.st_mode)
    });
    let wanted = match level {
        Level::Nothing => return Ok(()),
        Level::Read => rights.read,
        Level::All => rights.full,
    };
    let wanted = match kind {
        FileType::Symlink | FileType::Unknown => return Ok(()),
        FileType::Directory => wanted,
        _ => wanted & rights.of_files,
    };
    let Some(before) = ruleset.take() else {
        return Err("no rules".into());
    };
    let rule = PathBeneath::new(held, wanted);
    let after = before.add_rule(rule);
    *ruleset = Some(after.map_err(|error| format!("the kernel refuses a rule: {error}"))?);
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsRawFd as _;

    use super::*;

    #[test]
    fn what_is_hidden_gets_no_rule_and_neither_does_a_link_to_it_or_its_parents() {
        let folder = tempfile::tempdir().unwrap();
        let root = std::fs::canonicalize(folder.path()).unwrap();
        for name in ["a/secret/deep", "a/open", "b", "sys"] {
            std::fs::create_dir_all(root.join(name)).unwrap();
        }
        std::fs::write(root.join("a/file"), "").unwrap();
        std::os::unix::fs::symlink(root.join("a"), root.join("b-link")).unwrap();
        let plan = Plan {
            base: Level::All,
            lower: vec![
                (root.join("a/secret"), Level::Nothing),
                (root.join("sys"), Level::Read),
            ],
        };
        let mut rules = Vec::new();
        let mut count = 0;
        plan.walk(&root, &mut count, &mut |held, level| {
            let link = format!("/proc/self/fd/{}", held.as_raw_fd());
            let path = std::fs::read_link(link).unwrap();
            let stat = fstat(&held).unwrap();
            if FileType::from_raw_mode(stat.st_mode) != FileType::Symlink {
                let path = path.strip_prefix(&root).unwrap();
                rules.push((path.to_str().unwrap().to_owned(), level));
            }
            Ok(())
        })
        .unwrap();
        rules.sort_by(|one, other| one.0.cmp(&other.0));
        let want = [
            ("a/file", Level::All),
            ("a/open", Level::All),
            ("b", Level::All),
            ("sys", Level::Read),
        ];
        let want = want.map(|(path, level)| (path.to_owned(), level));
        assert_eq!(rules, want);
    }
}
