-- Version 7: groups, and jobs that wait for others. Words: crates/offloop-store/src/groups.rs.

-- id, rnd: as of a job. total and what follows: members, and how they ended. failures: as
-- offloop_job::Failures writes it. then_*: the follow-up, made when then_job is there.
CREATE TABLE groups (
  id         INTEGER PRIMARY KEY,
  rnd        INTEGER NOT NULL,
  rule       INTEGER NOT NULL,
  state      INTEGER NOT NULL,
  hold       INTEGER NOT NULL,
  deadline   INTEGER,
  decided_at INTEGER,
  reason     INTEGER,
  total      INTEGER NOT NULL,
  completed  INTEGER NOT NULL,
  failed     INTEGER NOT NULL,
  cancelled  INTEGER NOT NULL,
  expired    INTEGER NOT NULL,
  failures   TEXT,
  then_on    INTEGER,
  then_task  TEXT,
  then_job   INTEGER,
  then_rnd   INTEGER
) STRICT;

-- For pruning, and for what a start must know of.
CREATE INDEX groups_decided ON groups (decided_at) WHERE decided_at IS NOT NULL;
CREATE INDEX groups_unfinished ON groups (id)
  WHERE state = 0 OR completed + failed + cancelled + expired < total;

-- Follow-ups that are not made yet.
CREATE TABLE group_thens (
  grp      INTEGER PRIMARY KEY,
  queue    TEXT NOT NULL,
  priority INTEGER NOT NULL,
  run_at   INTEGER,
  options  TEXT,
  payload  BLOB NOT NULL
) STRICT;

CREATE TABLE group_members (
  grp INTEGER NOT NULL,
  job INTEGER NOT NULL,
  rnd INTEGER NOT NULL,
  PRIMARY KEY (grp, job)
) STRICT, WITHOUT ROWID;

-- Who waits for whom, until that one has ended and this row was worked off. jobs.state 0: waiting.
-- rule 0: fail, 1: ignore, 2: continue.
CREATE TABLE edges (
  parent INTEGER NOT NULL,
  child  INTEGER NOT NULL,
  rule   INTEGER NOT NULL,
  PRIMARY KEY (parent, child)
) STRICT, WITHOUT ROWID;

-- Jobs that ended in this state and whose edges are not worked off yet.
CREATE TABLE fan_outs (
  job   INTEGER PRIMARY KEY,
  rnd   INTEGER NOT NULL,
  state INTEGER NOT NULL
) STRICT;

-- Waiting jobs that can never run, because of this parent.
CREATE TABLE barred (
  job        INTEGER PRIMARY KEY,
  parent     INTEGER NOT NULL,
  parent_rnd INTEGER NOT NULL
) STRICT;

CREATE VIEW v_groups AS
  SELECT
    substr(printf('%012x', g.id >> 12), 1, 8) || '-' || substr(printf('%012x', g.id >> 12), 9, 4)
      || printf('-7%03x-', g.id & 4095)
      || substr(printf('%016x', g.rnd | (1 << 63)), 1, 4) || '-'
      || substr(printf('%016x', g.rnd | (1 << 63)), 5, 12) AS grp,
    CASE g.rule WHEN 0 THEN 'all' WHEN 1 THEN 'all_settled' WHEN 2 THEN 'race' ELSE 'any' END AS rule,
    CASE g.state WHEN 0 THEN 'open' WHEN 1 THEN 'completed' WHEN 2 THEN 'failed'
      ELSE 'cancelled' END AS state,
    g.hold, g.completed + g.failed + g.cancelled + g.expired AS done, g.total,
    strftime('%Y-%m-%dT%H:%M:%fZ', g.decided_at / 1000.0, 'unixepoch') AS decided_at, g.failures
  FROM groups g;
