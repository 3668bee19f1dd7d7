//! One try of one call: over its redirects, on a connection of the pool or a fresh one.
//!
//! Every connection goes through `offloop::egress`: a redirect, a replay and a second look at a name are
//! checked as the first was. No proxy is read from the environment.
//!
//! Must never: send a question twice that may have been answered, unless twice is as good as once.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http_body_util::Full;
use hyper::header::{self, HeaderMap, HeaderName, HeaderValue};
use hyper::{Method, Request, Version};
use offloop::egress::{Connector, EgressError, Policy, Resolve, Roots, Target, TlsSetupError};
use offloop::runtime::clock::Dice;

use crate::body::Keeping;
use crate::breaker::BreakerRule;
use crate::budget::BudgetRule;
use crate::call::{Again, Answer, Call, Cause, Failure, Keep};
use crate::conn::{Broken, Conn, Exchanged, idle_time, told};
use crate::draft::Drafts;
use crate::gate::Gate;
use crate::host::{Host, Hosts, Tripped, origin};
use crate::names::Remembering;
use crate::retry::{is_idempotent, keep_alive, retry_after};

/// Of a try, the connection may take so much, with its handshake.
const CONNECT_WITHIN: Duration = Duration::from_secs(10);
/// Of one process.
const CONNECTIONS_DEFAULT: u32 = 2_000;
/// Idle connections to one host.
const IDLE_MAX: usize = 4_096;

/// What a process's calls share.
#[derive(Clone, Debug)]
pub struct ClientOptions {
    /// Where calls may go.
    pub policy: Policy,
    /// Who looks names up.
    pub resolver: Arc<dyn Resolve>,
    pub breaker: BreakerRule,
    pub budget: BudgetRule,
    /// Where bodies go that are asked for as files ([`Keep::File`]).
    pub drafts: Option<Drafts>,
    /// Authorities that are trusted beside the system's.
    pub roots: Roots,
    /// Calls at a time over all lists, and connections, in use or idle; 1 to [`CONNECTIONS_MAX`], default 2,000.
    ///
    /// [`CONNECTIONS_MAX`]: crate::CONNECTIONS_MAX
    pub connections: u32,
    /// Of the jitter.
    pub seed: u64,
}

impl ClientOptions {
    /// With the usual breaker and budget, and nowhere to put files.
    pub fn new(policy: Policy, resolver: Arc<dyn Resolve>, seed: u64) -> Self {
        Self {
            policy,
            resolver,
            breaker: BreakerRule::default(),
            budget: BudgetRule::default(),
            drafts: None,
            roots: Roots::default(),
            connections: CONNECTIONS_DEFAULT,
            seed,
        }
    }
}

/// Pool, breakers and budgets: what calls of one process share. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Client(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    connector: Connector,
    hosts: Hosts,
    begun: Instant,
    dice: Dice,
    drafts: Option<Drafts>,
    gate: Gate,
    connections: AtomicU64,
    reused: AtomicU64,
}

/// Bounds of one try.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Bounds {
    pub(crate) timeout: Duration,
    /// Not after this, whatever the time-out says.
    pub(crate) until: Option<Instant>,
    pub(crate) response_bytes_max: u64,
    pub(crate) redirects: u8,
    pub(crate) keep: Keep,
}

/// What a try has cost so far, its hedge's part included.
#[derive(Debug, Default)]
pub(crate) struct Cost {
    pub(crate) calls: AtomicU32,
    pub(crate) replays: AtomicU32,
}

/// Where a call goes.
#[derive(Clone, Debug)]
pub(crate) struct Place {
    pub(crate) target: Target,
    pub(crate) host: Arc<Host>,
}

impl Client {
    pub fn new(options: ClientOptions) -> Result<Self, TlsSetupError> {
        let resolver = Arc::new(Remembering::new(options.resolver));
        Ok(Self(Arc::new(Inner {
            connector: Connector::new(options.policy, resolver, &options.roots)?,
            hosts: Hosts::new(options.breaker, options.budget),
            begun: Instant::now(),
            dice: Dice::new(options.seed),
            drafts: options.drafts,
            gate: Gate::new(options.connections),
            connections: AtomicU64::new(0),
            reused: AtomicU64::new(0),
        })))
    }

    /// Since this client began: the time of breakers and budgets.
    pub(crate) fn now(&self) -> Duration {
        self.0.begun.elapsed()
    }

    pub(crate) fn roll(&self) -> f64 {
        self.0.dice.roll()
    }

    /// Connections that were made so far.
    pub fn connections(&self) -> u64 {
        self.0.connections.load(Ordering::Relaxed)
    }

    /// Calls that were asked on a connection that had served one before.
    pub fn reused(&self) -> u64 {
        self.0.reused.load(Ordering::Relaxed)
    }

    /// Connections that are open, and how many may be.
    pub fn open_connections(&self) -> (usize, usize) {
        (self.0.gate.open(), self.0.gate.most)
    }

    pub(crate) fn gate(&self) -> &Gate {
        &self.0.gate
    }

    /// Connections that wait for their next call.
    pub fn idle_connections(&self) -> usize {
        self.0.hosts.idle()
    }

    /// Closes connections that lay idle for too long. Runners do it while they run; afterwards it is
    /// for whoever keeps the client.
    pub fn sweep(&self) {
        self.0.hosts.sweep(self.now());
    }

    /// Hosts whose breaker has opened, at most so many.
    pub fn tripped(&self, most: usize) -> Vec<Tripped> {
        self.0.hosts.tripped(self.now(), most)
    }

    /// Whether a URL may be called, as far as its text says.
    pub fn check(&self, url: &str) -> Result<(), EgressError> {
        self.0.connector.policy().target(url).map(drop)
    }

    pub(crate) fn place(&self, url: &str) -> Result<Place, Failure> {
        let target = self.0.connector.policy().target(url);
        let target = target.map_err(|error| of_egress(&error))?;
        let host = self.0.hosts.of(&target, self.now());
        Ok(Place { target, host })
    }

    /// One try, with its redirects.
    pub(crate) async fn attempt(
        &self,
        call: &Call,
        place: &Place,
        bounds: Bounds,
        cost: &Cost,
    ) -> Result<Answer, Failure> {
        let begun = Instant::now();
        let until = begun + bounds.timeout;
        let until = bounds.until.map_or(until, |last| last.min(until));
        let mut hop = Hop::first(call, place);
        for left in (0..=bounds.redirects).rev() {
            let exchanged = self.hop(&hop, bounds, until, cost).await?;
            let Some(next) = self.redirected(&hop, &exchanged, bounds, left)? else {
                return judged(exchanged, hop.idempotent(), begun);
            };
            hop = next;
        }
        Err(too_many(bounds.redirects, 302)) // not reached: the last turn ends above
    }

    /// One question to one host, with leave of its breaker.
    async fn hop(
        &self,
        hop: &Hop,
        bounds: Bounds,
        until: Instant,
        cost: &Cost,
    ) -> Result<Exchanged, Failure> {
        let host = &hop.place.host;
        let permit = host.breaker.permit(self.now()).map_err(|not_now| {
            let message = host.says("does nothing but fail, and is left alone");
            Failure::new(Cause::BreakerOpen, message, Again::NotNow(not_now.0))
        })?;
        let asked = tokio::time::timeout_at(until.into(), self.ask(hop, bounds, cost)).await;
        let late = |_| {
            let message = format!("{} did not answer within {:?}", host.origin, bounds.timeout);
            Failure::new(Cause::Timeout, message, again(hop.idempotent()))
        };
        let asked = asked.map_err(late).and_then(|asked| asked);
        match &asked {
            Ok(exchanged) if exchanged.answer.status < 500 => permit.good(self.now()),
            Ok(exchanged) => {
                host.remember(&format!("answered {}", exchanged.answer.status));
                permit.bad(self.now());
            }
            Err(failure) => match failure.cause {
                // It answers, and what it shows is to be told to every caller.
                Cause::Tls if failure.again == Again::No => drop(permit),
                Cause::Connect | Cause::Tls | Cause::Timeout | Cause::Reset | Cause::Protocol => {
                    host.remember(&failure.message);
                    permit.bad(self.now());
                }
                Cause::TooLarge => permit.good(self.now()),
                // Nothing is known of the host.
                _ => drop(permit),
            },
        }
        asked
    }

    /// Asks on a connection of the pool or a fresh one. A pooled one that turns out to be dead before a
    /// byte of an answer is replaced by a fresh one, once.
    async fn ask(&self, hop: &Hop, bounds: Bounds, cost: &Cost) -> Result<Exchanged, Failure> {
        let host = &hop.place.host;
        let mut pooled = host.take(self.now()).await;
        loop {
            let reused = pooled.is_some();
            cost.calls.fetch_add(1, Ordering::Relaxed);
            let mut conn = match pooled.take() {
                Some(conn) => {
                    self.0.reused.fetch_add(1, Ordering::Relaxed);
                    conn
                }
                None => self.connect(hop).await?,
            };
            let request = hop.request()?;
            let keeping = Keeping {
                keep: bounds.keep,
                bytes_max: bounds.response_bytes_max,
                drafts: self.0.drafts.as_ref(),
            };
            match conn.exchange(request, keeping).await {
                Ok(exchanged) => {
                    self.keep(conn, host, &exchanged.headers).await;
                    return Ok(exchanged);
                }
                Err(Broken::NoAnswer { unsent, .. }) if reused && (unsent || hop.idempotent()) => {
                    cost.replays.fetch_add(1, Ordering::Relaxed);
                }
                Err(broken) => return Err(of_broken(broken, hop, bounds)),
            }
        }
    }

    async fn connect(&self, hop: &Hop) -> Result<Conn, Failure> {
        let counted = self.0.gate.count(|| self.0.hosts.make_room());
        let stream = self.0.connector.connect(&hop.place.target, CONNECT_WITHIN);
        let stream = stream.await.map_err(|error| of_egress(&error))?;
        self.0.connections.fetch_add(1, Ordering::Relaxed);
        let conn = Conn::open(stream, counted).await;
        conn.map_err(|error| Failure::new(Cause::Connect, told(&error), Again::Yes(None)))
    }

    /// Back into the pool, if it can be used again.
    async fn keep(&self, mut conn: Conn, host: &Host, headers: &HeaderMap) {
        let idle = idle_time(keep_alive(headers));
        if !idle.is_zero() && conn.is_idle().await {
            let now = self.now();
            host.put(conn, now, now + idle, IDLE_MAX);
        }
    }

    /// The next hop, if the answer names one.
    fn redirected(
        &self,
        hop: &Hop,
        exchanged: &Exchanged,
        bounds: Bounds,
        left: u8,
    ) -> Result<Option<Hop>, Failure> {
        let status = exchanged.answer.status;
        if !matches!(status, 301 | 302 | 303 | 307 | 308) {
            return Ok(None);
        }
        let Some(location) = exchanged.headers.get(header::LOCATION) else {
            return Ok(None);
        };
        if left == 0 {
            return Err(too_many(bounds.redirects, status));
        }
        let wrong = |what: String| Failure::for_good(Cause::Redirect, what);
        let location = location
            .to_str()
            .map_err(|_| wrong("the redirect's Location is not plain text".into()))?;
        let policy = self.0.connector.policy();
        let target = policy.follow(&hop.place.target, location);
        let target =
            target.map_err(|error| wrong(format!("the redirect's URL {}", told(&error))))?;
        let host = self.0.hosts.of(&target, self.now());
        Ok(Some(hop.next(status, Place { target, host })))
    }
}

/// One question of a chain of redirects.
struct Hop {
    place: Place,
    method: Method,
    headers: HeaderMap,
    body: Bytes,
}

const AGENT: &str = concat!("offloop-fetch/", env!("CARGO_PKG_VERSION"));

/// Told to the server that was asked, and to no other.
const OWN_SECRETS: [HeaderName; 3] = [
    header::AUTHORIZATION,
    header::COOKIE,
    header::PROXY_AUTHORIZATION,
];

impl Hop {
    fn first(call: &Call, place: &Place) -> Self {
        Self {
            place: place.clone(),
            method: call.method.clone(),
            headers: call.headers.clone(),
            body: call.body.clone(),
        }
    }

    /// As browsers do it (Fetch standard, section 4.4): 303 asks with GET, 301 and 302 turn a POST into
    /// one.
    fn next(&self, status: u16, place: Place) -> Self {
        let mut headers = self.headers.clone();
        if origin(&self.place.target) != origin(&place.target) {
            for name in &OWN_SECRETS {
                headers.remove(name);
            }
        }
        let to_get = match status {
            303 => !matches!(self.method, Method::GET | Method::HEAD),
            301 | 302 => self.method == Method::POST,
            _ => false,
        };
        if !to_get {
            return Self {
                place,
                headers,
                method: self.method.clone(),
                body: self.body.clone(),
            };
        }
        headers.remove(header::CONTENT_TYPE);
        Self {
            place,
            headers,
            method: Method::GET,
            body: Bytes::new(),
        }
    }

    fn idempotent(&self) -> bool {
        is_idempotent(&self.method, &self.headers)
    }

    fn request(&self) -> Result<Request<Full<Bytes>>, Failure> {
        let wrong = || Failure::for_good(Cause::Url, "the URL's path cannot be asked for");
        let mut request = Request::new(Full::new(self.body.clone()));
        *request.method_mut() = self.method.clone();
        *request.version_mut() = Version::HTTP_11;
        let target = &self.place.target;
        *request.uri_mut() = target.path().parse().map_err(|_| wrong())?;
        let host = HeaderValue::from_str(&target.authority()).map_err(|_| wrong())?;
        let headers = request.headers_mut();
        headers.insert(header::HOST, host);
        headers.insert(header::USER_AGENT, HeaderValue::from_static(AGENT));
        headers.insert(header::ACCEPT, HeaderValue::from_static("*/*"));
        // Nothing is undone here, so nothing may swell.
        let identity = HeaderValue::from_static("identity");
        headers.insert(header::ACCEPT_ENCODING, identity);
        let mut last = None;
        for (name, value) in self.headers.clone() {
            let again = name.is_none();
            last = name.or(last);
            match &last {
                Some(name) if again => drop(headers.append(name, value)),
                Some(name) => drop(headers.insert(name, value)),
                None => {}
            }
        }
        Ok(request)
    }
}

fn again(idempotent: bool) -> Again {
    if idempotent {
        Again::Yes(None)
    } else {
        Again::No
    }
}

fn too_many(redirects: u8, status: u16) -> Failure {
    let message = match redirects {
        0 => format!("answered {status}; redirects are not followed"),
        _ => format!("was sent on more than {redirects} times"),
    };
    Failure::for_good(Cause::Redirect, message)
}

/// Whether an answer is a success; whether a failed one may be asked for again.
fn judged(exchanged: Exchanged, idempotent: bool, begun: Instant) -> Result<Answer, Failure> {
    let Exchanged {
        mut answer,
        headers,
    } = exchanged;
    answer.wall = begun.elapsed();
    let status = answer.status;
    if matches!(status, 200..=299 | 304) {
        return Ok(answer);
    }
    let pause = retry_after(&headers);
    // A server that asks for a pause has done nothing with the question.
    let again = match status {
        429 | 503 if idempotent || pause.is_some() => Again::Yes(pause),
        _ if idempotent => Again::Yes(pause),
        _ => Again::No,
    };
    let (cause, again) = match status {
        300..=399 => (Cause::Redirect, Again::No),
        _ => (Cause::Status, again),
    };
    Err(Failure {
        answer: Some(Box::new(answer)),
        ..Failure::new(cause, format!("answered {status}"), again)
    })
}

fn of_egress(error: &EgressError) -> Failure {
    let cause = match error {
        EgressError::Forbidden { .. } => Cause::Forbidden,
        EgressError::Unknown { .. } | EgressError::Lookup { .. } => Cause::Name,
        EgressError::Tls(_) | EgressError::Certificate(_) => Cause::Tls,
        EgressError::Connect(_) => Cause::Connect,
        EgressError::Late(_) => Cause::Timeout,
        _ => Cause::Url,
    };
    let again = if error.retry_helps() {
        Again::Yes(None) // nothing was sent, whatever the method
    } else {
        Again::No
    };
    Failure::new(cause, format!("the URL {}", told(error)), again)
}

fn of_broken(broken: Broken, hop: &Hop, bounds: Bounds) -> Failure {
    let origin = &hop.place.host.origin;
    let idempotent = again(hop.idempotent());
    match broken {
        Broken::NoAnswer { what, unsent } => {
            let again = if unsent { Again::Yes(None) } else { idempotent };
            Failure::new(
                Cause::Reset,
                format!("{origin} gave no answer: {what}"),
                again,
            )
        }
        Broken::Cut(what) => {
            let message = format!("the answer of {origin} broke off: {what}");
            Failure::new(Cause::Reset, message, idempotent)
        }
        Broken::Protocol(what) => {
            let message = format!("{origin} does not speak HTTP as it should: {what}");
            Failure::new(Cause::Protocol, message, idempotent)
        }
        Broken::TooLarge => {
            let most = bounds.response_bytes_max;
            let message = format!("the answer is over {most} bytes, its limit");
            Failure::for_good(Cause::TooLarge, message)
        }
        Broken::Storage(what) => Failure::new(Cause::Storage, what, idempotent),
    }
}
