//! A reader that is taken up again at any batch makes what one that went on would have made.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod common;

use common::{Read, read_all, read_on, target};
use offloop_ingest::{Checkpoint, Reader};
use proptest::prelude::*;

fn input() -> impl Strategy<Value = Vec<u8>> {
    let line = prop_oneof![
        4 => "[a-z]{0,5},[0-9]{0,5}",
        2 => "\"[a-z\n,]{0,8}\",x",
        1 => "one field",
        1 => "a,\"never closed",
        1 => "a,\"x\",\"",
        1 => "x{1100}",
        1 => "\"y{700}\n{400},z",
    ];
    let end = prop_oneof![Just("\n"), Just("\r\n"), Just("\r")];
    prop::collection::vec((line, end), 0..30).prop_map(|lines| {
        let lines = lines.into_iter().map(|(line, end)| line + end);
        format!("c1,c0\n{}", lines.collect::<String>()).into_bytes()
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..Default::default() })]

    #[test]
    fn no_row_is_lost_or_doubled_by_a_resume_at_any_batch(
        bytes in input(),
        rows in 1_u32..4,
        cut in 1_usize..2_000,
    ) {
        let extra = format!(
            "batch = {{ rows = {rows} }}\nlimits = {{ record_bytes = 1024 }}\n"
        );
        let target = target(2, &extra);
        let cuts: Vec<_> = (0..bytes.len()).step_by(cut).collect();
        let whole = read_all(&target, &bytes, &cuts);
        for at in 0..whole.batches.len() {
            let stored = serde_json::to_string(&whole.batches[at].1).unwrap();
            let checkpoint: Checkpoint = serde_json::from_str(&stored).unwrap();
            let from = checkpoint.offset as usize;
            let (row, rejects) = (checkpoint.row, checkpoint.rejects as usize);
            let reader = Reader::resume_at(target.clone(), checkpoint);
            let rest = read_on(reader, &bytes[from..], &[]);
            let before = whole.rows.iter().filter(|seen| seen.number <= row).count();
            prop_assert_eq!(
                rest,
                Read {
                    rows: whole.rows[before..].to_vec(),
                    rejects: whole.rejects[rejects..].to_vec(),
                    batches: whole.batches[at + 1..].to_vec(),
                    error: whole.error.clone(),
                }
            );
        }
    }

    #[test]
    fn a_batch_cut_by_its_time_loses_nothing_of_the_record_under_way(
        bytes in input(),
        cut in 1_usize..300,
    ) {
        let target = target(2, "limits = { record_bytes = 1024 }\n");
        let whole = read_all(&target, &bytes, &[]);
        let mut reader = Reader::new(target);
        let mut read = Read { rows: vec![], rejects: vec![], batches: vec![], error: None };
        for piece in bytes.chunks(cut) {
            let mut from = 0;
            while from < piece.len() {
                from += reader.push(&piece[from..]).unwrap();
                if let Some(batch) = reader.take_batch() {
                    read.keep(&batch);
                    reader.recycle(batch);
                }
            }
            if let Some(batch) = reader.flush() {
                read.keep(&batch);
                reader.recycle(batch);
            }
        }
        while let Some(batch) = reader.finish().unwrap() {
            read.keep(&batch);
        }
        prop_assert_eq!(read.rows, whole.rows);
        prop_assert_eq!(read.rejects, whole.rejects);
    }
}

#[test]
fn batches_leave_no_gaps_and_number_their_rows_through() {
    let bytes: Vec<u8> = (0..1_000)
        .flat_map(|row| format!("{row},x\n").into_bytes())
        .collect();
    let target = target(2, "header = \"none\"\nbatch = { rows = 7 }\n");
    let mut reader = Reader::new(target);
    let (mut from, mut next, mut offset, mut row) = (0, 0, 0, 1);
    while from < bytes.len() {
        from += reader.push(&bytes[from..]).unwrap();
        while let Some(batch) = reader.take_batch() {
            assert_eq!(
                (batch.number(), batch.from(), batch.first_row()),
                (next, offset, row)
            );
            assert_eq!(batch.len(), 7);
            for row in batch.rows() {
                let line = format!("{},x", row.number() - 1);
                assert_eq!(
                    &bytes[row.offset() as usize..][..line.len()],
                    line.as_bytes()
                );
            }
            (next, offset, row) = (next + 1, batch.to(), row + 7);
        }
    }
}
