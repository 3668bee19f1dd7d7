-- Version 3: what jobs leave for their next attempt, and how often they asked for a later one.

-- The newest checkpoint of a job that may run again, live or finished.
CREATE TABLE checkpoints (
  job  INTEGER PRIMARY KEY,
  at   INTEGER NOT NULL,
  data BLOB NOT NULL
) STRICT;

-- Snoozes in a row; NULL for none.
ALTER TABLE jobs ADD COLUMN snoozes INTEGER;
ALTER TABLE history ADD COLUMN snoozes INTEGER;
