//! Layers are crates: a normal dependency has a strictly lower level (ARCHITECTURE.md).
#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::collections::BTreeMap;
use std::process::Command;

use serde_json::Value;

/// Libraries that only these crates may name.
const FENCES: [(&str, &[&str]); 6] = [
    // The store's own file, and the files that loads go into: ADR 0027.
    ("rusqlite", &["offloop-ingest", "offloop-store-sqlite"]),
    ("axum", &["offloop-http"]),
    // A door by it, and deliveries by its bare connection: ADR 0024.
    (
        "hyper",
        &["offloop-fetch", "offloop-http", "offloop-webhooks"],
    ),
    ("clap", &["offloop-cli", "offloop-bench"]),
    ("anyhow", &["offloop-cli", "offloop-bench"]),
    (
        "serde",
        &[
            "offloop-wire",
            "offloop-lane-process", // its protocol is JSON: ADR 0001
            "offloop-http",
            "offloop",
            "offloop-cli",
            "offloop-ingest", // declarations and checkpoints are stored as they are
            "offloop-photos",
            "offloop-lab",
            "offloop-vault",
            "offloop-webhooks",
            "offloop-bench",
        ],
    ),
];

#[expect(clippy::disallowed_methods, reason = "a test that asks cargo")]
fn packages() -> Vec<Value> {
    let cargo = option_env!("CARGO").unwrap_or("cargo");
    let output = Command::new(cargo)
        .args(["metadata", "--format-version=1", "--no-deps", "--offline"])
        .current_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/.."))
        .output()
        .unwrap();
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let metadata: Value = serde_json::from_slice(&output.stdout).unwrap();
    metadata["packages"].as_array().unwrap().clone()
}

fn level(package: &Value) -> u64 {
    let name = &package["name"];
    package["metadata"]["offloop"]["level"]
        .as_u64()
        .unwrap_or_else(|| panic!("{name} has no [package.metadata.offloop] level"))
}

fn normal_dependencies(package: &Value) -> impl Iterator<Item = &str> {
    let dependencies = package["dependencies"].as_array().unwrap().iter();
    dependencies
        .filter(|d| d["kind"].is_null())
        .map(|d| d["name"].as_str().unwrap())
}

#[test]
fn a_crate_depends_on_lower_levels_only() {
    let packages = packages();
    let levels: BTreeMap<_, _> = packages
        .iter()
        .map(|p| (p["name"].as_str().unwrap(), level(p)))
        .collect();
    assert!(levels.len() > 10, "{levels:?}");
    let mut wrong = Vec::new();
    for package in &packages {
        let (name, own) = (package["name"].as_str().unwrap(), level(package));
        for dependency in normal_dependencies(package) {
            if let Some(lower) = levels.get(dependency)
                && *lower >= own
            {
                wrong.push(format!(
                    "{name} (level {own}) depends on {dependency} (level {lower})"
                ));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn a_pack_is_built_on_the_facade_alone() {
    for package in packages().iter().filter(|package| level(package) == 6) {
        let ours: Vec<_> = normal_dependencies(package)
            .filter(|name| name.starts_with("offloop"))
            .collect();
        assert_eq!(ours, ["offloop"], "{}", package["name"]);
    }
}

#[test]
fn a_driver_stays_in_its_crate() {
    for package in &packages() {
        let name = package["name"].as_str().unwrap();
        for dependency in normal_dependencies(package) {
            for (library, homes) in FENCES {
                assert!(
                    dependency != library || homes.contains(&name),
                    "{name} names {library}, whose home is {homes:?}"
                );
            }
        }
    }
}
