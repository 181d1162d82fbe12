-- The append-only history of a run.

-- fragment: logged_columns
-- What the log holds of an event, but for its payload.
event.event_index,
event.kind,
event.step_id,
event.created_at,

-- fragment: counted_events
-- Events, each with the bytes of all payloads from the first to its own.
SELECT
    -- include: logged_columns
    event.payload,
    sum(event.payload_bytes) OVER (ORDER BY event.event_index ROWS UNBOUNDED PRECEDING) AS bytes_so_far
FROM workflow_events AS event

-- fragment: log_page
-- A page of the log that may hold more bytes than are wanted. The run is out of the planner's sight: a log in partitions
-- would be planned anew for each, because a plan without the other partitions looks cheaper than the one for all runs.
-- $1 run_id  $2 from_index  $3 limit
-- include: counted_events
WHERE
    event.run_id = (SELECT $1::text)
    AND event.event_index >= $2::bigint
    AND event.event_index < $2::bigint + $3::bigint

-- fragment: event_columns
-- What the codec reads of an event.
page.event_index,
page.kind,
page.step_id,
page.created_at,
page.payload::text AS payload

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
        -- include: head_fence
    RETURNING
        stored.run_id,
        stored.next_index,
        stored.lease_expires_at,
        stored.inbox_seq,
        stored.cancel_requested
),
events AS (
    -- include: write_events
),
taken AS (
    -- include: take_entries
),
removed AS (
    -- One that is removed and set stays: a row cannot be deleted and written in one statement.
    -- include: remove_timers
),
timers AS (
    -- include: set_timers
)
SELECT head.next_index, head.lease_expires_at, head.inbox_seq, head.cancel_requested
FROM head;

-- name: append_plain
-- As `append_events`, for a write that neither changes timers nor takes from the inbox, as those of most steps.
-- $1 run_id  $2 lease_token  $3 expected_next_index  $4 operation_id
-- $5 kinds  $6 step_ids  $7 payloads
-- $8 lease_expires_at_ms  $9 now_ms
WITH head AS (
    UPDATE workflow_event_locks AS stored
    SET
        next_index = stored.next_index + cardinality($5::text[]),
        lease_expires_at = greatest(stored.lease_expires_at, $8::bigint),
        crashes = CASE WHEN cardinality($5::text[]) > 0 THEN 0 ELSE stored.crashes END,
        silent_claims = 0,
        operation_id = $4::text,
        operation_answer = json_build_object(
            'next_index', stored.next_index + cardinality($5::text[]),
            'lease_expires_at', greatest(stored.lease_expires_at, $8::bigint)
        ),
        updated_at = $9::bigint
    WHERE
        -- include: head_fence
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
        -- include: new_event_columns
        $9::bigint,
        coalesce(octet_length(event.payload), 0),
        event.payload::json
    FROM head
    -- include: new_events
)
SELECT head.next_index, head.lease_expires_at, head.inbox_seq, head.cancel_requested
FROM head;

-- name: read_events
-- Reads a page of the log.
-- $1 run_id  $2 from_index  $3 limit  $4 max_bytes
SELECT
    -- include: event_columns
FROM (
    -- include: log_page
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
    -- include: event_columns
FROM workflow_event_locks AS head
LEFT JOIN (
    -- include: log_page
) AS page ON page.bytes_so_far <= $4::bigint OR page.event_index = $2::bigint
WHERE head.run_id = $1::text
ORDER BY page.event_index;
