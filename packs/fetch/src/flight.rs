//! One try of one item, and the hedge beside it.
//!
//! Must never: take a place that somebody else waits for, or leave a loser running.

use std::pin::{Pin, pin};
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::future::{Either, select};

use crate::call::{Answer, Call, Done, Failure};
use crate::client::{Bounds, Client, Cost, Place};
use crate::gate::Seat;
use crate::host::lock;
use crate::runner::{Places, Settings, key};

/// A call on its way through its tries.
#[derive(Debug)]
pub(crate) struct Item {
    pub(crate) index: u64,
    pub(crate) call: Call,
    pub(crate) place: Place,
    /// Begun so far.
    pub(crate) tries: u16,
    pub(crate) calls: u32,
    pub(crate) begun: Option<Instant>,
    /// Waits for its host since then.
    pub(crate) held: Option<Instant>,
    /// Its next try is a retry, which its host's budget must have room for.
    pub(crate) needs_leave: bool,
    pub(crate) last: Option<Failure>,
}

impl Item {
    pub(crate) fn new(index: u64, call: Call, place: Place) -> Self {
        Self {
            index,
            call,
            place,
            tries: 0,
            calls: 0,
            begun: None,
            held: None,
            needs_leave: false,
            last: None,
        }
    }

    pub(crate) fn done(self, outcome: Result<Answer, Failure>) -> Done {
        Done {
            index: self.index,
            id: self.call.id,
            origin: self.place.host.origin.clone(),
            url: self.place.target.to_string().into(),
            outcome,
            calls: self.calls,
            wall: self.begun.map(|begun| begun.elapsed()).unwrap_or_default(),
        }
    }
}

/// How a try ended.
pub(crate) struct Landed {
    pub(crate) item: Box<Item>,
    pub(crate) outcome: Result<Answer, Failure>,
    pub(crate) cost: Cost,
    pub(crate) hedged: bool,
    pub(crate) hedge_won: bool,
}

pub(crate) type Flight = Pin<Box<dyn Future<Output = Landed> + Send>>;

/// Places that a hedge has taken.
struct Extra<'a> {
    places: &'a Places,
    host: usize,
    _seat: Seat,
}

impl<'a> Extra<'a> {
    fn take(client: &Client, places: &'a Places, host: usize) -> Option<Self> {
        let seat = client.gate().try_enter()?;
        // Made only where there is one: to drop it is to give it back.
        lock(places).extra(&host).then_some(())?;
        Some(Self {
            places,
            host,
            _seat: seat,
        })
    }
}

impl Drop for Extra<'_> {
    fn drop(&mut self) {
        lock(self.places).free(&self.host);
    }
}

pub(crate) async fn fly(
    client: Client,
    settings: Arc<Settings>,
    places: Places,
    (item, _seat): (Box<Item>, Seat),
    until: Option<Instant>,
    hedge: Option<Duration>,
) -> Landed {
    let bounds = Bounds {
        timeout: settings.timeout,
        until,
        response_bytes_max: settings.response_bytes_max,
        redirects: settings.redirects,
        keep: settings.keep,
    };
    let cost = Cost::default();
    let attempt = || client.attempt(&item.call, &item.place, bounds, &cost);
    let (outcome, hedged, hedge_won) = match hedge {
        None => (attempt().await, false, false),
        Some(after) => {
            let place = || Extra::take(&client, &places, key(&item.place));
            // On the heap: room for two tries would make every flight twice as large.
            Box::pin(hedged(attempt(), attempt, after, place)).await
        }
    };
    Landed {
        item,
        outcome,
        cost,
        hedged,
        hedge_won,
    }
}

/// The first success of two, the second begun only where the first takes long and a place is free. A
/// failure waits for the other's end: it may be the better one.
async fn hedged<T, E, F: Future<Output = Result<T, E>>, Place>(
    first: F,
    second: impl FnOnce() -> F,
    after: Duration,
    place: impl FnOnce() -> Option<Place>,
) -> (Result<T, E>, bool, bool) {
    let mut first = pin!(first);
    if let Ok(outcome) = tokio::time::timeout(after, first.as_mut()).await {
        return (outcome, false, false);
    }
    let Some(_place) = place() else {
        return (first.await, false, false);
    };
    let second = pin!(second());
    match select(first, second).await {
        Either::Left((Ok(answer), _)) => (Ok(answer), true, false),
        Either::Right((Ok(answer), _)) => (Ok(answer), true, true),
        Either::Left((Err(error), second)) => match second.await {
            Ok(answer) => (Ok(answer), true, true),
            Err(_) => (Err(error), true, false),
        },
        Either::Right((Err(_), first)) => (first.await, true, false),
    }
}
