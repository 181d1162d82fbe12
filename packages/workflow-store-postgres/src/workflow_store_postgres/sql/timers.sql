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
        -- include: head_lanes
        WHERE head.status = 'paused' AND head.due_at IS NOT NULL
        -- include: first_lane
    )
    UNION ALL
    SELECT further.workflow_id, further.workflow_version, further.queue, further.priority
    FROM lane
    CROSS JOIN LATERAL (
        -- include: head_lanes
        WHERE
            head.status = 'paused' AND head.due_at IS NOT NULL
            -- include: further_lane
        -- include: first_lane
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
            -- include: due_in_lane
        -- include: earliest_due
    ) AS due
    -- include: most_urgent
),
locked AS MATERIALIZED (
    -- include: candidates_now
        AND head.status = 'paused'
        AND head.due_at <= (SELECT $4::bigint)
    -- include: lock_due
),
taken AS (
    UPDATE workflow_event_locks AS stored
    SET
        -- include: claim_head
    FROM locked
    -- include: taken_unchanged
),
answer AS (
    -- include: next_due
    CROSS JOIN LATERAL (
        SELECT head.due_at
        FROM workflow_event_locks AS head
        WHERE
            head.status = 'paused' AND head.due_at IS NOT NULL
            -- include: waiting_in_lane
        -- include: next_in_lane
    ) AS waiting
)
-- include: claimed
