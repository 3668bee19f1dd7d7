//! `[ingest.consumers]`: topics that are read into targets.

use std::collections::BTreeMap;

use offloop_ingest::Target;
use offloop_ingest::consume::Consumer;
pub(super) use offloop_ingest::consume::RawConsumer;

use super::resolve::Problems;

/// What is meant; a program that cannot read topics says so.
pub(super) fn consumers(
    raw: &BTreeMap<String, RawConsumer>,
    targets: &[Target],
    has_kafka: bool,
    problems: &mut Problems,
) -> Vec<Consumer> {
    let mut consumers = Vec::new();
    for (name, raw) in raw {
        if cfg!(not(feature = "kafka")) {
            let without = offloop_ingest::pack::WITHOUT_KAFKA;
            problems.say(format!("ingest.consumers.{name}"), without);
            continue;
        }
        if !has_kafka {
            let problem =
                format!("consumer `{name}` needs [ingest.kafka]: say brokers = \"host:port\"");
            problems.say("ingest.kafka", problem);
        }
        match raw.resolve(name, targets) {
            Ok(consumer) => consumers.push(consumer),
            Err(found) => {
                for problem in found {
                    problems.say(problem.field, problem.problem);
                }
            }
        }
    }
    consumers
}
