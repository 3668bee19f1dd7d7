-- Version 2: what attempts cost, whole and summed. Words: crates/offloop-store/src/usage.rs.

-- Attempts of this life that ended over their memory limit; NULL for none.
ALTER TABLE jobs ADD COLUMN memory_ends INTEGER;

-- NULL for none (bytes), and where no executor was kept (age_us: how old it was).
ALTER TABLE history ADD COLUMN bytes_in INTEGER;
ALTER TABLE history ADD COLUMN bytes_out INTEGER;
ALTER TABLE history ADD COLUMN age_us INTEGER;
ALTER TABLE attempts ADD COLUMN bytes_in INTEGER;
ALTER TABLE attempts ADD COLUMN bytes_out INTEGER;
ALTER TABLE attempts ADD COLUMN age_us INTEGER;

-- Sums by hour (since 1970). kind 0: tasks, 1: queues, 2: tags. name '': the names that came after
-- the first 256 of their hour. class -1: without a failure. NULL: no lane could tell.
CREATE TABLE usage (
  kind      INTEGER NOT NULL,
  hour      INTEGER NOT NULL,
  name      TEXT NOT NULL,
  class     INTEGER NOT NULL,
  attempts  INTEGER NOT NULL,
  wall_us   INTEGER NOT NULL,
  cpu_us    INTEGER,
  wait_us   INTEGER NOT NULL,
  max_rss   INTEGER,
  bytes_in  INTEGER NOT NULL,
  bytes_out INTEGER NOT NULL,
  PRIMARY KEY (kind, hour, name, class)
) STRICT, WITHOUT ROWID;

DROP VIEW v_classes;
CREATE VIEW v_classes (code, class) AS VALUES
  (0, 'error'), (1, 'timeout'), (2, 'cpu_limit'), (3, 'memory_limit'), (4, 'stalled'),
  (5, 'crashed'), (6, 'lost'), (7, 'invalid'), (8, 'cancelled'), (9, 'output_limit'),
  (10, 'file_limit'), (11, 'process_limit');

-- Every attempt that ended, the last ones too.
DROP VIEW v_attempts;
CREATE VIEW v_attempts AS
  SELECT a.job AS job_id, a.number, n.text AS node, l.text AS lane, a.executor,
    strftime('%Y-%m-%dT%H:%M:%fZ', a.started_at / 1000.0, 'unixepoch') AS started_at,
    a.wait_us / 1000.0 AS wait_ms, a.wall_us / 1000.0 AS wall_ms, a.cpu_us / 1000.0 AS cpu_ms,
    a.max_rss, coalesce(a.bytes_in, 0) AS bytes_in, coalesce(a.bytes_out, 0) AS bytes_out,
    a.age_us / 1000.0 AS executor_age_ms, c.class, a.message, a.exit_code, a.signal
  FROM (
    SELECT job, number, node, lane, executor, started_at, wait_us, wall_us, cpu_us, max_rss,
      bytes_in, bytes_out, age_us, class, message, exit_code, signal FROM attempts
    UNION ALL
    SELECT id, attempt, node, lane, executor, started_at, wait_us, wall_us, cpu_us, max_rss,
      bytes_in, bytes_out, age_us, iif(attempt_failed, class, NULL),
      iif(attempt_failed, message, NULL), iif(attempt_failed, exit_code, NULL),
      iif(attempt_failed, signal, NULL) FROM history WHERE started_at IS NOT NULL
  ) a
  JOIN words n ON n.id = a.node
  JOIN words l ON l.id = a.lane
  LEFT JOIN v_classes c ON c.code = a.class;

CREATE VIEW v_usage AS
  SELECT CASE u.kind WHEN 0 THEN 'task' WHEN 1 THEN 'queue' ELSE 'tag' END AS kind, u.name,
    strftime('%Y-%m-%dT%H:00:00Z', u.hour * 3600, 'unixepoch') AS hour,
    coalesce(c.class, 'completed') AS class, u.attempts, u.wall_us / 1000.0 AS wall_ms,
    u.cpu_us / 1000.0 AS cpu_ms, u.wait_us / 1000.0 AS wait_ms, u.max_rss, u.bytes_in, u.bytes_out
  FROM usage u LEFT JOIN v_classes c ON c.code = u.class;
