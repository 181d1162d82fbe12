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
    run_id = ?1
    AND status = 'running'
    AND lease_token = ?2
    AND operation_id <> ?3;

-- name: read_timers
-- Reads all timers of a run.
-- ?1 run_id
SELECT timer.run_id, timer.timer_id, timer.fire_at
FROM workflow_timers AS timer
WHERE timer.run_id = ?1
ORDER BY timer.fire_at, timer.timer_id;

-- name: claim_due_timers
-- Claims paused runs that have a timer due.
-- statement: heads
-- ?1 owner  ?2 lease_token  ?3 lease_expires_at_ms  ?4 now_ms  ?5 limit  ?6 workflows  ?7 queues
WITH RECURSIVE lane (name) AS (
    SELECT (
        SELECT min(head.lane)
        FROM workflow_event_locks AS head
        WHERE head.status = 'paused'
    )
    WHERE NOT EXISTS (
        SELECT 1
        FROM workflow_event_locks AS mine
        WHERE mine.status = 'running' AND mine.lease_token = ?2
    )
    UNION ALL
    SELECT (
        SELECT min(head.lane)
        FROM workflow_event_locks AS head
        WHERE head.status = 'paused' AND head.lane > lane.name
    )
    FROM lane
    WHERE lane.name IS NOT NULL
)
UPDATE workflow_event_locks
SET
    status = 'running',
    lease_owner = ?1,
    lease_token = ?2,
    lease_number = lease_number + 1,
    lease_expires_at = ?3,
    silent_claims = 1,
    awaiting = '[]',
    updated_at = ?4
WHERE run_id IN (
    SELECT due.run_id
    FROM lane
    CROSS JOIN workflow_event_locks AS due
        ON due.run_id IN (
            SELECT head.run_id
            FROM workflow_event_locks AS head
            WHERE
                head.status = 'paused'
                AND head.lane = lane.name
                AND head.due_at <= ?4
            ORDER BY head.due_at, head.run_id
            LIMIT ?5
        )
    WHERE
        (
            ?6 IS NULL
            OR EXISTS (
                SELECT 1
                FROM json_each(?6) AS wanted
                WHERE
                    json_extract(wanted.value, '$[0]') = json_extract(lane.name, '$[0]')
                    AND json_extract(wanted.value, '$[1]') = json_extract(lane.name, '$[1]')
            )
        )
        AND (?7 IS NULL OR json_extract(lane.name, '$[2]') IN (SELECT wanted.value FROM json_each(?7) AS wanted))
    ORDER BY due.priority DESC, due.due_at, due.run_id
    LIMIT ?5
)
RETURNING run_id, status;

-- statement: next_due
-- ?1 workflows  ?2 queues
WITH RECURSIVE lane (name) AS (
    SELECT min(head.lane)
    FROM workflow_event_locks AS head
    WHERE head.status = 'paused'
    UNION ALL
    SELECT (
        SELECT min(head.lane)
        FROM workflow_event_locks AS head
        WHERE head.status = 'paused' AND head.lane > lane.name
    )
    FROM lane
    WHERE lane.name IS NOT NULL
)
SELECT
    min((
        SELECT head.due_at
        FROM workflow_event_locks AS head
        WHERE
            head.status = 'paused'
            AND head.lane = lane.name
            AND head.due_at IS NOT NULL
        ORDER BY head.due_at
        LIMIT 1
    )) AS next_due
FROM lane
WHERE
    (
        ?1 IS NULL
        OR EXISTS (
            SELECT 1
            FROM json_each(?1) AS wanted
            WHERE
                json_extract(wanted.value, '$[0]') = json_extract(lane.name, '$[0]')
                AND json_extract(wanted.value, '$[1]') = json_extract(lane.name, '$[1]')
        )
    )
    AND (?2 IS NULL OR json_extract(lane.name, '$[2]') IN (SELECT wanted.value FROM json_each(?2) AS wanted));
