//! The configuration of a server that is measured: what the mix needs of the operator's own, with the
//! sizes that the plan suggests.
//!
//! Must never: take over keys, tokens, addresses or data folders of the operator.

use std::path::{Path, PathBuf};

use offloop::TaskName;
use toml::{Table, Value};

use crate::PlanError;
use crate::mix::{Mix, Operation};
use crate::operation::needs_vault;

/// The operator's configuration.
#[derive(Clone, Debug, Default)]
pub struct UserConfig {
    /// TOML text, already checked; empty for none.
    pub text: String,
    /// Paths in it count from here; absolute.
    pub folder: PathBuf,
}

/// Executors.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Sizing {
    pub(crate) threads: u16,
    /// Children for calls of each declared task.
    pub(crate) processes: u16,
}

/// Declared tasks of a mix, each once.
pub(crate) fn tasks(mix: &Mix) -> Vec<&TaskName> {
    let mut names: Vec<_> = mix
        .parts()
        .iter()
        .filter_map(|part| match &part.operation {
            Operation::Task { name, .. } => Some(name),
            _ => None,
        })
        .filter(|name| !name.as_str().starts_with("offloop."))
        .collect();
    names.sort();
    names.dedup();
    names
}

/// Children that the operator has declared for calls of a task; `None` without `calls`.
pub(crate) fn processes_of(user: &UserConfig, name: &str) -> Option<u16> {
    let table: Table = toml::from_str(&user.text).ok()?;
    let calls = table.get("tasks")?.get(name)?.get("calls")?;
    let count = calls.get("processes").map_or(Some(1), Value::as_integer);
    count.and_then(|count| u16::try_from(count).ok())
}

/// A whole configuration. `keys`: folder of the trial keys, if the mix needs any.
pub(crate) fn config(
    user: &UserConfig,
    mix: &Mix,
    keys: Option<&Path>,
    sizing: &Sizing,
) -> Result<String, PlanError> {
    let user_table: Table =
        toml::from_str(&user.text).map_err(|error| PlanError::Config(error.to_string()))?;
    let section = |name: &str| user_table.get(name).and_then(Value::as_table);
    let mut lanes = section("lanes").cloned().unwrap_or_default();
    lanes.insert("calls".into(), threads(sizing.threads).into());
    let mut vault = section("packs")
        .and_then(|packs| packs.get("vault")?.as_table())
        .cloned()
        .unwrap_or_default();
    vault.insert("enabled".into(), needs_vault(mix).into());
    vault.insert("threads".into(), i64::from(sizing.threads).into());
    vault.remove("keys");
    if let Some(keys) = keys {
        vault.insert("keys".into(), keys.display().to_string().into());
    }
    let mut packs = Table::new();
    let mut photos = Table::new();
    photos.insert("enabled".into(), false.into());
    packs.insert("photos".into(), photos.into());
    packs.insert("vault".into(), vault.into());
    let mut declared = Table::new();
    for name in tasks(mix) {
        let known = section("tasks");
        let found = known.and_then(|tasks| tasks.get(name.as_str())?.as_table());
        let Some(found) = found else {
            let known: Vec<_> = known.into_iter().flat_map(Table::keys).collect();
            let known = known.iter().map(|name| format!("`{name}`"));
            return Err(PlanError::UnknownTask {
                name: name.clone(),
                known: known.collect::<Vec<_>>().join(", "),
            });
        };
        let task = task(found.clone(), &user.folder, sizing.processes);
        declared.insert(name.as_str().into(), task.into());
    }
    let mut whole = Table::new();
    whole.insert("lanes".into(), lanes.into());
    whole.insert("packs".into(), packs.into());
    whole.insert("tasks".into(), declared.into());
    toml::to_string(&whole).map_err(|error| PlanError::Config(error.to_string()))
}

fn threads(count: u16) -> Table {
    let mut table = Table::new();
    table.insert("threads".into(), i64::from(count).into());
    table
}

/// The task, to be run from another folder, with children for calls.
fn task(mut task: Table, folder: &Path, processes: u16) -> Table {
    let absolute = |value: &Value| -> Value {
        let path = folder.join(value.as_str().unwrap_or_default());
        path.display().to_string().into()
    };
    let cwd = absolute(task.get("cwd").unwrap_or(&Value::String(String::new())));
    task.insert("cwd".into(), cwd);
    if let Some(Value::Table(sandbox)) = task.get_mut("sandbox") {
        for key in ["writable", "hidden"] {
            if let Some(Value::Array(paths)) = sandbox.get_mut(key) {
                for path in paths {
                    *path = absolute(path);
                }
            }
        }
    }
    let calls = task.entry("calls").or_insert_with(|| Table::new().into());
    if let Value::Table(calls) = calls {
        calls.insert("processes".into(), i64::from(processes).into());
        // Equal payloads would share one run: a plan counts runs.
        calls.remove("single_flight");
    }
    task
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = r#"
        [server]
        token = "a secret of the operator"
        listen = "0.0.0.0:80"
        [lanes.process]
        cgroups = false
        [packs.vault]
        keys = "keys"
        memory = "64MiB"
        [tasks.report]
        lane = "process"
        command = ["node", "report.mjs"]
        sandbox = { read_only = true, writable = ["out", "/var/out"] }
        calls = { processes = 3, single_flight = true, line = 7 }
        [tasks.other]
        lane = "exec"
        command = ["true"]
    "#;

    fn user() -> UserConfig {
        UserConfig {
            text: TEXT.into(),
            folder: "/srv/app".into(),
        }
    }

    const SIZING: Sizing = Sizing {
        threads: 4,
        processes: 8,
    };

    #[test]
    fn tasks_run_from_their_folder_and_secrets_stay_where_they_are() {
        let mix = Mix::parse("task:report + cpu:1ms").unwrap();
        let text = config(&user(), &mix, Some(Path::new("/t/keys")), &SIZING).unwrap();
        let table: Table = toml::from_str(&text).unwrap();
        assert!(!text.contains("secret") && !table.contains_key("server"));
        assert_eq!(table["packs"]["vault"]["keys"].as_str(), Some("/t/keys"));
        assert_eq!(table["packs"]["vault"]["memory"].as_str(), Some("64MiB"));
        assert_eq!(table["lanes"]["calls"]["threads"].as_integer(), Some(4));
        assert_eq!(table["lanes"]["process"]["cgroups"].as_bool(), Some(false));
        let report = &table["tasks"]["report"];
        assert!(report["cwd"].as_str().unwrap().starts_with("/srv/app"));
        let writable = report["sandbox"]["writable"].as_array().unwrap();
        assert_eq!(writable[0].as_str(), Some("/srv/app/out"));
        assert_eq!(writable[1].as_str(), Some("/var/out"));
        assert_eq!(report["calls"]["processes"].as_integer(), Some(8));
        assert_eq!(report["calls"]["line"].as_integer(), Some(7));
        assert!(report["calls"].get("single_flight").is_none());
        assert!(table["tasks"].get("other").is_none(), "not in the mix");
        assert_eq!(processes_of(&user(), "report"), Some(3));
    }

    #[test]
    fn a_task_that_is_not_declared_is_an_error_with_those_that_are() {
        let mix = Mix::parse("task:rapport").unwrap();
        let error = config(&user(), &mix, None, &SIZING)
            .unwrap_err()
            .to_string();
        assert!(
            error.contains("rapport") && error.contains("`report`"),
            "{error}"
        );
        let none = UserConfig::default();
        let mix = Mix::parse("cpu:1ms + task:offloop.noop").unwrap();
        let text = config(&none, &mix, None, &SIZING).unwrap();
        let table: Table = toml::from_str(&text).unwrap();
        assert_eq!(table["packs"]["vault"]["enabled"].as_bool(), Some(false));
    }
}
