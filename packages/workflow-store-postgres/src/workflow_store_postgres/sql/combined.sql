-- Writes of drivers for many runs in one statement, each under its own fence. A run whose fence does not hold gives no row,
-- and neither does one whose head somebody else has locked: the others do not wait for it. Both are then written alone.
--
-- Numbers come as text: a driver of the database would have to look up the type of a list of them on each connection.

-- fragment: lists_of_units
-- The parameters, out of sight of the planner: by the lengths of the lists it would make a plan of its own for each few runs.
-- $1 run_ids  $2 lease_tokens  $3 expected_next_indexes  $4 operation_ids  $5 numbers of events
SELECT
    $1::text[] AS run_ids,
    $2::text[] AS lease_tokens,
    $3::text[] AS next_indexes,
    $4::text[] AS operation_ids,
    $5::text[] AS event_counts,

-- fragment: unit_columns
-- The fence of each run, and its number from 1.
given.number,
given.run_id,
given.lease_token,
given.next_index::bigint AS next_index,
given.operation_id,
given.events::bigint AS events,

-- fragment: lock_units
-- Locks the heads that can be locked at once. In no order, because this never waits for anybody.
SELECT
    stored.run_id,
    stored.operation_id
FROM unit
INNER JOIN workflow_event_locks AS stored ON stored.run_id = unit.run_id
WHERE stored.status = 'running' AND stored.lease_token = unit.lease_token
FOR UPDATE OF stored SKIP LOCKED

-- fragment: unit_fence
-- As `head_fence`, of the run's own unit.
stored.run_id = locked.run_id
AND stored.status = 'running'
AND stored.lease_token = unit.lease_token
AND stored.next_index = unit.next_index
AND stored.operation_id <> unit.operation_id

-- fragment: write_unit_events
-- Appends the events to the logs of the runs that are written to.
INSERT INTO workflow_events (run_id, event_index, kind, step_id, created_at, payload_bytes, payload)
SELECT
    head.run_id,
    event.event_index::bigint,
    event.kind,
    event.step_id,
    head.now_at,
    coalesce(octet_length(event.payload), 0),
    event.payload::json
FROM lists
CROSS JOIN unnest(lists.event_numbers, lists.event_indexes, lists.kinds, lists.step_ids, lists.payloads)
    AS event (number, event_index, kind, step_id, payload)
INNER JOIN head ON head.number = event.number::bigint

-- name: append_events_to_many
-- As `append_plain`, for many runs.
-- $1 run_ids  $2 lease_tokens  $3 expected_next_indexes  $4 operation_ids  $5 numbers of events
-- $6 times at which the leases expire  $7 times of the writes
-- $8 numbers of the runs that events belong to  $9 event_indexes  $10 kinds  $11 step_ids  $12 payloads
WITH lists AS MATERIALIZED (
    -- include: lists_of_units
    $6::text[] AS expiries,
    $7::text[] AS times,
    $8::text[] AS event_numbers,
    $9::text[] AS event_indexes,
    $10::text[] AS kinds,
    $11::text[] AS step_ids,
    $12::text[] AS payloads
),
unit AS MATERIALIZED (
    SELECT
        -- include: unit_columns
        given.lease_expires_at::bigint AS lease_expires_at,
        given.now_at::bigint AS now_at
    FROM lists
    CROSS JOIN unnest(
        lists.run_ids, lists.lease_tokens, lists.next_indexes, lists.operation_ids, lists.event_counts,
        lists.expiries, lists.times
    )
        WITH ORDINALITY
        AS given (run_id, lease_token, next_index, operation_id, events, lease_expires_at, now_at, number)
),
locked AS MATERIALIZED (
    -- include: lock_units
),
head AS (
    UPDATE workflow_event_locks AS stored
    SET
        next_index = stored.next_index + unit.events,
        lease_expires_at = greatest(stored.lease_expires_at, unit.lease_expires_at),
        crashes = CASE WHEN unit.events > 0 THEN 0 ELSE stored.crashes END,
        silent_claims = 0,
        operation_id = unit.operation_id,
        operation_answer = json_build_object(
            'next_index', stored.next_index + unit.events,
            'lease_expires_at', greatest(stored.lease_expires_at, unit.lease_expires_at)
        ),
        updated_at = unit.now_at
    FROM locked
    INNER JOIN unit ON unit.run_id = locked.run_id
    WHERE
        -- include: unit_fence
    RETURNING
        unit.number,
        unit.now_at,
        stored.run_id,
        stored.next_index,
        stored.lease_expires_at,
        stored.inbox_seq,
        stored.cancel_requested
),
events AS (
    -- include: write_unit_events
)
SELECT head.number, head.next_index, head.lease_expires_at, head.inbox_seq, head.cancel_requested
FROM head;

-- name: mark_runs_ended
-- As `end_plain`, for many runs.
-- $1 run_ids  $2 lease_tokens  $3 expected_next_indexes  $4 operation_ids  $5 numbers of events
-- $6 statuses  $7 outputs  $8 errors  $9 reasons  $10 times of the writes
-- $11 numbers of the runs that events belong to  $12 event_indexes  $13 kinds  $14 step_ids  $15 payloads
WITH lists AS MATERIALIZED (
    -- include: lists_of_units
    $6::text[] AS statuses,
    $7::text[] AS outputs,
    $8::text[] AS errors,
    $9::text[] AS reasons,
    $10::text[] AS times,
    $11::text[] AS event_numbers,
    $12::text[] AS event_indexes,
    $13::text[] AS kinds,
    $14::text[] AS step_ids,
    $15::text[] AS payloads
),
unit AS MATERIALIZED (
    SELECT
        -- include: unit_columns
        given.status,
        given.output,
        given.error,
        given.reason,
        given.now_at::bigint AS now_at
    FROM lists
    CROSS JOIN unnest(
        lists.run_ids, lists.lease_tokens, lists.next_indexes, lists.operation_ids, lists.event_counts,
        lists.statuses, lists.outputs, lists.errors, lists.reasons, lists.times
    )
        WITH ORDINALITY
        AS given (
            run_id, lease_token, next_index, operation_id, events, status, output, error, reason, now_at, number
        )
),
before AS MATERIALIZED (
    -- As of the beginning of this statement, as the timers below are.
    SELECT
        stored.run_id,
        stored.operation_id
    FROM unit
    INNER JOIN workflow_event_locks AS stored ON stored.run_id = unit.run_id
),
locked AS MATERIALIZED (
    -- include: lock_units
),
head AS (
    UPDATE workflow_event_locks AS stored
    SET
        status = unit.status,
        due_at = NULL,
        next_index = stored.next_index + unit.events,
        -- include: lease_ended
        crashes = CASE WHEN unit.events > 0 THEN 0 ELSE stored.crashes END,
        operation_id = unit.operation_id,
        operation_answer = '{}',
        updated_at = unit.now_at,
        finished_at = unit.now_at
    FROM locked
    INNER JOIN unit ON unit.run_id = locked.run_id
    INNER JOIN before ON before.run_id = locked.run_id AND before.operation_id = locked.operation_id
    WHERE
        -- include: unit_fence
    RETURNING
        unit.number,
        unit.now_at,
        unit.status,
        unit.output,
        unit.error,
        unit.reason,
        stored.run_id
),
events AS (
    -- include: write_unit_events
),
timers AS (
    DELETE FROM workflow_timers AS timer
    USING head
    WHERE timer.run_id = head.run_id AND head.status <> 'dead'
),
state AS (
    UPDATE workflow_run_states AS stored
    SET
        output = head.output::json,
        error = head.error::json,
        reason = head.reason
    FROM head
    WHERE stored.run_id = head.run_id
)
SELECT head.number
FROM head;
