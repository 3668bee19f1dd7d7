-- Version 4: limits and the audit log. Words: crates/offloop-store/src/limits.rs, audit.rs.

-- By target: queue:mail, task:report, key:*, key:acme, task:report/key:acme. units to burst: of the
-- rate, all or none.
CREATE TABLE limits (
  target      TEXT PRIMARY KEY,
  concurrency INTEGER,
  units       INTEGER,
  per_ms      INTEGER,
  burst       INTEGER,
  weight      INTEGER
) STRICT, WITHOUT ROWID;

-- What was taken from rates: nanoseconds until the bucket was empty, as of at. No row: empty.
CREATE TABLE buckets (
  target TEXT PRIMARY KEY,
  at     INTEGER NOT NULL,
  level  INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

-- What operators changed, in the commit of the change. Numbers never return.
CREATE TABLE audit (
  id      INTEGER PRIMARY KEY AUTOINCREMENT,
  at      INTEGER NOT NULL,
  actor   TEXT NOT NULL,
  subject TEXT NOT NULL,
  action  TEXT NOT NULL,
  before  TEXT,
  after   TEXT
) STRICT;

CREATE VIEW v_audit AS
  SELECT id, strftime('%Y-%m-%dT%H:%M:%fZ', at / 1000.0, 'unixepoch') AS at, actor, subject,
    action, before, after
  FROM audit;
