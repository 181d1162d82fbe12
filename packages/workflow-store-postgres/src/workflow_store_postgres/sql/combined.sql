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

-- name: mark_runs_paused
-- As `mark_run_paused`, for many runs, none of which takes anything from its inbox.
-- $1 run_ids  $2 lease_tokens  $3 expected_next_indexes  $4 operation_ids  $5 numbers of events
-- $6 inbox numbers that were seen  $7 what they wait for  $8 times of the writes  $9 times until which they notify
-- $10 whether each notifies
-- $11 numbers of the runs that events belong to  $12 event_indexes  $13 kinds  $14 step_ids  $15 payloads
-- $16 numbers of the runs that timers are set for  $17 timer_ids  $18 timer_times
-- $19 numbers of the runs that timers are removed of  $20 removed_timer_ids
WITH lists AS MATERIALIZED (
    -- include: lists_of_units
    $6::text[] AS seen,
    $7::text[] AS awaitings,
    $8::text[] AS times,
    $9::text[] AS horizons,
    $10::text[] AS notices,
    $11::text[] AS event_numbers,
    $12::text[] AS event_indexes,
    $13::text[] AS kinds,
    $14::text[] AS step_ids,
    $15::text[] AS payloads,
    $16::text[] AS set_numbers,
    $17::text[] AS set_ids,
    $18::text[] AS set_times,
    $19::text[] AS removed_numbers,
    $20::text[] AS removed_ids
),
unit AS MATERIALIZED (
    SELECT
        -- include: unit_columns
        given.seen::bigint AS seen,
        given.awaiting::json AS awaiting,
        given.now_at::bigint AS now_at,
        given.notifies_until::bigint AS notifies_until,
        given.notifies::boolean AS notifies
    FROM lists
    CROSS JOIN unnest(
        lists.run_ids, lists.lease_tokens, lists.next_indexes, lists.operation_ids, lists.event_counts,
        lists.seen, lists.awaitings, lists.times, lists.horizons, lists.notices
    )
        WITH ORDINALITY
        AS given (
            run_id, lease_token, next_index, operation_id, events, seen, awaiting, now_at, notifies_until, notifies,
            number
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
timer AS MATERIALIZED (
    -- What is set and what is removed, each beside its run.
    SELECT
        unit.run_id,
        changed.timer_id,
        changed.fire_at::bigint AS fire_at
    FROM lists
    CROSS JOIN unnest(
        lists.set_numbers || lists.removed_numbers,
        lists.set_ids || lists.removed_ids,
        lists.set_times
    ) AS changed (number, timer_id, fire_at)
    INNER JOIN unit ON unit.number = changed.number::bigint
),
earliest AS MATERIALIZED (
    SELECT
        locked.run_id,
        least(
            (
                SELECT min(kept.fire_at)
                FROM workflow_timers AS kept
                WHERE
                    kept.run_id = locked.run_id
                    AND NOT EXISTS (
                        SELECT 1
                        FROM timer
                        WHERE timer.run_id = kept.run_id AND timer.timer_id = kept.timer_id
                    )
            ),
            (SELECT min(timer.fire_at) FROM timer WHERE timer.run_id = locked.run_id)
        ) AS fire_at
    FROM locked
),
head AS (
    UPDATE workflow_event_locks AS stored
    SET
        status = CASE WHEN stored.inbox_seq > unit.seen THEN 'queued' ELSE 'paused' END,
        due_at = CASE WHEN stored.inbox_seq > unit.seen THEN unit.now_at ELSE earliest.fire_at END,
        awaiting = CASE WHEN stored.inbox_seq > unit.seen THEN '[]' ELSE unit.awaiting END,
        next_index = stored.next_index + unit.events,
        -- include: lease_ended
        crashes = 0,
        operation_id = unit.operation_id,
        operation_answer = json_build_object(
            'status', CASE WHEN stored.inbox_seq > unit.seen THEN 'queued' ELSE 'paused' END,
            'next_index', stored.next_index + unit.events
        ),
        updated_at = unit.now_at
    FROM locked
    INNER JOIN unit ON unit.run_id = locked.run_id
    INNER JOIN before ON before.run_id = locked.run_id AND before.operation_id = locked.operation_id
    INNER JOIN earliest ON earliest.run_id = locked.run_id
    WHERE
        -- include: unit_fence
    RETURNING
        unit.number,
        unit.now_at,
        unit.notifies,
        stored.tableoid,
        stored.run_id,
        stored.status,
        stored.next_index,
        stored.status = 'queued' OR coalesce(stored.due_at < unit.notifies_until, false) AS wakes
),
events AS (
    -- include: write_unit_events
),
removed AS (
    DELETE FROM workflow_timers AS kept
    USING head, timer
    WHERE
        kept.run_id = head.run_id
        AND timer.run_id = head.run_id
        AND kept.timer_id = timer.timer_id
        AND timer.fire_at IS NULL
        AND NOT EXISTS (
            SELECT 1
            FROM timer AS again
            WHERE again.run_id = timer.run_id AND again.timer_id = timer.timer_id AND again.fire_at IS NOT NULL
        )
),
timers AS (
    INSERT INTO workflow_timers (run_id, timer_id, fire_at)
    SELECT head.run_id, timer.timer_id, timer.fire_at
    FROM head
    INNER JOIN timer ON timer.run_id = head.run_id
    WHERE timer.fire_at IS NOT NULL
    ON CONFLICT (run_id, timer_id) DO UPDATE SET fire_at = excluded.fire_at
)
SELECT
    head.number,
    head.status,
    head.next_index,
    head.wakes,
    CASE WHEN head.notifies AND head.wakes THEN pg_notify('workflow_work_' || head.tableoid, head.run_id) END AS notified
FROM head;

-- name: start_runs_together
-- As `create_run`, for many runs with an id each: queued, or running under a first lease. Gives a row for each that was
-- created. In the order of their ids, as `create_runs` has it.
-- $1 run_ids  $2 workflow_ids  $3 workflow_versions  $4 queues  $5 priorities  $6 times of the calls
-- $7 statuses  $8 due times  $9 owners  $10 lease_tokens  $11 lease_numbers  $12 times at which the leases expire
-- $13 operation_ids  $14 operation_answers  $15 inputs  $16 whether each notifies
WITH asked AS MATERIALIZED (
    SELECT given.*
    FROM unnest(
        (SELECT $1::text[]), (SELECT $2::text[]), (SELECT $3::text[]), (SELECT $4::text[]),
        (SELECT $5::text[]), (SELECT $6::text[]), (SELECT $7::text[]), (SELECT $8::text[]),
        (SELECT $9::text[]), (SELECT $10::text[]), (SELECT $11::text[]), (SELECT $12::text[]),
        (SELECT $13::text[]), (SELECT $14::text[]), (SELECT $15::text[]), (SELECT $16::text[])
    )
        WITH ORDINALITY
        AS given (
            run_id, workflow_id, workflow_version, queue, priority, now_at, status, due_at,
            lease_owner, lease_token, lease_number, lease_expires_at, operation_id, operation_answer, input, notifies,
            number
        )
),
head AS (
    INSERT INTO workflow_event_locks (
        -- include: new_run_columns
    )
    SELECT
        asked.run_id,
        asked.workflow_id,
        asked.workflow_version,
        asked.queue,
        asked.priority::smallint,
        asked.now_at::bigint,
        asked.now_at::bigint,
        asked.status,
        asked.due_at::bigint,
        asked.lease_owner,
        asked.lease_token,
        asked.lease_number::bigint,
        asked.lease_expires_at::bigint,
        asked.operation_id,
        asked.operation_answer::json,
        0,
        0,
        false,
        0,
        '[]'
    FROM asked
    ORDER BY asked.run_id COLLATE "C"
    -- include: unless_taken
),
-- include: write_run
state AS (
    INSERT INTO workflow_run_states (run_id, input)
    SELECT asked.run_id, asked.input::json
    FROM asked
    WHERE (asked.run_id IN (SELECT head.run_id FROM head)) IS TRUE
)
SELECT
    asked.number,
    asked.status = 'queued' AS wakes,
    CASE
        WHEN asked.notifies::boolean THEN pg_notify('workflow_work_' || head.tableoid, head.run_id)
    END AS notified
FROM head
INNER JOIN asked ON asked.run_id = head.run_id;
