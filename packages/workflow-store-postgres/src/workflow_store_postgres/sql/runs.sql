-- Creating, ending and removing runs.
--
-- `before` is the head as of the statement's beginning. Where a statement reads or deletes rows of other tables, its
-- write of the head demands that the head is still that one: otherwise, after a wait for the row lock, it would act on
-- what it saw before the wait: the last write of a driver, and the log's length, which a retry changes without a driver.
-- `overtaken` shows that this stopped it; the store then tries again.
--
-- `backed`: the statement answers that something was done before, and writes nothing of its own. When the connection of
-- the one who did it broke while its commit waited for a synchronous standby, everybody sees what the standby does not
-- have yet. A word to the log makes this a commit too: it waits for the standby, and for all that was committed before.

-- fragment: progress_columns
-- How long the lease, the log and the inbox of a run are, and whether it is asked to end.
head.lease_expires_at,
head.next_index,
head.inbox_seq,
head.cancel_requested,

-- fragment: head_columns
-- What a run is and where it stands, as its head says.
head.run_id,
head.workflow_id,
head.workflow_version,
head.status,
head.queue,
head.priority,
head.due_at,
head.lease_owner,
-- include: progress_columns

-- fragment: past_columns
-- How often a run crashed, and when it began, changed and ended.
head.crashes,
head.created_at,
head.updated_at,
head.finished_at,

-- fragment: state_columns
-- Where a run comes from, and why it ended.
state.schedule_id,
state.scheduled_at,
state.forked_from,
state.forked_from_index,
state.reason,

-- fragment: run_columns
-- What the codec reads of a run with its payloads.
-- include: head_columns
head.awaiting::text AS awaiting,
-- include: past_columns
-- include: state_columns
state.input::text AS input,
state.output::text AS output,
state.error::text AS error

-- fragment: asked_run
-- The head of the run that the statement is about.
-- $1 run_id
FROM workflow_event_locks AS stored
WHERE stored.run_id = $1::text

-- fragment: stored_columns
-- The first of `head_columns`, of a run that was there before.
stored.run_id,
stored.workflow_id,
stored.workflow_version,
stored.status,
stored.queue,
stored.priority,
stored.due_at,
stored.lease_owner,

-- fragment: stored_progress_columns
-- As `progress_columns`, of a run that was there before.
stored.lease_expires_at,
stored.next_index,
stored.inbox_seq,
stored.cancel_requested,

-- fragment: stored_past_columns
-- As `past_columns`, and the id of its last operation, of a run that was there before.
stored.crashes,
stored.created_at,
stored.updated_at,
stored.finished_at,
stored.operation_id,

-- fragment: stored_state_columns
-- As `state_columns`, of a run that was there before.
stored_state.schedule_id,
stored_state.scheduled_at,
stored_state.forked_from,
stored_state.forked_from_index,
stored_state.reason,

-- fragment: queued_columns
-- The columns of the head of a new run that waits for a worker.
run_id, workflow_id, workflow_version, queue, priority, created_at, updated_at, status, due_at,
lease_number, operation_id, operation_answer, next_index, inbox_seq, cancel_requested, crashes, awaiting

-- fragment: new_run_columns
-- The columns of the head of a new run, which may have its first lease.
run_id, workflow_id, workflow_version, queue, priority, created_at, updated_at, status, due_at,
lease_owner, lease_token, lease_number, lease_expires_at, operation_id, operation_answer,
next_index, inbox_seq, cancel_requested, crashes, awaiting

-- fragment: unless_taken
-- Changes nothing when the id is taken; returns what `write_run` needs of a new run.
ON CONFLICT (run_id) DO NOTHING
RETURNING tableoid, run_id, workflow_id, workflow_version, queue, priority, created_at

-- fragment: write_run
-- Writes what never changes of a run.
run AS (
    INSERT INTO workflow_runs (run_id, workflow_id, workflow_version, queue, priority, created_at)
    SELECT head.run_id, head.workflow_id, head.workflow_version, head.queue, head.priority, head.created_at
    FROM head
),

-- name: create_run
-- Creates a run unless its id is taken; queued, or running under its first lease: then it notifies nobody. Gives a row if it
-- was created.
-- $1 run_id  $2 workflow_id  $3 workflow_version  $4 queue  $5 priority  $6 now_ms
-- $7 status  $8 due_at_ms  $9 owner  $10 lease_token  $11 lease_number  $12 lease_expires_at_ms
-- $13 operation_id  $14 operation_answer  $15 input  $16 notifies
WITH head AS (
    INSERT INTO workflow_event_locks (
        -- include: new_run_columns
    )
    VALUES (
        $1::text, $2::text, $3::text, $4::text, $5::smallint, $6::bigint, $6::bigint, $7::text, $8::bigint,
        $9::text, $10::text, $11::bigint, $12::bigint, $13::text, $14::text::json,
        0, 0, false, 0, '[]'
    )
    -- include: unless_taken
),
-- include: write_run
state AS (
    INSERT INTO workflow_run_states (run_id, input)
    SELECT head.run_id, $15::text::json
    FROM head
)
SELECT
    $7::text = 'queued' AS wakes,
    CASE WHEN $16::boolean THEN pg_notify('workflow_work_' || head.tableoid, head.run_id) END AS notified
FROM head;

-- name: read_creation
-- Reads the run whose id was taken, with what tells who created it.
-- $1 run_id
SELECT
    head.lease_token,
    head.lease_number,
    head.operation_id,
    head.operation_answer::text AS operation_answer,
    pg_logical_emit_message(true, 'workflow', '') IS NOT NULL AS backed,
    -- include: run_columns
FROM workflow_event_locks AS head
LEFT JOIN workflow_run_states AS state ON state.run_id = head.run_id
WHERE head.run_id = $1::text;

-- name: load_run
-- Reads a run with its payloads.
-- $1 run_id
SELECT
    -- include: run_columns
FROM workflow_event_locks AS head
LEFT JOIN workflow_run_states AS state ON state.run_id = head.run_id
WHERE head.run_id = $1::text;

-- fragment: history_columns
-- The first page of the log, one list for each column.
history.event_indexes,
history.event_kinds,
history.event_step_ids,
history.event_times,
history.event_payloads,

-- fragment: inbox_columns
-- The first page of the inbox, one list for each column.
inbox.entry_numbers,
inbox.entry_kinds,
inbox.entry_names,
inbox.entry_delivery_ids,
inbox.entry_times,
inbox.entry_payloads,

-- fragment: history_arrays
-- Makes `history_columns` of a page. Numbers go as one text: a new connection would have to look up the type of a list.
SELECT
    string_agg(page.event_index::text, ',') AS event_indexes,
    array_agg(page.kind) AS event_kinds,
    array_agg(page.step_id) AS event_step_ids,
    string_agg(page.created_at::text, ',') AS event_times,
    array_agg(page.payload::text) AS event_payloads

-- fragment: inbox_arrays
-- Makes `inbox_columns` of a page.
SELECT
    string_agg(page.inbox_seq::text, ',') AS entry_numbers,
    array_agg(page.kind) AS entry_kinds,
    array_agg(page.name) AS entry_names,
    array_agg(page.delivery_id) AS entry_delivery_ids,
    string_agg(page.received_at::text, ',') AS entry_times,
    array_agg(page.payload::text) AS entry_payloads

-- fragment: timer_arrays
-- Timers, one list for each column.
SELECT
    array_agg(timer.timer_id) AS timer_ids,
    string_agg(timer.fire_at::text, ',') AS timer_times
FROM workflow_timers AS timer

-- name: load_execution
-- Reads a run with the first page of its history, its inbox and its timers, as of one moment.
-- $1 run_id  $2 history_limit  $3 history_bytes  $4 inbox_limit  $5 inbox_bytes  $6 with_taken_entries
SELECT
    -- include: history_columns
    -- include: inbox_columns
    timers.timer_ids,
    timers.timer_times,
    -- include: run_columns
FROM workflow_event_locks AS head
LEFT JOIN workflow_run_states AS state ON state.run_id = head.run_id
LEFT JOIN LATERAL (
    -- include: history_arrays
    FROM (
        -- include: counted_events
        WHERE event.run_id = head.run_id AND event.event_index < $2::bigint
    ) AS page
    WHERE page.bytes_so_far <= $3::bigint OR page.event_index = 0
) AS history ON true
LEFT JOIN LATERAL (
    -- include: inbox_arrays
    FROM (
        -- include: counted_entries
        WHERE entry.run_id = head.run_id AND ($6::boolean OR NOT entry.taken)
        WINDOW in_order AS (ORDER BY entry.inbox_seq ROWS UNBOUNDED PRECEDING)
        LIMIT $4::bigint
    ) AS page
    WHERE page.bytes_so_far <= $5::bigint OR page.position = 1
) AS inbox ON true
LEFT JOIN LATERAL (
    -- include: timer_arrays
    WHERE timer.run_id = head.run_id
) AS timers ON true
WHERE head.run_id = $1::text;

-- name: mark_run_paused
-- Ends the lease because the handler waits; queued at once when the inbox holds more than the driver has seen.
-- $1 run_id  $2 lease_token  $3 expected_next_index  $4 operation_id
-- $5 kinds  $6 step_ids  $7 payloads  $8 inbox_numbers
-- $9 timer_ids  $10 timer_times  $11 removed_timer_ids  $12 seen_inbox_seq  $13 awaiting  $14 now_ms
-- $15 notifies_until_ms  $16 notifies
WITH before AS MATERIALIZED (
    SELECT stored.operation_id
    -- include: asked_run
),
earliest AS MATERIALIZED (
    SELECT min(timer.fire_at) AS fire_at
    FROM (
        SELECT kept.fire_at
        FROM workflow_timers AS kept
        WHERE
            kept.run_id = $1::text
            AND kept.timer_id <> ALL($9::text[])
            AND kept.timer_id <> ALL($11::text[])
        UNION ALL
        SELECT new.fire_at::bigint
        FROM unnest($10::text[]) AS new (fire_at)
    ) AS timer
),
head AS (
    UPDATE workflow_event_locks AS stored
    SET
        status = CASE WHEN stored.inbox_seq > $12::bigint THEN 'queued' ELSE 'paused' END,
        due_at = CASE
            WHEN stored.inbox_seq > $12::bigint THEN $14::bigint
            ELSE (SELECT earliest.fire_at FROM earliest)
        END,
        awaiting = CASE WHEN stored.inbox_seq > $12::bigint THEN '[]' ELSE $13::text::json END,
        next_index = stored.next_index + cardinality($5::text[]),
        -- include: lease_ended
        crashes = 0,
        operation_id = $4::text,
        operation_answer = json_build_object(
            'status', CASE WHEN stored.inbox_seq > $12::bigint THEN 'queued' ELSE 'paused' END,
            'next_index', stored.next_index + cardinality($5::text[])
        ),
        updated_at = $14::bigint
    FROM before
    WHERE
        -- include: head_fence
        AND stored.operation_id = before.operation_id
    RETURNING
        stored.tableoid,
        stored.run_id,
        stored.status,
        stored.next_index,
        stored.status = 'queued' OR coalesce(stored.due_at < $15::bigint, false) AS wakes
),
events AS (
    INSERT INTO workflow_events (run_id, event_index, kind, step_id, created_at, payload_bytes, payload)
    SELECT
        -- include: new_event_columns
        $14::bigint,
        coalesce(octet_length(event.payload), 0),
        event.payload::json
    FROM head
    -- include: new_events
),
taken AS (
    -- include: take_entries
),
removed AS (
    -- include: remove_timers
),
timers AS (
    -- include: set_timers
)
SELECT
    head.status,
    head.next_index,
    head.wakes,
    CASE WHEN $16::boolean AND head.wakes THEN pg_notify('workflow_work_' || head.tableoid, head.run_id) END AS notified
FROM head;

-- name: mark_run_ended
-- Ends a run with its output or its error, or parks it; then its timers stay.
-- $1 run_id  $2 lease_token  $3 expected_next_index  $4 operation_id
-- $5 kinds  $6 step_ids  $7 payloads  $8 inbox_numbers
-- $9 status  $10 output  $11 error  $12 reason  $13 now_ms
WITH before AS MATERIALIZED (
    SELECT stored.operation_id
    -- include: asked_run
),
head AS (
    UPDATE workflow_event_locks AS stored
    SET
        status = $9::text,
        due_at = NULL,
        next_index = stored.next_index + cardinality($5::text[]),
        -- include: lease_ended
        crashes = CASE WHEN cardinality($5::text[]) > 0 THEN 0 ELSE stored.crashes END,
        operation_id = $4::text,
        operation_answer = '{}',
        updated_at = $13::bigint,
        finished_at = $13::bigint
    FROM before
    WHERE
        -- include: head_fence
        AND stored.operation_id = before.operation_id
    RETURNING stored.run_id
),
events AS (
    -- include: write_events
),
taken AS (
    -- include: take_entries
),
timers AS (
    DELETE FROM workflow_timers AS timer
    USING head
    WHERE timer.run_id = head.run_id AND $9::text <> 'dead'
),
state AS (
    UPDATE workflow_run_states AS stored
    SET
        output = $10::text::json,
        error = $11::text::json,
        reason = $12::text
    FROM head
    WHERE stored.run_id = head.run_id
)
SELECT head.run_id
FROM head;

-- fragment: terminable
-- A run that can be terminated, and that no driver has written to since the statement began.
AND stored.status IN ('queued', 'running', 'paused', 'dead')
AND stored.operation_id = before.operation_id

-- fragment: aborted
-- The assignments that end a run without its handler.
-- $2 now_ms
status = 'aborted',
due_at = NULL,
-- include: lease_ended
awaiting = '[]',
updated_at = $2::bigint,
finished_at = $2::bigint

-- fragment: note_reason
-- Writes down why a run was ended.
-- $3 reason
UPDATE workflow_run_states AS stored
SET reason = $3::text
FROM head
WHERE stored.run_id = head.run_id

-- fragment: forget_timers
-- Removes all timers of a run.
DELETE FROM workflow_timers AS timer
USING head
WHERE timer.run_id = head.run_id

-- name: terminate_run
-- Ends a run without its handler and fences its driver off.
-- $1 run_id  $2 now_ms  $3 reason
WITH before AS MATERIALIZED (
    SELECT stored.status, stored.operation_id
    -- include: asked_run
),
head AS (
    UPDATE workflow_event_locks AS stored
    SET
        -- include: aborted
    FROM before
    WHERE
        stored.run_id = $1::text
        -- include: terminable
    RETURNING stored.run_id
),
state AS (
    -- include: note_reason
),
timers AS (
    -- include: forget_timers
)
SELECT
    before.status,
    before.status IN ('queued', 'running', 'paused', 'dead') AND NOT EXISTS (SELECT 1 FROM head) AS overtaken,
    CASE
        WHEN NOT EXISTS (SELECT 1 FROM head) THEN pg_logical_emit_message(true, 'workflow', '')
    END IS NOT NULL AS backed
FROM before;

-- fragment: requeued
-- The assignments that give a run back to the workers.
-- $2 now_ms
status = 'queued',
due_at = $2::bigint,
crashes = 0,
updated_at = $2::bigint,
finished_at = NULL

-- fragment: forget_error
-- Clears what went wrong with a run.
UPDATE workflow_run_states AS stored
SET
    error = NULL,
    reason = NULL
FROM head
WHERE stored.run_id = head.run_id

-- name: requeue_run
-- Gives a dead run back to the workers.
-- $1 run_id  $2 now_ms  $3 notifies
WITH before AS MATERIALIZED (
    SELECT stored.status
    -- include: asked_run
),
head AS (
    UPDATE workflow_event_locks AS stored
    SET
        -- include: requeued
    WHERE stored.run_id = $1::text AND stored.status = 'dead'
    RETURNING stored.tableoid, stored.run_id
),
state AS (
    -- include: forget_error
)
SELECT
    before.status,
    before.status = 'dead' AND head.run_id IS NULL AS overtaken,
    head.run_id IS NOT NULL AS wakes,
    CASE
        WHEN $3::boolean AND head.run_id IS NOT NULL
            THEN pg_notify('workflow_work_' || head.tableoid, head.run_id)
    END AS notified
FROM before
LEFT JOIN head ON true;

-- fragment: unchanged
-- The head is still what `before` saw.
AND stored.operation_id = before.operation_id
AND stored.next_index = before.next_index
AND stored.inbox_seq = before.inbox_seq

-- name: delete_run
-- Removes every trace of a run, unless somebody drives it and force is false.
-- $1 run_id  $2 now_ms  $3 force
WITH before AS MATERIALIZED (
    SELECT
        stored.status,
        stored.operation_id,
        stored.next_index,
        stored.inbox_seq,
        $3::boolean OR stored.status <> 'running' OR stored.lease_expires_at <= $2::bigint AS deletable
    -- include: asked_run
),
head AS (
    DELETE FROM workflow_event_locks AS stored
    USING before
    WHERE
        stored.run_id = $1::text
        -- include: unchanged
        AND ($3::boolean OR stored.status <> 'running' OR stored.lease_expires_at <= $2::bigint)
    RETURNING stored.run_id
),
events AS (
    DELETE FROM workflow_events AS event
    USING head
    WHERE event.run_id = head.run_id
),
timers AS (
    -- include: forget_timers
),
inbox AS (
    DELETE FROM workflow_signal_deliveries AS entry
    USING head
    WHERE entry.run_id = head.run_id
),
state AS (
    DELETE FROM workflow_run_states AS stored
    USING head
    WHERE stored.run_id = head.run_id
),
run AS (
    DELETE FROM workflow_runs AS stored
    USING head
    WHERE stored.run_id = head.run_id
)
SELECT
    before.status,
    EXISTS (SELECT 1 FROM head) AS deleted,
    before.deletable AND NOT EXISTS (SELECT 1 FROM head) AS overtaken
FROM before;

-- name: prune_runs
-- Removes every trace of the oldest ended runs. Those that somebody works on at this moment are left for the next call.
-- $1 finished_before_ms  $2 statuses  $3 workflow_ids  $4 limit
WITH candidate AS MATERIALIZED (
    SELECT ended.run_id, ended.operation_id, ended.next_index, ended.inbox_seq
    FROM (SELECT DISTINCT unnest($2::text[]) AS status) AS wanted
    CROSS JOIN LATERAL (
        SELECT stored.finished_at, stored.run_id, stored.operation_id, stored.next_index, stored.inbox_seq
        FROM workflow_event_locks AS stored
        WHERE
            stored.status = wanted.status
            AND stored.finished_at < $1::bigint
            AND ($3::text[] IS NULL OR stored.workflow_id = ANY($3::text[]))
        ORDER BY stored.finished_at, stored.run_id
        LIMIT $4::bigint
    ) AS ended
    ORDER BY ended.finished_at, ended.run_id
    LIMIT $4::bigint
),
locked AS MATERIALIZED (
    SELECT stored.run_id, stored.operation_id, stored.next_index, stored.inbox_seq
    FROM workflow_event_locks AS stored
    WHERE
        stored.run_id = ANY(ARRAY(SELECT candidate.run_id FROM candidate))
        AND stored.finished_at < $1::bigint
        AND stored.status = ANY($2::text[])
    FOR UPDATE SKIP LOCKED
),
head AS (
    DELETE FROM workflow_event_locks AS stored
    USING locked
    -- include: still_candidate
            AND candidate.next_index = locked.next_index
            AND candidate.inbox_seq = locked.inbox_seq
    WHERE stored.run_id = locked.run_id
    RETURNING stored.run_id
),
log AS MATERIALIZED (
    -- Whether events are in partitions, by where one of these is.
    SELECT (SELECT kept.relispartition FROM pg_catalog.pg_class AS kept WHERE kept.oid = found.tableoid) AS divided
    FROM head
    CROSS JOIN LATERAL (
        SELECT event.tableoid
        FROM workflow_events AS event
        WHERE event.run_id = head.run_id
        LIMIT 1
    ) AS found
    LIMIT 1
),
events AS (
    -- In one table a list of runs takes least. It would be looked for in every partition.
    DELETE FROM workflow_events AS event
    WHERE event.run_id = ANY(ARRAY(SELECT head.run_id FROM head WHERE NOT (SELECT log.divided FROM log)))
),
events_in_partitions AS (
    DELETE FROM workflow_events AS event
    USING unnest(
        ARRAY(SELECT head.run_id FROM head WHERE (SELECT log.divided FROM log) ORDER BY head.run_id)
    ) AS gone (run_id)
    WHERE event.run_id = gone.run_id
),
timers AS (
    DELETE FROM workflow_timers AS timer
    WHERE timer.run_id = ANY(ARRAY(SELECT head.run_id FROM head))
),
inbox AS (
    DELETE FROM workflow_signal_deliveries AS entry
    WHERE entry.run_id = ANY(ARRAY(SELECT head.run_id FROM head))
),
states AS (
    DELETE FROM workflow_run_states AS stored
    WHERE stored.run_id = ANY(ARRAY(SELECT head.run_id FROM head))
),
runs AS (
    DELETE FROM workflow_runs AS stored
    WHERE stored.run_id = ANY(ARRAY(SELECT head.run_id FROM head))
)
SELECT count(*) AS pruned
FROM head;
