-- Version 11: limits of the configuration go when it does not say them any more.

-- 1: declared there. What was declared before this version counts as set by hand until the next start.
ALTER TABLE limits ADD COLUMN declared INTEGER NOT NULL DEFAULT 0;
