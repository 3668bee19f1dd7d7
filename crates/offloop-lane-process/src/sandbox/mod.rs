//! What a task's processes may reach: built by the host, put on by the shim, and never taken off.
//!
//! The order travels as a file in the executor's folder, because argument lists have limits. It is
//! put on after the group was entered and before the task's program runs, each layer where it still
//! can be: network namespace (needs privilege), Landlock, capabilities, seccomp.
//!
//! Must never: be weaker than what was asked. A layer that the kernel refuses fails the start with
//! a sentence; layers that come on top of a complete one (namespace, scopes) may be missing.

mod calls;
mod files;
mod order;

use std::path::{Path, PathBuf};

use rustix::thread::{
    CapabilitySet, CapabilitySets, remove_capability_from_bounding_set, set_capabilities,
};

use crate::spec::Sandbox;
use crate::sys;

pub(crate) use order::Order;

/// The first Landlock that covers `truncate`; without it "read-only" is not.
const LANDLOCK_MIN: u32 = 3;

impl Sandbox {
    /// Any option brings the rest of the wall with it: the server's data is hidden, privileges are
    /// dropped, and calls that no task needs are refused.
    pub(crate) fn is_on(&self) -> bool {
        self.no_network || self.read_only || !self.hidden.is_empty()
    }

    /// The option by which a sentence names what was asked.
    fn option(&self) -> &'static str {
        match (self.read_only, self.hidden.is_empty(), self.no_network) {
            (true, _, _) => "read_only",
            (_, false, _) => "hidden",
            (_, _, true) => "network = false",
            _ => "none",
        }
    }

    /// What is wrong with the wish, before anything is started. `data`: folders of the server.
    pub(crate) fn check(&self, data: &[PathBuf]) -> Result<(), String> {
        if !self.is_on() {
            return if self.writable.is_empty() {
                Ok(())
            } else {
                Err("sandbox: `writable` means something only with `read_only`".into())
            };
        }
        can_wall(self.option())?;
        for (option, paths) in [("writable", &self.writable), ("hidden", &self.hidden)] {
            for path in paths {
                real(option, path)?;
            }
        }
        let mut hidden = Vec::new();
        for path in self.hidden.iter().chain(data) {
            hidden.push(real("hidden", path)?);
        }
        for path in &self.writable {
            let path = real("writable", path)?;
            if let Some(hidden) = hidden
                .iter()
                .find(|h| path.starts_with(h) || h.starts_with(&path))
            {
                return Err(format!(
                    "sandbox: `writable` folder {} and the hidden folder {} lie one in the other; \
                     name a folder beside it",
                    path.display(),
                    hidden.display()
                ));
            }
        }
        Ok(())
    }
}

/// As an absolute path without links, which is what the kernel will see.
fn real(option: &str, path: &Path) -> Result<PathBuf, String> {
    if !path.is_absolute() {
        return Err(format!(
            "sandbox: `{option}` has {}, which is no absolute path",
            path.display()
        ));
    }
    std::fs::canonicalize(path).map_err(|error| {
        format!(
            "sandbox: the folder {} of `{option}` cannot be used: {error}; make it or take it out",
            path.display()
        )
    })
}

fn can_wall(option: &str) -> Result<(), String> {
    let abi = sys::landlock_abi();
    if abi < LANDLOCK_MIN {
        let has = match abi {
            0 => "has none, or it is not in the boot option `lsm=`".to_owned(),
            abi => format!("has version {abi}"),
        };
        return Err(format!(
            "sandbox: `{option}` needs Landlock {LANDLOCK_MIN} (Linux 6.2 or later) and this kernel \
             {has}; run a kernel with it, or take the option out of the task"
        ));
    }
    calls::supported()
        .then_some(())
        .ok_or_else(|| format!("sandbox: `{option}` is not made for this processor"))
}

/// Puts the order on this process, which is single-threaded and about to exec.
pub(crate) fn put_on(order: &Order) -> Result<(), String> {
    let option = order.option();
    can_wall(option)?;
    if order.no_network {
        // On top of the filter, where the privilege is there: sockets of a namespace of its own
        // would lead nowhere. A user namespace, which needs none, is not worth what it opens up.
        let _ = sys::unshare_network();
    }
    files::restrict(order).map_err(|why| format!("sandbox: `{option}`: {why}"))?;
    drop_capabilities().map_err(|e| format!("sandbox: cannot drop privileges: {e}"))?;
    calls::refuse(order.no_network).map_err(|why| format!("sandbox: `{option}`: {why}"))
}

/// A task of a server that runs as root keeps root's files and loses root's powers.
fn drop_capabilities() -> rustix::io::Result<()> {
    for capability in CapabilitySet::all().iter() {
        match remove_capability_from_bounding_set(capability) {
            // Not privileged, so exec gives none; or unknown to this kernel.
            Ok(()) | Err(rustix::io::Errno::PERM | rustix::io::Errno::INVAL) => {}
            Err(error) => return Err(error),
        }
    }
    let none = CapabilitySets {
        effective: CapabilitySet::empty(),
        permitted: CapabilitySet::empty(),
        inheritable: CapabilitySet::empty(),
    };
    set_capabilities(None, none)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wish_that_cannot_hold_is_refused_before_it_runs() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        for name in ["data/sub", "work"] {
            std::fs::create_dir_all(at(name)).unwrap();
        }
        let data = [at("data")];
        let on = Sandbox {
            read_only: true,
            ..Sandbox::default()
        };
        let with = |writable: PathBuf| Sandbox {
            writable: vec![writable],
            ..on.clone()
        };
        assert_eq!(with(at("work")).check(&data), Ok(()));
        let table = [
            (with(at("data/sub")), "lie one in the other"),
            (with(folder.path().to_owned()), "lie one in the other"),
            (with(at("missing")), "make it or take it out"),
            (with("work".into()), "no absolute path"),
            (
                Sandbox {
                    hidden: vec![at("missing")],
                    ..on.clone()
                },
                "`hidden` cannot be used",
            ),
            (
                Sandbox {
                    read_only: false,
                    ..with(at("work"))
                },
                "only with `read_only`",
            ),
        ];
        for (sandbox, says) in table {
            let error = sandbox.check(&data).unwrap_err();
            assert!(error.contains(says), "{error}");
        }
    }
}
