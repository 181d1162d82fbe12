-- What operators say to runs, any number at once. Heads are locked in the order of their ids, so that two such statements
-- cannot wait for each other. See runs.sql for `before` and `overtaken`, which here is said of each run by itself.

-- fragment: asked_runs
-- The heads of the runs that the statement is about.
-- $1 run_ids
FROM workflow_event_locks AS stored
WHERE stored.run_id = ANY($1::text[])

-- fragment: lock_in_order
-- Locks heads in the order of their ids.
ORDER BY stored.run_id
FOR NO KEY UPDATE

-- fragment: each_run
-- One row for each run that there is, with its head if the statement wrote it.
FROM before
LEFT JOIN head ON head.run_id = before.run_id

-- name: retry_runs
-- Gives runs that ended wrongly back to the workers, with an event at the end of their logs.
-- $1 run_ids  $2 statuses  $3 now_ms  $4 kind  $5 step_id  $6 payload  $7 notifies
WITH before AS MATERIALIZED (
    SELECT
        stored.run_id,
        stored.status,
        stored.operation_id
    -- include: asked_runs
),
locked AS MATERIALIZED (
    SELECT stored.run_id
    FROM workflow_event_locks AS stored
    WHERE stored.run_id = ANY($1::text[]) AND stored.status = ANY($2::text[])
    -- include: lock_in_order
),
head AS (
    UPDATE workflow_event_locks AS stored
    SET
        status = 'queued',
        due_at = $3::bigint,
        next_index = stored.next_index + 1,
        cancel_requested = stored.cancel_requested AND stored.status <> 'aborted',
        crashes = 0,
        awaiting = '[]',
        updated_at = $3::bigint,
        finished_at = NULL
    FROM locked
    INNER JOIN before ON before.run_id = locked.run_id
    WHERE
        stored.run_id = locked.run_id
        AND stored.status = ANY($2::text[])
        AND stored.status = before.status
        AND stored.operation_id = before.operation_id
    RETURNING
        stored.tableoid,
        stored.run_id,
        stored.next_index - 1 AS event_index,
        before.status = 'aborted' AS was_aborted
),
events AS (
    INSERT INTO workflow_events (run_id, event_index, kind, step_id, created_at, payload_bytes, payload)
    SELECT
        head.run_id,
        head.event_index,
        $4::text,
        $5::text,
        $3::bigint,
        coalesce(octet_length($6::text), 0),
        $6::text::json
    FROM head
),
states AS (
    -- include: forget_error
),
requests AS (
    -- Under another delivery id the request to end stays in the inbox, and a new one is no duplicate of it.
    UPDATE workflow_signal_deliveries AS entry
    SET
        taken = true,
        delivery_id = 'cancel:' || entry.inbox_seq
    FROM head
    WHERE
        entry.run_id = head.run_id
        AND entry.kind = 'cancel'
        AND entry.delivery_id = 'cancel'
        AND head.was_aborted
)
SELECT
    before.run_id,
    before.status,
    head.event_index,
    before.status = ANY($2::text[]) AND head.run_id IS NULL AS overtaken,
    head.run_id IS NOT NULL AS wakes,
    CASE
        WHEN $7::boolean AND head.run_id IS NOT NULL
            THEN pg_notify('workflow_work_' || head.tableoid, head.run_id)
    END AS notified
-- include: each_run

-- name: cancel_runs
-- Puts requests to end into inboxes. A queued run that has been due for a while keeps its place.
-- $1 run_ids  $2 now_ms  $3 payload
WITH before AS MATERIALIZED (
    SELECT
        stored.run_id,
        stored.status,
        known.inbox_seq AS known_seq,
        stored.status IN ('queued', 'running', 'paused') AS open
    FROM workflow_event_locks AS stored
    LEFT JOIN workflow_signal_deliveries AS known
        ON known.run_id = stored.run_id AND known.kind = 'cancel' AND known.delivery_id = 'cancel'
    WHERE stored.run_id = ANY($1::text[])
),
locked AS MATERIALIZED (
    SELECT stored.run_id
    FROM workflow_event_locks AS stored
    WHERE
        stored.run_id = ANY($1::text[])
        -- include: cancellable
    -- include: lock_in_order
),
head AS (
    UPDATE workflow_event_locks AS stored
    SET
        -- include: cancelling
    FROM locked
    WHERE
        stored.run_id = locked.run_id
        -- include: cancellable
    RETURNING stored.run_id, stored.inbox_seq
),
entries AS (
    -- include: cancel_entry
)
SELECT
    before.run_id,
    before.status,
    before.known_seq,
    head.inbox_seq,
    head.run_id IS NOT NULL AS wakes,
    before.open AND before.known_seq IS NULL AND head.run_id IS NULL AS overtaken,
    CASE
        WHEN before.known_seq IS NOT NULL THEN pg_logical_emit_message(true, 'workflow', '')
    END IS NOT NULL AS backed
-- include: each_run

-- name: terminate_runs
-- Ends runs without their handlers and fences their drivers off.
-- $1 run_ids  $2 now_ms  $3 reason
WITH before AS MATERIALIZED (
    SELECT
        stored.run_id,
        stored.status,
        stored.operation_id,
        stored.status IN ('queued', 'running', 'paused', 'dead') AS open
    -- include: asked_runs
),
locked AS MATERIALIZED (
    SELECT stored.run_id
    FROM workflow_event_locks AS stored
    WHERE stored.run_id = ANY($1::text[]) AND stored.status IN ('queued', 'running', 'paused', 'dead')
    -- include: lock_in_order
),
head AS (
    UPDATE workflow_event_locks AS stored
    SET
        -- include: aborted
    FROM locked
    INNER JOIN before ON before.run_id = locked.run_id
    WHERE
        stored.run_id = locked.run_id
        -- include: terminable
    RETURNING stored.run_id
),
states AS (
    -- include: note_reason
),
timers AS (
    -- include: forget_timers
)
SELECT
    before.run_id,
    before.status,
    false AS wakes,
    before.open AND head.run_id IS NULL AS overtaken,
    CASE
        WHEN head.run_id IS NULL THEN pg_logical_emit_message(true, 'workflow', '')
    END IS NOT NULL AS backed
-- include: each_run

-- name: requeue_runs
-- Gives dead runs back to the workers.
-- $1 run_ids  $2 now_ms
WITH before AS MATERIALIZED (
    SELECT stored.run_id, stored.status
    -- include: asked_runs
),
locked AS MATERIALIZED (
    SELECT stored.run_id
    FROM workflow_event_locks AS stored
    WHERE stored.run_id = ANY($1::text[]) AND stored.status = 'dead'
    -- include: lock_in_order
),
head AS (
    UPDATE workflow_event_locks AS stored
    SET
        -- include: requeued
    FROM locked
    WHERE stored.run_id = locked.run_id AND stored.status = 'dead'
    RETURNING stored.run_id
),
states AS (
    -- include: forget_error
)
SELECT
    before.run_id,
    before.status,
    head.run_id IS NOT NULL AS wakes,
    before.status = 'dead' AND head.run_id IS NULL AS overtaken
-- include: each_run
