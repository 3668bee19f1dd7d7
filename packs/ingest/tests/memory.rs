//! What hostile inputs of any length hold in memory, counted by the allocator.
#![allow(
    clippy::unwrap_used,
    unsafe_code,
    reason = "an allocator that counts; tests may panic"
)]

mod common;

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Mutex, MutexGuard, PoisonError};

use common::target;
use offloop_ingest::Reader;

struct Counted;
static NOW: AtomicUsize = AtomicUsize::new(0);
static PEAK: AtomicUsize = AtomicUsize::new(0);
/// One test at a time, from its first byte: the count is the process's.
static ALONE: Mutex<()> = Mutex::new(());

fn alone() -> MutexGuard<'static, ()> {
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}

// SAFETY: everything is the system allocator's; beside it, two numbers are kept.
unsafe impl GlobalAlloc for Counted {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        PEAK.fetch_max(
            NOW.fetch_add(layout.size(), Relaxed) + layout.size(),
            Relaxed,
        );
        // SAFETY: the caller's promise is passed on.
        unsafe { System.alloc(layout) }
    }
    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        NOW.fetch_sub(layout.size(), Relaxed);
        // SAFETY: the caller's promise is passed on.
        unsafe { System.dealloc(at, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counted = Counted;

/// Reads `pieces` and returns rows, rejects, and the most bytes held beyond those at the start.
fn peak<'a>(extra: &str, pieces: impl Iterator<Item = &'a [u8]>) -> (u64, u64, usize) {
    let before = NOW.load(Relaxed);
    PEAK.store(before, Relaxed);
    let mut reader = Reader::new(target(2, &format!("header = \"none\"\n{extra}")));
    let (mut rows, mut rejects) = (0, 0);
    for mut piece in pieces {
        while !piece.is_empty() {
            piece = &piece[reader.push(piece).unwrap()..];
            if let Some(batch) = reader.take_batch() {
                rows += batch.len() as u64;
                rejects += batch.rejects().len() as u64;
                reader.recycle(batch);
            }
        }
    }
    while let Some(batch) = reader.finish().unwrap() {
        rows += batch.len() as u64;
        rejects += batch.rejects().len() as u64;
    }
    (rows, rejects, PEAK.load(Relaxed) - before)
}

const MIB: usize = 1 << 20;

#[test]
fn a_gigabyte_without_a_line_end_holds_a_few_records_of_memory() {
    let _alone = alone();
    let piece = vec![b'x'; 64 << 10];
    for start in [&b"a,b\n1,"[..], b"a,b\n1,\"", b"a,b\n1,\"\n"] {
        let pieces = [start]
            .into_iter()
            .chain(std::iter::repeat_n(&piece[..], 16_384));
        let (rows, rejects, peak) = peak("", pieces.chain([&b"\nc,d\n"[..]]));
        assert_eq!(rows, 2, "{start:?}");
        assert!((1..=2).contains(&rejects), "{start:?}: {rejects}");
        assert!(peak < 8 * MIB, "{start:?}: {peak}");
    }
}

#[test]
fn many_rows_hold_no_more_than_few() {
    let _alone = alone();
    let piece = b"some text,some more of it\n".repeat(2_500);
    let (rows, _, small) = peak("", std::iter::repeat_n(&piece[..], 20));
    assert_eq!(rows, 50_000);
    let (rows, _, large) = peak("", std::iter::repeat_n(&piece[..], 1_000));
    assert_eq!(rows, 2_500_000);
    assert!(
        large <= small + 64 * 1_024,
        "{small} for few, {large} for many"
    );
    assert!(large < 4 * MIB, "{large}");
}

#[test]
fn nothing_but_bad_rows_or_delimiters_holds_as_little() {
    let _alone = alone();
    let bad = b"x\n".repeat(32 << 10);
    let (rows, rejects, peak_bad) = peak("", std::iter::repeat_n(&bad[..], 50));
    assert_eq!((rows, rejects), (0, 50 * (32 << 10)));
    assert!(peak_bad < 4 * MIB, "{peak_bad}");
    let commas = b",".repeat(64 << 10);
    let (_, rejects, peak_commas) = peak("", std::iter::repeat_n(&commas[..], 1_000));
    assert_eq!(rejects, 1);
    assert!(peak_commas < 8 * MIB, "{peak_commas}");
}
