-- Version 6: queues and tasks that are paused or drained. mode 0: open, 1: paused, 2: draining.

ALTER TABLE queues RENAME COLUMN paused TO mode;

-- Tasks whose mode was ever set.
CREATE TABLE tasks (
  name TEXT PRIMARY KEY,
  mode INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
