//! `[ingest]`: files of delimited text, and the targets that they go to.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

#[cfg(not(feature = "kafka"))]
use offloop_ingest::pack::WITHOUT_KAFKA;
use offloop_ingest::pack::{Address, RESERVED};
#[cfg(feature = "kafka")]
use offloop_ingest::sink::kafka::RawKafka;
use offloop_ingest::{IngestOptions, RawTarget, Sink, Target};
use serde::Deserialize;

use super::consumers::{RawConsumer, consumers};
use super::resolve::Problems;
use offloop::units::{Size, Span};

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct RawIngest {
    pub(crate) enabled: Option<bool>,
    /// The variable of the environment that holds the address of PostgreSQL.
    pub(crate) postgres_env: Option<String>,
    /// Or the file that does.
    pub(crate) postgres_file: Option<PathBuf>,
    pub(crate) memory: Option<Size>,
    pub(crate) loads: Option<u32>,
    pub(crate) tenant_loads: Option<u32>,
    pub(crate) idle: Option<Span>,
    pub(crate) upload_limit: Option<Size>,
    pub(crate) spool_limit: Option<Size>,
    pub(crate) spool_for: Option<Span>,
    pub(crate) parts_for: Option<Span>,
    pub(crate) jobs: Option<u16>,
    pub(crate) history: Option<u32>,
    #[cfg(feature = "kafka")]
    pub(crate) kafka: Option<RawKafka>,
    /// Understood where the program is built for it.
    #[cfg(not(feature = "kafka"))]
    pub(crate) kafka: Option<toml::Table>,
    #[serde(default)]
    pub(crate) consumers: BTreeMap<String, RawConsumer>,
    #[serde(default)]
    pub(crate) targets: BTreeMap<String, RawTarget>,
}

const MEMORY_MIN: u64 = 4 << 20;
const LOADS_MAX: u32 = 4_096;
const HISTORY_MAX: u32 = 10_000;
const IDLE_MAX: Duration = Duration::from_secs(3_600);

/// `None`: no target is declared.
pub(super) fn ingest(
    raw: &RawIngest,
    folder: &Path,
    problems: &mut Problems,
) -> Option<IngestOptions> {
    let mut targets = Vec::new();
    for (name, target) in &raw.targets {
        if RESERVED.contains(&name.as_str()) {
            problems.say(
                format!("ingest.targets.{name}"),
                format!("{} are no names of targets", RESERVED.join(", ")),
            );
        }
        match target.resolve(name) {
            Ok(target) => targets.push(target),
            Err(found) => {
                for problem in found {
                    problems.say(problem.field, problem.problem);
                }
            }
        }
    }
    let mut options = IngestOptions::new(targets, folder);
    let address = Secret {
        field: "ingest.postgres",
        what: "the address, such as postgres://user@host/database",
        env: raw.postgres_env.as_deref(),
        file: raw.postgres_file.as_deref(),
    };
    options.postgres = address
        .read(folder, problems)
        .map(|address| Address::new(address.trim()));
    let wants_postgres = |sink: &Sink| matches!(sink, Sink::Postgres { .. });
    let wanting = options.targets.iter();
    let mut wanting = wanting.filter(|target| wants_postgres(target.sink()));
    if let Some(target) = wanting.next()
        && raw.postgres_env.is_none()
        && raw.postgres_file.is_none()
    {
        problems.say(
            "ingest.postgres_env",
            format!(
                "target `{}` needs the address of PostgreSQL: name the variable that holds it, or give postgres_file",
                target.name()
            ),
        );
    }
    kafka(raw, folder, &mut options, problems);
    options.consumers = consumers(
        &raw.consumers,
        &options.targets,
        raw.kafka.is_some(),
        problems,
    );
    bounds(raw, &mut options, problems);
    let wanted = raw.enabled.unwrap_or(true) && !options.targets.is_empty();
    wanted.then_some(options)
}

/// The cluster, if the program can speak to one.
#[cfg(feature = "kafka")]
fn kafka(raw: &RawIngest, folder: &Path, options: &mut IngestOptions, problems: &mut Problems) {
    let settings = raw.kafka.as_ref().map(|raw| {
        let password = Secret {
            field: "ingest.kafka.password",
            what: "the password of the user",
            env: raw.password_env.as_deref(),
            file: raw.password_file.as_deref(),
        };
        raw.resolve(folder, password.read(folder, problems).as_deref())
    });
    match settings {
        None => {
            if let Some(name) = topic(options) {
                problems.say(
                    "ingest.kafka",
                    format!("target `{name}` needs it: say brokers = \"host:port\""),
                );
            }
        }
        Some(Ok(settings)) => options.kafka = Some(settings),
        Some(Err(found)) => {
            for problem in found {
                problems.say(problem.field, problem.problem);
            }
        }
    }
}

#[cfg(not(feature = "kafka"))]
fn kafka(raw: &RawIngest, _: &Path, options: &mut IngestOptions, problems: &mut Problems) {
    if let Some(name) = topic(options) {
        problems.say(format!("ingest.targets.{name}.sink"), WITHOUT_KAFKA);
    } else if raw.kafka.is_some() {
        problems.say("ingest.kafka", WITHOUT_KAFKA);
    }
}

/// The first target that is a topic.
fn topic(options: &IngestOptions) -> Option<&str> {
    let mut targets = options.targets.iter();
    let topic = targets.find(|target| matches!(target.sink(), Sink::Kafka { .. }));
    topic.map(Target::name)
}

fn bounds(raw: &RawIngest, options: &mut IngestOptions, problems: &mut Problems) {
    if let Some(Size(bytes)) = raw.memory {
        if bytes < MEMORY_MIN {
            problems.say("ingest.memory", "give at least \"4MiB\"");
        }
        options.memory_bytes = bytes;
    }
    if let Some(Size(bytes)) = raw.upload_limit {
        if bytes == 0 {
            problems.say("ingest.upload_limit", "is 0; give a size such as \"64GiB\"");
        }
        options.upload_bytes = bytes;
    }
    if let Some(Size(bytes)) = raw.spool_limit {
        options.spool_bytes = bytes;
    }
    if let Some(jobs) = problems.slots("ingest.jobs", raw.jobs) {
        options.jobs = jobs;
    }
    if let Some(span) = problems.span("ingest.spool_for", raw.spool_for) {
        options.spool_for = span;
    }
    if let Some(span) = problems.span("ingest.parts_for", raw.parts_for) {
        options.parts_for = span;
    }
    let mut count = |key: &str, value: Option<u32>, most: u32, to: &mut usize| {
        let Some(value) = value else { return };
        if value == 0 || value > most {
            problems.say(key, format!("give 1 to {most}"));
        }
        *to = value as usize;
    };
    count("ingest.loads", raw.loads, LOADS_MAX, &mut options.loads);
    let tenant = &mut options.tenant_loads;
    count("ingest.tenant_loads", raw.tenant_loads, LOADS_MAX, tenant);
    let history = &mut options.history;
    count("ingest.history", raw.history, HISTORY_MAX, history);
    if let Some(idle) = problems.span("ingest.idle", raw.idle) {
        if idle > IDLE_MAX {
            problems.say("ingest.idle", format!("give at most {IDLE_MAX:?}"));
        }
        options.idle = idle;
    }
}

/// What must not stand in the configuration: which variable holds it, or which file.
struct Secret<'a> {
    /// Its name before `_env` and `_file`.
    field: &'static str,
    what: &'static str,
    env: Option<&'a str>,
    file: Option<&'a Path>,
}

impl Secret<'_> {
    /// Read here, once; told to nobody.
    fn read(&self, folder: &Path, problems: &mut Problems) -> Option<String> {
        let Self {
            field,
            what,
            env,
            file,
        } = self;
        let (source, text, empty) = match (env, file) {
            (Some(_), Some(_)) => {
                problems.say(
                    format!("{field}_env"),
                    format!("is given beside {field}_file; keep one of them"),
                );
                return None;
            }
            (Some(name), None) => (
                "env",
                super::variable(name).unwrap_or_default(),
                format!("the environment has no {name:?}: set it to {what}"),
            ),
            (None, Some(file)) => match std::fs::read_to_string(folder.join(file)) {
                Ok(text) => (
                    "file",
                    text,
                    format!("{} is empty; write {what} into it", file.display()),
                ),
                Err(error) => {
                    problems.say(
                        format!("{field}_file"),
                        format!("cannot read {}: {error}", file.display()),
                    );
                    return None;
                }
            },
            (None, None) => return None,
        };
        // Files end in a line's end; a password may end in a space.
        let text = text.trim_end_matches(['\r', '\n']);
        if text.trim().is_empty() {
            problems.say(format!("{field}_{source}"), empty);
            return None;
        }
        Some(text.to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::RawConfig;

    fn resolve(text: &str) -> Result<Option<IngestOptions>, Vec<String>> {
        let raw: RawConfig = toml::from_str(text).unwrap();
        let config = raw.resolve(Path::new("/etc/offloop"));
        let told = |problems: Vec<_>| {
            let problems: Vec<super::super::resolve::Problem> = problems;
            problems.iter().map(ToString::to_string).collect()
        };
        config.map(|config| config.ingest).map_err(told)
    }

    const PEOPLE: &str = "[ingest.targets.people]\nsink = \"ndjson\"\npath = \"people.ndjson\"\ncolumns = [{ name = \"id\", type = \"int4\" }]\n";

    #[test]
    fn a_server_without_targets_has_no_door_for_loads() {
        assert!(resolve("").unwrap().is_none());
        assert!(resolve("[ingest]\nmemory = \"64MiB\"").unwrap().is_none());
        let text = format!("[ingest]\nmemory = \"64MiB\"\nidle = \"5s\"\nloads = 8\n{PEOPLE}");
        let options = resolve(&text).unwrap().unwrap();
        assert_eq!((options.memory_bytes, options.loads), (64 << 20, 8));
        assert_eq!(options.idle, Duration::from_secs(5));
        assert_eq!(options.targets[0].name(), "people");
        assert!(
            resolve(&format!("[ingest]\nenabled = false\n{PEOPLE}"))
                .unwrap()
                .is_none()
        );
    }

    #[test]
    fn every_problem_of_every_target_is_told_at_once_and_by_its_key() {
        let text = format!(
            "[ingest]\nmemory = 1\nloads = 0\nidle = \"2h\"\npostgres_env = \"OFFLOOP_NO_SUCH_VARIABLE\"\n{PEOPLE}\n[ingest.targets.loads]\nsink = \"nowhere\"\ncolumns = []\n"
        );
        let told = resolve(&text).unwrap_err().join("\n");
        for key in [
            "ingest.targets.loads:",
            "ingest.targets.loads.sink",
            "ingest.targets.loads.columns",
            "ingest.postgres_env",
            "ingest.memory",
            "ingest.loads",
            "ingest.idle",
        ] {
            assert!(told.contains(key), "{key}: {told}");
        }
    }

    #[test]
    fn the_address_of_a_database_is_in_no_message() {
        let folder = tempfile::tempdir().unwrap();
        let secret = "postgres://user:hunter2@db/x";
        std::fs::write(folder.path().join("pg"), secret).unwrap();
        let text = "[ingest]\npostgres_file = \"pg\"\n[ingest.targets.people]\nsink = \"postgres\"\ntable = \"people\"\ncolumns = [{ name = \"id\", type = \"int4\" }]\n";
        let raw: RawConfig = toml::from_str(text).unwrap();
        let options = raw.resolve(folder.path()).unwrap().ingest.unwrap();
        assert_eq!(options.postgres.as_ref().unwrap().as_str(), secret);
        assert!(!format!("{options:?}").contains("hunter2"));
        let without = text.replace("postgres_file = \"pg\"", "");
        let told = resolve(&without).unwrap_err().join("\n");
        assert!(told.contains("postgres_env"), "{told}");
    }

    #[test]
    #[cfg(not(feature = "kafka"))]
    fn a_build_without_kafka_says_how_to_get_one() {
        let topic = "[ingest.kafka]\nbrokers = \"localhost:9092\"\n[ingest.targets.people]\nsink = \"kafka\"\ntopic = \"people\"\ncolumns = [{ name = \"id\", type = \"int4\" }]\n";
        let told = resolve(topic).unwrap_err().join("\n");
        let says = ["ingest.targets.people.sink", "--features kafka"];
        assert!(says.iter().all(|says| told.contains(says)), "{told}");
    }
}
