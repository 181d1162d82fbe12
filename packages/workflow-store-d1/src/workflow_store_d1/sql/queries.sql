-- Looking at many runs. Listings walk an index from where the last page ended: that of one status, workflow or queue
-- where there is one, else that of all runs. What else is asked for is looked at run by run.
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

-- fragment: status_filter
-- Of the statuses that the caller asks for.
-- ?4 statuses
AND (?4 IS NULL OR head.status IN (SELECT wanted.value FROM json_each(?4) AS wanted))

-- fragment: workflow_filter
-- Of the workflows that the caller asks for.
-- ?5 workflow_ids
AND (?5 IS NULL OR head.workflow_id IN (SELECT wanted.value FROM json_each(?5) AS wanted))

-- fragment: queue_filter
-- Of the queues that the caller asks for.
-- ?6 queues
AND (?6 IS NULL OR head.queue IN (SELECT wanted.value FROM json_each(?6) AS wanted))

-- fragment: prefix_filter
-- With ids that begin as the caller asks for.
-- ?7 run_id_prefix
AND (?7 IS NULL OR substr(head.run_id, 1, length(?7)) = ?7)

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
    -- include: status_filter
    -- include: workflow_filter
    -- include: queue_filter
    -- include: prefix_filter
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
    -- include: status_filter
    -- include: workflow_filter
    -- include: queue_filter
    -- include: prefix_filter
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
    -- include: status_filter
    -- include: queue_filter
    -- include: prefix_filter
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
    -- include: status_filter
    -- include: queue_filter
    -- include: prefix_filter
ORDER BY run.created_at DESC, run.run_id DESC
LIMIT ?8;

-- name: list_runs_of_queue
-- Lists the runs of one queue other than the default one, oldest first, by its own index.
-- ?1 after_created_at_ms  ?2 after_run_id  ?3 created_before_ms
-- ?4 statuses  ?5 workflow_ids  ?6 queue  ?7 run_id_prefix  ?8 limit
SELECT
    -- include: listed_columns
-- include: listed_runs
WHERE
    run.queue = ?6
    AND run.queue <> 'default'
    AND (run.created_at, run.run_id) > (?1, ?2)
    AND run.created_at < ?3
    -- include: status_filter
    -- include: workflow_filter
    -- include: prefix_filter
ORDER BY run.created_at, run.run_id
LIMIT ?8;

-- name: list_runs_of_queue_descending
-- Lists the runs of one queue other than the default one, newest first, by its own index.
-- ?1 before_created_at_ms  ?2 before_run_id  ?3 created_from_ms
-- ?4 statuses  ?5 workflow_ids  ?6 queue  ?7 run_id_prefix  ?8 limit
SELECT
    -- include: listed_columns
-- include: listed_runs
WHERE
    run.queue = ?6
    AND run.queue <> 'default'
    AND (run.created_at, run.run_id) < (?1, ?2)
    AND run.created_at >= ?3
    -- include: status_filter
    -- include: workflow_filter
    -- include: prefix_filter
ORDER BY run.created_at DESC, run.run_id DESC
LIMIT ?8;

-- name: list_waiting_runs
-- Lists the runs that wait with one status, oldest first, by its own index.
-- ?1 after_created_at_ms  ?2 after_run_id  ?3 created_before_ms
-- ?4 status  ?5 workflow_ids  ?6 queues  ?7 run_id_prefix  ?8 limit
SELECT
    -- include: listed_columns
FROM workflow_event_locks AS head
WHERE
    head.status = ?4
    AND head.status IN ('paused', 'queued')
    AND (head.created_at, head.run_id) > (?1, ?2)
    AND head.created_at < ?3
    -- include: workflow_filter
    -- include: queue_filter
    -- include: prefix_filter
ORDER BY head.created_at, head.run_id
LIMIT ?8;

-- name: list_waiting_runs_descending
-- Lists the runs that wait with one status, newest first, by its own index.
-- ?1 before_created_at_ms  ?2 before_run_id  ?3 created_from_ms
-- ?4 status  ?5 workflow_ids  ?6 queues  ?7 run_id_prefix  ?8 limit
SELECT
    -- include: listed_columns
FROM workflow_event_locks AS head
WHERE
    head.status = ?4
    AND head.status IN ('paused', 'queued')
    AND (head.created_at, head.run_id) < (?1, ?2)
    AND head.created_at >= ?3
    -- include: workflow_filter
    -- include: queue_filter
    -- include: prefix_filter
ORDER BY head.created_at DESC, head.run_id DESC
LIMIT ?8;

-- fragment: idle_columns
-- What the codec reads of a run that waits for nothing, in a listing.
-- include: head_columns
-- include: late_head_columns
NULL AS awaiting,
NULL AS awaited_count

-- name: list_running_runs
-- Lists running runs, oldest first: it reads them all, which are as few as the workers can drive.
-- ?1 after_created_at_ms  ?2 after_run_id  ?3 created_before_ms
-- ?4 status  ?5 workflow_ids  ?6 queues  ?7 run_id_prefix  ?8 limit
SELECT
    -- include: idle_columns
FROM workflow_event_locks AS head
WHERE
    head.status = ?4
    AND head.status = 'running'
    AND (head.created_at, head.run_id) > (?1, ?2)
    AND head.created_at < ?3
    -- include: workflow_filter
    -- include: queue_filter
    -- include: prefix_filter
ORDER BY head.created_at, head.run_id
LIMIT ?8;

-- name: list_running_runs_descending
-- Lists running runs, newest first.
-- ?1 before_created_at_ms  ?2 before_run_id  ?3 created_from_ms
-- ?4 status  ?5 workflow_ids  ?6 queues  ?7 run_id_prefix  ?8 limit
SELECT
    -- include: idle_columns
FROM workflow_event_locks AS head
WHERE
    head.status = ?4
    AND head.status = 'running'
    AND (head.created_at, head.run_id) < (?1, ?2)
    AND head.created_at >= ?3
    -- include: workflow_filter
    -- include: queue_filter
    -- include: prefix_filter
ORDER BY head.created_at DESC, head.run_id DESC
LIMIT ?8;

-- name: list_failed_runs
-- Lists the runs that failed with one status, oldest first, by its own index.
-- ?1 after_created_at_ms  ?2 after_run_id  ?3 created_before_ms
-- ?4 status  ?5 workflow_ids  ?6 queues  ?7 run_id_prefix  ?8 limit
SELECT
    -- include: idle_columns
FROM workflow_event_locks AS head
WHERE
    head.status = ?4
    AND head.status IN ('aborted', 'dead', 'errored')
    AND (head.created_at, head.run_id) > (?1, ?2)
    AND head.created_at < ?3
    -- include: workflow_filter
    -- include: queue_filter
    -- include: prefix_filter
ORDER BY head.created_at, head.run_id
LIMIT ?8;

-- name: list_failed_runs_descending
-- Lists the runs that failed with one status, newest first, by its own index.
-- ?1 before_created_at_ms  ?2 before_run_id  ?3 created_from_ms
-- ?4 status  ?5 workflow_ids  ?6 queues  ?7 run_id_prefix  ?8 limit
SELECT
    -- include: idle_columns
FROM workflow_event_locks AS head
WHERE
    head.status = ?4
    AND head.status IN ('aborted', 'dead', 'errored')
    AND (head.created_at, head.run_id) < (?1, ?2)
    AND head.created_at >= ?3
    -- include: workflow_filter
    -- include: queue_filter
    -- include: prefix_filter
ORDER BY head.created_at DESC, head.run_id DESC
LIMIT ?8;

-- name: list_runs_by_prefix
-- Lists the runs whose ids begin alike, oldest first: it reads them all, so they are to be few.
-- ?1 after_created_at_ms  ?2 after_run_id  ?3 created_before_ms
-- ?4 statuses  ?5 workflow_ids  ?6 queues  ?7 run_id_prefix  ?8 limit  ?9 run_id_end
SELECT
    -- include: listed_columns
FROM workflow_event_locks AS head
WHERE
    head.run_id >= ?7
    AND head.run_id < ?9
    AND (head.created_at, head.run_id) > (?1, ?2)
    AND head.created_at < ?3
    -- include: status_filter
    -- include: workflow_filter
    -- include: queue_filter
ORDER BY head.created_at, head.run_id
LIMIT ?8;

-- name: list_runs_by_prefix_descending
-- Lists the runs whose ids begin alike, newest first: it reads them all, so they are to be few.
-- ?1 before_created_at_ms  ?2 before_run_id  ?3 created_from_ms
-- ?4 statuses  ?5 workflow_ids  ?6 queues  ?7 run_id_prefix  ?8 limit  ?9 run_id_end
SELECT
    -- include: listed_columns
FROM workflow_event_locks AS head
WHERE
    head.run_id >= ?7
    AND head.run_id < ?9
    AND (head.created_at, head.run_id) < (?1, ?2)
    AND head.created_at >= ?3
    -- include: status_filter
    -- include: workflow_filter
    -- include: queue_filter
ORDER BY head.created_at DESC, head.run_id DESC
LIMIT ?8;

-- name: count_prefix
-- Counts the runs whose ids begin alike, up to a limit.
-- ?1 run_id_prefix  ?2 run_id_end  ?3 limit
SELECT count(*) AS runs
FROM (SELECT 1 FROM workflow_runs AS run WHERE run.run_id >= ?1 AND run.run_id < ?2 LIMIT ?3) AS alike;

-- fragment: counted
-- What the caller asks for; follows the conditions of the index.
-- ?1 created_from_ms  ?2 created_before_ms  ?3 statuses  ?4 workflow_ids  ?5 queues  ?6 run_id_prefix
head.created_at >= ?1
AND head.created_at < ?2
AND (?3 IS NULL OR head.status IN (SELECT status.value FROM json_each(?3) AS status))
AND (?4 IS NULL OR head.workflow_id IN (SELECT workflow.value FROM json_each(?4) AS workflow))
AND (?5 IS NULL OR head.queue IN (SELECT queue.value FROM json_each(?5) AS queue))
AND (?6 IS NULL OR substr(head.run_id, 1, length(?6)) = ?6)

-- name: count_all_runs
-- Counts runs by status: it reads every head.
-- ?1 created_from_ms  ?2 created_before_ms  ?3 statuses  ?4 workflow_ids  ?5 queues  ?6 run_id_prefix
SELECT head.status, count(*) AS run_count
FROM workflow_event_locks AS head
WHERE
    -- include: counted
GROUP BY head.status;

-- name: count_runs
-- Counts the runs of some time by status.
-- ?1 created_from_ms  ?2 created_before_ms  ?3 statuses  ?4 workflow_ids  ?5 queues  ?6 run_id_prefix
SELECT head.status, count(*) AS run_count
-- include: listed_runs
WHERE
    run.created_at >= ?1
    AND run.created_at < ?2
    AND
    -- include: counted
GROUP BY head.status;

-- name: count_waiting_runs
-- Counts runs that wait by status, by their own index.
-- ?1 created_from_ms  ?2 created_before_ms  ?3 statuses  ?4 workflow_ids  ?5 queues  ?6 run_id_prefix
SELECT head.status, count(*) AS run_count
FROM (SELECT DISTINCT asked.value AS status FROM json_each(?3) AS asked) AS wanted
CROSS JOIN workflow_event_locks AS head
WHERE
    head.status = wanted.status
    AND head.status IN ('paused', 'queued')
    AND
    -- include: counted
GROUP BY head.status;

-- name: count_running_runs
-- Counts running runs, by the index of those that somebody drives.
-- ?1 created_from_ms  ?2 created_before_ms  ?3 statuses  ?4 workflow_ids  ?5 queues  ?6 run_id_prefix
SELECT head.status, count(*) AS run_count
FROM workflow_event_locks AS head
WHERE
    head.status = 'running'
    AND
    -- include: counted
GROUP BY head.status;

-- name: count_failed_runs
-- Counts runs that failed by status, by their own index.
-- ?1 created_from_ms  ?2 created_before_ms  ?3 statuses  ?4 workflow_ids  ?5 queues  ?6 run_id_prefix
SELECT head.status, count(*) AS run_count
FROM (SELECT DISTINCT asked.value AS status FROM json_each(?3) AS asked) AS wanted
CROSS JOIN workflow_event_locks AS head
WHERE
    head.status = wanted.status
    AND head.status IN ('aborted', 'dead', 'errored')
    AND
    -- include: counted
GROUP BY head.status;

-- name: count_runs_of_workflows
-- Counts the runs of some workflows by status, by their own index.
-- ?1 created_from_ms  ?2 created_before_ms  ?3 statuses  ?4 workflow_ids  ?5 queues  ?6 run_id_prefix
SELECT head.status, count(*) AS run_count
FROM (SELECT DISTINCT workflow.value AS workflow FROM json_each(?4) AS workflow) AS wanted
CROSS JOIN workflow_runs AS run
CROSS JOIN workflow_event_locks AS head ON head.run_id = run.run_id
WHERE
    run.workflow_id = wanted.workflow
    AND run.created_at >= ?1
    AND run.created_at < ?2
    AND
    -- include: counted
GROUP BY head.status;

-- name: count_runs_of_queues
-- Counts the runs of some queues other than the default one by status, by their own index.
-- ?1 created_from_ms  ?2 created_before_ms  ?3 statuses  ?4 workflow_ids  ?5 queues  ?6 run_id_prefix
SELECT head.status, count(*) AS run_count
FROM (SELECT DISTINCT queue.value AS queue FROM json_each(?5) AS queue) AS wanted
CROSS JOIN workflow_runs AS run
CROSS JOIN workflow_event_locks AS head ON head.run_id = run.run_id
WHERE
    run.queue = wanted.queue
    AND run.queue <> 'default'
    AND run.created_at >= ?1
    AND run.created_at < ?2
    AND
    -- include: counted
GROUP BY head.status;

-- name: count_runs_by_prefix
-- Counts the runs whose ids begin alike by status.
-- ?1 created_from_ms  ?2 created_before_ms  ?3 statuses  ?4 workflow_ids  ?5 queues  ?6 run_id_prefix
-- ?7 run_id_end
SELECT head.status, count(*) AS run_count
FROM workflow_event_locks AS head
WHERE
    head.run_id >= ?6
    AND head.run_id < ?7
    AND
    -- include: counted
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
