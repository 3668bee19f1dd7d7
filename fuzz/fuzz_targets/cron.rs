//! Any text as a cron expression in any zone: refused, or its due times go forward for ever, and each
//! is the next one from every instant before it.
#![no_main]

use std::time::Duration;

use libfuzzer_sys::fuzz_target;
use offloop_job::{ScheduleName, ScheduleSpec, TaskName, Timestamp, Timing};
use offloop_schedule::Plan;

fuzz_target!(|data: &[u8]| {
    let Some((start, text)) = data.split_first_chunk::<4>() else {
        return;
    };
    let Ok(text) = std::str::from_utf8(text) else {
        return;
    };
    // "ZONE|EXPRESSION"
    let (zone, text) = text.split_once('|').unwrap_or(("UTC", text));
    let task = TaskName::parse("t").expect("a name");
    let spec = ScheduleSpec {
        timezone: zone.into(),
        ..ScheduleSpec::new(task, Timing::Cron(text.into()))
    };
    let name = ScheduleName::parse("s").expect("a name");
    let Ok(plan) = Plan::new(&name, &spec, Timestamp::from_millis(0)) else {
        return;
    };
    let mut at = Timestamp::from_millis(u64::from(u32::from_le_bytes(*start)) * 1_000);
    for _ in 0..4 {
        let Some(next) = plan.next_after(at) else {
            return;
        };
        assert!(next > at, "{text} in {zone}: {next:?} follows {at:?}");
        let between = at.plus(next.since(at) / 2);
        let between = between.min(next.minus(Duration::from_millis(1)));
        assert_eq!(plan.next_after(between), Some(next), "{text} in {zone}");
        let _shown = plan.local(next);
        at = next;
    }
});
