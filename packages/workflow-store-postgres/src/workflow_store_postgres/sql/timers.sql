-- Waking runs by time. See leases.sql for `lane`, for the traps, and for `claimed`.

-- name: schedule_timer
-- Adds a timer to a run, or moves it.
-- $1 run_id  $2 lease_token  $3 operation_id  $4 timer_id  $5 fire_at_ms  $6 now_ms
WITH head AS (
    UPDATE workflow_event_locks AS stored
    SET
        operation_id = $3::text,
        operation_answer = '{}',
        silent_claims = 0,
        updated_at = $6::bigint
    WHERE
        -- include: lease_fence
        AND stored.operation_id <> $3::text
    RETURNING stored.run_id
),
timer AS (
    INSERT INTO workflow_timers (run_id, timer_id, fire_at)
    SELECT head.run_id, $4::text, $5::bigint
    FROM head
    ON CONFLICT (run_id, timer_id) DO UPDATE SET fire_at = excluded.fire_at
)
SELECT head.run_id
FROM head;

-- name: claim_due_timers
-- Claims paused runs that have a timer due.
-- $1 owner  $2 lease_token  $3 lease_expires_at_ms  $4 now_ms
-- $5 history_limit  $6 history_bytes  $7 inbox_limit  $8 inbox_bytes
-- $9 limit  $10 workflow_ids  $11 workflow_versions  $12 queues
WITH RECURSIVE lane AS (
    (
        SELECT head.workflow_id, head.workflow_version, head.queue, head.priority
        FROM workflow_event_locks AS head
        WHERE head.status = 'paused' AND head.due_at IS NOT NULL
        ORDER BY head.workflow_id, head.workflow_version, head.queue, head.priority
        LIMIT 1
    )
    UNION ALL
    SELECT further.workflow_id, further.workflow_version, further.queue, further.priority
    FROM lane
    CROSS JOIN LATERAL (
        SELECT head.workflow_id, head.workflow_version, head.queue, head.priority
        FROM workflow_event_locks AS head
        WHERE
            head.status = 'paused' AND head.due_at IS NOT NULL
            AND (head.workflow_id, head.workflow_version, head.queue, head.priority)
            > (lane.workflow_id, lane.workflow_version, lane.queue, lane.priority)
        ORDER BY head.workflow_id, head.workflow_version, head.queue, head.priority
        LIMIT 1
    ) AS further
),
-- include: wanted_lanes
candidate AS MATERIALIZED (
    SELECT due.run_id, due.operation_id, due.inbox_seq, due.lease_number
    FROM wanted
    CROSS JOIN LATERAL (
        SELECT head.run_id, head.operation_id, head.inbox_seq, head.lease_number, head.priority, head.due_at
        FROM workflow_event_locks AS head
        WHERE
            head.status = 'paused' AND head.due_at IS NOT NULL
            AND head.workflow_id = wanted.workflow_id
            AND head.workflow_version = wanted.workflow_version
            AND head.queue = wanted.queue
            AND head.priority = wanted.priority
            AND head.due_at <= (SELECT $4::bigint)
        ORDER BY head.due_at, head.run_id
        LIMIT (SELECT $9::bigint + 32)
    ) AS due
    ORDER BY due.priority DESC, due.due_at, due.run_id
    LIMIT (SELECT $9::bigint + 32)
),
locked AS MATERIALIZED (
    SELECT head.run_id, head.operation_id, head.inbox_seq, head.lease_number
    FROM workflow_event_locks AS head
    WHERE
        head.run_id = ANY(ARRAY(SELECT candidate.run_id FROM candidate))
        AND head.status = 'paused'
        AND head.due_at <= (SELECT $4::bigint)
    ORDER BY head.priority DESC, head.due_at, head.run_id
    LIMIT (SELECT $9::bigint)
    FOR NO KEY UPDATE SKIP LOCKED
),
taken AS (
    UPDATE workflow_event_locks AS stored
    SET
        status = 'running',
        lease_owner = $1::text,
        lease_token = $2::text,
        lease_number = stored.lease_number + 1,
        lease_expires_at = $3::bigint,
        silent_claims = 1,
        awaiting = '[]',
        updated_at = $4::bigint
    FROM locked
    INNER JOIN candidate
        ON
            candidate.run_id = locked.run_id
            AND candidate.operation_id = locked.operation_id
            AND candidate.inbox_seq = locked.inbox_seq
            AND candidate.lease_number = locked.lease_number
    WHERE stored.run_id = locked.run_id
    RETURNING stored.*
),
answer AS (
    SELECT
        min(waiting.due_at) AS next_due,
        $9::bigint > 0 AND min(waiting.due_at) <= $4::bigint AND NOT EXISTS (SELECT 1 FROM taken) AS overtaken,
        NULL::text AS before_status,
        NULL::bigint AS before_due_at,
        NULL::bigint AS before_lease_expires_at
    FROM wanted
    CROSS JOIN LATERAL (
        SELECT head.due_at
        FROM workflow_event_locks AS head
        WHERE
            head.status = 'paused' AND head.due_at IS NOT NULL
            AND head.workflow_id = wanted.workflow_id
            AND head.workflow_version = wanted.workflow_version
            AND head.queue = wanted.queue
            AND head.priority = wanted.priority
            AND head.run_id <> ALL(ARRAY(SELECT taken.run_id FROM taken))
        ORDER BY head.due_at, head.run_id
        LIMIT 1
    ) AS waiting
)
-- include: claimed
