-- What operators say to runs, any number at once. Heads are locked in the order of their ids, so that two such statements
-- cannot wait for each other. See runs.sql for `before` and `overtaken`, which here is told of each run by itself.

-- name: retry_runs
-- Gives runs that ended wrongly back to the workers, with an event at the end of their logs.
-- $1 run_ids  $2 statuses  $3 now_ms  $4 kind  $5 step_id  $6 payload  $7 tells
WITH before AS MATERIALIZED (
    SELECT
        stored.run_id,
        stored.status,
        stored.operation_id
    FROM workflow_event_locks AS stored
    WHERE stored.run_id = ANY($1::text[])
),
locked AS MATERIALIZED (
    SELECT stored.run_id
    FROM workflow_event_locks AS stored
    WHERE stored.run_id = ANY($1::text[]) AND stored.status = ANY($2::text[])
    ORDER BY stored.run_id
    FOR NO KEY UPDATE
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
    UPDATE workflow_run_states AS stored
    SET
        error = NULL,
        reason = NULL
    FROM head
    WHERE stored.run_id = head.run_id
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
    END AS told
FROM before
LEFT JOIN head ON head.run_id = before.run_id;
