//! The rules of groups as tables.

use super::*;

const fn tally(total: u64, completed: u64, failed: u64, cancelled: u64, expired: u64) -> Tally {
    Tally {
        total,
        completed,
        failed,
        cancelled,
        expired,
    }
}

#[test]
fn each_rule_decides_when_the_table_says_so() {
    use GroupRule::{All, AllSettled, Any, Race};
    use GroupState::{Completed, Failed};
    #[rustfmt::skip]
    let rows = [
        // rule       total ok bad can exp  open: decided       held: decided
        (All,        (3, 2, 0, 0, 0), None,            None),
        (All,        (3, 3, 0, 0, 0), Some(Completed), None),
        (All,        (3, 0, 1, 0, 0), Some(Failed),    Some(Failed)),
        (All,        (3, 2, 0, 1, 0), Some(Failed),    Some(Failed)),
        (All,        (3, 2, 0, 0, 1), Some(Failed),    Some(Failed)),
        (All,        (0, 0, 0, 0, 0), Some(Completed), None),
        (AllSettled, (3, 1, 1, 0, 0), None,            None),
        (AllSettled, (3, 1, 1, 0, 1), Some(Completed), None),
        (AllSettled, (3, 0, 3, 0, 0), Some(Completed), None),
        (AllSettled, (0, 0, 0, 0, 0), Some(Completed), None),
        (Race,       (3, 0, 0, 0, 0), None,            None),
        (Race,       (3, 1, 0, 0, 0), Some(Completed), Some(Completed)),
        (Race,       (3, 0, 1, 0, 0), Some(Failed),    Some(Failed)),
        (Race,       (3, 0, 0, 0, 1), Some(Failed),    Some(Failed)),
        (Race,       (0, 0, 0, 0, 0), Some(Failed),    None),
        (Any,        (3, 0, 2, 0, 0), None,            None),
        (Any,        (3, 1, 2, 0, 0), Some(Completed), Some(Completed)),
        (Any,        (3, 0, 1, 1, 1), Some(Failed),    None),
        (Any,        (0, 0, 0, 0, 0), Some(Failed),    None),
    ];
    for (rule, (total, ok, bad, can, exp), open, held) in rows {
        let counts = tally(total, ok, bad, can, exp);
        assert_eq!(verdict(rule, &counts, false), open, "{rule:?} {counts:?}");
        assert_eq!(
            verdict(rule, &counts, true),
            held,
            "{rule:?} {counts:?} held"
        );
    }
}

#[test]
fn a_parent_that_did_not_complete_passes_by_the_edge_alone() {
    use JobState::{Cancelled, Completed, Expired, Failed};
    for end in [Failed, Cancelled, Expired] {
        assert_eq!(OnFailure::Fail.on_end(end), Passage::Barred, "{end}");
        assert_eq!(OnFailure::Ignore.on_end(end), Passage::Counted, "{end}");
        assert_eq!(OnFailure::Continue.on_end(end), Passage::Free, "{end}");
    }
    for rule in OnFailure::ALL {
        assert_eq!(rule.on_end(Completed), Passage::Counted, "{rule:?}");
    }
}

#[test]
fn progress_never_steps_back() {
    let mut counts = Tally::default();
    let mut last = (0, 0);
    for step in 0..200_u64 {
        if step % 3 == 0 {
            counts.total += 2;
        } else {
            counts.count(JobState::ALL[4 + (step % 4) as usize]);
        }
        let now = (counts.done(), counts.total);
        assert!(now.0 >= last.0 && now.1 >= last.1 && now.0 <= now.1);
        last = now;
    }
    counts.count(JobState::Running);
    assert_eq!((counts.done(), counts.total), last);
}

#[test]
fn the_aggregate_names_every_class_and_the_first_few() {
    let mut failures = Failures::default();
    let job = |order| JobId::from_parts(order, 1);
    for order in 1..=4 {
        let class = Some(FailureClass::Error);
        failures.note(job(order), JobState::Failed, class, "no\nroute");
    }
    failures.note(job(5), JobState::Cancelled, None, "");
    failures.note(job(6), JobState::Failed, None, "");
    assert_eq!(failures.first.len(), GROUP_FAILURES_KEPT);
    let said = failures.summary();
    let start = "1 cancelled, 1 dependency, 4 error; first ";
    assert!(said.starts_with(start), "{said}");
    assert!(said.contains("(error): no route"), "{said}");
    assert_eq!(Failures::decode(&failures.encode()), failures);
    assert_eq!(Failures::decode(""), Failures::default());
}

#[test]
fn names_and_codes_lead_back() {
    for rule in GroupRule::ALL {
        assert_eq!(GroupRule::from_name(rule.as_str()), Some(rule));
        assert_eq!(GroupRule::from_code(rule as u8), Some(rule));
    }
    for state in GroupState::ALL {
        assert_eq!(GroupState::from_name(state.as_str()), Some(state));
        assert_eq!(GroupState::from_code(state as u8), Some(state));
    }
    for rule in OnFailure::ALL {
        assert_eq!(OnFailure::from_name(rule.as_str()), Some(rule));
        assert_eq!(OnFailure::from_code(rule as u8), Some(rule));
    }
    for reason in GroupReason::ALL {
        assert_eq!(GroupReason::from_code(reason as u8), Some(reason));
    }
    for on in ThenOn::ALL {
        assert_eq!(ThenOn::from_code(on as u8), Some(on));
    }
}
