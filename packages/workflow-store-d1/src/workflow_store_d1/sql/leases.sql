-- Claiming runs and keeping the claim.
--
-- A claim is one batch: an UPDATE takes the runs under a fresh token, then `claimed.*` reads what has that token.
-- It takes nothing where something has the token already: the batch was sent twice, and brings what the first one took.
-- A claim from an expired lease counts a crash when its driver gave a sign of life (silent_claims = 0), and else
-- each fourth time in a row: a claim whose answer was lost looks like a run that kills its worker at once.
-- due_at stays while a run is running (as the time since when it had been claimable), so that the answer keeps the
-- order in which the runs were chosen.
--
-- `lane` is a loose index scan: it hops from one [workflow, version, queue, priority] to the next, and each lane gives
-- at most as many runs as the claim may take. Runs of others, and runs whose time has not come, cost nothing.

-- fragment: claimed_already
-- A run that has the token already: the claim was sent twice.
-- ?2 lease_token
SELECT 1
FROM workflow_event_locks AS mine
WHERE mine.status = 'running' AND mine.lease_token = ?2

-- fragment: claimed_head
-- The head of a run that was claimed, where the claim counts no crash.
-- ?1 owner  ?2 lease_token  ?3 lease_expires_at_ms  ?4 now_ms
status = 'running',
lease_owner = ?1,
lease_token = ?2,
lease_number = lease_number + 1,
lease_expires_at = ?3,
silent_claims = 1,
awaiting = '[]',
updated_at = ?4

-- fragment: first_queued_lane
-- The first lane of queued runs.
SELECT min(head.lane)
FROM workflow_event_locks AS head
WHERE head.status = 'queued'

-- fragment: further_queued_lanes
-- Hops from one lane of queued runs to the next.
SELECT (
    SELECT min(head.lane)
    FROM workflow_event_locks AS head
    WHERE head.status = 'queued' AND head.lane > lane.name
)
FROM lane
WHERE lane.name IS NOT NULL

-- fragment: queued_lanes
-- Begins the statements that look at queued runs and claim none: hops over all lanes.
WITH RECURSIVE lane (name) AS (
    -- include: first_queued_lane
    UNION ALL
    -- include: further_queued_lanes
)

-- fragment: queued_in_lane
-- The queued runs of one lane; further conditions follow.
FROM workflow_event_locks AS head
WHERE
    head.status = 'queued'
    AND head.lane = lane.name

-- fragment: workflow_of_lane
-- Holds if the lane is of the wanted workflow and version.
json_extract(wanted.value, '$[0]') = json_extract(lane.name, '$[0]')
AND json_extract(wanted.value, '$[1]') = json_extract(lane.name, '$[1]')

-- fragment: first_of_wanted_lanes
-- Ends the query for all lanes: of those that the worker can run, the runs that the claim takes.
-- ?5 limit  ?6 workflows  ?7 queues
WHERE
    (
        ?6 IS NULL
        OR EXISTS (
            SELECT 1
            FROM json_each(?6) AS wanted
            WHERE
                -- include: workflow_of_lane
        )
    )
    AND (?7 IS NULL OR json_extract(lane.name, '$[2]') IN (SELECT wanted.value FROM json_each(?7) AS wanted))
ORDER BY due.priority DESC, due.due_at, due.run_id
LIMIT ?5

-- fragment: wanted_lanes
-- The lanes that the worker can run.
-- ?1 workflows  ?2 queues
FROM lane
WHERE
    (
        ?1 IS NULL
        OR EXISTS (
            SELECT 1
            FROM json_each(?1) AS wanted
            WHERE
                -- include: workflow_of_lane
        )
    )
    AND (?2 IS NULL OR json_extract(lane.name, '$[2]') IN (SELECT wanted.value FROM json_each(?2) AS wanted))

-- name: claim_run
-- Claims one run by its id.
-- statement: before
-- ?1 run_id
SELECT head.status, head.due_at, head.lease_expires_at
FROM workflow_event_locks AS head
WHERE head.run_id = ?1;

-- statement: head
-- ?1 run_id  ?2 owner  ?3 lease_token  ?4 lease_expires_at_ms  ?5 now_ms  ?6 max_crashes
UPDATE workflow_event_locks
SET
    (status, lease_owner, lease_token, lease_number, lease_expires_at, finished_at) = (
        SELECT
            CASE WHEN claim.kills THEN 'dead' ELSE 'running' END,
            CASE WHEN NOT claim.kills THEN ?2 END,
            CASE WHEN NOT claim.kills THEN ?3 END,
            lease_number + (NOT claim.kills),
            CASE WHEN NOT claim.kills THEN ?4 END,
            CASE WHEN claim.kills THEN ?5 END
        FROM (SELECT status = 'running' AND crashes + (silent_claims IN (0, 4)) >= ?6 AS kills) AS claim
    ),
    due_at = CASE WHEN status = 'running' THEN lease_expires_at ELSE due_at END,
    crashes = crashes + (status = 'running' AND silent_claims IN (0, 4)),
    silent_claims = CASE WHEN status = 'running' AND silent_claims IN (1, 2, 3) THEN silent_claims + 1 ELSE 1 END,
    awaiting = '[]',
    updated_at = ?5
WHERE
    run_id = ?1
    AND (
        (status IN ('queued', 'paused') AND due_at <= ?5)
        OR (status = 'running' AND lease_expires_at <= ?5)
    )
RETURNING run_id, status;

-- name: claim_stale_runs
-- Claims runs whose lease has expired, or parks them as dead.
-- statement: heads
-- ?1 owner  ?2 lease_token  ?3 lease_expires_at_ms  ?4 now_ms  ?5 limit  ?6 workflows  ?7 queues  ?8 max_crashes
UPDATE workflow_event_locks
SET
    (status, lease_owner, lease_token, lease_number, lease_expires_at, finished_at) = (
        SELECT
            CASE WHEN claim.kills THEN 'dead' ELSE 'running' END,
            CASE WHEN NOT claim.kills THEN ?1 END,
            CASE WHEN NOT claim.kills THEN ?2 END,
            lease_number + (NOT claim.kills),
            CASE WHEN NOT claim.kills THEN ?3 END,
            CASE WHEN claim.kills THEN ?4 END
        FROM (SELECT status = 'running' AND crashes + (silent_claims IN (0, 4)) >= ?8 AS kills) AS claim
    ),
    due_at = lease_expires_at,
    crashes = crashes + (silent_claims IN (0, 4)),
    silent_claims = CASE WHEN silent_claims IN (0, 4) THEN 1 ELSE silent_claims + 1 END,
    updated_at = ?4
WHERE run_id IN (
    SELECT stale.run_id
    FROM workflow_event_locks AS stale
    WHERE
        stale.status = 'running'
        AND stale.lease_token > ''
        AND stale.lease_expires_at <= ?4
        AND (
            ?6 IS NULL
            OR EXISTS (
                SELECT 1
                FROM json_each(?6) AS wanted
                WHERE
                    json_extract(wanted.value, '$[0]') = stale.workflow_id
                    AND json_extract(wanted.value, '$[1]') = stale.workflow_version
            )
        )
        AND (?7 IS NULL OR stale.queue IN (SELECT wanted.value FROM json_each(?7) AS wanted))
        AND NOT EXISTS (
            -- include: claimed_already
        )
    ORDER BY stale.priority DESC, stale.lease_expires_at, stale.run_id
    LIMIT ?5
)
RETURNING run_id, status;

-- statement: next_due
-- ?1 lease_token  ?2 workflows  ?3 queues
SELECT min(held.lease_expires_at) AS next_due
FROM workflow_event_locks AS held
WHERE
    held.status = 'running'
    AND held.lease_token > ''
    AND held.lease_token <> ?1
    AND (
        ?2 IS NULL
        OR EXISTS (
            SELECT 1
            FROM json_each(?2) AS wanted
            WHERE
                json_extract(wanted.value, '$[0]') = held.workflow_id
                AND json_extract(wanted.value, '$[1]') = held.workflow_version
        )
    )
    AND (?3 IS NULL OR held.queue IN (SELECT wanted.value FROM json_each(?3) AS wanted));

-- name: claim_pending_runs
-- Claims due queued runs.
-- statement: heads
-- ?1 owner  ?2 lease_token  ?3 lease_expires_at_ms  ?4 now_ms  ?5 limit  ?6 workflows  ?7 queues
WITH RECURSIVE lane (name) AS (
    SELECT (
        -- include: first_queued_lane
    )
    WHERE NOT EXISTS (
        -- include: claimed_already
    )
    UNION ALL
    -- include: further_queued_lanes
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
            -- include: queued_in_lane
                AND head.due_at <= ?4
            ORDER BY head.due_at, head.run_id
            LIMIT ?5
        )
    -- include: first_of_wanted_lanes
)
RETURNING run_id, status;

-- statement: next_due
-- ?1 workflows  ?2 queues
-- include: queued_lanes
SELECT
    min((
        SELECT head.due_at
        -- include: queued_in_lane
        ORDER BY head.due_at
        LIMIT 1
    )) AS next_due
-- include: wanted_lanes

-- name: list_pending_runs
-- Lists what claim_pending_runs would take.
-- ?1 now_ms  ?2 limit  ?3 workflows  ?4 queues
-- include: queued_lanes
SELECT
    due.run_id,
    due.workflow_id,
    due.workflow_version,
    due.status,
    due.queue,
    due.priority,
    due.due_at,
    due.lease_owner,
    due.lease_expires_at,
    due.next_index,
    due.inbox_seq,
    due.cancel_requested,
    due.crashes,
    due.created_at,
    due.updated_at,
    due.finished_at
FROM lane
CROSS JOIN workflow_event_locks AS due
    ON due.run_id IN (
        SELECT head.run_id
        -- include: queued_in_lane
            AND head.due_at <= ?1
        ORDER BY head.due_at, head.run_id
        LIMIT ?2
    )
WHERE
    (
        ?3 IS NULL
        OR EXISTS (
            SELECT 1
            FROM json_each(?3) AS wanted
            WHERE
                -- include: workflow_of_lane
        )
    )
    AND (?4 IS NULL OR json_extract(lane.name, '$[2]') IN (SELECT wanted.value FROM json_each(?4) AS wanted))
ORDER BY due.priority DESC, due.due_at, due.run_id
LIMIT ?2;

-- name: claimed
-- What a claim brings along: everything of the runs that have its token. Payloads are not sorted here, because SQLite
-- would copy them all for that; Python puts the rows in order.
-- statement: runs
-- ?1 lease_token
SELECT
    head.lease_token,
    head.lease_number,
    -- include: run_columns
FROM workflow_event_locks AS head
LEFT JOIN workflow_run_states AS state ON state.run_id = head.run_id
WHERE head.status = 'running' AND head.lease_token = ?1
ORDER BY head.priority DESC, head.due_at, head.run_id;

-- statement: history
-- ?1 lease_token  ?2 history_limit  ?3 history_bytes
SELECT
    event.run_id,
    -- include: event_columns
FROM (
    SELECT
        entry.run_id,
        entry.event_index,
        sum(entry.payload_bytes) OVER (
            PARTITION BY entry.run_id
            ORDER BY entry.event_index
            ROWS UNBOUNDED PRECEDING
        ) AS bytes_so_far
    FROM workflow_event_locks AS head
    CROSS JOIN workflow_events AS entry
        ON entry.run_id = head.run_id AND entry.event_index < ?2
    WHERE head.status = 'running' AND head.lease_token = ?1
) AS page
CROSS JOIN workflow_events AS event
    ON event.run_id = page.run_id AND event.event_index = page.event_index
WHERE page.bytes_so_far <= ?3 OR page.event_index = 0;

-- statement: inbox
-- ?1 lease_token  ?2 limit  ?3 max_bytes
SELECT
    -- include: delivery_columns
FROM (
    SELECT
        -- include: entry_position
    FROM workflow_event_locks AS head
    CROSS JOIN workflow_signal_deliveries AS entry INDEXED BY workflow_signal_deliveries_untaken
        ON entry.run_id = head.run_id AND entry.taken = 0
    WHERE head.status = 'running' AND head.lease_token = ?1
    WINDOW in_order AS (PARTITION BY entry.run_id ORDER BY entry.inbox_seq ROWS UNBOUNDED PRECEDING)
) AS page
CROSS JOIN workflow_signal_deliveries AS delivery
    ON delivery.run_id = page.run_id AND delivery.inbox_seq = page.inbox_seq
WHERE page.position <= ?2 AND (page.bytes_so_far <= ?3 OR page.position = 1);

-- statement: due_timers
-- ?1 lease_token  ?2 now_ms
SELECT timer.run_id, timer.timer_id, timer.fire_at
FROM workflow_event_locks AS head
CROSS JOIN workflow_timers AS timer ON timer.run_id = head.run_id
WHERE head.status = 'running' AND head.lease_token = ?1 AND timer.fire_at <= ?2
ORDER BY timer.run_id, timer.fire_at, timer.timer_id;

-- name: heartbeat_run_lease
-- Renews a lease; gives no row when it is lost.
-- ?1 run_id  ?2 lease_token  ?3 lease_expires_at_ms
UPDATE workflow_event_locks
SET lease_expires_at = max(lease_expires_at, ?3), silent_claims = 0
WHERE run_id = ?1 AND status = 'running' AND lease_token = ?2
RETURNING
    lease_expires_at,
    inbox_seq,
    cancel_requested,
    CAST((julianday('now') - 2440587.5) * 86400000 AS INTEGER) AS clock;

-- name: heartbeat_run_leases
-- Renews leases; gives no row for one that is lost.
-- ?1 leases  ?2 lease_expires_at_ms
UPDATE workflow_event_locks
SET lease_expires_at = max(lease_expires_at, ?2), silent_claims = 0
FROM json_each(?1) AS asked
WHERE
    workflow_event_locks.run_id = json_extract(asked.value, '$[0]')
    AND workflow_event_locks.lease_token = json_extract(asked.value, '$[1]')
    AND workflow_event_locks.status = 'running'
RETURNING
    run_id,
    lease_token,
    lease_expires_at,
    inbox_seq,
    cancel_requested,
    CAST((julianday('now') - 2440587.5) * 86400000 AS INTEGER) AS clock;

-- fragment: write_fence
-- The run, if the caller still holds its lease and this operation is not done yet.
-- ?1 run_id  ?2 lease_token  ?3 operation_id
run_id = ?1
AND status = 'running'
AND lease_token = ?2
AND operation_id <> ?3

-- name: release_run_lease
-- Hands a run over to any worker.
-- statement: head
-- ?1 run_id  ?2 lease_token  ?3 operation_id  ?4 now_ms
UPDATE workflow_event_locks
SET
    status = 'queued',
    due_at = ?4,
    -- include: no_lease
    operation_id = ?3,
    operation_answer = '{}',
    updated_at = ?4
WHERE
    -- include: write_fence
