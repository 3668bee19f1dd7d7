//! Places of targets: opened as they are declared.
//!
//! Must never: print an address; it may hold a password.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use offloop::RuntimeHandle;

use super::view::chain;
use crate::load::LoadId;
use crate::sink::Outlet;
use crate::sink::ndjson::NdjsonOutlet;
use crate::sink::postgres::{PostgresOutlet, PostgresSettings};
use crate::sink::sqlite::{SqliteFile, SqliteOutlet};
use crate::target::{Sink, Target};

/// Of [`try_out`]: a person waits for it.
const PATIENCE: Duration = Duration::from_secs(10);

/// Where a database is, with its password. Shown to nobody.
#[derive(Clone)]
pub struct Address(Arc<str>);

impl Address {
    pub fn new(text: &str) -> Self {
        Self(text.into())
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Address")
    }
}

/// What places need beside their declaration.
#[derive(Clone, Debug, Default)]
pub struct Places {
    /// Where relative paths start.
    pub folder: PathBuf,
    pub postgres: Option<Address>,
    /// For targets that make jobs.
    pub server: Option<RuntimeHandle>,
}

/// Opens places; tables of one SQLite file share its writer.
#[derive(Debug)]
pub struct Opener {
    places: Places,
    files: HashMap<PathBuf, SqliteFile>,
}

impl Opener {
    pub fn new(places: Places) -> Self {
        Self {
            places,
            files: HashMap::new(),
        }
    }

    /// The place of `target`. Nothing is connected yet; the error is a sentence for a person.
    pub fn open(&mut self, target: &Target) -> Result<Arc<dyn Outlet>, String> {
        let at = |path: &str| self.places.folder.join(path);
        match target.sink() {
            Sink::Ndjson { path } => {
                let outlet = NdjsonOutlet::new(target, at(path)).map_err(|error| chain(&error))?;
                Ok(Arc::new(outlet))
            }
            Sink::Sqlite { path, .. } => {
                let file = match self.files.entry(at(path)) {
                    Entry::Occupied(known) => known.into_mut(),
                    Entry::Vacant(new) => {
                        let file = SqliteFile::new(new.key());
                        new.insert(file.map_err(|error| chain(&error))?)
                    }
                };
                let outlet = SqliteOutlet::new(target, file).map_err(|error| chain(&error))?;
                Ok(Arc::new(outlet))
            }
            Sink::Postgres { .. } => {
                let address = self.places.postgres.as_ref();
                let address = address.ok_or("the address of PostgreSQL is not configured")?;
                let settings = PostgresSettings::default();
                let outlet = PostgresOutlet::new(target, address.as_str(), settings);
                Ok(Arc::new(outlet.map_err(|error| chain(&error))?))
            }
            Sink::Kafka { .. } => Err("this build has no sink for Kafka".into()),
            Sink::Jobs { .. } => Err("this build has no sink for jobs".into()),
        }
    }
}

/// Whether the place is there and is what the declaration says; the error is a sentence for a
/// person. A table that is to be made is made.
pub async fn try_out(target: &Target, opener: &mut Opener) -> Result<(), String> {
    let outlet = opener.open(target)?;
    let load = LoadId::parse("offloop-check").map_err(|error| error.to_string())?;
    let sink = outlet.sink(&load);
    let resumed = tokio::time::timeout(PATIENCE, sink.resume()).await;
    let resumed = resumed.map_err(|_| format!("it did not answer within {PATIENCE:?}"))?;
    resumed.map(drop).map_err(|error| chain(&error))
}
