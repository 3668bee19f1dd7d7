//! The field `webhook` of a job, both ways.

use offloop_job::{EndStates, JobState, WEBHOOK_URL_BYTES_MAX, Webhook};
use serde::{Deserialize, Serialize};

use crate::json::Lit;
use crate::read::{Wrong, text};

const SECRET_BYTES_MAX: usize = 64;

/// Whom to tell how the job ended.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct WebhookBody {
    pub url: String,
    /// Some of `completed`, `failed`, `cancelled`, `expired`; default all.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub on: Option<Vec<String>>,
    /// Default `default`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub secret_id: Option<String>,
}

impl From<&Webhook> for WebhookBody {
    fn from(from: &Webhook) -> Self {
        Self {
            url: from.url.to_string(),
            on: Some(from.on.iter().map(|state| state.to_string()).collect()),
            secret_id: from.secret.as_deref().map(Into::into),
        }
    }
}

/// Reads the field; the error names the field in it.
pub(crate) fn read(
    fields: Vec<(std::borrow::Cow<'_, str>, Lit<'_>)>,
) -> Result<Webhook, (String, Wrong)> {
    let mut url = None;
    let (mut on, mut secret) = (EndStates::ALL, None);
    for (key, value) in fields {
        let read = match &*key {
            "url" => within(&value, WEBHOOK_URL_BYTES_MAX).map(|read| url = Some(read)),
            "on" => states(&value).map(|read| on = read),
            "secret_id" => within(&value, SECRET_BYTES_MAX).map(|read| secret = Some(read)),
            _ => Err(Wrong("is unknown; known are url, on, secret_id".into())),
        };
        read.map_err(|wrong| (key.into_owned(), wrong))?;
    }
    let missing = || {
        (
            "url".to_owned(),
            Wrong("is missing; give the receiver's".into()),
        )
    };
    Ok(Webhook {
        url: url.ok_or_else(missing)?,
        on,
        secret,
    })
}

fn within(value: &Lit<'_>, most: usize) -> Result<Box<str>, Wrong> {
    let text = text(value)?;
    if text.is_empty() || text.len() > most {
        let len = text.len();
        return Err(Wrong(format!("has {len} bytes; give 1 to {most}")));
    }
    Ok(text.into())
}

fn states(value: &Lit<'_>) -> Result<EndStates, Wrong> {
    let known = "give some of completed, failed, cancelled, expired";
    let Lit::List(items) = value else {
        return Err(Wrong(format!("is {}; {known}", value.what())));
    };
    let mut on = EndStates::NONE;
    for item in items {
        let state = JobState::from_name(text(item)?).filter(|state| state.is_final());
        let state = state.ok_or_else(|| Wrong(format!("holds {}; {known}", item.what())))?;
        on = on.with(state);
    }
    if on.is_empty() {
        return Err(Wrong(format!("is empty; {known}")));
    }
    Ok(on)
}
