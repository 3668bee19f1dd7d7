//! What the system gives this host for its work. Shown, because less of it is not an error.

use std::fmt;
use std::path::PathBuf;

/// What is in force; `Display` is one line for people.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Means {
    /// The folder of this run's control groups, or why there are none. Without them a tree is known
    /// by its process group, its marker and its adoption.
    pub cgroup: Result<PathBuf, String>,
    /// The kernel bounds and counts the memory of a tree. Without it memory is watched.
    pub memory: bool,
    /// The kernel bounds the processes of a tree. Without it they are counted.
    pub processes: bool,
    /// Version of Landlock, 0 for none. A sandbox needs 3.
    pub landlock: u32,
}

impl fmt::Display for Means {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.cgroup {
            Ok(folder) => write!(f, "trees by cgroup {}", folder.display())?,
            Err(why) => write!(f, "trees by process group and marker (no cgroup: {why})")?,
        }
        let by = |kernel: bool| if kernel { "kernel and watch" } else { "watch" };
        write!(f, "; memory by {}", by(self.memory))?;
        write!(f, ", processes by {}", by(self.processes))?;
        match self.landlock {
            0 => f.write_str("; no sandbox (no Landlock)"),
            abi @ 1..3 => write!(f, "; no sandbox (Landlock {abi}, needs 3)"),
            abi @ 3..6 => write!(
                f,
                "; sandbox by Landlock {abi} (signals not scoped) and seccomp"
            ),
            abi => write!(f, "; sandbox by Landlock {abi} and seccomp"),
        }
    }
}
