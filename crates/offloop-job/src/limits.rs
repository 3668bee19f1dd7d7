//! Every bound that a job must keep, with its reason. Configuration may tighten some, never widen.

use std::time::Duration;

/// Task and queue names.
pub const NAME_BYTES_MAX: usize = 128;
pub const TAG_BYTES_MAX: usize = 128;
pub const TAGS_MAX: usize = 16;
pub const UNIQUE_KEY_BYTES_MAX: usize = 256;
pub const IDEMPOTENCY_KEY_BYTES_MAX: usize = 256;
/// How long a repeated Idempotency-Key finds its job.
pub const IDEMPOTENCY_KEEP: Duration = Duration::from_secs(24 * 3600);
/// Payload and result: larger data belongs in a file or an object store, the job names it.
pub const PAYLOAD_BYTES_MAX: usize = 1 << 20;
pub const RESULT_BYTES_MAX: usize = 1 << 20;
/// The same of a call, which no store keeps. A lane of child processes carries what a job may have.
pub const CALL_PAYLOAD_BYTES_MAX: usize = 8 << 20;
pub const CALL_RESULT_BYTES_MAX: usize = 8 << 20;
/// Who waits longer wants a job.
pub const CALL_TIMEOUT_MAX: Duration = Duration::from_secs(300);
/// Progress is a note for a person, written over and over.
pub const PROGRESS_BYTES_MAX: usize = 4 << 10;
/// What a job keeps of its own work between attempts: a cursor, not the work itself.
pub const CHECKPOINT_BYTES_MAX: usize = 64 << 10;
/// One piece of a result that is told before the end, to whoever listens.
pub const PARTIAL_BYTES_MAX: usize = 16 << 10;
/// A task that asks to be run again later names a time in between: below it would be a busy loop,
/// above it nobody remembers.
pub const SNOOZE_MIN: Duration = Duration::from_secs(1);
pub const SNOOZE_MAX: Duration = Duration::from_secs(30 * 24 * 3600);
/// Snoozes in a row; the next one is a failure that says so. A task may set its own.
pub const SNOOZES_DEFAULT: u16 = 1_000;
/// Message of a failure; the rest is in the log.
pub const MESSAGE_BYTES_MAX: usize = 8 << 10;
/// What is kept of one attempt's output: the first and the last part.
pub const LOG_HEAD_BYTES_MAX: usize = 16 << 10;
pub const LOG_TAIL_BYTES_MAX: usize = 48 << 10;
/// W3C traceparent is 55 bytes; room for tracestate.
pub const TRACE_BYTES_MAX: usize = 512;
pub const ATTEMPTS_MAX: u16 = 1_000;
pub const ATTEMPTS_DEFAULT: u16 = 5;
/// Earlier attempts kept on record with their logs.
pub const ATTEMPTS_KEPT_MAX: usize = 20;
pub const PRIORITY_MAX: u8 = 9;
pub const PRIORITY_DEFAULT: u8 = 5;
pub const CORES_MAX: u16 = 1_024;
/// A crash-like end this often in a row, without a new checkpoint in between, quarantines the job
/// (`FinalReason::Poison`).
pub const POISON_ENDS: u16 = 3;
pub const CUSTOM_BACKOFF_STEPS_MAX: usize = 64;
pub const BACKOFF_CAP_MAX: Duration = Duration::from_secs(30 * 24 * 3600);
/// A job without its own gets this wall-clock limit.
pub const TIMEOUT_DEFAULT: Duration = Duration::from_secs(3600);
pub const TIMEOUT_MAX: Duration = Duration::from_secs(30 * 24 * 3600);
/// How long a finished job may be kept by a wish of its own: ten years.
pub const KEEP_MAX: Duration = Duration::from_secs(3_650 * 24 * 3600);
/// A finished job is there for this long in any case, so that whoever waited for it can read it.
pub const KEEP_MIN: Duration = Duration::from_secs(10);
/// Jobs in one commit.
pub const BATCH_JOBS_MAX: usize = 1_024;
/// Rows on one page of a list.
pub const PAGE_ROWS_MAX: u16 = 500;
pub const RECORD_KEY_BYTES_MAX: usize = 4_352; // PATH_MAX and a little
pub const RECORD_VALUE_BYTES_MAX: usize = 64 << 10;

/// How long a unique key may be held for a period, or wait for quiet.
pub const UNIQUE_FOR_MAX: Duration = Duration::from_secs(30 * 24 * 3600);
/// Units that a job may cost of a rate; default 1.
pub const COST_MAX: u32 = 1_000_000;
pub const CONCURRENCY_MAX: u32 = 1_000_000;
pub const RATE_UNITS_MAX: u32 = 1_000_000;
pub const RATE_PER_MAX: Duration = Duration::from_secs(24 * 3600);
pub const BURST_MAX: u32 = 1_000_000;
pub const WEIGHT_MAX: u16 = 1_000;
pub const WEIGHT_DEFAULT: u16 = 1;
/// Limits in one store: room for one of each customer's.
pub const LIMITS_MAX: usize = 200_000;
/// Jobs that one job waits for.
pub const PARENTS_MAX: usize = 64;
/// Members of a group.
pub const GROUP_MEMBERS_MAX: u64 = 1_000_000;
/// Failed members that a group keeps in full; the others are counted.
pub const GROUP_FAILURES_KEPT: usize = 3;
/// Of one of their messages.
pub const GROUP_FAILURE_BYTES_MAX: usize = 256;
/// Results that a job is handed of those that it waited for, all together.
pub const INPUT_BYTES_MAX: usize = 1 << 20;
/// Members that a group's follow-up is handed.
pub const INPUTS_MAX: usize = 1_000;
// Schedules.
/// Schedules in one store: each costs a timer and about a kilobyte of memory.
pub const SCHEDULES_MAX: usize = 100_000;
pub const SCHEDULE_CRON_BYTES_MAX: usize = 256;
/// The longest IANA name has 30.
pub const SCHEDULE_ZONE_BYTES_MAX: usize = 64;
/// Faster than this is a loop inside one job.
pub const SCHEDULE_EVERY_MIN: Duration = Duration::from_millis(100);
pub const SCHEDULE_EVERY_MAX: Duration = Duration::from_secs(366 * 24 * 3600);
/// Instants of a calendar list.
pub const SCHEDULE_AT_MAX: usize = 10_000;
pub const SCHEDULE_CATCH_UP_MAX: u16 = 1_000;
pub const SCHEDULE_CATCH_UP_DEFAULT: u16 = 100;
pub const SCHEDULE_JITTER_MAX: Duration = Duration::from_secs(24 * 3600);
pub const SCHEDULE_ALERT_DEFAULT: Duration = Duration::from_secs(60);
/// Rows of the ledger that are kept of one schedule, at least; the oldest go.
pub const LEDGER_ROWS_MAX: u32 = 1_000;
/// Rows of the ledger go when they are as old as this.
pub const LEDGER_KEEP: Duration = Duration::from_secs(400 * 24 * 3600);
/// A refusal in the ledger is cut after so many bytes.
pub const LEDGER_REASON_BYTES_MAX: usize = 512;
