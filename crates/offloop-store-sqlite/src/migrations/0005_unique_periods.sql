-- Version 5: unique keys that are held for a period, also after their job's end.

-- hash: 16 bytes of SHA-256 over task and key. job, rnd: who holds it, or held it.
CREATE TABLE unique_periods (
  hash  BLOB PRIMARY KEY,
  job   INTEGER NOT NULL,
  rnd   INTEGER NOT NULL,
  until INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
