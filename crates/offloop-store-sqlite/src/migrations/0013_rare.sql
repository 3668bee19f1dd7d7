-- Version 13: ends that were not good, and jobs with a failure, found without a look at all the others.
-- A job that ends well without a failure is in none of these. State 4 is `completed`; each index ends
-- with the row's number, so that a page of one state or class comes in the order of ids.

CREATE INDEX history_unwell ON history (state) WHERE state <> 4;
CREATE INDEX history_class ON history (class) WHERE class IS NOT NULL;
CREATE INDEX jobs_class ON jobs (class) WHERE class IS NOT NULL;
