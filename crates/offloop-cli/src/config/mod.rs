//! Configuration in two stages: what was written (raw, unknown keys refused), then what is meant
//! (resolved, every problem reported at once).
//!
//! Defaults -> `offloop.toml` -> `OFFLOOP_*` -> flags; the later wins.

mod consumers;
mod fetch;
mod ingest;
mod limits;
mod raw;
mod resolve;
mod schedules;
mod tasks;
mod webhooks;

pub(crate) use fetch::authorities;
pub(crate) use raw::RawConfig;
pub(crate) use resolve::{Config, Converter};
pub(crate) use tasks::{CallsConfig, TaskConfig, TaskLane};
pub(crate) use webhooks::WebhooksConfig;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};

/// Read if it is there and no other file is named.
const FILE_DEFAULT: &str = "offloop.toml";

/// What the command line says about the server.
#[derive(Clone, Debug, Default, clap::Args)]
pub(crate) struct Flags {
    /// Folder for jobs, thumbnails and run files [default: ./offloop-data]
    #[arg(long, value_name = "DIR")]
    pub(crate) data: Option<PathBuf>,
    /// Address to listen on; other than loopback needs a token [default: 127.0.0.1:7878]
    #[arg(long, value_name = "ADDR")]
    pub(crate) listen: Option<String>,
    /// Configuration file [default: offloop.toml, if it is there]
    #[arg(long, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
    /// Where jobs are kept: `sqlite` (in the data folder) [default: sqlite]
    #[arg(long, value_name = "URL")]
    pub(crate) store: Option<String>,
}

/// The file that is read, if there is one.
pub(crate) fn file(flags: &Flags) -> Option<PathBuf> {
    let named = flags.config.clone();
    let named = named.or_else(|| from_environment("CONFIG").map(PathBuf::from));
    named.or_else(|| Some(PathBuf::from(FILE_DEFAULT)).filter(|file| file.exists()))
}

/// Reads the file and the environment, and says everything that is wrong with them.
pub(crate) fn load(flags: &Flags) -> anyhow::Result<Config> {
    let environment = environment();
    let file = file(flags);
    let mut raw = match &file {
        Some(file) => read(file)?,
        None => RawConfig::default(),
    };
    raw.overlay_environment(&environment)?;
    raw.overlay_flags(flags);
    let folder = file.as_deref().and_then(Path::parent);
    let folder = folder
        .filter(|folder| !folder.as_os_str().is_empty())
        .unwrap_or(Path::new("."));
    raw.resolve(folder).map_err(|problems| {
        let place = file
            .as_ref()
            .map_or("the configuration".into(), |f| f.display().to_string());
        let lines: Vec<_> = problems
            .iter()
            .map(|problem| format!("  - {problem}"))
            .collect();
        anyhow::anyhow!("{place} cannot be used:\n{}", lines.join("\n"))
    })
}

fn read(file: &Path) -> anyhow::Result<RawConfig> {
    let text = std::fs::read_to_string(file)
        .with_context(|| format!("cannot read the configuration file {}", file.display()))?;
    match toml::from_str(&text) {
        Ok(raw) => Ok(raw),
        Err(error) => bail!("{} cannot be used:\n{error}", file.display()),
    }
}

/// `OFFLOOP_*` without the prefix: the one place where the environment is read.
fn environment() -> BTreeMap<String, String> {
    std::env::vars()
        .filter_map(|(key, value)| Some((key.strip_prefix("OFFLOOP_")?.to_owned(), value)))
        .collect()
}

/// A variable that the configuration names, for what must not stand in a file.
fn variable(name: &str) -> Option<String> {
    std::env::vars().find_map(|(key, value)| (key == name).then_some(value))
}

/// One variable for commands that talk to a running server.
pub(crate) fn from_environment(key: &str) -> Option<String> {
    environment().remove(key)
}
