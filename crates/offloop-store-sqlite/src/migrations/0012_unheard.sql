-- Version 12: ends that nobody was asked about: replaced by another job with their unique key, or settled
-- for another life while their cancel was marked.

CREATE TABLE unheard (
  job INTEGER PRIMARY KEY,
  rnd INTEGER NOT NULL
) STRICT;
