-- Version 8: schedules and their ledger. Words: crates/offloop-store/src/schedules.rs.

-- What was asked for. timing, missed: crates/offloop-store/src/schedule_text.rs.
CREATE TABLE schedules (
  id             INTEGER PRIMARY KEY,
  name           TEXT NOT NULL UNIQUE,
  origin         INTEGER NOT NULL,
  revision       INTEGER NOT NULL,
  created_at     INTEGER NOT NULL,
  updated_at     INTEGER NOT NULL,
  paused         INTEGER NOT NULL,
  timing         TEXT NOT NULL,
  timezone       TEXT NOT NULL,
  missed         TEXT NOT NULL,
  overlap        TEXT NOT NULL,
  jitter_ms      INTEGER NOT NULL,
  alert_after_ms INTEGER NOT NULL,
  starts_at      INTEGER,
  ends_at        INTEGER,
  task           TEXT NOT NULL,
  queue          TEXT NOT NULL,
  priority       INTEGER NOT NULL,
  options        TEXT,
  payload        BLOB NOT NULL
) STRICT;

-- What changes with every due time, in a row of its own.
CREATE TABLE schedule_times (
  schedule    INTEGER PRIMARY KEY,
  next_due    INTEGER,
  held        INTEGER,
  ledger_rows INTEGER NOT NULL
) STRICT;

-- One row per due time, or per stretch of skipped ones (until, count: NULL for too many to count).
-- job, rnd: of one that was fired; reason: of one that was not.
CREATE TABLE ledger (
  schedule INTEGER NOT NULL,
  due_at   INTEGER NOT NULL,
  by_hand  INTEGER NOT NULL,
  at       INTEGER NOT NULL,
  late_ms  INTEGER NOT NULL,
  job      INTEGER,
  rnd      INTEGER,
  reason   TEXT,
  until    INTEGER,
  count    INTEGER,
  PRIMARY KEY (schedule, due_at, by_hand)
) STRICT, WITHOUT ROWID;

-- Unfinished jobs that schedules made.
CREATE TABLE schedule_jobs (
  job  INTEGER PRIMARY KEY,
  rnd  INTEGER NOT NULL,
  name TEXT NOT NULL
) STRICT;

CREATE VIEW v_ledger AS
  SELECT s.name AS schedule,
    strftime('%Y-%m-%dT%H:%M:%fZ', l.due_at / 1000.0, 'unixepoch') AS due_at,
    iif(l.job IS NULL, 'skipped', 'fired') AS outcome, l.by_hand, l.reason, l.late_ms,
    substr(printf('%012x', l.job >> 12), 1, 8) || '-' || substr(printf('%012x', l.job >> 12), 9, 4)
      || printf('-7%03x-', l.job & 4095)
      || substr(printf('%016x', l.rnd | (1 << 63)), 1, 4) || '-'
      || substr(printf('%016x', l.rnd | (1 << 63)), 5, 12) AS job,
    strftime('%Y-%m-%dT%H:%M:%fZ', l.until / 1000.0, 'unixepoch') AS until, l.count
  FROM ledger l JOIN schedules s ON s.id = l.schedule;
