-- Looking at many runs. Listings walk an index of workflow_runs from where the last page ended.

-- name: list_runs
-- Lists runs, oldest first.
-- $1 after_created_at_ms  $2 after_run_id  $3 created_before_ms
-- $4 statuses  $5 workflow_ids  $6 queues  $7 run_id_prefix  $8 limit
SELECT
    head.run_id,
    head.workflow_id,
    head.workflow_version,
    head.status,
    head.queue,
    head.priority,
    head.due_at,
    head.lease_owner,
    head.lease_expires_at,
    head.next_index,
    head.inbox_seq,
    head.cancel_requested,
    head.crashes,
    head.created_at,
    head.updated_at,
    head.finished_at
FROM workflow_runs AS run
INNER JOIN workflow_event_locks AS head ON head.run_id = run.run_id
WHERE
    (run.created_at, run.run_id) > ($1::bigint, $2::text)
    AND run.created_at < $3::bigint
    AND ($4::text[] IS NULL OR head.status = ANY($4::text[]))
    AND ($5::text[] IS NULL OR run.workflow_id = ANY($5::text[]))
    AND ($6::text[] IS NULL OR run.queue = ANY($6::text[]))
    AND ($7::text IS NULL OR starts_with(run.run_id, $7::text))
ORDER BY run.created_at, run.run_id
LIMIT $8::bigint;

-- name: list_runs_descending
-- Lists runs, newest first.
-- $1 before_created_at_ms  $2 before_run_id  $3 created_from_ms
-- $4 statuses  $5 workflow_ids  $6 queues  $7 run_id_prefix  $8 limit
SELECT
    head.run_id,
    head.workflow_id,
    head.workflow_version,
    head.status,
    head.queue,
    head.priority,
    head.due_at,
    head.lease_owner,
    head.lease_expires_at,
    head.next_index,
    head.inbox_seq,
    head.cancel_requested,
    head.crashes,
    head.created_at,
    head.updated_at,
    head.finished_at
FROM workflow_runs AS run
INNER JOIN workflow_event_locks AS head ON head.run_id = run.run_id
WHERE
    (run.created_at, run.run_id) < ($1::bigint, $2::text)
    AND run.created_at >= $3::bigint
    AND ($4::text[] IS NULL OR head.status = ANY($4::text[]))
    AND ($5::text[] IS NULL OR run.workflow_id = ANY($5::text[]))
    AND ($6::text[] IS NULL OR run.queue = ANY($6::text[]))
    AND ($7::text IS NULL OR starts_with(run.run_id, $7::text))
ORDER BY run.created_at DESC, run.run_id DESC
LIMIT $8::bigint;

-- name: list_runs_of_workflow
-- Lists the runs of one workflow, oldest first, by its own index.
-- $1 after_created_at_ms  $2 after_run_id  $3 created_before_ms
-- $4 statuses  $5 workflow_id  $6 queues  $7 run_id_prefix  $8 limit
SELECT
    head.run_id,
    head.workflow_id,
    head.workflow_version,
    head.status,
    head.queue,
    head.priority,
    head.due_at,
    head.lease_owner,
    head.lease_expires_at,
    head.next_index,
    head.inbox_seq,
    head.cancel_requested,
    head.crashes,
    head.created_at,
    head.updated_at,
    head.finished_at
FROM workflow_runs AS run
INNER JOIN workflow_event_locks AS head ON head.run_id = run.run_id
WHERE
    run.workflow_id = $5::text
    AND (run.created_at, run.run_id) > ($1::bigint, $2::text)
    AND run.created_at < $3::bigint
    AND ($4::text[] IS NULL OR head.status = ANY($4::text[]))
    AND ($6::text[] IS NULL OR run.queue = ANY($6::text[]))
    AND ($7::text IS NULL OR starts_with(run.run_id, $7::text))
ORDER BY run.created_at, run.run_id
LIMIT $8::bigint;

-- name: list_runs_of_workflow_descending
-- Lists the runs of one workflow, newest first, by its own index.
-- $1 before_created_at_ms  $2 before_run_id  $3 created_from_ms
-- $4 statuses  $5 workflow_id  $6 queues  $7 run_id_prefix  $8 limit
SELECT
    head.run_id,
    head.workflow_id,
    head.workflow_version,
    head.status,
    head.queue,
    head.priority,
    head.due_at,
    head.lease_owner,
    head.lease_expires_at,
    head.next_index,
    head.inbox_seq,
    head.cancel_requested,
    head.crashes,
    head.created_at,
    head.updated_at,
    head.finished_at
FROM workflow_runs AS run
INNER JOIN workflow_event_locks AS head ON head.run_id = run.run_id
WHERE
    run.workflow_id = $5::text
    AND (run.created_at, run.run_id) < ($1::bigint, $2::text)
    AND run.created_at >= $3::bigint
    AND ($4::text[] IS NULL OR head.status = ANY($4::text[]))
    AND ($6::text[] IS NULL OR run.queue = ANY($6::text[]))
    AND ($7::text IS NULL OR starts_with(run.run_id, $7::text))
ORDER BY run.created_at DESC, run.run_id DESC
LIMIT $8::bigint;

-- name: count_runs
-- Counts runs by status.
-- $1 created_from_ms  $2 created_before_ms  $3 statuses  $4 workflow_ids  $5 queues  $6 run_id_prefix
SELECT head.status, count(*) AS run_count
FROM workflow_runs AS run
INNER JOIN workflow_event_locks AS head ON head.run_id = run.run_id
WHERE
    run.created_at >= $1::bigint
    AND run.created_at < $2::bigint
    AND ($3::text[] IS NULL OR head.status = ANY($3::text[]))
    AND ($4::text[] IS NULL OR run.workflow_id = ANY($4::text[]))
    AND ($5::text[] IS NULL OR run.queue = ANY($5::text[]))
    AND ($6::text IS NULL OR starts_with(run.run_id, $6::text))
GROUP BY head.status;
