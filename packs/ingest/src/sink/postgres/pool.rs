//! The connections of one target, handed out in the order of asking.
//!
//! Must never: have more than its number; hand out one in the middle of something; try again
//! for what no retry helps.

use std::future::Future;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::{Semaphore, SemaphorePermit};
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tokio_postgres::config::Host;
use tokio_postgres::error::DbError;
use tokio_postgres::{Client, Config, Statement};

use super::PostgresSettings;
use super::address::Address;
use super::tls::{self, Tls};
use crate::sink::SinkError;

const CONNECTIONS_MAX: usize = 64;
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
const WAIT_FIRST: Duration = Duration::from_millis(100);
const WAIT_MAX: Duration = Duration::from_secs(5);

pub(super) struct Pool {
    config: Config,
    tls: Tls,
    /// Host and port, for messages.
    pub(super) place: String,
    greeting: String,
    patience: Duration,
    turns: Semaphore,
    idle: Mutex<Vec<Connection>>,
}

pub(super) struct Connection {
    pub(super) client: Client,
    driver: JoinHandle<()>,
    /// The COPY of this pool's target, prepared once.
    pub(super) copy: Option<Statement>,
    /// Its temporary tables are made.
    pub(super) has_stage: bool,
}

impl Drop for Connection {
    fn drop(&mut self) {
        // Closes the socket: the server gives up what was under way.
        self.driver.abort();
    }
}

/// A connection for one transaction. Dropped before [`Lent::done`], it is closed.
pub(super) struct Lent<'a> {
    pool: &'a Pool,
    connection: Option<Connection>,
    _turn: SemaphorePermit<'a>,
}

impl Lent<'_> {
    /// The connection; none only after [`Lent::done`].
    pub(super) fn get(&mut self) -> Result<&mut Connection, Trouble> {
        self.connection
            .as_mut()
            .ok_or(Trouble::Final(SinkError::Ended))
    }

    /// Nothing is under way on it.
    pub(super) fn done(mut self) {
        if let Some(connection) = self.connection.take()
            && !connection.client.is_closed()
        {
            let idle = self.pool.idle.lock();
            idle.unwrap_or_else(PoisonError::into_inner)
                .push(connection);
        }
    }
}

/// What went wrong with one try.
#[derive(Debug)]
pub(super) enum Trouble {
    /// Another try may come through.
    Passing(tokio_postgres::Error),
    /// What was in the way is not there any more.
    Again,
    /// A row is to blame.
    Row,
    Final(SinkError),
}

impl From<SinkError> for Trouble {
    fn from(error: SinkError) -> Self {
        Self::Final(error)
    }
}

impl Pool {
    pub(super) fn new(address: Address, settings: &PostgresSettings) -> Result<Self, SinkError> {
        let problem = |problem: String| SinkError::Place { problem };
        if !(1..=CONNECTIONS_MAX).contains(&settings.connections) {
            return Err(problem(format!(
                "connections: {} is out of range; 1 to {CONNECTIONS_MAX}",
                settings.connections
            )));
        }
        let tls = Tls::new(&address).map_err(problem)?;
        let mut config = address.config;
        config.connect_timeout(CONNECT_TIMEOUT);
        config.application_name("offloop-ingest");
        let host = match config.get_hosts().first() {
            Some(Host::Tcp(name)) => name.clone(),
            #[cfg(unix)]
            Some(Host::Unix(path)) => path.display().to_string(),
            None => "?".into(),
        };
        let port = config.get_ports().first().copied().unwrap_or(5_432);
        let timeout = settings.statement_timeout.as_millis();
        Ok(Self {
            config,
            tls,
            place: format!("PostgreSQL at {host}:{port}"),
            // Values mean the same whatever the server's defaults are, and a server sees to it
            // that a client that is gone holds no lock.
            greeting: format!(
                "SET client_min_messages = warning; SET TimeZone = 'UTC'; SET DateStyle = 'ISO, YMD'; SET standard_conforming_strings = on; \
                 SET statement_timeout = {timeout}; SET lock_timeout = '30s'; \
                 SET idle_in_transaction_session_timeout = '60s'; \
                 SET tcp_keepalives_idle = 15; SET tcp_keepalives_interval = 5; SET tcp_keepalives_count = 3"
            ),
            patience: settings.patience,
            turns: Semaphore::new(settings.connections),
            idle: Mutex::default(),
        })
    }

    pub(super) async fn lend(&self) -> Result<Lent<'_>, Trouble> {
        let turn = self.turns.acquire().await;
        let turn = turn.map_err(|_| Trouble::Final(SinkError::Ended))?;
        let idle = self.take_idle();
        let connection = match idle {
            Some(connection) => connection,
            None => self.connect().await?,
        };
        Ok(Lent {
            pool: self,
            connection: Some(connection),
            _turn: turn,
        })
    }

    fn take_idle(&self) -> Option<Connection> {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        idle.retain(|connection| !connection.client.is_closed());
        idle.pop()
    }

    async fn connect(&self) -> Result<Connection, Trouble> {
        let connected = self.config.connect(self.tls.clone()).await;
        let (client, connection) = connected.map_err(|error| self.trouble(error))?;
        let driver = tokio::spawn(async move {
            // Its end is told by the statements that it breaks.
            let _end = connection.await;
        });
        let connection = Connection {
            client,
            driver,
            copy: None,
            has_stage: false,
        };
        let greeted = connection.client.batch_execute(&self.greeting).await;
        greeted.map_err(|error| self.trouble(error))?;
        Ok(connection)
    }

    /// What is told of it where it is not tried again.
    pub(super) fn told(&self, trouble: Trouble) -> SinkError {
        let place = self.place.clone();
        match trouble {
            Trouble::Final(error) => error,
            Trouble::Row => SinkError::Refused {
                place,
                message: "a value of the pack's own tables".into(),
            },
            Trouble::Passing(error) => SinkError::Unreachable {
                place,
                cause: Box::new(error),
            },
            Trouble::Again => SinkError::Ended,
        }
    }

    /// What an error of the driver or the server means for the try.
    pub(super) fn trouble(&self, error: tokio_postgres::Error) -> Trouble {
        let Some(refusal) = error.as_db_error() else {
            if tls::is_hopeless(&error) {
                let problem = format!("{}: {}", self.place, crate::pack::chain(&error));
                return Trouble::Final(SinkError::Place { problem });
            }
            // The connection, or the protocol on it. A malformed answer will not get better, but
            // that is what patience ends.
            return Trouble::Passing(error);
        };
        let code = refusal.code().code();
        match &code[..2] {
            // Data, constraints, a trigger's word, an index entry that is too large.
            "22" | "23" | "54" => Trouble::Row,
            _ if code == "P0001" => Trouble::Row,
            // Connection, conflict with another transaction, no room, an operator.
            "08" | "40" | "53" | "55" | "57" | "58" => Trouble::Passing(error),
            _ => Trouble::Final(SinkError::Refused {
                place: self.place.clone(),
                message: words(refusal),
            }),
        }
    }
}

/// What the server said, without its internals.
pub(super) fn words(refusal: &DbError) -> String {
    let mut words = format!("{} (SQLSTATE {})", refusal.message(), refusal.code().code());
    for more in [refusal.detail(), refusal.hint()].into_iter().flatten() {
        words.push_str("; ");
        words.push_str(more);
    }
    words
}

/// Does `deed` until it comes through, fails for good, or the pool's patience is over.
pub(super) async fn patiently<T, F>(pool: &Pool, deed: impl Fn() -> F) -> Result<T, SinkError>
where
    F: Future<Output = Result<T, Trouble>>,
{
    let mut wait = WAIT_FIRST;
    let mut since: Option<Instant> = None;
    loop {
        let trouble = match deed().await {
            Ok(done) => return Ok(done),
            Err(trouble @ (Trouble::Final(_) | Trouble::Row)) => return Err(pool.told(trouble)),
            Err(trouble) => trouble,
        };
        let since = *since.get_or_insert_with(Instant::now);
        if since.elapsed() + wait > pool.patience {
            return Err(pool.told(trouble));
        }
        tokio::time::sleep(wait).await;
        wait = (wait * 2).min(WAIT_MAX);
    }
}
