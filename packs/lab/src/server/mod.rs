//! The server under test: one loop thread, an endpoint for each way to work.
//!
//! The loop is tokio's current-thread runtime on the calling thread, as an API in one process has
//! it. offloop's lanes and store, where a way needs them, have their own threads.

mod ask;
mod pulse;
mod routes;

pub use ask::{CPU_TIME_MS_MAX, TIMEOUT_MS_MAX};

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use offloop::http::axum;
use offloop::lane::slice;
use offloop::lane_cpu::default_threads;
use offloop::pulse::{Pulse, PulseConfig};
use offloop::{BuildError, Builder, PackError, RuntimeConfig, Server, ShutdownPlan};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tempfile::TempDir;
use tokio::net::TcpListener;
use tokio::sync::{oneshot, watch};

use crate::strategy::{self, Kind, LabPack, with_tasks};
use crate::work::Pace;
use routes::App;

/// Requests under way may end within, once the server is told to end.
const DRAIN: Duration = Duration::from_secs(2);
const PLAN: ShutdownPlan = ShutdownPlan {
    drain: Duration::from_millis(500),
    stop: Duration::from_secs(1),
};

/// What to serve.
#[derive(Clone, Debug)]
pub struct ServeOptions {
    /// A loopback address; any other is refused. Port 0: a free one.
    pub listen: SocketAddr,
    /// The ways to offer, at least one.
    pub kinds: Vec<Kind>,
    /// Where durable jobs are kept: a folder on a real disk, or a flush costs nothing.
    pub data: PathBuf,
    /// `None`: measured at the start, a fifth of a second.
    pub pace: Option<Pace>,
    /// A program and its arguments that calls [`crate::warm`].
    pub warm: Vec<OsString>,
    /// A program and its arguments that calls [`crate::once`].
    pub once: Vec<OsString>,
    /// The loop asks the system to be served soon (`offloop::lane::slice`), as `offloop serve` does;
    /// tokio's blocking threads do not. False: both have the system's usual slice.
    pub short_slices: bool,
    /// What children may be given of the program's environment.
    pub environment: Vec<(OsString, OsString)>,
}

/// A server that listens.
#[derive(Clone, Copy, Debug)]
pub struct Ready {
    pub address: SocketAddr,
    pub pace: Pace,
}

/// Why the lab's server cannot serve.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ServeError {
    #[error(
        "{0} is not a loopback address, and this server burns processor time for whoever asks: \
         listen on 127.0.0.1, and reach it from elsewhere by a tunnel (ssh -L)"
    )]
    NotLoopback(SocketAddr),
    #[error("cannot listen on {address}")]
    Listen {
        address: SocketAddr,
        #[source]
        cause: io::Error,
    },
    #[error("the loop cannot be started")]
    Loop(#[source] io::Error),
    #[error(transparent)]
    Build(#[from] BuildError),
    #[error(transparent)]
    Pack(#[from] PackError),
}

/// Serves on this thread until `stop` is sent or dropped; `ready` is called once it listens.
///
/// Call it outside any async runtime.
pub fn serve(
    options: &ServeOptions,
    stop: oneshot::Receiver<()>,
    ready: impl FnOnce(Ready),
) -> Result<(), ServeError> {
    if !options.listen.ip().is_loopback() {
        return Err(ServeError::NotLoopback(options.listen));
    }
    raise_open_files();
    let pace = options.pace.unwrap_or_else(Pace::measure);
    if options.short_slices {
        slice::answer_first();
    }
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        // They compute: what they inherit of the loop they give back.
        .on_thread_start(|| {
            slice::compute();
        })
        .build()
        .map_err(ServeError::Loop)?;
    let listen = options.listen;
    let listener = runtime
        .block_on(TcpListener::bind(listen))
        .and_then(|listener| Ok((listener.local_addr()?, listener)));
    let (address, listener) = listener.map_err(|cause| ServeError::Listen {
        address: listen,
        cause,
    })?;
    let server = offloop_for(options)?;
    let handle = server.as_ref().map(Server::handle);
    let strategies: BTreeMap<_, _> = (options.kinds.iter())
        .filter_map(|kind| Some((*kind, strategy::of(*kind, pace, handle)?)))
        .collect();
    let pulse = Pulse::start(PulseConfig::default()).map_err(ServeError::Loop)?;
    pulse.watch(pulse::LOOP, runtime.handle().clone());
    let app = routes::router(App::new(pace, strategies, pulse));
    let served = runtime.block_on(async {
        ready(Ready { address, pace });
        until_stopped(listener, app, stop).await
    });
    if let Some(server) = server {
        let (_force, forced) = oneshot::channel();
        runtime.block_on(server.shutdown(PLAN, forced));
    }
    runtime.shutdown_background(); // blocking threads may have seconds of work in line
    served.map_err(ServeError::Loop)
}

async fn until_stopped(
    listener: TcpListener,
    app: axum::Router,
    stop: oneshot::Receiver<()>,
) -> io::Result<()> {
    use axum::serve::ListenerExt as _;
    let listener = listener.tap_io(|socket| {
        let _ = socket.set_nodelay(true); // only slower without
    });
    let (end, mut ended) = watch::channel(false);
    let mut also_ended = ended.clone();
    let serving = axum::serve(listener, app).with_graceful_shutdown(async move {
        let _ = also_ended.changed().await; // dropped: as well
    });
    tokio::spawn(async move {
        let _ = stop.await; // dropped: as well
        let _ = end.send(true);
    });
    let cut = async {
        let _ = ended.changed().await;
        tokio::time::sleep(DRAIN).await;
    };
    tokio::select! {
        served = serving => served,
        () = cut => Ok(()),
    }
}

/// The offloop that a way needs; none for those of tokio.
fn offloop_for(options: &ServeOptions) -> Result<Option<Server>, ServeError> {
    if !options.kinds.iter().any(|kind| kind.is_ours()) {
        return Ok(None);
    }
    let builder = if options.kinds.contains(&Kind::Job) {
        Builder::embedded(&options.data)
    } else {
        Builder::in_memory(&options.data)
    };
    let builder = builder
        .config(RuntimeConfig::default())
        .environment(options.environment.clone())
        .pulse(None) // the lab has its own, for every way
        .pack(LabPack {
            kinds: options.kinds.clone(),
            warm: options.warm.clone(),
            once: options.once.clone(),
            children: default_threads(),
        });
    Ok(Some(with_tasks(builder)?.start()?))
}

/// An empty folder for the durable jobs of one run, gone with what is answered. In `parent`, or else
/// where the system keeps such files on a disk.
pub fn scratch(parent: Option<&Path>) -> io::Result<TempDir> {
    let on_disk = Path::new("/var/tmp");
    let parent = match parent {
        Some(parent) => {
            std::fs::create_dir_all(parent)?;
            parent.to_owned()
        }
        None if on_disk.is_dir() => on_disk.to_owned(),
        None => std::env::temp_dir(),
    };
    tempfile::Builder::new()
        .prefix("offloop-lab-")
        .tempdir_in(parent)
}

/// As many connections as the system lets this process have: overload holds many open.
pub(crate) fn raise_open_files() {
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit {
        current: limit.maximum,
        maximum: limit.maximum,
    };
    let _ = setrlimit(Resource::Nofile, raised); // what is over the limit then fails, and is counted
}
