//! Places of targets: opened as they are declared.
//!
//! Must never: print an address; it may hold a password.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use offloop::{JobOptions, RuntimeHandle};

use super::view::chain;
#[cfg(feature = "kafka")]
use crate::consume::Consumer;
use crate::sink::Outlet;
#[cfg(feature = "kafka")]
use crate::sink::SinkError;
use crate::sink::jobs::JobsOutlet;
#[cfg(feature = "kafka")]
use crate::sink::kafka::{KafkaOutlet, KafkaSettings, check_dead_letters, check_topic};
use crate::sink::ndjson::NdjsonOutlet;
use crate::sink::postgres::{PostgresOutlet, PostgresSettings};
use crate::sink::sqlite::{SqliteFile, SqliteOutlet};
#[cfg(feature = "kafka")]
use crate::target::TargetProblem;
use crate::target::{Sink, Target};

/// What a target with the sink `kafka` is told by a build that has none.
pub const WITHOUT_KAFKA: &str = "this program was built without Kafka, which needs a C compiler to build; build it with `cargo build --release -p offloop-cli --features kafka`";
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
    /// Where notes of loads are kept whose place has no room for them.
    pub notes: PathBuf,
    #[cfg(feature = "kafka")]
    pub kafka: Option<KafkaSettings>,
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
            Sink::Kafka { .. } => self.topic(target),
            Sink::Jobs { task } => {
                let server = self.places.server.as_ref();
                let server = server.ok_or_else(|| {
                    format!("its rows become jobs of a server: give it with --server, such as --server http://127.0.0.1:7878 (task `{task}`)")
                })?;
                let options = JobOptions::default();
                let outlet = JobsOutlet::new(target, server.clone(), options);
                Ok(Arc::new(outlet.map_err(|error| chain(&error))?))
            }
        }
    }

    #[cfg(feature = "kafka")]
    fn topic(&self, target: &Target) -> Result<Arc<dyn Outlet>, String> {
        let settings = self.places.kafka.as_ref();
        let settings = settings.ok_or("the brokers of Kafka are not configured")?;
        let outlet = KafkaOutlet::new(target, settings, self.places.notes.join("kafka"));
        Ok(Arc::new(outlet.map_err(|error| chain(&error))?))
    }

    #[cfg(not(feature = "kafka"))]
    #[expect(clippy::unused_self, reason = "as with the feature")]
    fn topic(&self, _target: &Target) -> Result<Arc<dyn Outlet>, String> {
        Err(WITHOUT_KAFKA.into())
    }
}

/// Whether the place is there and is what the declaration says, without a trace in it; the error is
/// a sentence for a person. A target that makes jobs is not tried: only its server knows its task.
pub async fn try_out(target: &Target, opener: &mut Opener) -> Result<(), String> {
    if matches!(target.sink(), Sink::Jobs { .. }) && opener.places.server.is_none() {
        return Ok(());
    }
    let outlet = opener.open(target)?;
    let checked = tokio::time::timeout(PATIENCE, outlet.check()).await;
    let checked = checked.map_err(|_| format!("it did not answer within {PATIENCE:?}"))?;
    checked.map_err(|error| chain(&error))
}

/// Whether the topics of a consumer are there and take what it brings, without a trace in them; what is
/// wrong is told by its key.
#[cfg(feature = "kafka")]
pub async fn try_consumer(
    consumer: &Consumer,
    settings: &KafkaSettings,
) -> Result<(), Vec<TargetProblem>> {
    let key = |of: &str| format!("ingest.consumers.{}.{of}", consumer.name());
    let read = tried(&key("topic"), check_topic(settings, consumer.topic())).await;
    // A cluster that does not answer is not asked twice.
    let letters = match &read {
        Err(problem) if problem.field == BROKERS => Ok(()),
        _ => {
            let asked = check_dead_letters(settings, consumer.dead_letters());
            tried(&key("dead_letters"), asked).await
        }
    };
    let problems: Vec<_> = [read, letters]
        .into_iter()
        .filter_map(Result::err)
        .collect();
    if problems.is_empty() {
        Ok(())
    } else {
        Err(problems)
    }
}

#[cfg(feature = "kafka")]
const BROKERS: &str = "ingest.kafka.brokers";

#[cfg(feature = "kafka")]
async fn tried(
    key: &str,
    asked: impl Future<Output = Result<(), SinkError>>,
) -> Result<(), TargetProblem> {
    let (field, problem) = match tokio::time::timeout(PATIENCE, asked).await {
        Ok(Ok(())) => return Ok(()),
        Ok(Err(error @ SinkError::Unreachable { .. })) => (BROKERS, chain(&error)),
        Ok(Err(error)) => (key, chain(&error)),
        Err(_) => (BROKERS, format!("they did not answer within {PATIENCE:?}")),
    };
    Err(TargetProblem {
        field: field.to_owned(),
        problem,
    })
}
