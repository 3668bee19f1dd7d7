//! Rows as messages of a topic: keyed by the key column, in the input's order for each key.
//!
//! At least once. Every message says which row it is (headers `offloop-load`, `offloop-row`,
//! `offloop-offset`), so that a reader can pass over what a crash made come twice. One producer
//! for each target, shared by its loads ([`wire`]); batches are sent in their order and noted in
//! their order ([`turns`]); notes are a file of each load ([`notes`]); what the broker refuses
//! goes to a topic of its own ([`dead`]). Decisions and measurements: docs/adr/0028.
//!
//! Must never: note what is not acknowledged by all in-sync replicas; let a message pass one of
//! the same key that was given up.

mod dead;
mod knock;
mod letters;
mod notes;
mod place;
mod security;
mod settings;
mod store;
mod turns;
mod wire;

use std::collections::HashMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

pub(crate) use letters::{DeadLetter, LetterBox};
pub(crate) use place::{check_dead_letters, check_topic};
pub use settings::{KafkaSettings, RawKafka};

use self::dead::{Office, Sent};
use self::notes::{Notes, NotesError};
use self::place::{Topic, looked, ready, unreachable};
use self::store::Encoder;
use self::turns::Turns;
use self::wire::Wire;
use super::json::JsonRows;
use super::{BatchNote, Hand, Note, Outlet, Reply, Resumed, RowSink, SinkError, Stored, Totals};
use crate::load::LoadId;
use crate::rows::Batch;
use crate::target::{self, Target, TopicRule};

const HEADER_LOAD: &str = "offloop-load";
const HEADER_ROW: &str = "offloop-row";
const HEADER_OFFSET: &str = "offloop-offset";

/// Batches of a load that wait for their reports.
const WIDTH: usize = 4;

/// One topic, and the producer of all loads into it.
#[derive(Debug)]
pub struct KafkaOutlet {
    place: Arc<Place>,
}

/// A target that is not a topic.
#[derive(Debug, thiserror::Error)]
pub enum KafkaOutletError {
    #[error("target `{0}` has another sink than kafka")]
    Sink(String),
    #[error("the notes of loads cannot be kept in {folder}")]
    Notes {
        folder: PathBuf,
        #[source]
        cause: io::Error,
    },
}

impl KafkaOutlet {
    /// For `target`, with the notes of its loads in `folder`, which is made. Asks nobody yet.
    pub fn new(
        target: &Target,
        settings: &KafkaSettings,
        folder: impl Into<PathBuf>,
    ) -> Result<Self, KafkaOutletError> {
        let target::Sink::Kafka { topic, rule } = target.sink() else {
            return Err(KafkaOutletError::Sink(target.name().to_owned()));
        };
        let folder: PathBuf = folder.into();
        let kept = |cause| KafkaOutletError::Notes {
            folder: folder.clone(),
            cause,
        };
        std::fs::create_dir_all(&folder).map_err(kept)?;
        notes::prune(&folder).map_err(kept)?;
        let hand = Hand::new("ingest-kafka", ()).map_err(kept)?;
        Ok(Self {
            place: Arc::new(Place {
                target: target.name().to_owned(),
                topic: topic.to_string(),
                rule: Arc::clone(rule),
                has_key: target.key().is_some(),
                settings: settings.clone(),
                encoder: Encoder {
                    value: rule.value,
                    json: JsonRows::new(target.columns()),
                },
                folder,
                hand,
                wires: tokio::sync::Mutex::default(),
                runs: Mutex::default(),
            }),
        })
    }
}

impl Outlet for KafkaOutlet {
    fn sink(&self, load: &LoadId) -> Arc<dyn RowSink> {
        Arc::new(KafkaSink {
            place: Arc::clone(&self.place),
            load: load.clone(),
            turns: Turns::default(),
            run: Arc::default(),
        })
    }

    fn check(&self) -> Reply<'_, ()> {
        Box::pin(async {
            let place = &self.place;
            let found = looked(&place.settings, &place.topic, place.rule.create).await?;
            place.fits(found)
        })
    }
}

/// What the loads into one topic share.
#[derive(Debug)]
struct Place {
    target: String,
    topic: String,
    rule: Arc<TopicRule>,
    has_key: bool,
    settings: KafkaSettings,
    encoder: Encoder,
    folder: PathBuf,
    /// Writes notes.
    hand: Hand<()>,
    wires: tokio::sync::Mutex<Wires>,
    runs: Mutex<HashMap<LoadId, Weak<Run>>>,
}

#[derive(Debug, Default)]
struct Wires {
    now: Option<Arc<Wire>>,
    careful: Option<Arc<Wire>>,
    opened: u64,
}

/// One run of a load. The next one takes its notes away, and so its right to write.
#[derive(Debug, Default)]
struct Run {
    notes: Mutex<Option<Notes>>,
    /// Locked while dead letters are under way.
    dead: tokio::sync::Mutex<Sent>,
}

impl Run {
    fn notes(&self) -> MutexGuard<'_, Option<Notes>> {
        self.notes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Place {
    /// `None`: it is to be made.
    fn fits(&self, topic: Option<Topic>) -> Result<(), SinkError> {
        if topic.is_some_and(|topic| topic.needs_key) && !self.has_key {
            return Err(SinkError::Place {
                problem: format!(
                    "topic `{}` is compacted, which takes no message without a key; declare a key column",
                    self.topic
                ),
            });
        }
        Ok(())
    }

    /// The producer of all loads; a new one if there is none, or it broke.
    async fn wire(&self) -> Result<Arc<Wire>, SinkError> {
        let mut wires = self.wires.lock().await;
        if let Some(wire) = wires.now.as_ref().filter(|wire| !wire.is_broken()) {
            return Ok(Arc::clone(wire));
        }
        wires.now = None;
        // What the topic takes may be why the last one broke.
        let topic = ready(&self.settings, &self.topic, self.rule.create).await?;
        self.fits(Some(topic))?;
        wires.opened += 1;
        let config = self.settings.producer(topic.message_bytes_max);
        let wire = Wire::open(
            &config,
            &self.settings,
            topic.message_bytes_max,
            wires.opened,
        );
        let wire = wire.map_err(|cause| unreachable(self.settings.brokers(), cause))?;
        let wire = Arc::new(wire);
        wires.now = Some(Arc::clone(&wire));
        Ok(wire)
    }

    /// A producer that sends each message by itself.
    async fn careful_wire(&self) -> Result<Arc<Wire>, SinkError> {
        let mut wires = self.wires.lock().await;
        if let Some(wire) = wires.careful.as_ref().filter(|wire| !wire.is_broken()) {
            return Ok(Arc::clone(wire));
        }
        let config = self.settings.careful_producer();
        let wire = Wire::open(&config, &self.settings, usize::MAX, 0);
        let wire = wire.map_err(|cause| unreachable(self.settings.brokers(), cause))?;
        let wire = Arc::new(wire);
        wires.careful = Some(Arc::clone(&wire));
        Ok(wire)
    }

    fn silent(&self, wire: &Wire) -> SinkError {
        let complaint = match wire.complaint() {
            none if none.is_empty() => "it answers nothing".to_owned(),
            complaint => complaint,
        };
        unreachable(self.settings.brokers(), complaint)
    }

    fn runs(&self) -> MutexGuard<'_, HashMap<LoadId, Weak<Run>>> {
        self.runs.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One load's way.
#[derive(Debug)]
struct KafkaSink {
    place: Arc<Place>,
    load: LoadId,
    turns: Turns,
    run: Arc<Run>,
}

impl KafkaSink {
    /// Takes the load away from an earlier run of it.
    async fn take_over(&self) -> Result<Resumed, SinkError> {
        let earlier = {
            let mut runs = self.place.runs();
            runs.retain(|_, run| run.strong_count() > 0);
            let earlier = runs.insert(self.load.clone(), Arc::downgrade(&self.run));
            earlier.and_then(|run| run.upgrade())
        };
        if let Some(earlier) = earlier {
            drop(earlier.notes().take());
            // Its dead letters that are under way arrive before it is asked which are there.
            drop(earlier.dead.lock().await);
        }
        let (folder, load) = (self.place.folder.clone(), self.load.clone());
        let topic = self.place.topic.clone();
        let found = self
            .place
            .hand
            .ask(move |()| Notes::open(&folder, &load, &topic));
        let found = match found.await.map_err(|_| SinkError::Ended)? {
            Ok(found) => found,
            Err(NotesError::Io(cause)) => return Err(self.file(cause)),
            Err(NotesError::Locked) => {
                return Err(SinkError::Place {
                    problem: format!("the load `{}` is being run by another process", self.load),
                });
            }
            Err(NotesError::Topic(was)) => {
                return Err(SinkError::Place {
                    problem: format!(
                        "the load `{}` went to topic `{was}`; give this one another name",
                        self.load
                    ),
                });
            }
        };
        *self.run.dead.lock().await = Sent::since(found.dead);
        *self.run.notes() = Some(found.notes);
        Ok(found.resumed)
    }

    /// Writes to the notes, on their thread.
    async fn write(
        &self,
        deed: impl FnOnce(&mut Notes) -> io::Result<()> + Send + 'static,
    ) -> Result<(), SinkError> {
        let run = Arc::clone(&self.run);
        let done = self
            .place
            .hand
            .ask(move |()| run.notes().as_mut().map(deed));
        match done.await.map_err(|_| SinkError::Ended)? {
            None => Err(SinkError::TakenOver),
            Some(done) => done.map_err(|cause| self.file(cause)),
        }
    }

    async fn note(&self, note: Note) -> Result<(), SinkError> {
        self.write(move |notes| notes.note(note)).await
    }

    /// Sends refused rows to the topic of dead letters.
    async fn bury(&self, batch: &Batch, refused: &[(u32, String)]) -> Result<(), SinkError> {
        let letter = |(at, reason): &(u32, String)| self.letter(batch, *at, reason);
        let letters: Vec<_> = refused.iter().map(letter).collect();
        let office = Office {
            settings: self.place.settings.clone(),
            topic: self.place.rule.dead_letters.clone(),
            target: self.place.target.clone(),
            load: self.load.to_string(),
        };
        let first = self.run.dead.lock().await.from.is_none();
        if first {
            let ends = office.open().await?;
            let noted = ends.clone();
            self.write(move |notes| notes.dead(noted)).await?;
            self.run.dead.lock().await.from = Some(ends);
        }
        let wire = self.place.careful_wire().await?;
        let run = Arc::clone(&self.run);
        // By itself: a load that is dropped leaves none of them half sent.
        let sending = tokio::spawn(async move {
            let mut sent = run.dead.lock().await;
            office.send(&wire, &mut sent, letters).await
        });
        sending.await.unwrap_or(Err(SinkError::Ended))
    }

    fn file(&self, cause: io::Error) -> SinkError {
        SinkError::File {
            place: notes_name(&self.place.folder, &self.load),
            cause,
        }
    }
}

fn notes_name(folder: &Path, load: &LoadId) -> String {
    format!("the notes of the load `{load}` in {}", folder.display())
}

impl RowSink for KafkaSink {
    fn width(&self) -> usize {
        WIDTH
    }

    fn resume(&self) -> Reply<'_, Resumed> {
        Box::pin(async {
            let resumed = self.take_over().await?;
            if resumed.finished.is_none() {
                self.place.wire().await?;
            }
            Ok(resumed)
        })
    }

    fn store(&self, batch: Arc<Batch>, note: BatchNote) -> Reply<'_, Stored> {
        Box::pin(self.store_batch(batch, note))
    }

    fn finish(&self, totals: Totals) -> Reply<'_, ()> {
        Box::pin(async move {
            let topic = self.place.topic.clone();
            self.write(move |notes| notes.finish(&topic, totals)).await
        })
    }
}
