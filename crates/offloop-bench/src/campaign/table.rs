//! Where a campaign's rows go, and the witness that is not ours: the database's own client counts.

use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, bail};
use serde_json::json;

use super::Run;

pub(crate) enum Place {
    Sqlite(PathBuf),
    Postgres { address: String, file: PathBuf },
}

impl Place {
    /// What the run was told to use.
    pub(crate) fn of(run: &Run) -> Self {
        match &run.postgres {
            Some(address) => Self::Postgres {
                address: address.clone(),
                file: run.folder.join("postgres"),
            },
            None => Self::sqlite(run),
        }
    }

    pub(crate) fn sqlite(run: &Run) -> Self {
        Self::Sqlite(run.folder.join("target.db"))
    }

    pub(crate) const fn name(&self) -> &'static str {
        match self {
            Self::Sqlite(_) => "SQLite",
            Self::Postgres { .. } => "PostgreSQL",
        }
    }

    /// Lines of `[ingest]`, and those of a target that say where it is.
    pub(crate) fn declared(&self) -> anyhow::Result<(String, String)> {
        let quoted = |path: &PathBuf| json!(path.display().to_string()).to_string();
        Ok(match self {
            Self::Sqlite(path) => {
                let sink = format!("sink = \"sqlite\"\npath = {}", quoted(path));
                (String::new(), sink)
            }
            Self::Postgres { address, file } => {
                std::fs::write(file, address)?;
                std::fs::set_permissions(file, Permissions::from_mode(0o600))?;
                let more = format!("postgres_file = {}", quoted(file));
                (more, "sink = \"postgres\"".to_owned())
            }
        })
    }

    /// Rows as lines, their columns between `|`.
    #[expect(
        clippy::disallowed_methods,
        reason = "a witness that is not ours, not a task"
    )]
    pub(crate) fn ask(&self, query: &str) -> anyhow::Result<String> {
        let mut command = match self {
            Self::Sqlite(path) => {
                let mut command = Command::new("sqlite3");
                command.arg(path).arg(query);
                command
            }
            Self::Postgres { address, .. } => {
                let mut command = Command::new("psql");
                command.args([address.as_str(), "-X", "-q", "-A", "-t", "-c", query]);
                command
            }
        };
        let said = command.output().context("needs sqlite3 or psql")?;
        if !said.status.success() {
            bail!("{query}: {}", String::from_utf8_lossy(&said.stderr).trim());
        }
        Ok(String::from_utf8(said.stdout)?)
    }
}
