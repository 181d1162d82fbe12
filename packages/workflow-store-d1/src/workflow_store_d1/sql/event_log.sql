-- The append-only history of a run.

-- name: append_events
-- Moves the head past the new events and renews the lease. A REAL, which a bound number is, would lose its last digits as
-- JSON.
-- statement: head
-- ?1 run_id  ?2 lease_token  ?3 expected_next_index  ?4 operation_id  ?5 event_count  ?6 lease_expires_at_ms  ?7 now_ms
UPDATE workflow_event_locks
SET
    next_index = next_index + ?5,
    lease_expires_at = max(lease_expires_at, ?6),
    crashes = CASE WHEN ?5 > 0 THEN 0 ELSE crashes END,
    silent_claims = 0,
    operation_id = ?4,
    operation_answer = json_object(
        'next_index', CAST(next_index + ?5 AS INTEGER),
        'lease_expires_at', CAST(max(lease_expires_at, ?6) AS INTEGER)
    ),
    updated_at = ?7
WHERE
    -- include: head_fence

-- fragment: event_columns
-- What the codec reads of an event, besides its run.
event.event_index,
event.kind,
event.step_id,
event.created_at,
event.payload,
json_valid(event.payload) AS payload_valid

-- fragment: longest_page
-- The events of a page that no limit of bytes cuts short.
-- ?1 run_id  ?2 from_index  ?3 limit
FROM workflow_events AS entry
WHERE entry.run_id = ?1 AND entry.event_index >= ?2 AND entry.event_index < ?2 + ?3

-- name: read_events
-- Reads a page of the log. The inner query measures it without touching the payloads.
-- ?1 run_id  ?2 from_index  ?3 limit  ?4 max_bytes
SELECT
    event.run_id,
    -- include: event_columns
FROM (
    SELECT
        entry.run_id,
        entry.event_index,
        sum(entry.payload_bytes) OVER (ORDER BY entry.event_index ROWS UNBOUNDED PRECEDING) AS bytes_so_far
    -- include: longest_page
) AS page
CROSS JOIN workflow_events AS event
    ON event.run_id = page.run_id AND event.event_index = page.event_index
WHERE page.bytes_so_far <= ?4 OR page.event_index = ?2;

-- name: look_at_log
-- Reads a page of the log with where the run stands; one row without an event when there is none.
-- ?1 run_id  ?2 from_index  ?3 limit  ?4 max_bytes
SELECT
    head.status,
    head.created_at AS run_created_at,
    head.next_index,
    head.run_id,
    -- include: event_columns
FROM workflow_event_locks AS head
LEFT JOIN (
    SELECT
        entry.event_index,
        sum(entry.payload_bytes) OVER (ORDER BY entry.event_index ROWS UNBOUNDED PRECEDING) AS bytes_so_far
    -- include: longest_page
) AS page ON page.bytes_so_far <= ?4 OR page.event_index = ?2
LEFT JOIN workflow_events AS event ON event.run_id = head.run_id AND event.event_index = page.event_index
WHERE head.run_id = ?1;
