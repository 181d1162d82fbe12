-- Looking at many runs. Listings walk an index of workflow_runs from where the last page ended.
-- A long list of what a run waits for is cut to its first AWAITED_SHOWN things, and counted; a short one goes as it is.

-- fragment: listed_columns
-- What the codec reads of a run in a listing.
-- include: head_columns
-- include: late_head_columns
CASE
    WHEN head.status <> 'paused' THEN NULL
    WHEN length(head.awaiting) <= 1000 THEN head.awaiting
    WHEN json_valid(head.awaiting) THEN json_extract(head.awaiting, '$[0]', '$[1]', '$[2]')
END AS awaiting,
CASE
    WHEN head.status = 'paused' AND length(head.awaiting) > 1000 AND json_valid(head.awaiting)
        THEN json_array_length(head.awaiting)
END AS awaited_count

-- fragment: listed_runs
-- All runs, with their heads.
FROM workflow_runs AS run
CROSS JOIN workflow_event_locks AS head ON head.run_id = run.run_id

-- fragment: listing_filters
-- What the caller asks for; follows the conditions of the page.
-- ?4 statuses  ?5 workflow_ids  ?6 queues  ?7 run_id_prefix
AND (?4 IS NULL OR head.status IN (SELECT wanted.value FROM json_each(?4) AS wanted))
AND (?5 IS NULL OR run.workflow_id IN (SELECT wanted.value FROM json_each(?5) AS wanted))
AND (?6 IS NULL OR run.queue IN (SELECT wanted.value FROM json_each(?6) AS wanted))
AND (?7 IS NULL OR substr(run.run_id, 1, length(?7)) = ?7)

-- fragment: workflow_listing_filters
-- What the caller asks for besides the workflow; follows the conditions of the page.
-- ?4 statuses  ?6 queues  ?7 run_id_prefix
AND (?4 IS NULL OR head.status IN (SELECT wanted.value FROM json_each(?4) AS wanted))
AND (?6 IS NULL OR run.queue IN (SELECT wanted.value FROM json_each(?6) AS wanted))
AND (?7 IS NULL OR substr(run.run_id, 1, length(?7)) = ?7)

-- name: list_runs
-- Lists runs, oldest first.
-- ?1 after_created_at_ms  ?2 after_run_id  ?3 created_before_ms
-- ?4 statuses  ?5 workflow_ids  ?6 queues  ?7 run_id_prefix  ?8 limit
SELECT
    -- include: listed_columns
-- include: listed_runs
WHERE
    (run.created_at, run.run_id) > (?1, ?2)
    AND run.created_at < ?3
    -- include: listing_filters
ORDER BY run.created_at, run.run_id
LIMIT ?8;

-- name: list_runs_descending
-- Lists runs, newest first.
-- ?1 before_created_at_ms  ?2 before_run_id  ?3 created_from_ms
-- ?4 statuses  ?5 workflow_ids  ?6 queues  ?7 run_id_prefix  ?8 limit
SELECT
    -- include: listed_columns
-- include: listed_runs
WHERE
    (run.created_at, run.run_id) < (?1, ?2)
    AND run.created_at >= ?3
    -- include: listing_filters
ORDER BY run.created_at DESC, run.run_id DESC
LIMIT ?8;

-- name: list_runs_of_workflow
-- Lists the runs of one workflow, oldest first, by its own index.
-- ?1 after_created_at_ms  ?2 after_run_id  ?3 created_before_ms
-- ?4 statuses  ?5 workflow_id  ?6 queues  ?7 run_id_prefix  ?8 limit
SELECT
    -- include: listed_columns
-- include: listed_runs
WHERE
    run.workflow_id = ?5
    AND (run.created_at, run.run_id) > (?1, ?2)
    AND run.created_at < ?3
    -- include: workflow_listing_filters
ORDER BY run.created_at, run.run_id
LIMIT ?8;

-- name: list_runs_of_workflow_descending
-- Lists the runs of one workflow, newest first, by its own index.
-- ?1 before_created_at_ms  ?2 before_run_id  ?3 created_from_ms
-- ?4 statuses  ?5 workflow_id  ?6 queues  ?7 run_id_prefix  ?8 limit
SELECT
    -- include: listed_columns
-- include: listed_runs
WHERE
    run.workflow_id = ?5
    AND (run.created_at, run.run_id) < (?1, ?2)
    AND run.created_at >= ?3
    -- include: workflow_listing_filters
ORDER BY run.created_at DESC, run.run_id DESC
LIMIT ?8;

-- fragment: failed_runs
-- The runs that failed, with what a listing filters by. Their index is read status by status.
FROM (SELECT DISTINCT status.value AS status FROM json_each(?4) AS status) AS wanted
CROSS JOIN workflow_event_locks AS head

-- fragment: failed_filters
-- The runs of one of the statuses that are wanted, and what the caller asks for besides.
-- ?5 workflow_ids  ?6 queues  ?7 run_id_prefix
head.status = wanted.status
AND head.status IN ('aborted', 'dead', 'errored')
AND (?5 IS NULL OR head.workflow_id IN (SELECT workflow.value FROM json_each(?5) AS workflow))
AND (?6 IS NULL OR head.queue IN (SELECT queue.value FROM json_each(?6) AS queue))
AND (?7 IS NULL OR substr(head.run_id, 1, length(?7)) = ?7)

-- fragment: passed_filters
-- The same of the run that ends the part of an index which a page needs.
-- ?5 workflow_ids  ?6 queues  ?7 run_id_prefix
passed.status = wanted.status
AND passed.status IN ('aborted', 'dead', 'errored')
AND (?5 IS NULL OR passed.workflow_id IN (SELECT workflow.value FROM json_each(?5) AS workflow))
AND (?6 IS NULL OR passed.queue IN (SELECT queue.value FROM json_each(?6) AS queue))
AND (?7 IS NULL OR substr(passed.run_id, 1, length(?7)) = ?7)

-- fragment: failed_columns
-- What the codec reads of a run that failed, in a listing: it waits for nothing.
-- include: head_columns
-- include: late_head_columns
NULL AS awaiting,
NULL AS awaited_count

-- name: list_failed_runs
-- Lists runs that failed, oldest first, however many others finished. Of each status it reads as many as the page has.
-- ?1 after_created_at_ms  ?2 after_run_id  ?3 created_before_ms
-- ?4 statuses  ?5 workflow_ids  ?6 queues  ?7 run_id_prefix  ?8 limit
SELECT
    -- include: failed_columns
-- include: failed_runs
WHERE
    (head.created_at, head.run_id) > (?1, ?2)
    AND head.created_at <= coalesce(
        (
            SELECT passed.created_at
            FROM workflow_event_locks AS passed
            WHERE
                (passed.created_at, passed.run_id) > (?1, ?2)
                AND passed.created_at < ?3
                AND
                -- include: passed_filters
            ORDER BY passed.created_at
            LIMIT 1 OFFSET ?8
        ),
        ?3 - 1
    )
    AND
    -- include: failed_filters
ORDER BY head.created_at, head.run_id
LIMIT ?8;

-- name: list_failed_runs_descending
-- Lists runs that failed, newest first.
-- ?1 before_created_at_ms  ?2 before_run_id  ?3 created_from_ms
-- ?4 statuses  ?5 workflow_ids  ?6 queues  ?7 run_id_prefix  ?8 limit
SELECT
    -- include: failed_columns
-- include: failed_runs
WHERE
    (head.created_at, head.run_id) < (?1, ?2)
    AND head.created_at >= coalesce(
        (
            SELECT passed.created_at
            FROM workflow_event_locks AS passed
            WHERE
                (passed.created_at, passed.run_id) < (?1, ?2)
                AND passed.created_at >= ?3
                AND
                -- include: passed_filters
            ORDER BY passed.created_at DESC
            LIMIT 1 OFFSET ?8
        ),
        ?3
    )
    AND
    -- include: failed_filters
ORDER BY head.created_at DESC, head.run_id DESC
LIMIT ?8;

-- name: count_runs
-- Counts runs by status.
-- ?1 created_from_ms  ?2 created_before_ms  ?3 statuses  ?4 workflow_ids  ?5 queues  ?6 run_id_prefix
SELECT head.status, count(*) AS run_count
-- include: listed_runs
WHERE
    run.created_at >= ?1
    AND run.created_at < ?2
    AND (?3 IS NULL OR head.status IN (SELECT wanted.value FROM json_each(?3) AS wanted))
    AND (?4 IS NULL OR run.workflow_id IN (SELECT wanted.value FROM json_each(?4) AS wanted))
    AND (?5 IS NULL OR run.queue IN (SELECT wanted.value FROM json_each(?5) AS wanted))
    AND (?6 IS NULL OR substr(run.run_id, 1, length(?6)) = ?6)
GROUP BY head.status;

-- name: count_failed_runs
-- Counts runs that failed by status, however many others finished.
-- ?1 created_from_ms  ?2 created_before_ms  ?3 statuses  ?4 workflow_ids  ?5 queues  ?6 run_id_prefix
SELECT head.status, count(*) AS run_count
FROM workflow_event_locks AS head
WHERE
    head.status IN ('aborted', 'dead', 'errored')
    AND head.status IN (SELECT wanted.value FROM json_each(?3) AS wanted)
    AND head.created_at >= ?1
    AND head.created_at < ?2
    AND (?4 IS NULL OR head.workflow_id IN (SELECT wanted.value FROM json_each(?4) AS wanted))
    AND (?5 IS NULL OR head.queue IN (SELECT wanted.value FROM json_each(?5) AS wanted))
    AND (?6 IS NULL OR substr(head.run_id, 1, length(?6)) = ?6)
GROUP BY head.status;

-- name: get_run_timeline
-- Reads the first inbox entries of a run, taken ones too.
-- statement: inbox
-- ?1 run_id  ?2 limit
SELECT
    -- include: delivery_columns
FROM workflow_signal_deliveries AS delivery
WHERE delivery.run_id = ?1
ORDER BY delivery.inbox_seq
LIMIT ?2;
