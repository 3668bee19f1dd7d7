//! `[packs.fetch]`: calls to third parties, and where they may go.

use std::fs::File;
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use offloop::egress::{Net, PEM_BYTES_MAX, Policy, Roots};
use offloop_fetch::{CONNECTIONS_MAX, FetchOptions, LIMIT_MAX, RESPONSE_BYTES_MAX};
use serde::Deserialize;

use super::resolve::Problems;
use offloop::units::{Size, Span};

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct RawFetch {
    pub(crate) enabled: Option<bool>,
    pub(crate) http: Option<bool>,
    pub(crate) ports: Option<Vec<u16>>,
    #[serde(default)]
    pub(crate) allow: Vec<String>,
    #[serde(default)]
    pub(crate) ca: Vec<PathBuf>,
    pub(crate) connections: Option<u32>,
    pub(crate) jobs: Option<u16>,
    pub(crate) limit: Option<u64>,
    pub(crate) response_limit: Option<Size>,
    pub(crate) store_limit: Option<Size>,
    pub(crate) store_for: Option<Span>,
}

/// Least time that a stored body is kept: whoever reads the result reads the body after it.
const STORE_FOR_MIN: Duration = Duration::from_secs(60);

/// Authorities in a file.
pub(crate) fn authorities(file: &Path, roots: &mut Roots) -> Result<(), String> {
    let mut pem = Vec::new();
    File::open(file)
        .and_then(|file| file.take(PEM_BYTES_MAX + 1).read_to_end(&mut pem))
        .map_err(|error| format!("{} cannot be read: {error}", file.display()))?;
    let added = roots.add_pem(&pem);
    added
        .map(drop)
        .map_err(|error| format!("{} {error}", file.display()))
}

/// Those that a table names.
pub(super) fn roots(key: &str, files: &[PathBuf], folder: &Path, problems: &mut Problems) -> Roots {
    let mut roots = Roots::default();
    for file in files {
        if let Err(problem) = authorities(&folder.join(file), &mut roots) {
            problems.say(key, problem);
        }
    }
    roots
}

pub(super) fn fetch(
    raw: &RawFetch,
    folder: &Path,
    problems: &mut Problems,
) -> Option<FetchOptions> {
    let usual = FetchOptions::default();
    let http = raw.http.unwrap_or(true);
    let mut policy = Policy {
        http,
        ..Policy::default()
    };
    if http {
        policy.ports.extend([80, 8080]);
    }
    if let Some(ports) = &raw.ports {
        if ports.is_empty() || ports.contains(&0) {
            problems.say("packs.fetch.ports", "give ports from 1 to 65535");
        }
        policy.ports.clone_from(ports);
    }
    for text in &raw.allow {
        match text.parse::<Net>() {
            Ok(net) => policy.allow.push(net),
            Err(error) => problems.say("packs.fetch.allow", format!("{text:?} {error}")),
        }
    }
    let roots = roots("packs.fetch.ca", &raw.ca, folder, problems);
    let connections = raw.connections.unwrap_or(usual.connections);
    if !(1..=CONNECTIONS_MAX).contains(&connections) {
        problems.say(
            "packs.fetch.connections",
            format!("give 1 to {CONNECTIONS_MAX}"),
        );
    }
    let mut limits = usual.limits;
    if let Some(limit) = raw.limit {
        if !(1..=LIMIT_MAX).contains(&limit) {
            problems.say("packs.fetch.limit", format!("give 1 to {LIMIT_MAX}"));
        }
        limits.limit = limit as usize;
    }
    if let Some(Size(bytes)) = raw.response_limit {
        if !(1..=RESPONSE_BYTES_MAX).contains(&bytes) {
            problems.say("packs.fetch.response_limit", "give 1 byte to \"1GiB\"");
        }
        limits.response_bytes = bytes;
    }
    let store_for = problems.span("packs.fetch.store_for", raw.store_for);
    if store_for.is_some_and(|span| span < STORE_FOR_MIN) {
        problems.say("packs.fetch.store_for", "give at least \"1min\"");
    }
    let options = FetchOptions {
        policy,
        limits,
        roots,
        connections,
        jobs: problems
            .slots("packs.fetch.jobs", raw.jobs)
            .unwrap_or(usual.jobs),
        store_bytes: raw
            .store_limit
            .map_or(usual.store_bytes, |Size(bytes)| bytes),
        store_for: store_for.unwrap_or(usual.store_for),
        ..usual
    };
    raw.enabled.unwrap_or(true).then_some(options)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::RawConfig;
    use std::path::Path;

    fn resolve(text: &str) -> Result<Option<FetchOptions>, Vec<String>> {
        let raw: RawConfig = toml::from_str(text).unwrap();
        let config = raw.resolve(Path::new("/etc/offloop"));
        let keys = |problems: Vec<_>| {
            let key = |problem: super::super::resolve::Problem| problem.key;
            problems.into_iter().map(key).collect()
        };
        config.map(|config| config.fetch).map_err(keys)
    }

    #[test]
    fn nothing_inside_is_called_unless_the_file_says_so() {
        let usual = resolve("").unwrap().unwrap();
        assert!(usual.policy.allow.is_empty() && !usual.policy.any_port);
        let text = "[packs.fetch]\nallow = [\"10.0.0.0/8\"]\nports = [80, 9000]\nlimit = 200\nresponse_limit = \"8MiB\"";
        let own = resolve(text).unwrap().unwrap();
        assert_eq!(
            (own.policy.allow.len(), own.policy.ports),
            (1, vec![80, 9000])
        );
        assert_eq!(
            (own.limits.limit, own.limits.response_bytes),
            (200, 8 << 20)
        );
        assert!(resolve("[packs.fetch]\nenabled = false").unwrap().is_none());
        assert!(
            !resolve("[packs.fetch]\nhttp = false")
                .unwrap()
                .unwrap()
                .policy
                .ports
                .contains(&80)
        );
    }

    #[test]
    fn every_problem_is_told_by_its_key() {
        let text = "[packs.fetch]\nallow = [\"home\"]\nports = [0]\nca = [\"no.pem\"]\nconnections = 0\nlimit = 0\nresponse_limit = 0\njobs = 0\nstore_for = \"1s\"";
        let keys = resolve(text).unwrap_err();
        let want = [
            "ports",
            "allow",
            "ca",
            "connections",
            "limit",
            "response_limit",
            "store_for",
            "jobs",
        ];
        assert_eq!(keys, want.map(|key| format!("packs.fetch.{key}")));
    }
}
