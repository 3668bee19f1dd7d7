-- Version 10: jobs by tag, so that a rare one is found without a look at all the others.

-- Each tag of each job, live or finished; it goes with the job.
CREATE TABLE job_tags (
  tag TEXT NOT NULL,
  job INTEGER NOT NULL,
  PRIMARY KEY (tag, job)
) STRICT, WITHOUT ROWID;

-- From the text of the options of the jobs that are there: `...;tags=a,b%2Cc;...`.
WITH RECURSIVE
  texts (id, list) AS (
    SELECT id, substr(rest, 1, instr(rest || ';', ';') - 1) FROM (
      SELECT id, substr(options, instr(';' || options, ';tags=') + 5) AS rest FROM jobs
      WHERE instr(';' || options, ';tags=') > 0
      UNION ALL
      SELECT id, substr(options, instr(';' || options, ';tags=') + 5) FROM history
      WHERE instr(';' || options, ';tags=') > 0
    )
  ),
  parts (id, tag, rest) AS (
    SELECT id, NULL, list || ',' FROM texts
    UNION ALL
    SELECT id, substr(rest, 1, instr(rest, ',') - 1), substr(rest, instr(rest, ',') + 1)
    FROM parts WHERE rest <> ''
  )
INSERT OR IGNORE INTO job_tags
  SELECT replace(replace(replace(tag, '%2C', ','), '%3B', ';'), '%25', '%'), id
  FROM parts WHERE tag IS NOT NULL;
