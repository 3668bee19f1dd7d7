-- Version 9: finished jobs with a time of their own.

-- Until when; NULL: as the rule says.
ALTER TABLE history ADD COLUMN keep_until INTEGER;

-- For pruning: rows under the rule by their end, the others by their own time, and by their end for the
-- bound on the number of all. A row without a time of its own is in one index, as before.
DROP INDEX history_finished;
CREATE INDEX history_finished ON history (finished_at) WHERE keep_until IS NULL;
CREATE INDEX history_keep ON history (keep_until) WHERE keep_until IS NOT NULL;
CREATE INDEX history_kept_finished ON history (finished_at) WHERE keep_until IS NOT NULL;
