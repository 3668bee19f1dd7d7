//! A body that is stored while it comes: what is slow at the target is felt at the sender's socket.
//!
//! Must never: hold more of a body than what its feed takes, answer before the commit, or lose what
//! was stored from the answer.

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use offloop::http::UnderWay;
use offloop::http::axum::http::StatusCode;
use offloop::wire::Problem;
use tokio::sync::watch;

use super::source::Source;
use super::view::{self, Answer};
use super::{Open, Shared};
use crate::load::{Feed, LoadAsk, Status, feed};

/// A sender whose load has ended is listened to for so long, so that it hears why.
const LINGER: Duration = Duration::from_secs(2);
const LINGER_BYTES: usize = 64 << 20;

/// How the sender left.
enum Sent {
    /// All of it, or as much as the load wanted.
    Whole,
    Ended,
    Cut(Box<Problem>),
}

/// Follows a load for the request that waits for it.
struct Follow {
    status: watch::Receiver<Status>,
    under_way: Option<UnderWay>,
}

impl Follow {
    /// Waits for `work`; whenever the load gets on meanwhile, the request is alive.
    async fn during<T>(&mut self, work: impl Future<Output = T>) -> T {
        let mut work = pin!(work);
        loop {
            tokio::select! {
                biased;
                done = &mut work => return done,
                changed = self.status.changed() => match changed {
                    Ok(()) => self.tell(),
                    Err(_ended) => return work.await,
                },
            }
        }
    }

    fn tell(&self) {
        if let Some(under_way) = &self.under_way {
            under_way.tell();
        }
    }
}

/// Takes the whole body and answers when all of it is stored.
pub(super) async fn direct(
    shared: &Arc<Shared>,
    open: &Open,
    ask: LoadAsk,
    mut source: Source,
    under_way: Option<UnderWay>,
) -> Answer {
    let id = ask.load.clone();
    let load = open
        .loader
        .load(ask)
        .map_err(|error| view::refused(&error))?;
    let (to, from) = feed();
    let mut follow = Follow {
        status: load.watch(),
        under_way,
    };
    let unavailable = || offloop::http::Refusal::unavailable("the server is ending");
    let ended = shared.start(open, load, from).ok_or_else(unavailable)?;
    let sent = pump(&mut source, to, &mut follow).await;
    let ended = follow.during(ended).await;
    if matches!(sent, Sent::Ended) {
        source.linger(LINGER, LINGER_BYTES).await;
    }
    let rows = open.loader.status(&id).map_or(0, |status| status.rows_in);
    match ended {
        Ok(Ok(summary)) => Ok(view::answer(
            StatusCode::OK,
            &view::summary_view(&summary, rows),
        )),
        Ok(Err(failed)) => {
            let why = match sent {
                Sent::Cut(problem) => Some(*problem),
                Sent::Whole | Sent::Ended => None,
            };
            Ok(view::failed(&failed, rows, why))
        }
        Err(_panicked) => {
            let detail = format!("the load {id} broke off; GET /v1/ingest/loads/{id} tells more");
            Err(view::problem(view::INTERNAL, detail).into())
        }
    }
}

/// From the socket into the feed, which takes no more than the load can use.
async fn pump(source: &mut Source, to: Feed, follow: &mut Follow) -> Sent {
    loop {
        if follow.during(to.ready()).await.is_err() {
            return Sent::Ended;
        }
        let data = match source.next().await {
            Ok(Some(data)) => data,
            Ok(None) => {
                return match follow.during(to.end()).await {
                    Ok(()) => Sent::Whole,
                    Err(_ended) => Sent::Ended,
                };
            }
            Err(problem) => {
                to.cut(problem.detail.clone()).await;
                return Sent::Cut(problem);
            }
        };
        follow.tell();
        if follow.during(to.send(data)).await.is_err() {
            return Sent::Ended;
        }
    }
}
