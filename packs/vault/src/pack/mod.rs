//! The pack: call lanes, routes and a page around the core. Built on the facade alone.
//!
//! A request leaves its body at the [`tickets`] desk and calls a task with nothing but the ticket;
//! a thread of the pack's lanes takes the body, works, and answers past the runtime. So no secret
//! is ever the payload of a call, let alone of a job: the tasks stand on call lanes only.
//!
//! Two lanes, each with a thread per core: what takes microseconds never waits behind passwords.

mod cipher;
mod lane;
mod raw;
mod routes;
mod tickets;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use offloop::http::PackRoutes;
use offloop::lane_cpu::{CpuLane, default_threads};
use offloop::{CallSettings, Pack, PackError, RuntimeHandle, Setup, TaskInfo, TaskName};

use crate::keys::ring::Keyring;
use crate::ops::{Op, Vault};
use crate::password::Gate;
use tickets::Desk;

/// What an operator may set.
#[derive(Clone, Debug, Default)]
pub struct VaultOptions {
    /// Folder of the keys. `None`: passwords only.
    pub keys: Option<PathBuf>,
    /// Memory of all argon2 hashes together; default 256 MiB.
    pub memory_bytes: Option<u64>,
    /// Threads of each of the two lanes, 1 to 4,096; default by affinity and cgroup quota.
    pub threads: Option<u16>,
}

const MEMORY_DEFAULT: u64 = 256 << 20;
/// A login that is this old is worth nothing; a batch of a thousand fits well.
const TIMEOUT: Duration = Duration::from_secs(60);
/// A burst of logins may wait so long.
const PASSWORD_WAIT_MAX: Duration = Duration::from_secs(2);
/// Threads for calls come before those for jobs (10) and after the doors (0).
const NICE: u8 = 5;

/// What routes and tasks share.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) vault: Vault,
    pub(crate) desk: Desk,
    pub(crate) names: Names,
}

/// Names of the tasks.
#[derive(Debug)]
pub(crate) struct Names {
    ops: Vec<TaskName>,
    reload: TaskName,
}

impl Names {
    fn new() -> Result<Self, offloop::job::NameError> {
        let ops = Op::ALL.map(|op| TaskName::parse(&format!("vault.{}", op.name())));
        Ok(Self {
            ops: ops.into_iter().collect::<Result<_, _>>()?,
            reload: TaskName::parse("vault.reload")?,
        })
    }

    pub(crate) fn of(&self, op: Op) -> &TaskName {
        &self.ops[op as usize]
    }
}

const fn about(op: Op) -> &'static str {
    match op {
        Op::Hash => "hashes passwords; calls only",
        Op::Verify => "compares passwords with their hashes; calls only",
        Op::Seal => "encrypts, and signs on request; calls only",
        Op::Open => "checks and decrypts; calls only",
        Op::Sign => "signs; calls only",
        Op::Check => "checks signatures; calls only",
    }
}

/// The vault pack.
#[derive(Debug)]
pub struct VaultPack {
    options: VaultOptions,
    shared: Option<Arc<Shared>>,
}

impl VaultPack {
    pub const fn new(options: VaultOptions) -> Self {
        Self {
            options,
            shared: None,
        }
    }
}

fn fail(message: impl Into<String>) -> PackError {
    PackError {
        pack: "vault",
        message: message.into(),
    }
}

impl Pack for VaultPack {
    fn name(&self) -> &'static str {
        "vault"
    }

    fn install(&mut self, setup: &mut Setup<'_>) -> Result<(), PackError> {
        let keys = match &self.options.keys {
            None => Keyring::none(),
            Some(folder) => Keyring::open(folder).map_err(|error| fail(error.to_string()))?,
        };
        let threads = self.options.threads.unwrap_or(default_threads()).max(1);
        let shared = Arc::new(Shared {
            vault: Vault {
                keys,
                memory: Gate::new(self.options.memory_bytes.unwrap_or(MEMORY_DEFAULT)),
            },
            desk: Desk::new(threads),
            names: Names::new().map_err(|error| fail(error.to_string()))?,
        });
        let lane = |name| CpuLane::builder(name).threads(threads).ahead(0).nice(NICE);
        let mut quick = lane("vault");
        let mut slow = lane("vault:passwords");
        for op in Op::ALL {
            let info = TaskInfo {
                name: shared.names.of(op).clone(),
                timeout: Some(TIMEOUT),
                about: about(op).into(),
            };
            let own = Arc::clone(&shared);
            if op.is_password() {
                slow = slow.task(info, Arc::new(move |work| lane::password(&own, op, work)));
            } else {
                quick = quick.task(info, Arc::new(move |work| lane::quick(&own, op, work)));
            }
            let default = CallSettings::default();
            let settings = CallSettings {
                timeout: TIMEOUT,
                max_wait: if op.is_password() {
                    PASSWORD_WAIT_MAX
                } else {
                    default.max_wait
                },
                ..default
            };
            setup.calls(shared.names.of(op).clone(), settings);
        }
        let info = TaskInfo {
            name: shared.names.reload.clone(),
            timeout: Some(TIMEOUT),
            about: "reads the key folder again; calls only".into(),
        };
        let own = Arc::clone(&shared);
        quick = quick.task(info, Arc::new(move |_| lane::reload(&own)));
        if self.options.keys.is_some() {
            let cipher = cipher::VaultCipher::start(&shared);
            setup.cipher(Arc::new(cipher.map_err(|error| fail(error.to_string()))?));
        }
        setup.call_lane(Arc::new(quick.build()));
        setup.call_lane(Arc::new(slow.build()));
        self.shared = Some(shared);
        Ok(())
    }

    fn open(mut self: Box<Self>, server: &RuntimeHandle) -> Result<PackRoutes, PackError> {
        let shared = self.shared.take();
        let shared = shared.ok_or_else(|| fail("was opened before it was installed"))?;
        Ok(routes::routes(shared, server.clone()))
    }
}
