-- Waking runs by time. See leases.sql for `lane`, and for what a claim does that is sent twice.

-- name: schedule_timer
-- Adds a timer to a run, or moves it.
-- statement: timer
-- ?1 run_id  ?2 lease_token  ?3 operation_id  ?4 timer_id  ?5 fire_at_ms
INSERT INTO workflow_timers (run_id, timer_id, fire_at)
SELECT head.run_id, ?4, ?5
FROM workflow_event_locks AS head
WHERE
    head.run_id = ?1
    AND head.status = 'running'
    AND head.lease_token = ?2
    AND head.operation_id <> ?3
ON CONFLICT (run_id, timer_id) DO UPDATE SET fire_at = excluded.fire_at;

-- statement: head
-- ?1 run_id  ?2 lease_token  ?3 operation_id  ?4 now_ms
UPDATE workflow_event_locks
SET
    operation_id = ?3,
    operation_answer = '{}',
    silent_claims = 0,
    updated_at = ?4
WHERE
    -- include: write_fence

-- name: read_timers
-- Reads all timers of a run, in no order.
-- ?1 run_id
SELECT timer.run_id, timer.timer_id, timer.fire_at
FROM workflow_timers AS timer
WHERE timer.run_id = ?1;

-- fragment: first_paused_lane
-- The first lane of paused runs.
SELECT min(head.lane)
FROM workflow_event_locks AS head
WHERE head.status = 'paused'

-- fragment: further_paused_lanes
-- Hops from one lane of paused runs to the next.
SELECT (
    SELECT min(head.lane)
    FROM workflow_event_locks AS head
    WHERE head.status = 'paused' AND head.lane > lane.name
)
FROM lane
WHERE lane.name IS NOT NULL

-- fragment: paused_in_lane
-- The paused runs of one lane; further conditions follow.
FROM workflow_event_locks AS head
WHERE
    head.status = 'paused'
    AND head.lane = lane.name

-- name: claim_due_timers
-- Claims paused runs that have a timer due.
-- statement: heads
-- ?1 owner  ?2 lease_token  ?3 lease_expires_at_ms  ?4 now_ms  ?5 limit  ?6 workflows  ?7 queues
WITH RECURSIVE lane (name) AS (
    SELECT (
        -- include: first_paused_lane
    )
    WHERE NOT EXISTS (
        -- include: claimed_already
    )
    UNION ALL
    -- include: further_paused_lanes
)
UPDATE workflow_event_locks
SET
    -- include: claimed_head
WHERE run_id IN (
    SELECT due.run_id
    FROM lane
    CROSS JOIN workflow_event_locks AS due
        ON due.run_id IN (
            SELECT head.run_id
            -- include: paused_in_lane
                AND head.due_at <= ?4
            ORDER BY head.due_at, head.run_id
            LIMIT ?5
        )
    -- include: first_of_wanted_lanes
)
RETURNING run_id, status;

-- statement: next_due
-- ?1 workflows  ?2 queues
WITH RECURSIVE lane (name) AS (
    -- include: first_paused_lane
    UNION ALL
    -- include: further_paused_lanes
)
SELECT
    min((
        SELECT head.due_at
        -- include: paused_in_lane
            AND head.due_at IS NOT NULL
        ORDER BY head.due_at
        LIMIT 1
    )) AS next_due
-- include: wanted_lanes
