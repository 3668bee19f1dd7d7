//! Rarely used options as one line of text, for engines to keep in one column.
//!
//! `key=value` pairs joined by `;`, only what differs from the default, so that most rows hold
//! nothing. Read by people with a plain database shell. Unknown keys are an error: a newer
//! version wrote them.

use std::fmt::Write as _;
use std::time::Duration;

use offloop_job::{
    After, Backoff, BackoffKind, EndStates, FailureClass, GroupId, JobOptions, OnConflict,
    OnFailure, Parent, RetryPolicy, ScheduleName, ScheduledBy, Tag, Timestamp, Unique, UniqueKey,
    UniqueScope, Webhook,
};

/// A text that no version up to this one wrote.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("options `{text}`: cannot read `{part}`")]
pub struct OptionsTextError {
    pub text: String,
    pub part: String,
}

/// Everything but queue, priority and `run_at`, which have columns of their own. `None` where all
/// is default.
pub fn encode(options: &JobOptions) -> Option<String> {
    let mut out = String::new();
    let mut put = |key: &str, value: String| {
        if !out.is_empty() {
            out.push(';');
        }
        let _ = write!(out, "{key}={value}");
    };
    let default = RetryPolicy::default();
    if options.retry.max_attempts != default.max_attempts {
        put("attempts", options.retry.max_attempts.to_string());
    }
    if options.retry.backoff != default.backoff {
        put("backoff", backoff_text(&options.retry.backoff));
    }
    if let Some(rules) = by_class_text(&options.retry) {
        put("by_class", rules);
    }
    for (key, limit) in [
        ("timeout", options.timeout),
        ("cpu", options.cpu_limit),
        ("stall", options.stall_timeout),
    ] {
        if let Some(limit) = limit {
            put(key, limit.as_millis().to_string());
        }
    }
    if let Some(bytes) = options.memory_limit_bytes {
        put("memory", bytes.to_string());
    }
    if options.cores != 1 {
        put("cores", options.cores.to_string());
    }
    if options.cost != 1 {
        put("cost", options.cost.to_string());
    }
    for (key, at) in [
        ("deadline", options.deadline),
        ("expires", options.expires_at),
    ] {
        if let Some(at) = at {
            put(key, at.as_millis().to_string());
        }
    }
    if let Some(unique) = &options.unique {
        put("unique", unique_text(unique));
    }
    if let Some(key) = &options.group_key {
        put("group", escape(key.as_str()));
    }
    if !options.tags.is_empty() {
        let tags: Vec<_> = options
            .tags
            .iter()
            .map(|tag| escape(tag.as_str()))
            .collect();
        put("tags", tags.join(","));
    }
    if let Some(trace) = &options.trace {
        put("trace", escape(trace));
    }
    if let Some(keep) = options.keep {
        put("keep", keep.as_millis().to_string());
    }
    put_flow(options, &mut put);
    (!out.is_empty()).then_some(out)
}

/// The inverse of [`encode`], into options that hold the defaults and the columns.
pub fn decode_into(text: &str, options: &mut JobOptions) -> Result<(), OptionsTextError> {
    for part in text.split(';') {
        let read = part
            .split_once('=')
            .and_then(|(key, value)| read_pair(key, value, options));
        if read.is_none() {
            return Err(OptionsTextError {
                text: text.to_owned(),
                part: part.to_owned(),
            });
        }
    }
    Ok(())
}

/// The group key in a text of [`encode`], without reading the rest; none if it is unreadable.
pub fn group_key(text: &str) -> Option<Tag> {
    let found = text.split(';').find_map(|part| part.strip_prefix("group="));
    Tag::parse(&unescape(found?)?).ok()
}

/// The schedule that made the job, in a text of [`encode`], without reading the rest.
pub fn schedule(text: &str) -> Option<ScheduledBy> {
    let mut parts = text.split(';');
    read_schedule(parts.find_map(|part| part.strip_prefix("schedule="))?)
}

fn read_schedule(text: &str) -> Option<ScheduledBy> {
    let (due_at, name) = text.split_once(':')?;
    Some(ScheduledBy {
        name: ScheduleName::parse(name).ok()?,
        due_at: Timestamp::from_millis(due_at.parse().ok()?),
    })
}

/// The tags in a text of [`encode`], without reading the rest; what is unreadable is left out.
pub fn tags(text: &str) -> Vec<Tag> {
    let tags = find(text, "tags=")
        .into_iter()
        .flat_map(|tags| tags.split(','));
    tags.filter_map(|tag| Tag::parse(&unescape(tag)?).ok())
        .collect()
}

/// How long the job is kept once it is final, in a text of [`encode`], without reading the rest.
pub fn keep(text: &str) -> Option<Duration> {
    let found = text
        .split(';')
        .find_map(|part| part.strip_prefix("keep="))?;
    found.parse().ok().map(Duration::from_millis)
}

fn read_pair(key: &str, value: &str, options: &mut JobOptions) -> Option<()> {
    let millis = || value.parse().ok().map(Duration::from_millis);
    let instant = || value.parse().ok().map(Timestamp::from_millis);
    match key {
        "attempts" => options.retry.max_attempts = value.parse().ok()?,
        "backoff" => options.retry.backoff = read_backoff(value)?,
        "by_class" => {
            let rules = value.split(',').map(|rule| {
                let (class, runs) = rule.split_once(':')?;
                Some((FailureClass::from_name(class)?, runs.parse().ok()?))
            });
            options.retry.by_class = rules.collect::<Option<_>>()?;
        }
        "timeout" => options.timeout = Some(millis()?),
        "cpu" => options.cpu_limit = Some(millis()?),
        "stall" => options.stall_timeout = Some(millis()?),
        "memory" => options.memory_limit_bytes = Some(value.parse().ok()?),
        "cores" => options.cores = value.parse().ok()?,
        "cost" => options.cost = value.parse().ok()?,
        "deadline" => options.deadline = Some(instant()?),
        "expires" => options.expires_at = Some(instant()?),
        "unique" => options.unique = Some(read_unique(value)?),
        "group" => options.group_key = Some(Tag::parse(&unescape(value)?).ok()?),
        "tags" => {
            let tags = value.split(',').map(|tag| Tag::parse(&unescape(tag)?).ok());
            options.tags = tags.collect::<Option<_>>()?;
        }
        "trace" => options.trace = Some(unescape(value)?.into()),
        "keep" => options.keep = Some(millis()?),
        "delay" => options.delay = Some(millis()?),
        "member" => options.group = Some(value.parse().ok()?),
        "follows" => options.follows = Some(value.parse().ok()?),
        "after" => options.after = value.split(',').map(read_after).collect::<Option<_>>()?,
        "schedule" => options.schedule = Some(Box::new(read_schedule(value)?)),
        "webhook" => options.webhook = Some(Box::new(read_webhook(value)?)),
        _ => return None,
    }
    Some(())
}

/// `after` as `f:JOB,i:JOB,c:JOB`. A place in a batch stays one (`#3`) in a text that is only
/// compared: engines write ids.
fn put_flow(options: &JobOptions, put: &mut impl FnMut(&str, String)) {
    if let Some(delay) = options.delay {
        put("delay", delay.as_millis().to_string());
    }
    if let Some(group) = options.group {
        put("member", group.to_string());
    }
    if let Some(group) = options.follows {
        put("follows", group.to_string());
    }
    if !options.after.is_empty() {
        let after = options.after.iter().map(|after| {
            let rule = &after.on_failure.as_str()[..1];
            match after.parent {
                Parent::Job(id) => format!("{rule}:{id}"),
                Parent::Earlier(place) => format!("{rule}:#{place}"),
            }
        });
        put("after", after.collect::<Vec<_>>().join(","));
    }
    if let Some(webhook) = &options.webhook {
        let (on, secret) = (webhook.on.bits(), webhook.secret.as_deref());
        let secret = escape(secret.unwrap_or_default());
        put("webhook", format!("{on}:{secret}:{}", escape(&webhook.url)));
    }
    if let Some(by) = &options.schedule {
        put("schedule", format!("{}:{}", by.due_at.as_millis(), by.name));
    }
}

fn read_after(text: &str) -> Option<After> {
    let (rule, parent) = text.split_once(':')?;
    let known = |known: &OnFailure| &known.as_str()[..1] == rule;
    let parent = match parent.strip_prefix('#') {
        Some(place) => Parent::Earlier(place.parse().ok()?),
        None => Parent::Job(parent.parse().ok()?),
    };
    Some(After {
        parent,
        on_failure: OnFailure::ALL.into_iter().find(known)?,
    })
}

/// The group that a member settles with, without reading the rest.
pub fn group(text: &str) -> Option<GroupId> {
    find(text, "member=")?.parse().ok()
}

/// The jobs that it waits for, or waited for, without reading the rest.
pub fn after(text: &str) -> Vec<After> {
    let after = find(text, "after=").map(|after| after.split(',').map_while(read_after));
    after.into_iter().flatten().collect()
}

/// The group whose follow-up it is, without reading the rest.
pub fn follows(text: &str) -> Option<GroupId> {
    find(text, "follows=")?.parse().ok()
}

fn find<'t>(text: &'t str, key: &str) -> Option<&'t str> {
    text.split(';').find_map(|part| part.strip_prefix(key))
}

fn read_webhook(text: &str) -> Option<Webhook> {
    let mut parts = text.splitn(3, ':');
    let (on, secret, url) = (parts.next()?, parts.next()?, parts.next()?);
    let secret = unescape(secret)?;
    Some(Webhook {
        url: unescape(url)?.into(),
        on: EndStates::from_bits(on.parse().ok()?),
        secret: (!secret.is_empty()).then(|| secret.into()),
    })
}

fn by_class_text(retry: &RetryPolicy) -> Option<String> {
    let rules = retry.by_class.iter();
    let rules: Vec<_> = rules
        .map(|(class, runs)| format!("{class}:{runs}"))
        .collect();
    (!rules.is_empty()).then(|| rules.join(","))
}

fn backoff_text(backoff: &Backoff) -> String {
    let (cap, jitter) = (backoff.cap.as_millis(), backoff.jitter_percent);
    let base = backoff.base.as_millis();
    match &backoff.kind {
        BackoffKind::Fixed => format!("fixed:{base}:{cap}:{jitter}"),
        BackoffKind::Exponential => format!("exponential:{base}:{cap}:{jitter}"),
        BackoffKind::Custom(waits) => {
            let waits: Vec<_> = waits
                .iter()
                .map(|wait| wait.as_millis().to_string())
                .collect();
            format!("custom:{}:{cap}:{jitter}:{base}", waits.join("+"))
        }
    }
}

fn read_backoff(text: &str) -> Option<Backoff> {
    let mut parts = text.split(':');
    let (kind, waits, cap, jitter) = (parts.next()?, parts.next()?, parts.next()?, parts.next()?);
    let millis = |text: &str| text.parse().ok().map(Duration::from_millis);
    let (kind, base) = match kind {
        "fixed" => (BackoffKind::Fixed, millis(waits)?),
        "exponential" => (BackoffKind::Exponential, millis(waits)?),
        "custom" => {
            let waits = waits.split('+').map(millis).collect::<Option<_>>()?;
            (BackoffKind::Custom(waits), millis(parts.next()?)?)
        }
        _ => return None,
    };
    Some(Backoff {
        kind,
        base,
        cap: millis(cap)?,
        jitter_percent: jitter.parse().ok()?,
    })
}

/// Scope and rule as a digit each, the milliseconds that either has, the key: `10key`,
/// `2460000:key`.
fn unique_text(unique: &Unique) -> String {
    let (scope, period) = match unique.scope {
        UniqueScope::UntilStarted => (0, None),
        UniqueScope::UntilFinished => (1, None),
        UniqueScope::For(period) => (2, Some(period)),
    };
    let (conflict, quiet) = match unique.on_conflict {
        OnConflict::Keep => (0, None),
        OnConflict::Replace => (1, None),
        OnConflict::Reject => (2, None),
        OnConflict::Debounce(quiet) => (3, Some(quiet)),
        OnConflict::Throttle => (4, None),
    };
    let mut text = format!("{scope}{conflict}");
    for span in [period, quiet].into_iter().flatten() {
        let _ = write!(text, "{}:", span.as_millis());
    }
    text + &escape(unique.key.as_str())
}

fn read_unique(text: &str) -> Option<Unique> {
    let (head, mut key) = text.split_at_checked(2)?;
    let (scope, conflict) = head.split_at_checked(1)?;
    let mut millis = || {
        let (span, rest) = key.split_once(':')?;
        key = rest;
        span.parse().ok().map(Duration::from_millis)
    };
    let scope = match scope {
        "0" => UniqueScope::UntilStarted,
        "1" => UniqueScope::UntilFinished,
        "2" => UniqueScope::For(millis()?),
        _ => return None,
    };
    let on_conflict = match conflict {
        "0" => OnConflict::Keep,
        "1" => OnConflict::Replace,
        "2" => OnConflict::Reject,
        "3" => OnConflict::Debounce(millis()?),
        "4" => OnConflict::Throttle,
        _ => return None,
    };
    Some(Unique {
        key: UniqueKey::parse(&unescape(key)?).ok()?,
        scope,
        on_conflict,
    })
}

/// `%`, `;` and `,` as `%25`, `%3B`, `%2C`.
fn escape(text: &str) -> String {
    text.replace('%', "%25")
        .replace(';', "%3B")
        .replace(',', "%2C")
}

fn unescape(text: &str) -> Option<String> {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find('%') {
        out.push_str(&rest[..at]);
        out.push(match rest.get(at + 1..at + 3)? {
            "25" => '%',
            "3B" => ';',
            "2C" => ',',
            _ => return None,
        });
        rest = &rest[at + 3..];
    }
    out.push_str(rest);
    Some(out)
}

#[cfg(test)]
mod tests {
    use super::*;
    use prop::option::of as opt;
    use proptest::prelude::*;

    fn unique() -> impl Strategy<Value = Unique> {
        let ms = || (1_u64..1 << 31).prop_map(Duration::from_millis);
        ("[0-9a-z%;:,]{1,20}", 0..3_usize, 0..5_usize, ms()).prop_map(|(key, scope, rule, span)| {
            Unique {
                key: UniqueKey::parse(&key).unwrap(),
                scope: [
                    UniqueScope::UntilStarted,
                    UniqueScope::UntilFinished,
                    UniqueScope::For(span),
                ][scope],
                on_conflict: [
                    OnConflict::Keep,
                    OnConflict::Replace,
                    OnConflict::Reject,
                    OnConflict::Debounce(span),
                    OnConflict::Throttle,
                ][rule],
            }
        })
    }

    fn edge() -> impl Strategy<Value = After> {
        let parent = prop_oneof![
            any::<u16>().prop_map(Parent::Earlier),
            (0..1_u64 << 60, any::<u64>())
                .prop_map(|(order, rnd)| Parent::Job(offloop_job::JobId::from_parts(order, rnd))),
        ];
        (parent, 0_usize..3).prop_map(|(parent, rule)| After {
            parent,
            on_failure: OnFailure::ALL[rule],
        })
    }

    fn options() -> impl Strategy<Value = JobOptions> {
        let ms = || (1_u64..1 << 31).prop_map(Duration::from_millis);
        let at = || (0_u64..1 << 42).prop_map(Timestamp::from_millis);
        let tag = || "[a-z%;, =:ü]{1,20}".prop_map(|text| Tag::parse(&text).unwrap());
        let kind = prop_oneof![
            Just(BackoffKind::Fixed),
            Just(BackoffKind::Exponential),
            prop::collection::vec(ms(), 1..5).prop_map(|w| BackoffKind::Custom(w.into())),
        ];
        let backoff =
            (kind, ms(), ms(), 0_u8..=100).prop_map(|(kind, base, cap, jitter_percent)| Backoff {
                kind,
                base,
                cap,
                jitter_percent,
            });
        let class = (0..FailureClass::ALL.len() as u8)
            .prop_map(|code| FailureClass::from_code(code).unwrap());
        let retry = (
            1_u16..1000,
            backoff,
            prop::collection::vec((class, 1_u16..9), 0..3),
        )
            .prop_map(|(max_attempts, backoff, by_class)| RetryPolicy {
                max_attempts,
                backoff,
                by_class,
            });
        (
            (
                retry,
                opt(ms()),
                opt(ms()),
                opt(ms()),
                opt(any::<u64>()),
                (1_u16..9, 1_u32..999),
            ),
            (
                opt(at()),
                opt(at()),
                opt(unique()),
                opt(tag()),
                prop::collection::vec(tag(), 0..4),
            ),
            opt("[ -~]{1,60}"),
            (
                opt(any::<u64>()),
                prop::collection::vec(edge(), 0..4),
                opt(ms()),
            ),
            opt(("[a-zA-Z0-9._:-]{1,40}", at())),
            opt((1_u8..16, opt("[a-z_-]{1,9}"), "[ -~ü]{1,60}")),
        )
            .prop_map(|(a, b, trace, flow, schedule, webhook)| JobOptions {
                group: flow.0.map(|bits| GroupId::from_parts(bits >> 4, bits)),
                follows: flow.0.map(|bits| GroupId::from_parts(bits >> 5, bits)),
                after: flow.1,
                delay: flow.2,
                webhook: webhook.map(|(on, secret, url)| {
                    Box::new(Webhook {
                        url: url.into(),
                        on: EndStates::from_bits(on << 4),
                        secret: secret.map(Into::into),
                    })
                }),
                retry: a.0,
                timeout: a.1,
                cpu_limit: a.2,
                stall_timeout: a.3,
                memory_limit_bytes: a.4,
                cores: a.5.0,
                cost: a.5.1,
                deadline: b.0,
                expires_at: b.1,
                unique: b.2,
                group_key: b.3,
                tags: b.4,
                trace: trace.map(Into::into),
                keep: a.1,
                schedule: schedule.map(|(name, due_at)| {
                    let name = ScheduleName::parse(&name).unwrap();
                    Box::new(ScheduledBy { name, due_at })
                }),
                ..JobOptions::default()
            })
    }

    proptest! {
        #[test]
        fn options_survive_their_text(options in options()) {
            let mut read = JobOptions::default();
            if let Some(text) = encode(&options) {
                decode_into(&text, &mut read).unwrap();
                prop_assert_eq!(&tags(&text), &options.tags);
                prop_assert_eq!(keep(&text), options.keep);
                prop_assert_eq!(&group_key(&text), &options.group_key);
                prop_assert_eq!(group(&text), options.group);
                prop_assert_eq!(follows(&text), options.follows);
                prop_assert_eq!(&after(&text), &options.after);
                prop_assert_eq!(schedule(&text), options.schedule.as_deref().cloned());
            }
            prop_assert_eq!(read, options);
        }

        #[test]
        fn any_text_is_read_or_refused(text in ".{0,80}") {
            let _ = decode_into(&text, &mut JobOptions::default());
        }
    }

    #[test]
    fn default_options_take_no_room() {
        assert_eq!(encode(&JobOptions::default()), None);
    }

    #[test]
    fn a_key_of_a_newer_version_is_refused_by_name() {
        let error = decode_into("cores=2;colour=red", &mut JobOptions::default()).unwrap_err();
        assert_eq!(error.part, "colour=red");
    }
}
