//! Makes a list of calls, within its limits, and gives each one's end as it comes.
//!
//! Everything that is under way is part of the runner: nothing is spawned. Dropped, or decided by its rule,
//! it takes every call and every socket in use with it, at once.
//!
//! Must never: start more than its limits, hold a place while an item waits for its next try, or
//! grow with a list that is still being read.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};
use std::pin::Pin;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use futures_util::stream::{BoxStream, FuturesUnordered, Stream as _, StreamExt as _};
use tokio::time::{Sleep, sleep_until};

use crate::call::{Again, Call, Cause, Done, Failure, Keep};
use crate::client::{Client, Place};
use crate::flight::{Flight, Item, Landed, fly};
use crate::gate::Turn;
use crate::host::lock;
use crate::queue::Queue;
use crate::retry::{RetryRule, is_idempotent};
use crate::rule::{Rule, at_the_end, decided_by};
use crate::tally::Tally;

/// Items that are read ahead of those that are started.
const AHEAD_MIN: usize = 1_024;
/// Idle connections are looked at this often.
const SWEEP_EVERY: Duration = Duration::from_secs(1);
/// Answers before a time of theirs is worth a hedge.
const HEDGE_ANSWERS_MIN: u64 = 20;
/// Longest pause of an item that waits for its host's budget before it looks again.
const LOOK_MAX: Duration = Duration::from_secs(5);

/// When a second call is made beside one that takes long.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Hedge {
    #[default]
    Never,
    After(Duration),
    /// After the time that 95 % of the answers so far took.
    P95,
}

/// How a list of calls is made.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Calls at a time.
    pub limit: usize,
    /// To one scheme, host and port.
    pub per_host: usize,
    pub rule: Rule,
    pub retry: RetryRule,
    /// Of idempotent calls alone, and within the limits.
    pub hedge: Hedge,
    /// Of the whole list.
    pub deadline: Option<Duration>,
    /// Of one item from its first try, all its tries and waits together.
    pub item_deadline: Option<Duration>,
    /// Of one try, to the last byte of its answer.
    pub timeout: Duration,
    /// Of a body.
    pub response_bytes_max: u64,
    /// That are followed; each is checked as the first URL was.
    pub redirects: u8,
    pub keep: Keep,
    /// How long an item waits for a host that is left alone, or whose retries are used up.
    pub patience: Duration,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            limit: 50,
            per_host: 50,
            rule: Rule::AllSettled,
            retry: RetryRule::default(),
            hedge: Hedge::Never,
            deadline: None,
            item_deadline: None,
            timeout: Duration::from_secs(30),
            response_bytes_max: 10 << 20,
            redirects: 5,
            keep: Keep::Nothing,
            patience: Duration::from_secs(30),
        }
    }
}

/// An item that waits for its time.
struct Later {
    at: Instant,
    order: u64,
    item: Box<Item>,
}

impl PartialEq for Later {
    fn eq(&self, other: &Self) -> bool {
        (self.at, self.order) == (other.at, other.order)
    }
}

impl Eq for Later {}

impl PartialOrd for Later {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Later {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (self.at, self.order).cmp(&(other.at, other.order))
    }
}

/// Shared with hedges, which ask for places of their own.
pub(crate) type Places = Arc<Mutex<Queue<usize, Box<Item>>>>;

/// Makes a list of calls. Ask [`Runner::next`] until there is none.
pub struct Runner {
    client: Client,
    settings: Arc<Settings>,
    source: Option<BoxStream<'static, (u64, Call)>>,
    places: Places,
    later: BinaryHeap<Reverse<Later>>,
    flying: FuturesUnordered<Flight>,
    /// It has its places in this list, and waits for one among all lists.
    first: Option<Box<Item>>,
    turn: Turn,
    ready: VecDeque<Done>,
    tally: Tally,
    begun: Instant,
    deadline: Option<Instant>,
    decided: Option<bool>,
    order: u64,
    timer: Pin<Box<Sleep>>,
    sweep_at: Instant,
}

impl std::fmt::Debug for Runner {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Runner")
            .field("flying", &self.flying.len())
            .field("later", &self.later.len())
            .field("decided", &self.decided)
            .finish_non_exhaustive()
    }
}

impl Runner {
    /// Inside a tokio runtime. `source`: calls with their places in the list; it is read as far ahead
    /// as is needed, and no further.
    pub fn new(
        client: Client,
        settings: Settings,
        source: BoxStream<'static, (u64, Call)>,
    ) -> Self {
        let begun = Instant::now();
        let queue = Queue::new(settings.limit, settings.per_host);
        Self {
            client,
            deadline: settings.deadline.map(|span| begun + span),
            settings: Arc::new(settings),
            source: Some(source),
            places: Arc::new(Mutex::new(queue)),
            later: BinaryHeap::new(),
            flying: FuturesUnordered::new(),
            first: None,
            turn: Turn::default(),
            ready: VecDeque::new(),
            tally: Tally::default(),
            begun,
            decided: None,
            order: 0,
            timer: Box::pin(sleep_until(begun.into())),
            sweep_at: begun + SWEEP_EVERY,
        }
    }

    /// A list that is whole already.
    pub fn of(client: Client, settings: Settings, calls: Vec<Call>) -> Self {
        let numbered = (0..).zip(calls);
        Self::new(
            client,
            settings,
            futures_util::stream::iter(numbered).boxed(),
        )
    }

    /// The next end; `None` once the list is over. Dropping this future loses nothing.
    pub async fn next(&mut self) -> Option<Done> {
        std::future::poll_fn(|cx| self.poll_done(cx)).await
    }

    pub fn tally(&self) -> &Tally {
        &self.tally
    }

    /// A success came to nothing after all: its answer could not be kept.
    pub(crate) fn spoil(&mut self, cause: Cause, bytes: u64) {
        self.tally.spoil(cause, bytes);
        if self.settings.rule != Rule::AllSettled {
            self.decided = Some(false);
        }
    }

    /// Counts an item that came to its end before this list was taken up again. `cause`: none for a
    /// success.
    pub fn recall(&mut self, status: Option<u16>, cause: Option<Cause>, bytes: u64) {
        self.tally.recall(status, cause, bytes);
        if self.decided.is_none() {
            self.decided = decided_by(self.settings.rule, cause.is_none());
        }
    }

    pub fn rule(&self) -> Rule {
        self.settings.rule
    }

    pub fn client(&self) -> &Client {
        &self.client
    }

    /// Since the list was begun.
    pub fn elapsed(&self) -> Duration {
        self.begun.elapsed()
    }

    /// How the list went, by its rule. Asked when it is over.
    pub fn verdict(&self) -> bool {
        let total = self.tally.done();
        let rule = self.settings.rule;
        self.decided.unwrap_or_else(|| at_the_end(rule, total))
    }

    fn poll_done(&mut self, cx: &mut Context<'_>) -> Poll<Option<Done>> {
        loop {
            if let Some(done) = self.ready.pop_front() {
                return Poll::Ready(Some(done));
            }
            if self.decided.is_some() {
                return Poll::Ready(None);
            }
            let now = Instant::now();
            self.take_in(cx);
            if self.deadline.is_some_and(|deadline| deadline <= now) {
                self.expire();
            }
            self.wake_due(now);
            self.start(cx, now);
            if !self.ready.is_empty() {
                continue;
            }
            if let Poll::Ready(Some(landed)) = Pin::new(&mut self.flying).poll_next(cx) {
                self.landed(landed);
                continue;
            }
            if self.is_over() {
                self.client.sweep();
                return Poll::Ready(None);
            }
            if self.poll_timer(cx, now).is_pending() {
                return Poll::Pending;
            }
        }
    }

    fn is_over(&self) -> bool {
        let waiting = lock(&self.places).waiting();
        let none_waits = waiting == 0 && self.first.is_none() && self.later.is_empty();
        self.source.is_none() && self.flying.is_empty() && none_waits
    }

    /// Pending until something falls due.
    fn poll_timer(&mut self, cx: &mut Context<'_>, now: Instant) -> Poll<()> {
        if now >= self.sweep_at {
            self.client.sweep();
            self.sweep_at = now + SWEEP_EVERY;
        }
        let mut at = self.sweep_at;
        if let Some(Reverse(later)) = self.later.peek() {
            at = at.min(later.at);
        }
        // While calls are under way that end by the deadline themselves, it is theirs to tell.
        if let Some(deadline) = self.deadline.filter(|deadline| *deadline > now) {
            at = at.min(deadline);
        }
        if self.timer.deadline() != at.into() {
            self.timer.as_mut().reset(at.into());
        }
        self.timer.as_mut().poll(cx)
    }

    /// Reads ahead.
    fn take_in(&mut self, cx: &mut Context<'_>) {
        let ahead = AHEAD_MIN.max(self.settings.limit * 2);
        while let Some(source) = &mut self.source {
            if lock(&self.places).waiting() + self.later.len() >= ahead {
                return;
            }
            match source.as_mut().poll_next(cx) {
                Poll::Pending => return,
                Poll::Ready(None) => self.source = None,
                Poll::Ready(Some((index, call))) => self.add(index, call),
            }
        }
    }

    fn add(&mut self, index: u64, call: Call) {
        let place = self.client.place(&call.url);
        match place {
            Ok(place) => {
                let host = key(&place);
                let item = Box::new(Item::new(index, call, place));
                lock(&self.places).push(&host, item, false);
            }
            Err(failure) => self.finish(Done {
                index,
                id: call.id,
                origin: "".into(),
                url: shown(&call.url),
                outcome: Err(failure),
                calls: 0,
                wall: Duration::ZERO,
            }),
        }
    }

    /// What waited for its time gets back in line, before those that had no turn yet.
    fn wake_due(&mut self, now: Instant) {
        while let Some(Reverse(later)) = self.later.peek() {
            if later.at > now {
                return;
            }
            if let Some(Reverse(Later { item, .. })) = self.later.pop() {
                let host = key(&item.place);
                lock(&self.places).push(&host, item, true);
            }
        }
    }

    fn start(&mut self, cx: &mut Context<'_>, now: Instant) {
        loop {
            let next = self.first.take();
            let next = next.or_else(|| lock(&self.places).next());
            let Some(mut item) = next else {
                return self.turn.leave();
            };
            let Poll::Ready(seat) = self.turn.poll(self.client.gate(), cx) else {
                self.first = Some(item);
                return;
            };
            let since = self.client.now();
            if item.needs_leave {
                if let Err(wait) = item.place.host.retry(since) {
                    lock(&self.places).free(&key(&item.place));
                    let crowd = u32::try_from(self.later.len()).unwrap_or(u32::MAX);
                    let wait = wait.saturating_mul(crowd.saturating_add(1)).min(LOOK_MAX);
                    self.hold(item, wait, Cause::RetryBudget);
                    continue;
                }
                item.needs_leave = false;
                self.tally.retries += 1;
            }
            item.begun.get_or_insert(now);
            item.tries += 1;
            let until = self.deadline_of(&item);
            let hedge = self.hedge_after(&item);
            let places = Arc::clone(&self.places);
            let settings = Arc::clone(&self.settings);
            let item = (item, seat);
            let flight = fly(self.client.clone(), settings, places, item, until, hedge);
            self.flying.push(Box::pin(flight));
        }
    }

    fn hedge_after(&self, item: &Item) -> Option<Duration> {
        let after = match self.settings.hedge {
            Hedge::Never => None,
            Hedge::After(after) => Some(after),
            Hedge::P95 if self.tally.answers() < HEDGE_ANSWERS_MIN => None,
            Hedge::P95 => self.tally.quantile(0.95),
        };
        after.filter(|_| is_idempotent(&item.call.method, &item.call.headers))
    }

    /// When the item is given up, tried or not.
    fn deadline_of(&self, item: &Item) -> Option<Instant> {
        let span = item.call.deadline.or(self.settings.item_deadline);
        let own = item.begun.zip(span).map(|(begun, span)| begun + span);
        own.into_iter().chain(self.deadline).min()
    }

    fn landed(&mut self, landed: Landed) {
        let Landed {
            mut item,
            outcome,
            cost,
            hedged,
            hedge_won,
        } = landed;
        lock(&self.places).free(&key(&item.place));
        let calls = cost.calls.load(Ordering::Relaxed);
        item.calls += calls;
        self.tally.calls += u64::from(calls);
        self.tally.replays += u64::from(cost.replays.load(Ordering::Relaxed));
        self.tally.hedges += u64::from(hedged);
        self.tally.hedges_won += u64::from(hedge_won);
        match outcome {
            Ok(answer) => {
                item.place.host.earn();
                self.tally.answered(answer.wall);
                self.finish(item.done(Ok(answer)));
            }
            Err(failure) => {
                if let Some(answer) = &failure.answer {
                    self.tally.answered(answer.wall);
                }
                self.failed(item, failure);
            }
        }
    }

    /// Another try, a wait, or the end.
    fn failed(&mut self, mut item: Box<Item>, failure: Failure) {
        let now = Instant::now();
        let deadline = self.deadline_of(&item);
        if deadline.is_some_and(|deadline| deadline <= now) {
            return self.too_late(item, Some(failure));
        }
        let pause = match failure.again {
            Again::NotNow(wait) => {
                item.tries -= 1; // nothing was tried
                return self.hold(item, wait, Cause::BreakerOpen);
            }
            Again::No => return self.finish(item.done(Err(failure))),
            Again::Yes(pause) => pause.unwrap_or_default(),
        };
        let retry = &self.settings.retry;
        let status = failure.answer.as_ref().map(|answer| answer.status);
        let worth = status.is_none_or(|status| retry.statuses.contains(&status));
        if !worth || item.tries > retry.max {
            return self.finish(item.done(Err(failure)));
        }
        let wait = retry.wait(item.tries, self.client.roll()).max(pause);
        let at = now + wait;
        if deadline.is_some_and(|deadline| deadline <= at) {
            return self.finish(item.done(Err(failure))); // it would wait in vain
        }
        item.needs_leave = true;
        item.held = None;
        item.last = Some(failure);
        self.push_later(at, item);
    }

    /// The item waits for its host, as long as its patience lasts.
    fn hold(&mut self, mut item: Box<Item>, wait: Duration, why: Cause) {
        let now = Instant::now();
        let since = *item.held.get_or_insert(now);
        let at = now + wait.mul_f64(1.0 + self.client.roll() / 4.0);
        let deadline = self.deadline_of(&item);
        if deadline.is_some_and(|deadline| deadline <= at) {
            return self.too_late(item, None);
        }
        if at > since + self.settings.patience {
            let message = item.place.host.says(match why {
                Cause::BreakerOpen => "does nothing but fail, and did not come back in time",
                _ => "fails so often that its retries are used up",
            });
            let mut failure = Failure::for_good(why, message);
            failure.answer = item.last.take().and_then(|last| last.answer);
            return self.finish(item.done(Err(failure)));
        }
        self.push_later(at, item);
    }

    fn push_later(&mut self, at: Instant, item: Box<Item>) {
        self.order += 1;
        self.later.push(Reverse(Later {
            at,
            order: self.order,
            item,
        }));
    }

    /// Its deadline is over.
    fn too_late(&mut self, mut item: Box<Item>, last: Option<Failure>) {
        let last = last.or_else(|| item.last.take());
        let tries = item.tries;
        let message = match &last {
            Some(last) => format!("was not done by its deadline, after {tries} tries: {last}"),
            None => "was not begun by the deadline".to_owned(),
        };
        let mut failure = Failure::for_good(Cause::Deadline, message);
        failure.answer = last.and_then(|last| last.answer);
        self.finish(item.done(Err(failure)));
    }

    /// The list's deadline is over: what waits is told so; what is under way ends by itself.
    fn expire(&mut self) {
        let mut waiting = lock(&self.places).drain();
        if let Some(item) = self.first.take() {
            lock(&self.places).free(&key(&item.place));
            waiting.push(item);
        }
        let later = std::mem::take(&mut self.later).into_iter();
        waiting.extend(later.map(|Reverse(later)| later.item));
        waiting.sort_by_key(|item| item.index);
        for item in waiting {
            let last = None;
            self.too_late(item, last);
        }
    }

    /// One end; the rule may say that it is the last.
    fn finish(&mut self, done: Done) {
        if self.decided.is_some() {
            return;
        }
        self.tally.count(&done);
        let decided = decided_by(self.settings.rule, done.outcome.is_ok());
        self.ready.push_back(done);
        if decided.is_none() {
            return;
        }
        self.decided = decided;
        let under_way = self.flying.len();
        self.flying = FuturesUnordered::new(); // every loser's socket is closed here
        let waiting = lock(&self.places).drain().len() + self.later.len();
        let waiting = waiting + usize::from(self.first.take().is_some());
        self.turn.leave();
        self.later.clear();
        self.source = None;
        self.tally.cancelled += (under_way + waiting) as u64;
    }
}

/// Hosts are told apart by where they are: the items of a queue hold on to theirs.
pub(crate) fn key(place: &Place) -> usize {
    Arc::as_ptr(&place.host) as usize
}

/// A URL that may be anything, without its query, bounded.
fn shown(url: &str) -> Box<str> {
    let plain = url.split(['?', '#']).next().unwrap_or_default();
    // What stands before an @ may be a password.
    let plain = match (plain.split_once("://"), plain.rsplit_once('@')) {
        (Some((scheme, _)), Some((_, rest))) => format!("{scheme}://...@{rest}"),
        (None, Some((_, rest))) => format!("...@{rest}"),
        _ => plain.to_owned(),
    };
    plain.chars().take(256).collect()
}

/// A list that comes by a channel.
pub fn calls_from(
    listed: tokio::sync::mpsc::Receiver<(u64, Call)>,
) -> BoxStream<'static, (u64, Call)> {
    let next = |mut listed: tokio::sync::mpsc::Receiver<_>| async move {
        let call = listed.recv().await?;
        Some((call, listed))
    };
    futures_util::stream::unfold(listed, next).boxed()
}
