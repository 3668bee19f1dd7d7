//! Rates against a token bucket with exact fractions; targets and rates as texts.

use proptest::prelude::*;

use super::*;

fn at(ms: u64) -> Timestamp {
    Timestamp::from_millis(1_800_000_000_000 + ms)
}

/// Tokens in units of one part in `per` nanoseconds: nothing is ever rounded.
struct Tokens {
    at: Timestamp,
    parts: i128,
}

impl Tokens {
    fn full(rate: &Rate) -> Self {
        Self {
            at: at(0),
            parts: i128::from(rate.burst) * rate.per.as_nanos() as i128,
        }
    }

    fn at(&mut self, rate: &Rate, now: Timestamp) -> i128 {
        let gained = now.since(self.at).as_nanos() as i128 * i128::from(rate.units);
        let most = i128::from(rate.burst) * rate.per.as_nanos() as i128;
        self.at = now;
        self.parts = (self.parts + gained).min(most);
        self.parts
    }

    fn has_one(&mut self, rate: &Rate, now: Timestamp) -> bool {
        self.at(rate, now) >= rate.per.as_nanos() as i128
    }

    fn take(&mut self, rate: &Rate, now: Timestamp, cost: u32) {
        self.at(rate, now);
        self.parts -= i128::from(cost) * rate.per.as_nanos() as i128;
    }
}

fn rates() -> impl Strategy<Value = Rate> {
    (1_u32..2_000, 1_u64..100_000, 1_u32..50).prop_map(|(units, per_ms, burst)| Rate {
        units,
        per: Duration::from_millis(per_ms),
        burst,
    })
}

/// Divides without a rest, so that both must say the same.
fn exact_rates() -> impl Strategy<Value = Rate> {
    let units = prop_oneof![Just(1_u32), Just(2), Just(5), Just(100), Just(1_000)];
    (units, 1_u64..100, 1_u32..50).prop_map(|(units, seconds, burst)| Rate {
        units,
        per: Duration::from_secs(seconds),
        burst,
    })
}

fn asks() -> impl Strategy<Value = Vec<(u64, u32)>> {
    let wait = prop_oneof![4 => 0_u64..20, 2 => 0_u64..2_000, 1 => 0_u64..200_000];
    prop::collection::vec(
        (wait, prop_oneof![5 => Just(1_u32), 1 => 1_u32..200]),
        1..200,
    )
}

proptest! {
    #[test]
    fn a_rate_lets_in_what_a_bucket_of_tokens_lets_in(rate in exact_rates(), asks in asks()) {
        let (mut bucket, mut tokens, mut now) = (Bucket::default(), Tokens::full(&rate), 0);
        for (wait, cost) in asks {
            now += wait;
            let opens = bucket.opens_at(&rate, at(now));
            prop_assert_eq!(opens.is_none(), tokens.has_one(&rate, at(now)));
            if opens.is_none() {
                bucket = bucket.take(&rate, at(now), cost);
                tokens.take(&rate, at(now), cost);
            }
        }
    }

    #[test]
    fn a_rate_never_lets_in_more_than_its_tokens(rate in rates(), asks in asks()) {
        let (mut bucket, mut tokens, mut now) = (Bucket::default(), Tokens::full(&rate), 0);
        for (wait, cost) in asks {
            now += wait;
            if bucket.opens_at(&rate, at(now)).is_none() {
                prop_assert!(tokens.has_one(&rate, at(now)));
                bucket = bucket.take(&rate, at(now), cost);
                tokens.take(&rate, at(now), cost);
            }
        }
    }

    #[test]
    fn it_opens_when_it_said_and_not_before(rate in rates(), asks in asks()) {
        let (mut bucket, mut now) = (Bucket::default(), 0);
        for (wait, cost) in asks {
            now += wait;
            if let Some(opens) = bucket.opens_at(&rate, at(now)) {
                prop_assert!(opens > at(now));
                prop_assert_eq!(bucket.opens_at(&rate, opens), None);
                let before = opens.minus(Duration::from_millis(1));
                prop_assert!(before == at(now) || bucket.opens_at(&rate, before).is_some());
            } else {
                bucket = bucket.take(&rate, at(now), cost);
            }
        }
    }

    #[test]
    fn a_clock_that_steps_back_never_blocks_longer_than_one_window_more(
        rate in rates(), taken in 1_u32..300, back in 0_u64..100_000_000,
    ) {
        let mut bucket = Bucket::default();
        for _ in 0..taken {
            bucket = bucket.take(&rate, at(200_000_000), 1);
        }
        let before = bucket.opens_at(&rate, at(200_000_000));
        let before = before.map_or(0, |opens| opens.since(at(200_000_000)).as_millis());
        let now = at(200_000_000 - back);
        let after = bucket.opens_at(&rate, now).map_or(0, |opens| opens.since(now).as_millis());
        let window = rate.per.as_millis().max(rate.per.as_millis() * u128::from(rate.burst) / u128::from(rate.units));
        prop_assert!(after <= before + window + 2, "{after} ms after {before} ms, window {window} ms");
    }

    #[test]
    fn a_target_survives_its_text(name in "[a-zA-Z0-9._:-]{1,20}", key in "[a-z/:; *\\\\]{1,3}") {
        let task = TaskName::parse(&name).unwrap();
        let one = KeyTarget::One(Tag::parse(&key).unwrap());
        for target in [
            LimitTarget::Queue(QueueName::parse(&name).unwrap()),
            LimitTarget::Task(task.clone()),
            LimitTarget::Key(KeyTarget::Each),
            LimitTarget::Key(one.clone()),
            LimitTarget::TaskKey { task: task.clone(), key: KeyTarget::Each },
            LimitTarget::TaskKey { task, key: one },
        ] {
            prop_assert_eq!(LimitTarget::parse(&target.to_string()), Ok(target));
        }
    }

    #[test]
    fn any_text_is_a_target_or_refused(text in ".{0,40}") {
        let _ = LimitTarget::parse(&text);
        let _ = Rate::parse(&text);
    }

    #[test]
    fn a_rate_survives_its_text(units in 1_u32..1_000_000, ms in 1_u64..86_400_000) {
        let per = Duration::from_millis(ms);
        let text = Rate { units, per, burst: 1 }.to_string();
        let read = Rate::parse(&text).unwrap();
        prop_assert_eq!((read.units, read.per), (units, per), "{}", text);
    }
}

#[test]
fn a_dear_job_is_not_starved_by_cheap_ones_and_is_paid_off_before_the_next() {
    let rate = Rate::parse("10/s").unwrap();
    let bucket = Bucket::default().take(&rate, at(0), 50);
    assert_eq!(bucket.opens_at(&rate, at(0)), Some(at(5_000)));
    assert_eq!(bucket.opens_at(&rate, at(4_999)), Some(at(5_000)));
    assert_eq!(bucket.opens_at(&rate, at(5_000)), None);
}

#[test]
fn rates_are_read_as_people_write_them() {
    let rows = [
        ("100/s", Some((100, 1_000, 10))),
        ("5/10m", Some((5, 600_000, 1))),
        ("1000/500ms", Some((1_000, 500, 200))),
        ("1/d", Some((1, 86_400_000, 1))),
        ("100", None),
        ("100/", None),
        ("100/5", None),
        ("100/w", None),
        ("-1/s", None),
        ("1.5/s", None),
    ];
    for (text, want) in rows {
        let rate = Rate::parse(text).map(|r| (r.units, r.per.as_millis(), r.burst));
        assert_eq!(rate, want, "{text}");
    }
}

#[test]
fn a_key_of_its_own_is_not_held_by_what_holds_for_each() {
    let key = |text: &str| LimitTarget::Key(KeyTarget::One(Tag::parse(text).unwrap()));
    let each = LimitTarget::Key(KeyTarget::Each);
    let few = |concurrency| Limit {
        concurrency: Some(concurrency),
        ..Limit::default()
    };
    let mut table = LimitTable::default();
    table.set(each.clone(), Some(few(2)));
    table.set(key("acme"), Some(few(9)));
    assert_eq!(table.holding(&key("acme")), Some(&few(9)));
    assert_eq!(table.holding(&key("other")), Some(&few(2)));
    assert!(table.governs(&each, &key("other")) && !table.governs(&each, &key("acme")));
    assert!(table.governs(&key("acme"), &key("acme")));
    assert!(table.has_key_limits());
}

#[test]
fn a_limit_that_cannot_be_is_refused_by_the_name_of_its_field() {
    let queue = LimitTarget::parse("queue:mail").unwrap();
    let rate = |text: &str| Limit {
        rate: Rate::parse(text),
        ..Limit::default()
    };
    let rows = [
        (Limit::default(), "limit"),
        (
            Limit {
                concurrency: Some(0),
                ..Limit::default()
            },
            "concurrency",
        ),
        (rate("0/s"), "rate"),
        (rate("1/0s"), "rate"),
        (rate("1/2d"), "rate"),
        (
            Limit {
                weight: Some(2),
                ..Limit::default()
            },
            "weight",
        ),
    ];
    for (limit, field) in rows {
        let problems = limit.problems(&queue);
        assert_eq!(
            problems.iter().map(|p| p.field).collect::<Vec<_>>(),
            [field],
            "{limit:?}"
        );
    }
    assert!(rate("100/s").problems(&queue).is_empty());
}
