//! What was written, key by key. Nothing is checked here but the shape.

use std::collections::BTreeMap;
use std::path::PathBuf;

use anyhow::bail;
use serde::Deserialize;

use super::Flags;
use super::fetch::RawFetch;
use super::ingest::RawIngest;
use super::webhooks::{RawWebhook, RawWebhooks};
use offloop::units::{Size, Span};

/// The whole file. Every key is optional.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct RawConfig {
    #[serde(default)]
    pub(crate) server: RawServer,
    #[serde(default)]
    pub(crate) store: RawStore,
    #[serde(default)]
    pub(crate) retention: RawRetention,
    #[serde(default)]
    pub(crate) shutdown: RawShutdown,
    #[serde(default)]
    pub(crate) pulse: RawPulse,
    #[serde(default)]
    pub(crate) lanes: RawLanes,
    #[serde(default)]
    pub(crate) tasks: BTreeMap<String, RawTask>,
    /// By target: `queue:mail`, `key:*`.
    #[serde(default)]
    pub(crate) limits: BTreeMap<String, RawLimit>,
    /// Fields as the body of `PUT /v1/schedules/{name}` has them: read by its reader.
    #[serde(default)]
    pub(crate) schedules: BTreeMap<String, toml::Table>,
    #[serde(default)]
    pub(crate) admission: RawAdmission,
    #[serde(default)]
    pub(crate) packs: RawPacks,
    #[serde(default)]
    pub(crate) ingest: RawIngest,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct RawServer {
    pub(crate) data: Option<PathBuf>,
    pub(crate) listen: Option<String>,
    pub(crate) token: Option<String>,
    pub(crate) token_file: Option<PathBuf>,
    pub(crate) threads: Option<u16>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct RawStore {
    pub(crate) url: Option<String>,
    pub(crate) queue_jobs_max: Option<u64>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct RawRetention {
    pub(crate) completed: Option<Span>,
    pub(crate) others: Option<Span>,
    pub(crate) jobs_max: Option<u64>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct RawShutdown {
    pub(crate) drain: Option<Span>,
    pub(crate) stop: Option<Span>,
}

/// How the server's event loops are watched.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct RawPulse {
    pub(crate) enabled: Option<bool>,
    pub(crate) every: Option<Span>,
    pub(crate) block_after: Option<Span>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct RawLanes {
    #[serde(default)]
    pub(crate) cpu: RawCpu,
    #[serde(default)]
    pub(crate) process: RawProcess,
    #[serde(default)]
    pub(crate) calls: RawCpu,
}

/// Of every `process` and `exec` lane.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct RawProcess {
    pub(crate) cgroups: Option<bool>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct RawCpu {
    pub(crate) threads: Option<u16>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct RawTask {
    pub(crate) lane: String,
    #[serde(default)]
    pub(crate) command: Vec<String>,
    #[serde(default)]
    pub(crate) about: String,
    pub(crate) processes: Option<u16>,
    pub(crate) timeout: Option<Span>,
    pub(crate) grace: Option<Span>,
    pub(crate) webhook: Option<RawWebhook>,
    /// A key of the vault: what its jobs work on is kept in sealed form.
    pub(crate) encrypt: Option<String>,
    /// Of `lane = "remote"`.
    pub(crate) lease: Option<Span>,
    pub(crate) cwd: Option<PathBuf>,
    #[serde(default)]
    pub(crate) env: BTreeMap<String, String>,
    #[serde(default)]
    pub(crate) args_from_payload: bool,
    pub(crate) memory_limit: Option<Size>,
    pub(crate) cpu_limit: Option<Span>,
    pub(crate) stall_timeout: Option<Span>,
    pub(crate) start_timeout: Option<Span>,
    pub(crate) on_memory_limit: Option<RawOnMemoryLimit>,
    pub(crate) output_limit: Option<Size>,
    pub(crate) file_limit: Option<u32>,
    pub(crate) process_limit: Option<u32>,
    pub(crate) data_limit: Option<Size>,
    pub(crate) recycle: Option<RawRecycle>,
    #[serde(default)]
    pub(crate) spare: bool,
    pub(crate) protocol: Option<String>,
    pub(crate) sandbox: Option<RawSandbox>,
    pub(crate) calls: Option<RawCalls>,
    #[serde(default)]
    pub(crate) redact: Vec<String>,
    pub(crate) max_queued: Option<u64>,
    pub(crate) max_wait: Option<Span>,
    pub(crate) max_snoozes: Option<u16>,
    pub(crate) keep: Option<Span>,
    pub(crate) schema: Option<PathBuf>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct RawLimit {
    pub(crate) concurrency: Option<u32>,
    pub(crate) rate: Option<String>,
    pub(crate) burst: Option<u32>,
    pub(crate) weight: Option<u16>,
}

/// What jobs that ask for cores or memory may take together.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct RawAdmission {
    pub(crate) cores: Option<u32>,
    pub(crate) memory: Option<Size>,
}

/// Executors for `POST /v1/call/TASK`.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct RawCalls {
    pub(crate) processes: Option<u16>,
    pub(crate) timeout: Option<Span>,
    pub(crate) max_wait: Option<Span>,
    pub(crate) line: Option<u32>,
    #[serde(default)]
    pub(crate) single_flight: bool,
    pub(crate) grace: Option<Span>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct RawOnMemoryLimit {
    pub(crate) retry_with: Size,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct RawRecycle {
    pub(crate) jobs: Option<u32>,
    pub(crate) age: Option<Span>,
    pub(crate) memory: Option<Size>,
}

/// What is not named here is as it would be without a sandbox.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct RawSandbox {
    pub(crate) network: Option<bool>,
    #[serde(default)]
    pub(crate) read_only: bool,
    #[serde(default)]
    pub(crate) writable: Vec<PathBuf>,
    #[serde(default)]
    pub(crate) hidden: Vec<PathBuf>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct RawPacks {
    #[serde(default)]
    pub(crate) photos: RawPhotos,
    #[serde(default)]
    pub(crate) vault: RawVault,
    #[serde(default)]
    pub(crate) webhooks: RawWebhooks,
    #[serde(default)]
    pub(crate) fetch: RawFetch,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct RawPhotos {
    pub(crate) enabled: Option<bool>,
    pub(crate) concurrency: Option<u16>,
    pub(crate) converter: Option<String>,
    pub(crate) memory: Option<Size>,
    pub(crate) timeout: Option<Span>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct RawVault {
    pub(crate) enabled: Option<bool>,
    pub(crate) keys: Option<PathBuf>,
    pub(crate) memory: Option<Size>,
    pub(crate) threads: Option<u16>,
}

impl RawConfig {
    /// `OFFLOOP_DATA`, `OFFLOOP_LISTEN`, `OFFLOOP_TOKEN` ... An unknown one is refused, so that a
    /// typing error does not pass in silence.
    pub(crate) fn overlay_environment(
        &mut self,
        environment: &BTreeMap<String, String>,
    ) -> anyhow::Result<()> {
        for (key, value) in environment {
            let number = || {
                value.parse::<u16>().map_err(|_| {
                    anyhow::anyhow!("OFFLOOP_{key} is {value:?}; give a number from 1 to 4096")
                })
            };
            match key.as_str() {
                "DATA" => self.server.data = Some(value.into()),
                "LISTEN" => self.server.listen = Some(value.clone()),
                "TOKEN" => self.server.token = Some(value.clone()),
                "TOKEN_FILE" => self.server.token_file = Some(value.into()),
                "STORE" => self.store.url = Some(value.clone()),
                "CPU_THREADS" => self.lanes.cpu.threads = Some(number()?),
                "PHOTOS_CONCURRENCY" => self.packs.photos.concurrency = Some(number()?),
                "PHOTOS_CONVERTER" => self.packs.photos.converter = Some(value.clone()),
                "VAULT_KEYS" => self.packs.vault.keys = Some(std::path::absolute(value)?),
                // Read elsewhere: by commands that talk to a server, by the logger, and by tasks.
                "CONFIG" | "SERVER" | "LOG" | "EXECUTOR" => {}
                other if other.starts_with("JOB_") || other.starts_with("TEST_") => {}
                _ => bail!(
                    "OFFLOOP_{key} is not a setting; known are OFFLOOP_DATA, _LISTEN, _TOKEN, _TOKEN_FILE, _STORE, _CONFIG, _SERVER, _LOG, _CPU_THREADS, _PHOTOS_CONCURRENCY, _PHOTOS_CONVERTER, _VAULT_KEYS"
                ),
            }
        }
        Ok(())
    }

    pub(crate) fn overlay_flags(&mut self, flags: &Flags) {
        if flags.data.is_some() {
            self.server.data.clone_from(&flags.data);
        }
        if flags.listen.is_some() {
            self.server.listen.clone_from(&flags.listen);
        }
        if flags.store.is_some() {
            self.store.url.clone_from(&flags.store);
        }
    }
}
