//! What is meant: every value in its range, or every problem at once.

use std::fmt;
use std::net::{SocketAddr, ToSocketAddrs};
use std::path::{Path, PathBuf};
use std::time::Duration;

use offloop::lane_process::Cgroups;
use offloop::pulse::PulseConfig;
use offloop::{Limit, LimitTarget, RuntimeConfig, ScheduleName, ScheduleSpec, ShutdownPlan};
use offloop_fetch::FetchOptions;
use offloop_ingest::IngestOptions;

use super::fetch::fetch;
use super::ingest::ingest;
use super::limits::limits;
use super::raw::{RawAdmission, RawConfig, RawPhotos, RawPulse, RawRetention, RawServer, RawVault};
use super::schedules::schedule;
use super::tasks::{TaskConfig, task};
use super::webhooks::{self, WebhooksConfig};
use offloop::units::{Size, Span};

/// One thing to change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Problem {
    /// As in the file: `tasks.report.lane`.
    pub(crate) key: String,
    pub(crate) message: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.key, self.message)
    }
}

/// The server as it will be. Only [`RawConfig::resolve`] builds one.
#[derive(Debug)]
pub(crate) struct Config {
    pub(crate) data: PathBuf,
    pub(crate) listen: SocketAddr,
    pub(crate) token: Option<String>,
    /// Threads of the doors' runtime.
    pub(crate) door_threads: u16,
    pub(crate) queue_jobs_max: Option<u64>,
    pub(crate) cpu_threads: Option<u16>,
    pub(crate) call_threads: Option<u16>,
    pub(crate) cgroups: Cgroups,
    pub(crate) runtime: RuntimeConfig,
    pub(crate) shutdown: ShutdownPlan,
    /// `None`: nothing is watched.
    pub(crate) pulse: Option<PulseConfig>,
    pub(crate) tasks: Vec<TaskConfig>,
    pub(crate) limits: Vec<(LimitTarget, Limit)>,
    pub(crate) schedules: Vec<(ScheduleName, ScheduleSpec)>,
    pub(crate) photos: Option<PhotosConfig>,
    pub(crate) vault: Option<VaultConfig>,
    pub(crate) webhooks: Option<WebhooksConfig>,
    pub(crate) fetch: Option<FetchOptions>,
    pub(crate) ingest: Option<IngestOptions>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Converter {
    Builtin,
    Magick,
}

#[derive(Clone, Copy, Debug)]
pub(crate) struct PhotosConfig {
    pub(crate) concurrency: Option<u16>,
    pub(crate) converter: Converter,
    pub(crate) memory_bytes: Option<u64>,
    pub(crate) timeout: Option<Duration>,
}

#[derive(Clone, Debug)]
pub(crate) struct VaultConfig {
    /// `None`: passwords only.
    pub(crate) keys: Option<PathBuf>,
    pub(crate) memory_bytes: Option<u64>,
    pub(crate) threads: Option<u16>,
}

/// One hash with the default parameters takes 19 MiB.
const VAULT_MEMORY_MIN: u64 = 32 << 20;
const DATA_DEFAULT: &str = "offloop-data";
const LISTEN_DEFAULT: &str = "127.0.0.1:7878";
const TOKEN_BYTES_MIN: usize = 16;
const SLOTS_MAX: u16 = 4_096;

pub(super) struct Problems(Vec<Problem>);

impl Problems {
    pub(super) fn say(&mut self, key: impl Into<String>, message: impl Into<String>) {
        self.0.push(Problem {
            key: key.into(),
            message: message.into(),
        });
    }

    pub(super) fn slots(&mut self, key: &str, value: Option<u16>) -> Option<u16> {
        if value.is_some_and(|value| value == 0 || value > SLOTS_MAX) {
            self.say(key, format!("give 1 to {SLOTS_MAX}"));
        }
        value
    }

    pub(super) fn span(&mut self, key: impl Into<String>, value: Option<Span>) -> Option<Duration> {
        let span = value.map(|Span(span)| span);
        if span.is_some_and(|span| span.is_zero()) {
            self.say(key, "is zero; give a duration such as \"30s\"");
        }
        span
    }
}

impl RawConfig {
    /// `folder`: of the file, which relative paths in it start from.
    pub(crate) fn resolve(self, folder: &Path) -> Result<Config, Vec<Problem>> {
        let mut problems = Problems(Vec::new());
        let listen = listen(&self.server, &mut problems);
        let token = token(&self.server, folder, &mut problems);
        if let Some(url) = self.store.url.as_deref()
            && url != "sqlite"
        {
            problems.say(
                "store.url",
                format!("is {url:?}; this version keeps jobs in `sqlite` only"),
            );
        }
        if self.store.queue_jobs_max == Some(0) {
            problems.say("store.queue_jobs_max", "is 0; give at least 1");
        }
        if self.admission.cores == Some(0) {
            problems.say("admission.cores", "is 0; give at least 1");
        }
        let runtime = runtime(&self.retention, &self.admission, &mut problems);
        let plan = ShutdownPlan::default();
        let shutdown = ShutdownPlan {
            drain: self.shutdown.drain.map_or(plan.drain, |Span(span)| span),
            stop: self.shutdown.stop.map_or(plan.stop, |Span(span)| span),
        };
        let tasks = self.tasks.into_iter();
        let tasks: Vec<_> = tasks
            .filter_map(|(name, raw)| task(&name, raw, folder, &mut problems))
            .collect();
        let limits = limits(self.limits, &mut problems);
        let schedules = self.schedules.into_iter();
        let schedules = schedules
            .filter_map(|(name, raw)| schedule(&name, raw, &mut problems))
            .collect();
        let photos = photos(&self.packs.photos, &mut problems);
        let pulse = pulse(&self.pulse, &mut problems);
        let vault = vault(&self.packs.vault, folder, &mut problems);
        let told = tasks.iter().filter_map(|task: &TaskConfig| {
            let webhook = task.webhook.clone()?;
            Some((task.name.clone(), webhook))
        });
        let told = told.collect();
        let webhooks = webhooks::webhooks(&self.packs.webhooks, told, folder, &mut problems);
        let config = Config {
            data: self.server.data.unwrap_or_else(|| DATA_DEFAULT.into()),
            listen,
            token,
            door_threads: problems
                .slots("server.threads", self.server.threads)
                .unwrap_or(2),
            queue_jobs_max: self.store.queue_jobs_max,
            cgroups: match self.lanes.process.cgroups {
                None => Cgroups::Auto,
                Some(true) => Cgroups::Always,
                Some(false) => Cgroups::Never,
            },
            cpu_threads: problems.slots("lanes.cpu.threads", self.lanes.cpu.threads),
            call_threads: problems.slots("lanes.calls.threads", self.lanes.calls.threads),
            runtime,
            shutdown,
            pulse,
            tasks,
            limits,
            schedules,
            photos,
            vault,
            webhooks,
            fetch: fetch(&self.packs.fetch, folder, &mut problems),
            ingest: ingest(&self.ingest, folder, &mut problems),
        };
        if problems.0.is_empty() {
            Ok(config)
        } else {
            Err(problems.0)
        }
    }
}

fn runtime(
    retention: &RawRetention,
    admission: &RawAdmission,
    problems: &mut Problems,
) -> RuntimeConfig {
    let defaults = RuntimeConfig::default();
    RuntimeConfig {
        completed_for: problems
            .span("retention.completed", retention.completed)
            .unwrap_or(defaults.completed_for),
        others_for: problems
            .span("retention.others", retention.others)
            .unwrap_or(defaults.others_for),
        finished_max: retention.jobs_max.unwrap_or(defaults.finished_max),
        admission_cores: admission.cores,
        admission_memory_bytes: admission.memory.map(|Size(bytes)| bytes),
        ..defaults
    }
}

fn listen(server: &RawServer, problems: &mut Problems) -> SocketAddr {
    let text = server.listen.as_deref().unwrap_or(LISTEN_DEFAULT);
    let mut found = text.to_socket_addrs().ok().into_iter().flatten();
    found.next().unwrap_or_else(|| {
        problems.say(
            "server.listen",
            format!("{text:?} is no address; give one such as \"{LISTEN_DEFAULT}\""),
        );
        SocketAddr::from(([127, 0, 0, 1], 0))
    })
}

fn token(server: &RawServer, folder: &Path, problems: &mut Problems) -> Option<String> {
    let token = match (&server.token, &server.token_file) {
        (Some(_), Some(_)) => {
            problems.say(
                "server.token",
                "is given beside token_file; keep one of them",
            );
            return None;
        }
        (Some(token), None) => token.clone(),
        (None, Some(file)) => match std::fs::read_to_string(folder.join(file)) {
            Ok(text) => text.trim().to_owned(),
            Err(error) => {
                problems.say(
                    "server.token_file",
                    format!("cannot read {}: {error}", file.display()),
                );
                return None;
            }
        },
        (None, None) => return None,
    };
    if token.len() < TOKEN_BYTES_MIN || !token.bytes().all(|b| b.is_ascii_graphic()) {
        problems.say(
            "server.token",
            format!("give at least {TOKEN_BYTES_MIN} printable characters without spaces, such as the output of `openssl rand -hex 24`"),
        );
    }
    Some(token)
}

fn pulse(raw: &RawPulse, problems: &mut Problems) -> Option<PulseConfig> {
    let defaults = PulseConfig::default();
    let mut within = |key: &str, value: Option<Span>, least: u64, most: u64, or| {
        let Some(Span(value)) = value else { return or };
        let range = Duration::from_millis(least)..=Duration::from_millis(most);
        if !range.contains(&value) {
            problems.say(key, format!("is {value:?}; give {least} to {most} ms"));
        }
        value
    };
    let config = PulseConfig {
        every: within("pulse.every", raw.every, 10, 50, defaults.every),
        block_after: within(
            "pulse.block_after",
            raw.block_after,
            10,
            10_000,
            defaults.block_after,
        ),
    };
    raw.enabled.unwrap_or(true).then_some(config)
}

fn photos(raw: &RawPhotos, problems: &mut Problems) -> Option<PhotosConfig> {
    let converter = match raw.converter.as_deref() {
        None | Some("builtin") => Converter::Builtin,
        Some("magick") => Converter::Magick,
        Some(other) => {
            problems.say(
                "packs.photos.converter",
                format!("is {other:?}; give \"builtin\" or \"magick\" (ImageMagick, one process per photo)"),
            );
            Converter::Builtin
        }
    };
    let photos = PhotosConfig {
        concurrency: problems.slots("packs.photos.concurrency", raw.concurrency),
        converter,
        memory_bytes: raw.memory.map(|Size(bytes)| bytes),
        timeout: problems.span("packs.photos.timeout", raw.timeout),
    };
    raw.enabled.unwrap_or(true).then_some(photos)
}

fn vault(raw: &RawVault, folder: &Path, problems: &mut Problems) -> Option<VaultConfig> {
    let memory_bytes = raw.memory.map(|Size(bytes)| bytes);
    if memory_bytes.is_some_and(|bytes| bytes < VAULT_MEMORY_MIN) {
        problems.say("packs.vault.memory", "give at least \"32MiB\"");
    }
    let vault = VaultConfig {
        keys: raw.keys.as_ref().map(|keys| folder.join(keys)),
        memory_bytes,
        threads: problems.slots("packs.vault.threads", raw.threads),
    };
    raw.enabled.unwrap_or(true).then_some(vault)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn resolve(text: &str) -> Result<Config, Vec<Problem>> {
        toml::from_str::<RawConfig>(text)
            .unwrap()
            .resolve(Path::new("/etc/offloop"))
    }

    #[test]
    fn nothing_written_means_the_documented_defaults() {
        let config = resolve("").unwrap();
        assert_eq!(config.listen.to_string(), LISTEN_DEFAULT);
        assert_eq!(config.data, Path::new(DATA_DEFAULT));
        assert!(config.token.is_none() && config.photos.is_some() && config.tasks.is_empty());
    }

    #[test]
    fn the_vault_works_without_a_word_and_finds_its_keys_beside_the_file() {
        let vault = resolve("").unwrap().vault.unwrap();
        assert!(vault.keys.is_none() && vault.memory_bytes.is_none());
        let text = "[packs.vault]\nkeys = \"keys\"\nmemory = \"64MiB\"";
        let vault = resolve(text).unwrap().vault.unwrap();
        assert_eq!(vault.keys.unwrap(), Path::new("/etc/offloop/keys"));
        assert_eq!(vault.memory_bytes, Some(64 << 20));
        let off = resolve("[packs.vault]\nenabled = false").unwrap();
        assert!(off.vault.is_none());
        let problems = resolve("[packs.vault]\nmemory = \"8MiB\"\nthreads = 0").unwrap_err();
        let keys: Vec<_> = problems
            .iter()
            .map(|problem| problem.key.as_str())
            .collect();
        assert_eq!(keys, ["packs.vault.memory", "packs.vault.threads"]);
    }

    #[test]
    fn every_problem_is_told_at_once_and_by_its_key() {
        let text = r#"
            [server]
            listen = "nowhere"
            token = "short"
            [lanes.cpu]
            threads = 0
            [tasks."bad name"]
            lane = "thread"
            command = []
            [tasks.ok]
            lane = "process"
            command = ["node", "x.mjs"]
            args_from_payload = true
            [packs.photos]
            converter = "gimp"
        "#;
        let problems = resolve(text).unwrap_err();
        let keys: Vec<_> = problems
            .iter()
            .map(|problem| problem.key.as_str())
            .collect();
        let want = [
            "server.listen",
            "server.token",
            "tasks.bad name",
            "tasks.bad name.lane",
            "tasks.bad name.command",
            "tasks.ok.args_from_payload",
            "packs.photos.converter",
            "lanes.cpu.threads",
        ];
        assert_eq!(keys, want);
    }

    #[test]
    fn a_task_is_read_as_the_readme_shows_it() {
        let text = r#"
            [tasks.report]
            lane = "process"
            command = ["node", "tasks/report.mjs"]
            processes = 2
            timeout = "30s"
            memory_limit = "300MiB"
        "#;
        let config = resolve(text).unwrap();
        let task = &config.tasks[0];
        assert_eq!(task.lane, crate::config::TaskLane::Process { processes: 2 });
        assert_eq!(task.timeout, Some(Duration::from_secs(30)));
        assert_eq!(task.memory_limit_bytes, Some(300 << 20));
        assert_eq!(task.cwd.as_deref(), Some(Path::new("/etc/offloop/")));
    }

    #[test]
    fn every_bound_of_an_executor_has_its_key() {
        let text = r#"
            [tasks.report]
            lane = "process"
            command = ["python3", "tasks/report.py"]
            memory_limit = "300MiB"
            on_memory_limit = { retry_with = "1GiB" }
            output_limit = "64MiB"
            file_limit = 64
            process_limit = 8
            start_timeout = "5s"
            recycle = { jobs = 1000, age = "1h", memory = "200MiB" }
            spare = true
            protocol = "json_lines"
            sandbox = { network = false, read_only = true, writable = ["out"], hidden = ["/srv/keys"] }
        "#;
        let config = resolve(text).unwrap();
        let task = &config.tasks[0];
        assert_eq!(task.memory_retry_bytes, Some(1 << 30));
        let budgets = (task.budgets.output_bytes, task.budgets.open_files);
        assert_eq!(budgets, (Some(64 << 20), 64));
        assert_eq!(task.budgets.processes, 8);
        assert_eq!(task.start_timeout, Some(Duration::from_secs(5)));
        let recycle = &task.recycle;
        assert_eq!(recycle.jobs, Some(1_000));
        assert_eq!(recycle.age, Some(Duration::from_secs(3_600)));
        assert_eq!(recycle.memory_bytes, Some(200 << 20));
        assert!(task.spare && task.wire == offloop::lane_process::Wire::Lines);
        let sandbox = &task.sandbox;
        assert!(sandbox.no_network && sandbox.read_only);
        assert_eq!(sandbox.writable, [Path::new("/etc/offloop/out")]);
        assert_eq!(sandbox.hidden, [Path::new("/srv/keys")]);
    }

    #[test]
    fn executors_for_calls_are_declared_beside_those_for_jobs() {
        let text = r#"
            [lanes.calls]
            threads = 3
            [tasks.sign]
            lane = "process"
            command = ["node", "sign.mjs"]
            calls = { processes = 2, max_wait = "200ms", line = 50, single_flight = true, timeout = "2s" }
            redact = ["payload", "log"]
            max_queued = 100
            max_wait = "5min"
        "#;
        let config = resolve(text).unwrap();
        assert_eq!(config.call_threads, Some(3));
        let calls = config.tasks[0].calls.unwrap();
        assert_eq!((calls.processes, calls.settings.line), (2, 50));
        assert_eq!(calls.settings.max_wait, Duration::from_millis(200));
        assert!(calls.settings.single_flight);
        let task = &config.tasks[0];
        assert!(task.redact.payload && task.redact.log && !task.redact.result);
        assert_eq!(task.max_queued, Some(100));
        assert_eq!(task.max_wait, Some(Duration::from_secs(300)));
        let bad = r#"
            [tasks.sign]
            lane = "process"
            command = ["node", "sign.mjs"]
            calls = { processes = 0, timeout = "1h", line = 0, max_wait = "0s" }
            redact = ["payload", "name"]
            max_queued = 0
            max_wait = "0s"
        "#;
        assert_eq!(resolve(bad).unwrap_err().len(), 7);
    }

    #[test]
    fn bounds_that_cannot_be_are_all_told_at_once() {
        let text = r#"
            [tasks.a]
            lane = "exec"
            command = ["true"]
            memory_limit = "1GiB"
            on_memory_limit = { retry_with = "1GiB" }
            output_limit = 0
            file_limit = 3
            process_limit = 0
            recycle = { jobs = 0 }
            spare = true
            protocol = "telepathy"
            sandbox = { writable = ["out"] }
        "#;
        let mut keys: Vec<_> = resolve(text)
            .unwrap_err()
            .into_iter()
            .map(|problem| problem.key.replace("tasks.a.", ""))
            .collect();
        keys.sort();
        keys.dedup();
        let want = [
            "file_limit",
            "on_memory_limit.retry_with",
            "output_limit",
            "process_limit",
            "protocol",
            "recycle",
            "recycle.jobs",
            "sandbox.writable",
            "spare",
        ];
        assert_eq!(keys, want);
    }

    #[test]
    fn a_pulse_that_would_wake_loops_too_often_or_too_late_is_refused() {
        let text = r#"
            [pulse]
            every = "1ms"
            block_after = "1min"
        "#;
        let problems = resolve(text).unwrap_err();
        let keys: Vec<_> = problems.iter().map(|problem| &*problem.key).collect();
        assert_eq!(keys, ["pulse.every", "pulse.block_after"]);
        assert_eq!(resolve("").unwrap().pulse, Some(PulseConfig::default()));
        let off = resolve("[pulse]\nenabled = false").unwrap();
        assert!(off.pulse.is_none());
        let set = resolve("[pulse]\nevery = \"50ms\"\nblock_after = \"100ms\"").unwrap();
        let set = set.pulse.unwrap();
        assert_eq!(set.every, Duration::from_millis(50));
        assert_eq!(set.block_after, Duration::from_millis(100));
    }

    #[test]
    fn an_unknown_key_is_refused_by_name() {
        let error = toml::from_str::<RawConfig>("[server]\nport = 1").unwrap_err();
        assert!(
            error.to_string().contains("unknown field `port`"),
            "{error}"
        );
        let error =
            toml::from_str::<RawConfig>("[tasks.x]\nlane='exec'\ncommand=['a']\ntimeout=30");
        assert!(
            error
                .unwrap_err()
                .to_string()
                .contains("a duration with its unit")
        );
    }
}
