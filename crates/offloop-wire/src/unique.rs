//! The field `unique` of a request.

use std::time::Duration;

use offloop_job::{OnConflict, Unique, UniqueKey, UniqueScope};

use crate::json::Lit;
use crate::read::{Wrong, millis, object, one_of, text, token};

/// `None`: a problem was said.
pub(crate) fn read(
    value: Lit<'_>,
    say: &mut impl FnMut(String, String),
) -> Result<Option<Unique>, Wrong> {
    let mut key = None;
    let (mut scope, mut on_conflict) = ("until_finished", "keep");
    let (mut period, mut quiet) = (None, None);
    for (field, value) in object(value)? {
        let taken = match &*field {
            "key" => text(&value)
                .and_then(|text| Ok(UniqueKey::parse(text)?))
                .map(|read| key = Some(read)),
            "scope" => one_of(&value, &["until_started", "until_finished", "for"])
                .map(|found| scope = found),
            "on_conflict" => one_of(
                &value,
                &["keep", "replace", "reject", "debounce", "throttle"],
            )
            .map(|found| on_conflict = found),
            "for_ms" => millis(&value).map(|read| period = Some(read)),
            "quiet_ms" => millis(&value).map(|read| quiet = Some(read)),
            _ => Err(Wrong(
                "is unknown; known are key, scope, for_ms, on_conflict, quiet_ms".into(),
            )),
        };
        if let Err(Wrong(detail)) = taken {
            say(format!("/unique/{}", token(&field)), detail);
            return Ok(None);
        }
    }
    let Some(key) = key else {
        say("/unique/key".into(), "is missing".into());
        return Ok(None);
    };
    let scope = scope_of(scope, period, say);
    let on_conflict = rule_of(on_conflict, quiet, say);
    let (Some(scope), Some(on_conflict)) = (scope, on_conflict) else {
        return Ok(None);
    };
    Ok(Some(Unique {
        key,
        scope,
        on_conflict,
    }))
}

fn scope_of(
    scope: &str,
    period: Option<Duration>,
    say: &mut impl FnMut(String, String),
) -> Option<UniqueScope> {
    Some(match (scope, period) {
        ("until_started", None) => UniqueScope::UntilStarted,
        ("for", Some(period)) => UniqueScope::For(period),
        ("for", None) => {
            say(
                "/unique/for_ms".into(),
                "is missing: the scope `for` needs it".into(),
            );
            return None;
        }
        (_, Some(_)) => {
            say(
                "/unique/for_ms".into(),
                "belongs to the scope `for` alone; leave it out".into(),
            );
            return None;
        }
        (_, None) => UniqueScope::UntilFinished,
    })
}

fn rule_of(
    on_conflict: &str,
    quiet: Option<Duration>,
    say: &mut impl FnMut(String, String),
) -> Option<OnConflict> {
    Some(match (on_conflict, quiet) {
        ("debounce", Some(quiet)) => OnConflict::Debounce(quiet),
        ("debounce", None) => {
            say(
                "/unique/quiet_ms".into(),
                "is missing: on_conflict debounce needs it".into(),
            );
            return None;
        }
        (_, Some(_)) => {
            say(
                "/unique/quiet_ms".into(),
                "belongs to on_conflict debounce alone; leave it out".into(),
            );
            return None;
        }
        ("replace", None) => OnConflict::Replace,
        ("reject", None) => OnConflict::Reject,
        ("throttle", None) => OnConflict::Throttle,
        (_, None) => OnConflict::Keep,
    })
}
