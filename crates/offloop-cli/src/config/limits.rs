//! `[limits."queue:mail"]`: what is held back from the start on.

use std::collections::BTreeMap;

use offloop::{Limit, LimitTarget, Rate};

use super::raw::RawLimit;
use super::resolve::Problems;

pub(super) fn limits(
    raw: BTreeMap<String, RawLimit>,
    problems: &mut Problems,
) -> Vec<(LimitTarget, Limit)> {
    let found = raw.into_iter();
    found
        .filter_map(|(target, raw)| limit(&target, &raw, problems))
        .collect()
}

fn limit(text: &str, raw: &RawLimit, problems: &mut Problems) -> Option<(LimitTarget, Limit)> {
    let key = format!("limits.\"{text}\"");
    let target = LimitTarget::parse(text)
        .map_err(|error| problems.say(&key, error.to_string()))
        .ok()?;
    let mut limit = Limit {
        concurrency: raw.concurrency,
        rate: None,
        weight: raw.weight,
    };
    if let Some(text) = &raw.rate {
        let Some(mut rate) = Rate::parse(text) else {
            problems.say(
                format!("{key}.rate"),
                format!("is {text:?}; give units in a time, such as \"100/s\" or \"5/10m\""),
            );
            return None;
        };
        rate.burst = raw.burst.unwrap_or(rate.burst);
        limit.rate = Some(rate);
    } else if raw.burst.is_some() {
        problems.say(format!("{key}.burst"), "belongs to a rate; give one");
    }
    for problem in limit.problems(&target) {
        let key = match problem.field {
            "limit" => key.clone(),
            field => format!("{key}.{field}"),
        };
        problems.say(key, problem.message);
    }
    Some((target, limit))
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::super::raw::RawConfig;
    use super::*;

    fn resolve(text: &str) -> Result<Vec<(LimitTarget, Limit)>, Vec<String>> {
        let raw = toml::from_str::<RawConfig>(text).unwrap();
        let config = raw.resolve(Path::new("/"));
        config.map(|config| config.limits).map_err(|problems| {
            let keys = problems.into_iter().map(|problem| problem.key);
            keys.collect()
        })
    }

    #[test]
    fn limits_are_read_as_the_guide_shows_them() {
        let text = r#"
            [limits."queue:mail"]
            concurrency = 4
            rate = "100/s"
            burst = 20
            [limits."key:*"]
            weight = 2
        "#;
        let limits = resolve(text).unwrap();
        let told: Vec<_> = limits
            .iter()
            .map(|(target, limit)| format!("{target}: {limit}"))
            .collect();
        let want = [
            "key:*: weight = 2",
            "queue:mail: concurrency = 4, rate = \"100/s\", burst = 20",
        ];
        assert_eq!(told, want);
    }

    #[test]
    fn a_limit_that_cannot_be_is_told_by_its_key() {
        let text = r#"
            [limits."mail"]
            concurrency = 4
            [limits."queue:a"]
            concurrency = 0
            [limits."queue:b"]
            rate = "fast"
            [limits."queue:c"]
            burst = 5
            concurrency = 1
            [limits."task:d"]
            weight = 2
        "#;
        let want = [
            "limits.\"mail\"",
            "limits.\"queue:a\".concurrency",
            "limits.\"queue:b\".rate",
            "limits.\"queue:c\".burst",
            "limits.\"task:d\".weight",
        ];
        assert_eq!(resolve(text).unwrap_err(), want);
    }
}
