-- The append-only history of a run.

-- name: append_events
-- Moves the head past the new events, writes them, and renews the lease.
-- $1 run_id  $2 lease_token  $3 expected_next_index  $4 operation_id
-- $5 kinds  $6 step_ids  $7 payloads  $8 inbox_numbers
-- $9 timer_ids  $10 timer_times  $11 removed_timer_ids  $12 lease_expires_at_ms  $13 now_ms
WITH head AS (
    UPDATE workflow_event_locks AS stored
    SET
        next_index = stored.next_index + cardinality($5::text[]),
        lease_expires_at = greatest(stored.lease_expires_at, $12::bigint),
        crashes = CASE WHEN cardinality($5::text[]) > 0 THEN 0 ELSE stored.crashes END,
        silent_claims = 0,
        operation_id = $4::text,
        operation_answer = json_build_object(
            'next_index', stored.next_index + cardinality($5::text[]),
            'lease_expires_at', greatest(stored.lease_expires_at, $12::bigint)
        ),
        updated_at = $13::bigint
    WHERE
        stored.run_id = $1::text
        AND stored.status = 'running'
        AND stored.lease_token = $2::text
        AND stored.next_index = $3::bigint
        AND stored.operation_id <> $4::text
    RETURNING
        stored.run_id,
        stored.next_index,
        stored.lease_expires_at,
        stored.inbox_seq,
        stored.cancel_requested
),
events AS (
    INSERT INTO workflow_events (run_id, event_index, kind, step_id, created_at, payload_bytes, payload)
    SELECT
        head.run_id,
        $3::bigint + event.position - 1,
        event.kind,
        event.step_id,
        $13::bigint,
        coalesce(octet_length(event.payload), 0),
        event.payload::json
    FROM head
    CROSS JOIN unnest($5::text[], $6::text[], $7::text[])
        WITH ORDINALITY AS event (kind, step_id, payload, position)
),
taken AS (
    UPDATE workflow_signal_deliveries AS entry
    SET taken = true
    FROM head
    WHERE entry.run_id = head.run_id AND entry.inbox_seq = ANY($8::bigint[]) AND NOT entry.taken
),
removed AS (
    -- One that is removed and set stays: a row cannot be deleted and written in one statement.
    DELETE FROM workflow_timers AS timer
    USING head
    WHERE
        timer.run_id = head.run_id
        AND timer.timer_id = ANY($11::text[])
        AND timer.timer_id <> ALL($9::text[])
),
timers AS (
    INSERT INTO workflow_timers (run_id, timer_id, fire_at)
    SELECT head.run_id, timer.timer_id, timer.fire_at
    FROM head
    CROSS JOIN unnest($9::text[], $10::bigint[]) AS timer (timer_id, fire_at)
    ON CONFLICT (run_id, timer_id) DO UPDATE SET fire_at = excluded.fire_at
)
SELECT head.next_index, head.lease_expires_at, head.inbox_seq, head.cancel_requested
FROM head;

-- name: read_events
-- Reads a page of the log.
-- $1 run_id  $2 from_index  $3 limit  $4 max_bytes
SELECT
    page.event_index,
    page.kind,
    page.step_id,
    page.created_at,
    page.payload::text AS payload
FROM (
    SELECT
        event.event_index,
        event.kind,
        event.step_id,
        event.created_at,
        event.payload,
        sum(event.payload_bytes) OVER (ORDER BY event.event_index ROWS UNBOUNDED PRECEDING) AS bytes_so_far
    FROM workflow_events AS event
    WHERE
        event.run_id = $1::text
        AND event.event_index >= $2::bigint
        AND event.event_index < $2::bigint + $3::bigint
) AS page
WHERE page.bytes_so_far <= $4::bigint OR page.event_index = $2::bigint
ORDER BY page.event_index;

-- name: look_at_log
-- Reads a page of the log with where the run stands, of one moment; one row without an event when there is none.
-- $1 run_id  $2 from_index  $3 limit  $4 max_bytes
SELECT
    head.status,
    head.created_at AS run_created_at,
    head.next_index,
    page.event_index,
    page.kind,
    page.step_id,
    page.created_at,
    page.payload::text AS payload
FROM workflow_event_locks AS head
LEFT JOIN (
    SELECT
        event.event_index,
        event.kind,
        event.step_id,
        event.created_at,
        event.payload,
        sum(event.payload_bytes) OVER (ORDER BY event.event_index ROWS UNBOUNDED PRECEDING) AS bytes_so_far
    FROM workflow_events AS event
    WHERE
        event.run_id = $1::text
        AND event.event_index >= $2::bigint
        AND event.event_index < $2::bigint + $3::bigint
) AS page ON page.bytes_so_far <= $4::bigint OR page.event_index = $2::bigint
WHERE head.run_id = $1::text
ORDER BY page.event_index;
