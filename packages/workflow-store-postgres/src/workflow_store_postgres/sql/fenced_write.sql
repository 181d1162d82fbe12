-- What the writes of a driver have in common. Each is one UPDATE of the head, whose conditions are the fence, and
-- everything else hangs on the row that it returns. No row: `fenced_write.before` says why.

-- fragment: lease_fence
-- The run, if the caller still holds its lease.
-- $1 run_id  $2 lease_token
stored.run_id = $1::text
AND stored.status = 'running'
AND stored.lease_token = $2::text

-- fragment: head_fence
-- The run, if the caller still holds its lease, its log is as long as the caller knows, and this write is not done yet.
-- $1 run_id  $2 lease_token  $3 expected_next_index  $4 operation_id
-- include: lease_fence
AND stored.next_index = $3::bigint
AND stored.operation_id <> $4::text

-- fragment: lease_begun
-- The assignments that begin a lease.
-- $1 owner  $2 lease_token  $3 lease_expires_at_ms
lease_owner = $1::text,
lease_token = $2::text,
lease_number = stored.lease_number + 1,
lease_expires_at = $3::bigint,

-- fragment: lease_ended
-- The assignments that end a lease.
lease_owner = NULL,
lease_token = NULL,
lease_expires_at = NULL,

-- fragment: fence_columns
-- The columns of a head that say why a write did nothing.
head.status,
head.lease_token,
-- include: progress_columns
head.operation_id,

-- fragment: new_event_columns
-- The first columns of a new event, which continues the log.
-- $3 expected_next_index
head.run_id,
$3::bigint + event.position - 1,
event.kind,
event.step_id,

-- fragment: new_events
-- The events that the driver gives, numbered from 1.
-- $5 kinds  $6 step_ids  $7 payloads
CROSS JOIN unnest($5::text[], $6::text[], $7::text[])
    WITH ORDINALITY AS event (kind, step_id, payload, position)

-- fragment: write_events
-- Appends the driver's events to the log.
-- $3 expected_next_index  $5 kinds  $6 step_ids  $7 payloads  $13 now_ms
INSERT INTO workflow_events (run_id, event_index, kind, step_id, created_at, payload_bytes, payload)
SELECT
    -- include: new_event_columns
    $13::bigint,
    coalesce(octet_length(event.payload), 0),
    event.payload::json
FROM head
-- include: new_events

-- fragment: take_entries
-- Marks what the driver has moved from the inbox to the log.
-- $8 inbox_numbers
UPDATE workflow_signal_deliveries AS entry
SET taken = true
FROM head
WHERE entry.run_id = head.run_id AND entry.inbox_seq = ANY($8::text[]::bigint[]) AND NOT entry.taken

-- fragment: remove_timers
-- Removes the timers that are over, but for those that are set again.
-- $9 timer_ids  $11 removed_timer_ids
DELETE FROM workflow_timers AS timer
USING head
WHERE
    timer.run_id = head.run_id
    AND timer.timer_id = ANY($11::text[])
    AND timer.timer_id <> ALL($9::text[])

-- fragment: set_timers
-- Sets timers, or moves them.
-- $9 timer_ids  $10 timer_times
INSERT INTO workflow_timers (run_id, timer_id, fire_at)
SELECT head.run_id, timer.timer_id, timer.fire_at::bigint
FROM head
CROSS JOIN unnest($9::text[], $10::text[]) AS timer (timer_id, fire_at)
ON CONFLICT (run_id, timer_id) DO UPDATE SET fire_at = excluded.fire_at

-- name: fenced_write
-- The head, for the verdict on a write that did nothing. See runs.sql for `backed`.
-- statement: before
-- $1 run_id
SELECT
    -- include: fence_columns
    head.operation_answer::text AS operation_answer,
    pg_logical_emit_message(true, 'workflow', '') IS NOT NULL AS backed
FROM workflow_event_locks AS head
WHERE head.run_id = $1::text;

-- statement: settled
-- As `before`, but it waits for a transaction that is being committed, and so sees it. The lock is a write, which waits for a
-- synchronous standby as well.
-- $1 run_id
SELECT
    -- include: fence_columns
    head.operation_answer::text AS operation_answer
FROM workflow_event_locks AS head
WHERE head.run_id = $1::text
FOR NO KEY UPDATE;
