//! How long one bulk line takes to read and to answer. `cargo run --release --example read_speed`

use std::time::Instant;

use bytes::Bytes;
use offloop_job::{JobId, Timestamp};
use offloop_wire::{JobReader, write_created_line};

fn main() {
    let now = Timestamp::from_millis(1_800_000_000_000);
    let lines = [
        r#"{"task":"offloop.noop","payload":{"n":123456}}"#,
        r#"{"task":"offloop.noop","queue":"mail","priority":3,"payload":{"to":"someone@example.org","n":123456,"text":"hello world, this is a letter"},"tags":["a"]}"#,
        r#"{"task":"offloop.noop","payload":{"n":1},"max_attempts":3,"backoff":{"kind":"fixed","base_ms":100},"unique":{"key":"order-1"},"timeout_ms":5000}"#,
    ];
    for line in lines {
        let text = Bytes::copy_from_slice(line.as_bytes());
        let mut reader = JobReader::new();
        let (runs, mut out) = (1_000_000_u32, Vec::with_capacity(1 << 20));
        let begun = Instant::now();
        let mut payloads = 0;
        for _ in 0..runs {
            payloads += reader
                .read(&text, 0..text.len(), now)
                .map_or(0, |job| job.payload.len());
        }
        let read = begun.elapsed();
        let begun = Instant::now();
        for number in 0..runs {
            if out.len() > 1 << 16 {
                out.clear();
            }
            write_created_line(&mut out, number.into(), JobId::from_parts(number.into(), 1));
        }
        let written = begun.elapsed();
        println!(
            "{} bytes: read {:?} per line, answer {:?} per line ({payloads})",
            line.len(),
            read / runs,
            written / runs
        );
    }
}
