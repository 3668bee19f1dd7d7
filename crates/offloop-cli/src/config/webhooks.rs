//! `[packs.webhooks]` and `[tasks.NAME.webhook]`: who is told how jobs ended, and where that may be.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use offloop::TaskName;
use offloop::egress::{Net, Policy, Roots};
use offloop::job::{EndStates, JobState, Webhook};
use serde::Deserialize;

use super::fetch::roots;
use super::resolve::Problems;
use offloop::units::Span;

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct RawWebhooks {
    pub(crate) enabled: Option<bool>,
    pub(crate) secrets: Option<PathBuf>,
    #[serde(default)]
    pub(crate) http: bool,
    pub(crate) ports: Option<Vec<u16>>,
    #[serde(default)]
    pub(crate) allow: Vec<String>,
    #[serde(default)]
    pub(crate) ca: Vec<PathBuf>,
    pub(crate) timeout: Option<Span>,
    pub(crate) concurrency: Option<u16>,
    pub(crate) per_host: Option<u16>,
    pub(crate) disable_after: Option<Span>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct RawWebhook {
    pub(crate) url: String,
    pub(crate) on: Option<Vec<String>>,
    pub(crate) secret_id: Option<String>,
}

/// Deliveries, when secrets are named.
#[derive(Clone, Debug)]
pub(crate) struct WebhooksConfig {
    pub(crate) secrets: PathBuf,
    pub(crate) policy: Policy,
    pub(crate) roots: Roots,
    pub(crate) timeout: Option<Duration>,
    pub(crate) concurrency: Option<u16>,
    pub(crate) per_host: Option<u16>,
    pub(crate) disable_after: Option<Duration>,
    pub(crate) tasks: HashMap<TaskName, Webhook>,
}

/// A minute is what a receiver may take at most; its delivery is held as long.
const TIMEOUT_MAX: Duration = Duration::from_secs(60);

pub(super) fn webhooks(
    raw: &RawWebhooks,
    tasks: HashMap<TaskName, Webhook>,
    folder: &Path,
    problems: &mut Problems,
) -> Option<WebhooksConfig> {
    let mut policy = Policy {
        http: raw.http,
        ..Policy::default()
    };
    if raw.http {
        policy.ports.extend([80, 8080]);
    }
    if let Some(ports) = &raw.ports {
        if ports.is_empty() || ports.contains(&0) {
            problems.say("packs.webhooks.ports", "give ports from 1 to 65535");
        }
        policy.ports.clone_from(ports);
    }
    for text in &raw.allow {
        match text.parse::<Net>() {
            Ok(net) => policy.allow.push(net),
            Err(error) => problems.say("packs.webhooks.allow", format!("{text:?} {error}")),
        }
    }
    let roots = roots("packs.webhooks.ca", &raw.ca, folder, problems);
    let timeout = problems.span("packs.webhooks.timeout", raw.timeout);
    if timeout.is_some_and(|timeout| timeout > TIMEOUT_MAX) {
        problems.say(
            "packs.webhooks.timeout",
            format!("give at most {TIMEOUT_MAX:?}"),
        );
    }
    let concurrency = problems.slots("packs.webhooks.concurrency", raw.concurrency);
    let per_host = problems.slots("packs.webhooks.per_host", raw.per_host);
    let disable_after = problems.span("packs.webhooks.disable_after", raw.disable_after);
    let secrets = raw.secrets.as_ref().filter(|_| raw.enabled != Some(false));
    let Some(secrets) = secrets else {
        for task in tasks.keys() {
            problems.say(
                format!("tasks.{task}.webhook"),
                "is not delivered without [packs.webhooks]: set `secrets` there, the folder of what signs",
            );
        }
        return None;
    };
    Some(WebhooksConfig {
        secrets: folder.join(secrets),
        policy,
        roots,
        timeout,
        concurrency,
        per_host,
        disable_after,
        tasks,
    })
}

/// Whom all jobs of a task tell.
pub(super) fn webhook(
    raw: &RawWebhook,
    key: &impl Fn(&str) -> String,
    problems: &mut Problems,
) -> Webhook {
    let mut on = if raw.on.is_some() {
        EndStates::NONE
    } else {
        EndStates::ALL
    };
    for name in raw.on.iter().flatten() {
        match JobState::from_name(name).filter(|state| state.is_final()) {
            Some(state) => on = on.with(state),
            None => problems.say(
                key("webhook.on"),
                format!("names {name:?}; give some of completed, failed, cancelled, expired"),
            ),
        }
    }
    Webhook {
        url: raw.url.as_str().into(),
        on,
        secret: raw.secret_id.as_deref().map(Into::into),
    }
}
