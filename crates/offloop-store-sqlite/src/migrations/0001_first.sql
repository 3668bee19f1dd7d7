-- Version 1. Words: crates/offloop-store-sqlite/src/schema.rs.

-- Numbers that outlive a restart: leases reserved, promoted up to, finished rows, largest id.
CREATE TABLE meta (
  key   TEXT PRIMARY KEY,
  value INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

-- One line of waiting jobs: a queue and a task. Interned, so that a job's row holds one small number.
CREATE TABLE lines (
  id    INTEGER PRIMARY KEY,
  queue TEXT NOT NULL,
  task  TEXT NOT NULL,
  UNIQUE (queue, task)
) STRICT;

-- Nodes and lanes, interned.
CREATE TABLE words (
  id   INTEGER PRIMARY KEY,
  text TEXT NOT NULL UNIQUE
) STRICT;

-- Queues that were ever paused.
CREATE TABLE queues (
  name   TEXT PRIMARY KEY,
  paused INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

-- Jobs that are alive. id: the upper half of the UUID; rnd: its random part.
-- state 1: scheduled, ready when meta.promoted has passed due_at; -1: scheduled, and due before
-- meta.promoted when it was written; 2: ready. One that also has a row in running runs.
-- lease: the last one. class, exit_code, signal, message: of the last attempt that failed.
CREATE TABLE jobs (
  id         INTEGER PRIMARY KEY,
  rnd        INTEGER NOT NULL,
  line       INTEGER NOT NULL,
  state      INTEGER NOT NULL,
  priority   INTEGER NOT NULL,
  attempt    INTEGER NOT NULL,
  streak     INTEGER NOT NULL,
  due_at     INTEGER NOT NULL,
  run_at     INTEGER,
  expires_at INTEGER,
  lease      INTEGER,
  class      INTEGER,
  exit_code  INTEGER,
  signal     INTEGER,
  unique_key TEXT,
  options    TEXT,
  message    TEXT,
  payload    BLOB
) STRICT;

-- Claims beside their jobs: a claim writes 30 bytes here and leaves the job's row alone.
CREATE TABLE running (
  job        INTEGER PRIMARY KEY,
  lease      INTEGER NOT NULL,
  attempt    INTEGER NOT NULL,
  claimed_at INTEGER NOT NULL,
  node       INTEGER NOT NULL,
  cancelling INTEGER NOT NULL,
  note_at    INTEGER,
  note       BLOB
) STRICT;

-- Jobs that ended, with their last attempt. node, lane and what follows are NULL for one that
-- ended while nobody ran it. attempt_failed: class and message are of the last attempt.
CREATE TABLE history (
  id             INTEGER PRIMARY KEY,
  rnd            INTEGER NOT NULL,
  line           INTEGER NOT NULL,
  state          INTEGER NOT NULL,
  priority       INTEGER NOT NULL,
  attempt        INTEGER NOT NULL,
  due_at         INTEGER NOT NULL,
  finished_at    INTEGER NOT NULL,
  lease          INTEGER,
  claimed_at     INTEGER,
  node           INTEGER,
  lane           INTEGER,
  started_at     INTEGER,
  ended_at       INTEGER,
  wait_us        INTEGER,
  wall_us        INTEGER,
  cpu_us         INTEGER,
  max_rss        INTEGER,
  attempt_failed INTEGER NOT NULL,
  run_at         INTEGER,
  reason         INTEGER,
  class          INTEGER,
  exit_code      INTEGER,
  signal         INTEGER,
  log_dropped    INTEGER,
  options        TEXT,
  executor       TEXT,
  message        TEXT,
  payload        BLOB,
  result         BLOB,
  log_head       BLOB,
  log_tail       BLOB
) STRICT;

-- For pruning: the oldest end first.
CREATE INDEX history_finished ON history (finished_at);

-- Attempts before the last one.
CREATE TABLE attempts (
  job         INTEGER NOT NULL,
  lease       INTEGER NOT NULL,
  number      INTEGER NOT NULL,
  node        INTEGER NOT NULL,
  lane        INTEGER NOT NULL,
  started_at  INTEGER NOT NULL,
  ended_at    INTEGER NOT NULL,
  wait_us     INTEGER NOT NULL,
  wall_us     INTEGER NOT NULL,
  cpu_us      INTEGER,
  max_rss     INTEGER,
  class       INTEGER,
  exit_code   INTEGER,
  signal      INTEGER,
  message     TEXT,
  executor    TEXT NOT NULL,
  log_dropped INTEGER NOT NULL,
  log_head    BLOB NOT NULL,
  log_tail    BLOB NOT NULL,
  PRIMARY KEY (job, lease)
) STRICT, WITHOUT ROWID;

-- Payloads (2 * job) and results (2 * job + 1) that are too long for a row.
CREATE TABLE blobs (
  id   INTEGER PRIMARY KEY,
  data BLOB NOT NULL
) STRICT;

CREATE TABLE idempotency (
  key         TEXT PRIMARY KEY,
  job         INTEGER NOT NULL,
  rnd         INTEGER NOT NULL,
  fingerprint BLOB NOT NULL,
  at          INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

-- Rows of packs.
CREATE TABLE records (
  collection TEXT NOT NULL,
  key        BLOB NOT NULL,
  label      TEXT NOT NULL,
  updated_at INTEGER NOT NULL,
  value      BLOB NOT NULL,
  PRIMARY KEY (collection, key)
) STRICT, WITHOUT ROWID;

CREATE TABLE record_counts (
  collection TEXT NOT NULL,
  label      TEXT NOT NULL,
  count      INTEGER NOT NULL,
  PRIMARY KEY (collection, label)
) STRICT, WITHOUT ROWID;

-- For people with a plain sqlite3 shell.
CREATE VIEW v_states (code, state) AS VALUES
  (-1, 'scheduled'), (0, 'waiting'), (1, 'scheduled'), (2, 'ready'), (3, 'running'),
  (4, 'completed'), (5, 'failed'), (6, 'cancelled'), (7, 'expired');

CREATE VIEW v_classes (code, class) AS VALUES
  (0, 'error'), (1, 'timeout'), (2, 'cpu_limit'), (3, 'memory_limit'), (4, 'stalled'),
  (5, 'crashed'), (6, 'lost'), (7, 'invalid'), (8, 'cancelled');

CREATE VIEW v_jobs AS
  SELECT
    substr(printf('%012x', j.id >> 12), 1, 8) || '-' || substr(printf('%012x', j.id >> 12), 9, 4)
      || printf('-7%03x-', j.id & 4095)
      || substr(printf('%016x', j.rnd | (1 << 63)), 1, 4) || '-'
      || substr(printf('%016x', j.rnd | (1 << 63)), 5, 12) AS job,
    l.task, l.queue,
    CASE WHEN j.lease_now IS NOT NULL THEN 'running'
      WHEN j.state = 1 AND j.due_at <= (SELECT value FROM meta WHERE key = 'promoted')
      THEN 'ready' ELSE s.state END AS state,
    j.priority, j.attempt,
    strftime('%Y-%m-%dT%H:%M:%fZ', (j.id >> 12) / 1000.0, 'unixepoch') AS created_at,
    strftime('%Y-%m-%dT%H:%M:%fZ', due_at / 1000.0, 'unixepoch') AS due_at,
    strftime('%Y-%m-%dT%H:%M:%fZ', claimed_at / 1000.0, 'unixepoch') AS started_at,
    strftime('%Y-%m-%dT%H:%M:%fZ', finished_at / 1000.0, 'unixepoch') AS finished_at,
    c.class, j.message, j.options, j.payload, j.result
  FROM (
    SELECT id, rnd, line, state, priority, coalesce(r.attempt, o.attempt) AS attempt, due_at,
      claimed_at, r.lease AS lease_now, NULL AS finished_at, class, message, options,
      CAST(payload AS TEXT) AS payload, NULL AS result
    FROM jobs o LEFT JOIN running r ON r.job = o.id
    UNION ALL
    SELECT id, rnd, line, state, priority, attempt, due_at, claimed_at, NULL, finished_at, class,
      message, options, CAST(payload AS TEXT), CAST(result AS TEXT) FROM history
  ) j
  JOIN lines l ON l.id = j.line
  JOIN v_states s ON s.code = j.state
  LEFT JOIN v_classes c ON c.code = j.class;

CREATE VIEW v_attempts AS
  SELECT a.job AS job_id, a.number, n.text AS node, l.text AS lane, a.executor,
    strftime('%Y-%m-%dT%H:%M:%fZ', a.started_at / 1000.0, 'unixepoch') AS started_at,
    a.wait_us / 1000.0 AS wait_ms, a.wall_us / 1000.0 AS wall_ms, a.cpu_us / 1000.0 AS cpu_ms,
    a.max_rss, c.class, a.message, a.exit_code, a.signal
  FROM attempts a
  JOIN words n ON n.id = a.node
  JOIN words l ON l.id = a.lane
  LEFT JOIN v_classes c ON c.code = a.class;
