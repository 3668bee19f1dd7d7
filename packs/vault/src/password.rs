//! Passwords: what is asked, what it may cost, and the run of many at a time.
//!
//! Must never: keep a password longer than its run, or run what was not bounded.

use std::collections::BTreeMap;
use std::sync::{Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

use zeroize::Zeroizing;

use crate::error::{Kind, VaultError};
use crate::{argon, bcrypt, seal};

/// For argon2id; bcrypt has its own 72.
pub const PASSWORD_BYTES_MAX: usize = 4_096;
/// A stored hash as text.
pub const HASH_BYTES_MAX: usize = 512;
/// bcrypt's cost where none is asked for.
pub const BCRYPT_COST_DEFAULT: u8 = 12;
/// Longest wait for memory that others hold.
const MEMORY_WAIT_MAX: Duration = Duration::from_secs(2);
/// Between two looks whether somebody still waits for it.
const MEMORY_LOOK: Duration = Duration::from_millis(10);

/// Memory that all hashes of the server hold together.
#[derive(Debug)]
pub struct Gate {
    total: u64,
    free: Mutex<u64>,
    freed: Condvar,
}

impl Gate {
    pub const fn new(total: u64) -> Self {
        Self {
            total,
            free: Mutex::new(total),
            freed: Condvar::new(),
        }
    }

    /// In bytes.
    pub const fn total(&self) -> u64 {
        self.total
    }

    /// Waits at most two seconds for room. `field`: where the ask for too much is told.
    fn enter(
        &self,
        bytes: u64,
        field: &str,
        should_stop: &dyn Fn() -> bool,
    ) -> Result<Pass<'_>, VaultError> {
        if bytes > self.total {
            let detail = format!(
                "asks for {bytes} bytes; all hashes together may hold {} (packs.vault.memory)",
                self.total
            );
            return Err(VaultError::field(field, detail));
        }
        let until = Instant::now() + MEMORY_WAIT_MAX;
        let mut free = self.free.lock().unwrap_or_else(PoisonError::into_inner);
        while *free < bytes {
            if should_stop() {
                return Err(VaultError::stopped());
            }
            if Instant::now() >= until {
                let detail = "the memory for password hashes is all in use; try again later";
                return Err(VaultError::new(Kind::Busy, "", detail));
            }
            let waited = self.freed.wait_timeout(free, MEMORY_LOOK);
            free = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
        *free -= bytes;
        Ok(Pass { gate: self, bytes })
    }
}

struct Pass<'a> {
    gate: &'a Gate,
    bytes: u64,
}

impl Drop for Pass<'_> {
    fn drop(&mut self) {
        let mut free = self
            .gate
            .free
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        *free += self.bytes;
        self.gate.freed.notify_all();
    }
}

/// How a new password is hashed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Method {
    Argon2id(argon::Cost),
    Bcrypt { cost: u8 },
}

enum Work {
    Hash(argon::Cost),
    Verify(argon::Hash),
    HashBcrypt(bcrypt::Ask, u8),
    VerifyBcrypt(bcrypt::Ask, bcrypt::Hash),
}

/// One password to hash or verify, bounded, ready to run.
pub struct Ask {
    /// Empty for bcrypt, which has taken it in.
    password: Zeroizing<Vec<u8>>,
    work: Work,
}

impl std::fmt::Debug for Ask {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Ask")
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    Hash(String),
    Verified {
        valid: bool,
        /// A new hash by the defaults would be harder to break.
        needs_rehash: bool,
    },
}

fn bounded(password: &[u8]) -> Result<(), VaultError> {
    let len = password.len();
    if len <= PASSWORD_BYTES_MAX {
        return Ok(());
    }
    let detail = format!("has {len} bytes; the limit is {PASSWORD_BYTES_MAX}");
    Err(VaultError::field("password", detail))
}

fn bcrypt_password(error: bcrypt::PasswordError) -> VaultError {
    VaultError::field("password", error.to_string())
}

impl Ask {
    pub fn hash(password: &[u8], method: Method) -> Result<Self, VaultError> {
        bounded(password)?;
        let work = match method {
            Method::Argon2id(cost) => {
                if let Some((number, detail)) = cost.problem() {
                    return Err(VaultError::field(&format!("params/{number}"), detail));
                }
                Work::Hash(cost)
            }
            Method::Bcrypt { cost } => {
                let (least, most) = (bcrypt::COST_MIN, bcrypt::COST_MAX);
                if !(least..=most).contains(&cost) {
                    let detail = format!("is {cost}; the limits are {least} and {most}");
                    return Err(VaultError::field("params/cost", detail));
                }
                let ask = bcrypt::Ask::new(password, salt()?).map_err(bcrypt_password)?;
                return Ok(Self::of_bcrypt(Work::HashBcrypt(ask, cost)));
            }
        };
        let password = Zeroizing::new(password.to_vec());
        Ok(Self { password, work })
    }

    /// `hash`: a string of argon2id, argon2i or bcrypt.
    pub fn verify(password: &[u8], hash: &str) -> Result<Self, VaultError> {
        bounded(password)?;
        let refuse = |detail: String| VaultError::field("hash", detail);
        if hash.len() > HASH_BYTES_MAX {
            let len = hash.len();
            return Err(refuse(format!(
                "has {len} bytes; the limit is {HASH_BYTES_MAX}"
            )));
        }
        if hash.starts_with("$2") {
            let hash = bcrypt::Hash::parse(hash).map_err(|error| refuse(error.to_string()))?;
            let ask = bcrypt::Ask::of(password, &hash).map_err(bcrypt_password)?;
            return Ok(Self::of_bcrypt(Work::VerifyBcrypt(ask, hash)));
        }
        if !hash.starts_with("$argon2") {
            return Err(refuse(
                "is no hash of argon2 ($argon2id$...) or bcrypt ($2b$...)".into(),
            ));
        }
        let hash = argon::Hash::parse(hash).map_err(|error| refuse(error.to_string()))?;
        let password = Zeroizing::new(password.to_vec());
        let work = Work::Verify(hash);
        Ok(Self { password, work })
    }

    fn of_bcrypt(work: Work) -> Self {
        let password = Zeroizing::default();
        Self { password, work }
    }

    /// Asks that answer the same here can share a run.
    pub fn bcrypt_cost(&self) -> Option<u8> {
        match &self.work {
            Work::HashBcrypt(_, cost) => Some(*cost),
            Work::VerifyBcrypt(_, hash) => Some(hash.cost),
            _ => None,
        }
    }
}

fn salt() -> Result<[u8; 16], VaultError> {
    let mut salt = [0; 16];
    let failed = |_| VaultError::new(Kind::Internal, "", "the system gives no random bytes");
    seal::random(&mut salt).map_err(failed)?;
    Ok(salt)
}

/// Runs all asks on this thread; answers are in their order. Those of bcrypt with one cost are run
/// together, [`bcrypt::LANES_MAX`] at a time.
pub fn run(
    asks: Vec<Ask>,
    gate: &Gate,
    should_stop: &dyn Fn() -> bool,
) -> Vec<Result<Answer, VaultError>> {
    let mut answers: Vec<Option<Result<Answer, VaultError>>> = Vec::new();
    answers.resize_with(asks.len(), || None);
    let mut by_cost: BTreeMap<u8, Vec<Interleaved>> = BTreeMap::new();
    for (at, Ask { password, work }) in asks.into_iter().enumerate() {
        let (cost, ask, stored) = match work {
            Work::HashBcrypt(ask, cost) => (cost, ask, None),
            Work::VerifyBcrypt(ask, hash) => (hash.cost, ask, Some(hash)),
            argon => {
                answers[at] = Some(run_argon(&password, argon, gate, should_stop));
                continue;
            }
        };
        by_cost
            .entry(cost)
            .or_default()
            .push(Interleaved { at, ask, stored });
    }
    for (cost, mut group) in by_cost {
        while !group.is_empty() && !should_stop() {
            let rest = group.split_off(group.len().min(bcrypt::LANES_MAX));
            let now = std::mem::replace(&mut group, rest);
            run_bcrypt(cost, now, should_stop, &mut answers);
        }
    }
    let stopped = || Err(VaultError::stopped());
    answers
        .into_iter()
        .map(|answer| answer.unwrap_or_else(stopped))
        .collect()
}

/// One lane of bcrypt.
struct Interleaved {
    /// Of its answer.
    at: usize,
    ask: bcrypt::Ask,
    /// What to compare with.
    stored: Option<bcrypt::Hash>,
}

fn run_bcrypt(
    cost: u8,
    group: Vec<Interleaved>,
    should_stop: &dyn Fn() -> bool,
    answers: &mut [Option<Result<Answer, VaultError>>],
) {
    let mut asks = Vec::with_capacity(group.len());
    let mut told = Vec::with_capacity(group.len());
    for Interleaved { at, ask, stored } in group {
        asks.push(ask);
        told.push((at, stored));
    }
    let Some(hashes) = bcrypt::run(cost, asks, should_stop) else {
        return; // what has no answer was stopped
    };
    for (hash, (at, stored)) in hashes.iter().zip(told) {
        answers[at] = Some(Ok(match stored {
            None => Answer::Hash(hash.to_string()),
            Some(stored) => Answer::Verified {
                valid: hash.same(&stored),
                needs_rehash: cost < BCRYPT_COST_DEFAULT,
            },
        }));
    }
}

fn run_argon(
    password: &[u8],
    work: Work,
    gate: &Gate,
    should_stop: &dyn Fn() -> bool,
) -> Result<Answer, VaultError> {
    if should_stop() {
        return Err(VaultError::stopped());
    }
    let no_memory = |error: argon::NoMemory| VaultError::new(Kind::Busy, "", error.to_string());
    match work {
        Work::Hash(cost) => {
            let _pass = gate.enter(cost.memory_bytes(), "params/memory_kib", should_stop)?;
            let hash = argon::hash(password, salt()?, cost).map_err(no_memory)?;
            Ok(Answer::Hash(hash.to_string()))
        }
        Work::Verify(hash) => {
            let _pass = gate.enter(hash.cost.memory_bytes(), "hash", should_stop)?;
            let weak =
                hash.variant != argon::Variant::Id || !hash.cost.covers(&argon::Cost::DEFAULT);
            Ok(Answer::Verified {
                valid: hash.matches(password).map_err(no_memory)?,
                needs_rehash: weak,
            })
        }
        Work::HashBcrypt(..) | Work::VerifyBcrypt(..) => {
            let detail = "a password was given to the wrong engine";
            Err(VaultError::new(Kind::Internal, "", detail))
        }
    }
}
