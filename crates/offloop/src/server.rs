//! A running server without its door.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use offloop_http::PackRoutes;
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

    /// Where workers on other machines get their work, if a task is for them: for the door.
    pub fn remote(&self) -> Option<&Arc<RemoteLane>> {
        self.remote.as_ref()
    }

    /// The packs' routes, for the door. Once.
    pub fn take_routes(&mut self) -> Vec<PackRoutes> {
        std::mem::take(&mut self.routes)
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
