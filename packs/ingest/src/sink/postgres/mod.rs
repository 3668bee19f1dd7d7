//! Rows into a PostgreSQL table by COPY, on several connections at once.
//!
//! A batch is one transaction: fence, COPY, note, commit. The fence is a share lock on the load's
//! row in `offloop_ingest_loads`: who takes a load over waits for transactions that hold it, and
//! changes the row, so that later ones of earlier runs fail. Without it, a commit that was on its
//! way as its client was killed would land behind the look at the notes, and its rows twice.
//!
//! Must never: hand a connection back in the middle of a transaction; read a lost answer to a
//! commit as a no, or as a yes.

mod address;
mod copy;
mod notes;
mod place;
mod pool;
mod salvage;
mod store;
mod streams;
mod tls;

use std::fmt;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use super::{
    BatchNote, Outlet, Reply, Resumed, RowSink, SinkError, Source, Stored, Stream, Totals,
};
use crate::load::LoadId;
use crate::rows::Batch;
use crate::target::{OnConflict, Sink as Destination, Target};
use address::Address;
use place::Table;
use pool::Pool;

/// How a server is reached, and with how much patience.
#[derive(Debug, Clone)]
pub struct PostgresSettings {
    /// Of one target, shared by its loads in turn. 1 to 64, default 2.
    pub connections: usize,
    /// For each statement, the COPY of a batch included. Default 5 minutes.
    pub statement_timeout: Duration,
    /// A server that does not answer, or has no room, is asked again for so long. Default 2
    /// minutes.
    pub patience: Duration,
    /// Notes of loads that ended are kept for so many days. Default 7; others for 30.
    pub keep_days: u32,
}

impl Default for PostgresSettings {
    fn default() -> Self {
        Self {
            connections: 2,
            statement_timeout: Duration::from_secs(300),
            patience: Duration::from_secs(120),
            keep_days: 7,
        }
    }
}

/// One table.
pub struct PostgresOutlet {
    shared: Arc<Shared>,
}

struct Shared {
    pool: Pool,
    target: Target,
    settings: PostgresSettings,
}

impl PostgresOutlet {
    /// For `target`, whose sink is `postgres`, at the server of `url`
    /// (`postgres://user:password@host:port/database`, `sslmode` and `sslrootcert` as libpq has
    /// them, but that without `sslrootcert` the system's certificates are trusted). Nothing is
    /// connected to yet.
    ///
    /// Errors: the address is malformed, asks for what is not there, or the target is of another
    /// sink.
    pub fn new(target: &Target, url: &str, settings: PostgresSettings) -> Result<Self, SinkError> {
        let problem = |problem: String| SinkError::Place { problem };
        if !matches!(target.sink(), Destination::Postgres { .. }) {
            return Err(problem(format!(
                "`{}` is no postgres target",
                target.name()
            )));
        }
        // Never the address itself: it may hold a password.
        let address = Address::parse(url).map_err(|error| {
            problem(format!(
                "the address of the PostgreSQL server is malformed: {error}"
            ))
        })?;
        let pool = Pool::new(address, &settings)?;
        Ok(Self {
            shared: Arc::new(Shared {
                pool,
                target: target.clone(),
                settings,
            }),
        })
    }
}

impl PostgresOutlet {
    fn way_of(&self, source: Source) -> PostgresSink {
        PostgresSink {
            shared: Arc::clone(&self.shared),
            source,
            begun: OnceLock::new(),
            gate: tokio::sync::Mutex::new(()),
        }
    }
}

impl fmt::Debug for PostgresOutlet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PostgresOutlet")
            .field("target", &self.shared.target.name())
            .finish_non_exhaustive()
    }
}

impl Outlet for PostgresOutlet {
    fn sink(&self, load: &LoadId) -> Arc<dyn RowSink> {
        Arc::new(self.way_of(Source::Load(load.clone())))
    }

    fn stream(&self, stream: &Stream) -> Option<Arc<dyn RowSink>> {
        Some(Arc::new(self.way_of(Source::Stream(stream.clone()))))
    }

    fn check(&self) -> Reply<'_, ()> {
        // Once: who asks wants to hear what is wrong.
        Box::pin(async {
            let looked = notes::look(&self.shared).await;
            looked.map_err(|trouble| self.shared.pool.told(trouble))
        })
    }
}

struct PostgresSink {
    shared: Arc<Shared>,
    source: Source,
    begun: OnceLock<Begun>,
    /// A load stands in the pool's line once, however many batches it has: loads take turns.
    gate: tokio::sync::Mutex<()>,
}

/// What a run found and took.
struct Begun {
    /// Its number in the load's row.
    run: i64,
    table: Arc<Table>,
}

impl fmt::Debug for PostgresSink {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PostgresSink")
            .field("source", &self.source)
            .finish_non_exhaustive()
    }
}

impl PostgresSink {
    fn begun(&self) -> Result<&Begun, SinkError> {
        self.begun.get().ok_or(SinkError::TakenOver)
    }

    async fn lend(&self) -> Result<pool::Lent<'_>, pool::Trouble> {
        let _turn = self.gate.lock().await;
        self.shared.pool.lend().await
    }
}

impl RowSink for PostgresSink {
    fn width(&self) -> usize {
        match self.shared.target.place().on_conflict {
            _ if matches!(self.source, Source::Stream(_)) => 1,
            // The later row is to win: batches in the order of the input.
            OnConflict::Update | OnConflict::Keep => 1,
            OnConflict::Reject => self.shared.settings.connections,
        }
    }

    fn resume(&self) -> Reply<'_, Resumed> {
        Box::pin(async {
            let (begun, resumed) = pool::patiently(&self.shared.pool, || self.take_over()).await?;
            // Once a sink: a second answer would be an earlier run's.
            let _first = self.begun.set(begun);
            Ok(resumed)
        })
    }

    fn store(&self, batch: Arc<Batch>, note: BatchNote) -> Reply<'_, Stored> {
        Box::pin(async move { self.store_batch(batch, note).await })
    }

    fn finish(&self, totals: Totals) -> Reply<'_, ()> {
        Box::pin(async move {
            let begun = self.begun()?;
            let Source::Load(load) = &self.source else {
                return Ok(());
            };
            pool::patiently(&self.shared.pool, || self.end(begun, load, totals)).await
        })
    }
}
