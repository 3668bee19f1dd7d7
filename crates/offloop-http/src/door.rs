//! The door as a whole: what it holds, how it is opened, how it is closed.

use std::net::SocketAddr;
use std::sync::Arc;

use offloop_lane_remote::{PULLS_MAX, RemoteLane};
use offloop_runtime::RuntimeHandle;
use tokio::net::{TcpListener, TcpSocket};
use tokio::sync::{Semaphore, watch};

use crate::auth::Keeper;
use crate::body::Pace;
use crate::config::{DoorConfig, DoorError};
use crate::conn::{Clock, Registry, Rules, accept_loop};
use crate::encoding::Encoding;
use crate::metrics::Metrics;
use crate::pack::{PackMetrics, PackPage, PackRoutes};
use crate::routes;

/// Connections that the kernel keeps until they are accepted; it may have a smaller bound of its own
/// (`net.core.somaxconn`). Those beyond it lose a second each: with the usual 128, five hundred
/// workers that come back at once waited twice as long as their server took to start.
const UNACCEPTED_MAX: u32 = 4_096;

/// A door that is being built.
#[derive(Debug)]
pub struct Door {
    handle: RuntimeHandle,
    config: DoorConfig,
    packs: Vec<PackRoutes>,
    remote: Option<Arc<RemoteLane>>,
}

/// How the door was closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DoorReport {
    /// Connections that ended in time.
    pub drained: usize,
    /// Connections that were cut at the deadline.
    pub cut: usize,
}

/// What all requests share.
#[derive(Debug)]
pub(crate) struct Inner {
    pub(crate) handle: RuntimeHandle,
    pub(crate) config: DoorConfig,
    pub(crate) keeper: Option<Keeper>,
    pub(crate) clock: Clock,
    pub(crate) rules: Rules,
    pub(crate) registry: Arc<Registry>,
    pub(crate) metrics: Metrics,
    /// Of packs.
    pub(crate) figures: Vec<PackMetrics>,
    /// `true` once the door closes: streams end, connections are told.
    pub(crate) closing: watch::Sender<bool>,
    /// `true` a little earlier: `readyz` says no.
    pub(crate) leaving: watch::Sender<bool>,
    pub(crate) subscribers: Arc<Semaphore>,
    /// Callers that wait for the end of a job.
    pub(crate) waits: Arc<Semaphore>,
    pub(crate) bulks: Arc<Semaphore>,
    /// KiB for bodies that are being collected.
    pub(crate) collecting: Arc<Semaphore>,
    /// Where workers on other machines get their work.
    pub(crate) remote: Option<Arc<RemoteLane>>,
    /// Requests that watch over leases.
    pub(crate) watchers: Arc<Semaphore>,
    pub(crate) pages: Vec<(String, PackPage)>,
    pub(crate) openapi: bytes::Bytes,
}

/// Waits until it is set; for ever if nobody can set it any more.
/// In the extensions of every request: the door closes one day, and streams are to end then.
#[derive(Clone, Debug)]
pub struct Closing(pub(crate) Arc<Inner>);

impl Closing {
    /// Waits until it does.
    pub async fn begun(&self) {
        is_set(&mut self.0.closing.subscribe()).await;
    }
}

pub(crate) async fn is_set(flag: &mut watch::Receiver<bool>) {
    if flag.wait_for(|set| *set).await.is_err() {
        std::future::pending::<()>().await;
    }
}

fn bind(listen: SocketAddr) -> std::io::Result<TcpListener> {
    let socket = if listen.is_ipv4() {
        TcpSocket::new_v4()
    } else {
        TcpSocket::new_v6()
    }?;
    socket.set_reuseaddr(true)?; // a restart does not wait for connections of before
    socket.bind(listen)?;
    socket.listen(UNACCEPTED_MAX)
}

impl Door {
    pub fn new(handle: RuntimeHandle, config: DoorConfig) -> Self {
        Self {
            handle,
            config,
            packs: Vec::new(),
            remote: None,
        }
    }

    /// Opens `/v1/work` for workers on other machines.
    #[must_use]
    pub fn remote(mut self, lane: Arc<RemoteLane>) -> Self {
        self.remote = Some(lane);
        self
    }

    /// Adds a pack's routes and page.
    #[must_use]
    pub fn pack(mut self, pack: PackRoutes) -> Self {
        self.packs.push(pack);
        self
    }

    /// Listens at the configured address.
    #[expect(
        clippy::unused_async,
        reason = "the socket belongs to the caller's runtime"
    )]
    pub async fn listen(config: &DoorConfig) -> Result<TcpListener, DoorError> {
        let listen = config.listen;
        if let Some(problem) = config.problem(listen) {
            return Err(problem);
        }
        bind(listen).map_err(|cause| DoorError::Listen { listen, cause })
    }

    /// Serves until `closing` is done, then lets what is in hand finish within the configured time.
    /// Runs on the caller's runtime.
    ///
    /// - Errors: at once, for a configuration that would leave the door open to strangers.
    pub async fn serve(
        self,
        listener: TcpListener,
        closing: impl Future<Output = ()> + Send,
    ) -> Result<DoorReport, DoorError> {
        let at = listener.local_addr().unwrap_or(self.config.listen);
        let lame_duck = self.config.lame_duck;
        let (inner, routes) = self.build(at)?;
        let doors = tokio::runtime::Handle::current();
        inner.handle.pulse().watch("doors", doors);
        let accepting = tokio::spawn(accept_loop(listener, Arc::clone(&inner), routes));
        closing.await;
        inner.leaving.send_replace(true);
        tokio::time::sleep(lame_duck).await;
        inner.closing.send_replace(true);
        let drained = accepting.await;
        let (drained, cut) = drained.map_or((0, 0), |drained| (drained.in_time, drained.cut));
        Ok(DoorReport { drained, cut })
    }

    fn build(self, at: SocketAddr) -> Result<(Arc<Inner>, Encoding), DoorError> {
        let Self {
            handle,
            mut config,
            packs,
            remote,
        } = self;
        if let Some(problem) = config.problem(at) {
            return Err(problem);
        }
        config.listen = at;
        for (index, pack) in packs.iter().enumerate() {
            if packs[..index].iter().any(|other| other.name == pack.name) {
                return Err(DoorError::PackTwice {
                    name: pack.name.clone(),
                });
            }
        }
        let clock = Clock::start();
        let rules = Rules {
            header: config.header_timeout,
            idle: config.idle_timeout,
            pace: Pace {
                window: config.slow_window,
                rate: config.rate_min,
            },
        };
        let registry = Registry::new(clock, config.connections_max, config.connections_per_ip_max);
        let mut inner = Inner {
            keeper: config.token.as_deref().map(Keeper::new),
            clock,
            rules,
            registry: Arc::new(registry),
            metrics: Metrics::default(),
            closing: watch::Sender::new(false),
            leaving: watch::Sender::new(false),
            subscribers: Arc::new(Semaphore::new(config.subscribers_max)),
            waits: Arc::new(Semaphore::new(config.waits_max)),
            bulks: Arc::new(Semaphore::new(config.bulk_max)),
            collecting: Arc::new(Semaphore::new(config.collecting_bytes_max / 1024)),
            remote,
            watchers: Arc::new(Semaphore::new(PULLS_MAX)),
            pages: Vec::new(),
            figures: Vec::new(),
            openapi: routes::openapi::document(&packs),
            handle,
            config,
        };
        let mut routers = Vec::new();
        for pack in packs {
            inner.figures.extend(pack.metrics);
            inner.pages.extend(pack.page.map(|page| (pack.name, page)));
            routers.push(pack.router);
        }
        let inner = Arc::new(inner);
        let routes = Encoding::new(routes::all(&inner, routers));
        Ok((inner, routes))
    }
}
