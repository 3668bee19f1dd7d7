//! What all loads share: memory for batches, and how many loads there may be.
//!
//! A load holds memory from the first byte of a batch until it is stored, and waits for none while
//! it holds some that only it could give back: so the wait always ends.
//!
//! Must never: give more than there is; let one tenant take every place.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::error::LoadRefused;
use super::id::LoadId;

/// The default of [`Settings::batch_memory`].
pub(crate) const BATCH_MEMORY: u64 = 24 << 20;

/// What all loads of a process may take.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Where reject files are.
    pub folder: PathBuf,
    /// Memory of all batches together, at least 1 MiB. Default 24 MiB.
    pub batch_memory: u64,
    /// Loads at once. Default 256.
    pub loads_max: usize,
    /// Loads of one tenant at once. Default 64.
    pub tenant_loads_max: usize,
    /// Loads whose status is kept when they have ended. Default 1,000.
    pub ended_kept_max: usize,
}

impl Settings {
    pub fn new(folder: impl Into<PathBuf>) -> Self {
        Self {
            folder: folder.into(),
            batch_memory: BATCH_MEMORY,
            loads_max: 256,
            tenant_loads_max: 64,
            ended_kept_max: 1_000,
        }
    }
}

/// Memory is given in these units: the semaphore counts in 32 bits.
const UNIT: u64 = 1 << 10;

#[derive(Debug)]
pub(super) struct Governor {
    memory: Arc<Semaphore>,
    units: u32,
    /// Loads that wait for memory.
    waiting: AtomicUsize,
    places: Mutex<Places>,
    loads_max: usize,
    tenant_loads_max: usize,
}

#[derive(Debug, Default)]
struct Places {
    taken: usize,
    by_tenant: HashMap<String, usize>,
}

/// A running load's place; free again when it is dropped.
#[derive(Debug)]
pub(super) struct Place {
    governor: Arc<Governor>,
    tenant: Option<String>,
}

impl Governor {
    pub(super) fn new(settings: &Settings) -> Self {
        let units = (settings.batch_memory.max(1 << 20) / UNIT).min(u64::from(u32::MAX >> 4));
        Self {
            memory: Arc::new(Semaphore::new(units as usize)),
            units: units as u32,
            waiting: AtomicUsize::new(0),
            places: Mutex::default(),
            loads_max: settings.loads_max,
            tenant_loads_max: settings.tenant_loads_max,
        }
    }

    /// A place for `load`, or why there is none.
    pub(super) fn enter(self: &Arc<Self>, tenant: Option<String>) -> Result<Place, LoadRefused> {
        let mut places = self.places.lock().unwrap_or_else(PoisonError::into_inner);
        if places.taken >= self.loads_max {
            return Err(LoadRefused::Full {
                limit: self.loads_max,
            });
        }
        if let Some(tenant) = &tenant {
            let taken = places.by_tenant.entry(tenant.clone()).or_default();
            if *taken >= self.tenant_loads_max {
                return Err(LoadRefused::TenantFull {
                    tenant: tenant.clone(),
                    limit: self.tenant_loads_max,
                });
            }
            *taken += 1;
        }
        places.taken += 1;
        Ok(Place {
            governor: Arc::clone(self),
            tenant,
        })
    }

    /// Somebody waits for memory.
    pub(super) fn is_short(&self) -> bool {
        self.waiting.load(Ordering::Relaxed) > 0
    }

    /// Each running load may keep so many bytes between its batches.
    pub(super) fn may_keep(&self, bytes: u64) -> bool {
        let places = self.places.lock().unwrap_or_else(PoisonError::into_inner);
        bytes.saturating_mul(places.taken as u64) <= u64::from(self.units) * UNIT
    }

    /// Memory for one batch of about `bytes`, in the order of asking; no batch is refused for
    /// being larger than all there is.
    pub(super) async fn memory(&self, bytes: u64) -> Option<OwnedSemaphorePermit> {
        let units = bytes.div_ceil(UNIT).min(u64::from(self.units)) as u32;
        let memory = Arc::clone(&self.memory);
        self.waiting.fetch_add(1, Ordering::Relaxed);
        let _waiting = Waiting(&self.waiting);
        memory.acquire_many_owned(units).await.ok()
    }
}

/// Counted while it lives.
struct Waiting<'a>(&'a AtomicUsize);

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let places = &self.governor.places;
        let mut places = places.lock().unwrap_or_else(PoisonError::into_inner);
        places.taken -= 1;
        if let Some(tenant) = &self.tenant
            && let Some(taken) = places.by_tenant.get_mut(tenant)
        {
            *taken -= 1;
            if *taken == 0 {
                places.by_tenant.remove(tenant);
            }
        }
    }
}

/// File of a load's rejects in `folder`.
pub(super) fn reject_path(settings: &Settings, load: &LoadId) -> PathBuf {
    settings.folder.join(format!("{load}.rejects.ndjson"))
}
