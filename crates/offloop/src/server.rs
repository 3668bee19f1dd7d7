//! A running server without its door.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use offloop_http::{Door, DoorConfig, PackRoutes};
use offloop_lane_remote::RemoteLane;
use offloop_runtime::{Runtime, RuntimeHandle, ShutdownPlan, ShutdownReport};
use tokio::sync::oneshot;

/// A running server without its door.
pub struct Server {
    pub(crate) runtime: Runtime,
    pub(crate) routes: Vec<PackRoutes>,
    pub(crate) data: PathBuf,
    pub(crate) remote: Option<Arc<RemoteLane>>,
}

impl fmt::Debug for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Server")
            .field("data", &self.data)
            .finish_non_exhaustive()
    }
}

impl Server {
    pub fn handle(&self) -> &RuntimeHandle {
        self.runtime.handle()
    }

    pub fn data(&self) -> &Path {
        &self.data
    }

    /// Where workers on other machines get their work, if a task is for them.
    pub fn remote(&self) -> Option<&Arc<RemoteLane>> {
        self.remote.as_ref()
    }

    /// The door of this server, not yet open: with the routes of its packs, and with those of workers on other
    /// machines if a task is for them. The packs' are there once: a second door has none of them.
    pub fn door(&mut self, config: DoorConfig) -> Door {
        let mut door = Door::new(self.handle().clone(), config);
        if let Some(remote) = &self.remote {
            door = door.remote(Arc::clone(remote));
        }
        let routes = std::mem::take(&mut self.routes);
        routes.into_iter().fold(door, Door::pack)
    }

    /// No more jobs are taken in; nothing else changes yet.
    pub fn refuse_new(&self) {
        self.runtime.refuse_new();
    }

    /// Drains, stops, hands back, closes the store. `force` cuts the drain short.
    pub async fn shutdown(
        self,
        plan: ShutdownPlan,
        force: oneshot::Receiver<()>,
    ) -> ShutdownReport {
        self.runtime.shutdown(plan, force).await
    }
}
