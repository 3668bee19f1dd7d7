//! The accept loop, the sweeper, and the end of both.

use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use crate::encoding::Encoding;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

use super::io::Watched;
use super::registry::{Full, Leave};
use super::state::{ConnState, Rules};
use crate::door::{Inner, is_set};
use crate::metrics::Closed;
use crate::service::DoorService;

/// How the last connections ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Drained {
    pub(crate) in_time: usize,
    pub(crate) cut: usize,
}

/// Head of a request, names and values together. Also what one read of a body takes at most: each
/// of hundreds of uploads that wait for their turn holds one or two of those.
const HEAD_BYTES_MAX: usize = 16 << 10;

fn protocol() -> auto::Builder<TokioExecutor> {
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(None) // the sweeper's, see the module's comment
        .max_buf_size(HEAD_BYTES_MAX)
        // Held back, an answer would wait for the rest of the head behind it.
        .pipeline_flush(false);
    builder
        .http2()
        .timer(TokioTimer::new())
        .keep_alive_interval(Duration::from_secs(30))
        .keep_alive_timeout(Duration::from_secs(20))
        .max_concurrent_streams(128)
        .max_header_list_size(HEAD_BYTES_MAX as u32);
    builder
}

/// Runs until the door closes, then waits for what is in hand, at most the configured time.
pub(crate) async fn accept_loop(
    listener: TcpListener,
    door: Arc<Inner>,
    routes: Encoding,
) -> Drained {
    let mut closing = door.closing.subscribe();
    let protocol = Arc::new(protocol());
    let sweeper = tokio::spawn(sweep(Arc::clone(&door)));
    {
        let mut closed = pin!(is_set(&mut closing));
        loop {
            let accepted = tokio::select! {
                biased;
                () = &mut closed => break,
                accepted = listener.accept() => accepted,
            };
            match accepted {
                Ok((socket, from)) => enter(&door, &routes, &protocol, socket, from),
                Err(error) => {
                    // Out of descriptors, mostly: it passes when connections end.
                    tracing::warn!(%error, "cannot accept a connection");
                    tokio::time::sleep(Duration::from_millis(50)).await;
                }
            }
        }
    }
    drop(listener);
    let open = door.registry.len();
    let emptied = tokio::time::timeout(door.config.drain, door.registry.emptied()).await;
    let cut = if emptied.is_ok() {
        0
    } else {
        door.registry.abort_all()
    };
    sweeper.abort();
    Drained {
        in_time: open.saturating_sub(cut),
        cut,
    }
}

fn enter(
    door: &Arc<Inner>,
    routes: &Encoding,
    protocol: &Arc<auto::Builder<TokioExecutor>>,
    socket: TcpStream,
    from: SocketAddr,
) {
    if let Some(full) = door.registry.full(from.ip()) {
        door.metrics.closed(Closed::Full);
        refuse(&socket, full);
        return;
    }
    let _ = socket.set_nodelay(true); // slower answers, never wrong ones
    let state = Arc::new(ConnState::new(door.clock, door.rules.pace));
    door.registry
        .enter(from.ip(), Arc::clone(&state), move |leave| {
            let service = DoorService::new(Arc::clone(door), routes.clone(), Arc::clone(&state));
            let closing = door.closing.subscribe();
            let io = TokioIo::new(Watched::new(socket, state));
            tokio::spawn(serve(Arc::clone(protocol), io, service, closing, leave)).abort_handle()
        });
}

async fn serve(
    protocol: Arc<auto::Builder<TokioExecutor>>,
    io: TokioIo<Watched>,
    service: DoorService,
    mut closing: watch::Receiver<bool>,
    leave: Leave,
) {
    let mut connection = pin!(protocol.serve_connection(io, service));
    let ended = tokio::select! {
        biased;
        ended = connection.as_mut() => ended,
        () = is_set(&mut closing) => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%error, "a connection broke off");
    }
    drop(leave);
}

/// Says why, if the socket takes it at once.
fn refuse(socket: &TcpStream, full: Full) {
    let (status, retry) = match full {
        Full::Door => ("503 Service Unavailable", 1),
        Full::Address => ("429 Too Many Requests", 5),
    };
    let answer = format!(
        "HTTP/1.1 {status}\r\nRetry-After: {retry}\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"
    );
    let _ = socket.try_write(answer.as_bytes());
}

async fn sweep(door: Arc<Inner>) {
    let rules: &Rules = &door.rules;
    let shortest = rules.header.min(rules.idle).min(rules.pace.window);
    let pause = (shortest / 8).clamp(Duration::from_millis(10), Duration::from_secs(1));
    let mut ticks = tokio::time::interval(pause);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        for why in door.registry.sweep(rules) {
            door.metrics.closed(Closed::Overdue(why));
            tracing::debug!(?why, "ended a connection");
        }
    }
}
