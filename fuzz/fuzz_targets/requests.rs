//! Any bytes as the body of any request of the door: the first byte chooses which. All of it is read
//! or refused, and a job that is read is one that the path takes.
#![no_main]

use bytes::Bytes;
use libfuzzer_sys::fuzz_target;
use offloop_job::{LimitTarget, Timestamp};
use offloop_wire::{
    JobReader, parse_since, parse_time, read_call, read_flow, read_group, read_limit, read_schedule,
    read_work_claim, read_work_extend, read_work_settle, read_work_watch,
};

const NOW: Timestamp = Timestamp::from_millis(1_790_000_000_000);

fn times(body: &[u8]) {
    let Ok(text) = std::str::from_utf8(body) else {
        return;
    };
    let _ = parse_since(text, NOW);
    if let Ok(at) = parse_time(text) {
        let again = offloop_wire::format_time(at);
        assert_eq!(parse_time(&again), Ok(at), "{text} became {again}");
    }
    if let Ok(target) = LimitTarget::parse(text) {
        assert_eq!(LimitTarget::parse(&target.to_string()).as_ref(), Ok(&target));
    }
}

fuzz_target!(|data: &[u8]| {
    let Some((which, body)) = data.split_first() else {
        return;
    };
    let body = Bytes::copy_from_slice(body);
    let mut reader = JobReader::new();
    match which % 12 {
        0 | 1 => {
            if let Ok(job) = reader.read(&body, 0..body.len(), NOW) {
                assert!(job.options.problems().is_empty(), "{:?}", job.options);
            }
        }
        2 => drop(read_call(&body)),
        3 => drop(read_group(&mut reader, &body, NOW, false)),
        4 => drop(read_group(&mut reader, &body, NOW, true)),
        5 => drop(read_flow(&mut reader, &body, NOW)),
        6 => {
            let target = LimitTarget::parse("queue:default").expect("a target");
            drop(read_limit(&body, &target));
        }
        7 => drop(read_schedule(&body, NOW)),
        8 => drop(read_work_claim(&body)),
        9 => drop(read_work_settle(&body)),
        10 => {
            drop(read_work_extend(&body));
            drop(read_work_watch(&body));
        }
        _ => times(&body),
    }
});
