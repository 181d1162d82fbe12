-- Runs that begin with the first part of another run's log.

-- name: fork_run
-- Creates a run from a part of another one's log, unless its id is taken. Gives the new run, or the one that has the id.
-- See runs.sql for `overtaken` and `backed`.
-- $1 run_id  $2 new_run_id  $3 from_index  $4 workflow_version  $5 now_ms  $6 operation_id
-- $7 kind  $8 step_id  $9 payload  $10 notifies
WITH source AS MATERIALIZED (
    SELECT stored.*
    -- include: asked_run
),
head AS (
    INSERT INTO workflow_event_locks AS stored (
        -- include: queued_columns
    )
    SELECT
        $2::text, source.workflow_id, coalesce($4::text, source.workflow_version), source.queue, source.priority,
        $5::bigint, $5::bigint, 'queued', $5::bigint,
        0, $6::text, '{}', $3::bigint + 1, 0, false, 0, '[]'
    FROM source
    WHERE source.next_index >= $3::bigint
    ON CONFLICT (run_id) DO NOTHING
    RETURNING stored.tableoid AS head_table, stored.*
),
-- include: write_run
state AS (
    INSERT INTO workflow_run_states AS stored (
        run_id, schedule_id, scheduled_at, forked_from, forked_from_index, input
    )
    SELECT head.run_id, origin.schedule_id, origin.scheduled_at, $1::text, $3::bigint, origin.input
    FROM head
    INNER JOIN workflow_run_states AS origin ON origin.run_id = (SELECT $1::text)
    RETURNING stored.*
),
events AS (
    INSERT INTO workflow_events (run_id, event_index, kind, step_id, created_at, payload_bytes, payload)
    SELECT
        head.run_id,
        -- include: logged_columns
        event.payload_bytes,
        event.payload
    FROM head
    INNER JOIN workflow_events AS event ON event.run_id = (SELECT $1::text) AND event.event_index < $3::bigint
    UNION ALL
    SELECT
        head.run_id,
        $3::bigint,
        $7::text,
        $8::text,
        $5::bigint,
        coalesce(octet_length($9::text), 0),
        $9::text::json
    FROM head
),
found AS (
    SELECT
        head.head_table,
        -- include: head_columns
        head.awaiting,
        -- include: past_columns
        head.operation_id,
        -- include: state_columns
        state.input,
        state.output,
        state.error
    FROM head
    LEFT JOIN state ON true
    UNION ALL
    SELECT
        NULL AS head_table,
        -- include: stored_columns
        -- include: stored_progress_columns
        stored.awaiting,
        -- include: stored_past_columns
        -- include: stored_state_columns
        stored_state.input,
        stored_state.output,
        stored_state.error
    FROM workflow_event_locks AS stored
    LEFT JOIN workflow_run_states AS stored_state ON stored_state.run_id = stored.run_id
    WHERE stored.run_id = $2::text
)
SELECT
    source.next_index AS source_length,
    found.run_id IS NULL AND coalesce(source.next_index >= $3::bigint, false) AS overtaken,
    CASE
        WHEN found.run_id IS NOT NULL AND found.head_table IS NULL THEN pg_logical_emit_message(true, 'workflow', '')
    END IS NOT NULL AS backed,
    found.head_table IS NOT NULL AS wakes,
    CASE
        WHEN $10::boolean AND found.head_table IS NOT NULL
            THEN pg_notify('workflow_work_' || found.head_table, found.run_id)
    END AS notified,
    found.run_id,
    found.workflow_id,
    found.workflow_version,
    found.status,
    found.queue,
    found.priority,
    found.due_at,
    found.lease_owner,
    found.lease_expires_at,
    found.next_index,
    found.inbox_seq,
    found.cancel_requested,
    found.awaiting::text AS awaiting,
    found.crashes,
    found.created_at,
    found.updated_at,
    found.finished_at,
    found.operation_id,
    found.schedule_id,
    found.scheduled_at,
    found.forked_from,
    found.forked_from_index,
    found.reason,
    found.input::text AS input,
    found.output::text AS output,
    found.error::text AS error
FROM (VALUES (1)) AS asked (once)
LEFT JOIN source ON true
LEFT JOIN found ON true;
