//! `vault`: the key folder on this machine. A server that uses it sees a change within a second.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Context;
use offloop_vault::keys::folder;
use offloop_vault::keys::make::{self, Algorithm};
use offloop_vault::keys::{KeyName, KeySet};
use serde_json::{Value, json};

use crate::config::{self, Flags};

#[derive(clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    command: Command,
    /// Key folder [default: `keys` under [packs.vault] of the configuration]
    #[arg(long, value_name = "DIR", global = true)]
    folder: Option<PathBuf>,
    /// Configuration file [default: offloop.toml, if it is there]
    #[arg(long, value_name = "FILE", global = true)]
    config: Option<PathBuf>,
    /// Print the answer as JSON
    #[arg(long, global = true)]
    json: bool,
}

#[derive(clap::Subcommand)]
enum Command {
    /// Make a key with its version 1
    #[command(
        after_help = "Examples:\n  offloop vault keygen documents --folder ./keys\n  offloop vault keygen invoices --algorithm ed25519 --folder ./keys"
    )]
    Keygen {
        /// Name of the key: a-z 0-9 _ -
        name: String,
        /// aes256 seals and opens; the others sign and check
        #[arg(long, default_value = "aes256", value_parser = ["aes256", "ed25519", "p256", "rsa2048", "rsa3072", "rsa4096"])]
        algorithm: String,
    },
    /// Add a version, which seals or signs from then on; the older ones still open and check
    #[command(after_help = "Example:\n  offloop vault rotate documents --folder ./keys")]
    Rotate { name: String },
    /// Retire a version: it opens and checks nothing any more; its file stays
    #[command(after_help = "Example:\n  offloop vault retire documents 1 --folder ./keys")]
    Retire {
        name: String,
        version: u32,
        /// Even if it is the one in use
        #[arg(long)]
        force: bool,
    },
    /// List keys and versions, and check the folder as the server does
    #[command(after_help = "Example:\n  offloop vault keys --folder ./keys --json")]
    Keys,
}

pub(crate) fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let folder = folder(args)?;
    let said = match &args.command {
        Command::Keygen { name, algorithm } => {
            let name = key_name(name)?;
            let algorithm = Algorithm::of_name(algorithm).context("is no algorithm")?;
            let version = make::keygen(&folder, &name, algorithm)?;
            json!({ "key": name.as_str(), "version": version, "algorithm": algorithm.name() })
        }
        Command::Rotate { name } => {
            let name = key_name(name)?;
            let version = make::rotate(&folder, &name)?;
            json!({ "key": name.as_str(), "version": version })
        }
        Command::Retire {
            name,
            version,
            force,
        } => {
            let name = key_name(name)?;
            make::retire(&folder, &name, *version, *force)?;
            json!({ "key": name.as_str(), "retired": version })
        }
        Command::Keys => return list(&folder, args.json),
    };
    if args.json {
        println!("{said}");
        return Ok(ExitCode::SUCCESS);
    }
    let key = said["key"].as_str().unwrap_or_default();
    match said["retired"].as_u64() {
        Some(version) => println!("version {version} of {key} is retired"),
        None => println!("{key} v{} is in {}", said["version"], folder.display()),
    }
    Ok(ExitCode::SUCCESS)
}

fn folder(args: &Args) -> anyhow::Result<PathBuf> {
    if let Some(folder) = &args.folder {
        return Ok(folder.clone());
    }
    let config = config::load(&Flags {
        config: args.config.clone(),
        ..Flags::default()
    })?;
    let keys = config.vault.and_then(|vault| vault.keys);
    keys.context("no key folder is named: give --folder, or set `keys` under [packs.vault]")
}

fn key_name(name: &str) -> anyhow::Result<KeyName> {
    KeyName::parse(name).map_err(|error| anyhow::anyhow!("{name:?} {error}"))
}

fn rows(set: &KeySet) -> Vec<Value> {
    let rows = set.iter().flat_map(|(name, key)| {
        let active = key.active().map(|version| version.number);
        key.versions.iter().map(move |version| {
            let state = match version.retired {
                true => "retired",
                false if Some(version.number) == active => "active",
                false => "older",
            };
            json!({
                "name": name.as_str(),
                "version": version.number,
                "state": state,
                "algorithm": version.material.algorithm(),
            })
        })
    });
    rows.collect()
}

fn list(folder: &Path, json: bool) -> anyhow::Result<ExitCode> {
    let (set, _) = folder::load(folder)?;
    let rows = rows(&set);
    if json {
        println!("{}", json!({ "folder": folder, "keys": rows }));
        return Ok(ExitCode::SUCCESS);
    }
    if rows.is_empty() {
        println!("{} holds no keys", folder.display());
    }
    for row in rows {
        let text = |key: &str| row[key].as_str().unwrap_or_default().to_owned();
        let version = format!("v{}", row["version"]);
        println!(
            "{:<24} {version:<6} {:<8} {}",
            text("name"),
            text("state"),
            text("algorithm")
        );
    }
    Ok(ExitCode::SUCCESS)
}
