-- Creating, ending and removing runs.

-- fragment: head_columns
-- What the codec reads of every head; other columns follow.
head.run_id,
head.workflow_id,
head.workflow_version,
head.status,
head.queue,
head.priority,
head.due_at,
head.lease_owner,
head.lease_expires_at,
head.next_index,
head.inbox_seq,
head.cancel_requested,

-- fragment: late_head_columns
-- What the codec reads of a head after what the run waits for; other columns follow.
head.crashes,
head.created_at,
head.updated_at,
head.finished_at,

-- fragment: run_columns
-- What the codec reads of a run with its payloads.
-- include: head_columns
head.awaiting,
-- include: late_head_columns
state.schedule_id,
state.scheduled_at,
state.forked_from,
state.forked_from_index,
state.reason,
state.input,
json_valid(state.input) AS input_valid,
state.output,
json_valid(state.output) AS output_valid,
state.error,
json_valid(state.error) AS error_valid

-- name: create_run
-- Creates a run unless its id is taken; queued, or running under its first lease.
-- statement: before
-- ?1 run_id
SELECT
    head.lease_token,
    head.lease_number,
    head.operation_id,
    head.operation_answer,
    -- include: run_columns
FROM workflow_event_locks AS head
LEFT JOIN workflow_run_states AS state ON state.run_id = head.run_id
WHERE head.run_id = ?1;

-- statement: run
-- ?1 run_id  ?2 workflow_id  ?3 workflow_version  ?4 queue  ?5 priority  ?6 now_ms
INSERT INTO workflow_runs (run_id, workflow_id, workflow_version, queue, priority, created_at)
SELECT ?1, ?2, ?3, ?4, ?5, ?6
WHERE NOT EXISTS (SELECT 1 FROM workflow_event_locks AS head WHERE head.run_id = ?1);

-- statement: state
-- ?1 run_id  ?2 input
INSERT INTO workflow_run_states (run_id, input)
SELECT ?1, ?2
WHERE NOT EXISTS (SELECT 1 FROM workflow_event_locks AS head WHERE head.run_id = ?1);

-- statement: head
-- ?1 run_id  ?2 workflow_id  ?3 workflow_version  ?4 queue  ?5 priority  ?6 now_ms
-- ?7 status  ?8 due_at_ms  ?9 owner  ?10 lease_token  ?11 lease_number  ?12 lease_expires_at_ms
-- ?13 operation_id  ?14 operation_answer
INSERT INTO workflow_event_locks (
    run_id, workflow_id, workflow_version, queue, priority, created_at, updated_at, status, due_at,
    lease_owner, lease_token, lease_number, lease_expires_at, operation_id, operation_answer,
    next_index, inbox_seq, cancel_requested, crashes, awaiting
)
SELECT ?1, ?2, ?3, ?4, ?5, ?6, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, 0, 0, 0, 0, '[]'
WHERE NOT EXISTS (SELECT 1 FROM workflow_event_locks AS head WHERE head.run_id = ?1);

-- fragment: new_head_columns
-- The columns of a new head without a lease.
run_id, workflow_id, workflow_version, queue, priority, created_at, updated_at, status, due_at,
lease_number, operation_id, operation_answer, next_index, inbox_seq, cancel_requested, crashes, awaiting

-- name: load_run
-- Reads a run with its payloads.
-- ?1 run_id
SELECT
    -- include: run_columns
FROM workflow_event_locks AS head
LEFT JOIN workflow_run_states AS state ON state.run_id = head.run_id
WHERE head.run_id = ?1;

-- fragment: no_lease
-- The columns of a lease in a row that nobody has leased; other columns follow.
lease_owner = NULL,
lease_token = NULL,
lease_expires_at = NULL,

-- name: mark_run_paused
-- Ends the lease because the handler waits; queued at once when the inbox holds more than the driver has seen.
-- statement: head
-- ?1 run_id  ?2 lease_token  ?3 expected_next_index  ?4 operation_id
-- ?5 event_count  ?6 seen_inbox_seq  ?7 awaiting  ?8 now_ms
UPDATE workflow_event_locks
SET
    status = CASE WHEN inbox_seq > ?6 THEN 'queued' ELSE 'paused' END,
    due_at = CASE
        WHEN inbox_seq > ?6 THEN ?8
        ELSE (SELECT min(timer.fire_at) FROM workflow_timers AS timer WHERE timer.run_id = ?1)
    END,
    awaiting = CASE WHEN inbox_seq > ?6 THEN '[]' ELSE ?7 END,
    next_index = next_index + ?5,
    -- include: no_lease
    crashes = 0,
    operation_id = ?4,
    operation_answer = json_object(
        'status', CASE WHEN inbox_seq > ?6 THEN 'queued' ELSE 'paused' END,
        'next_index', next_index + ?5
    ),
    updated_at = ?8
WHERE
    -- include: head_fence

-- name: mark_run_ended
-- Ends a run with its output or its error.
-- statement: state
-- ?1 run_id  ?2 lease_token  ?3 expected_next_index  ?4 operation_id  ?5 output  ?6 error  ?7 reason
UPDATE workflow_run_states
SET
    output = ?5,
    error = ?6,
    reason = ?7
WHERE
    run_id = ?1
    AND EXISTS (
        -- include: fenced_head
    );

-- statement: head
-- ?1 run_id  ?2 lease_token  ?3 expected_next_index  ?4 operation_id  ?5 event_count  ?6 status  ?7 now_ms
UPDATE workflow_event_locks
SET
    status = ?6,
    due_at = NULL,
    next_index = next_index + ?5,
    -- include: no_lease
    crashes = CASE WHEN ?5 > 0 THEN 0 ELSE crashes END,
    operation_id = ?4,
    operation_answer = '{}',
    updated_at = ?7,
    finished_at = ?7
WHERE
    -- include: head_fence

-- fragment: run_status
-- The status that decides whether the verb applies.
-- ?1 run_id
SELECT head.status
FROM workflow_event_locks AS head
WHERE head.run_id = ?1

-- fragment: terminable
-- The rows of the run, if it may be terminated.
-- ?1 run_id
run_id = ?1
AND EXISTS (
    SELECT 1
    FROM workflow_event_locks AS head
    WHERE head.run_id = ?1 AND head.status IN ('queued', 'running', 'paused', 'dead')
)

-- fragment: aborted_head
-- The head of a run that was terminated.
-- ?2 now_ms
status = 'aborted',
due_at = NULL,
-- include: no_lease
awaiting = '[]',
updated_at = ?2,
finished_at = ?2

-- name: terminate_run
-- Ends a run without its handler and fences its driver off.
-- statement: before
-- ?1 run_id
-- include: run_status

-- statement: state
-- ?1 run_id  ?2 reason
UPDATE workflow_run_states
SET reason = ?2
WHERE
    -- include: terminable

-- statement: timers
-- ?1 run_id
DELETE FROM workflow_timers
WHERE
    -- include: terminable

-- statement: head
-- ?1 run_id  ?2 now_ms
UPDATE workflow_event_locks
SET
    -- include: aborted_head
WHERE run_id = ?1 AND status IN ('queued', 'running', 'paused', 'dead');

-- fragment: no_failure
-- The state of a run that goes on after a failure.
error = NULL,
reason = NULL

-- fragment: requeued_head
-- The head of a dead run that was given back to the workers.
-- ?2 now_ms
status = 'queued',
due_at = ?2,
crashes = 0,
updated_at = ?2,
finished_at = NULL

-- name: requeue_run
-- Gives a dead run back to the workers.
-- statement: before
-- ?1 run_id
-- include: run_status

-- statement: state
-- ?1 run_id
UPDATE workflow_run_states
SET
    -- include: no_failure
WHERE
    run_id = ?1
    AND EXISTS (
        SELECT 1
        FROM workflow_event_locks AS head
        WHERE head.run_id = ?1 AND head.status = 'dead'
    );

-- statement: head
-- ?1 run_id  ?2 now_ms
UPDATE workflow_event_locks
SET
    -- include: requeued_head
WHERE run_id = ?1 AND status = 'dead';

-- fragment: deletable
-- The rows of the run, unless somebody drives it and force is 0.
-- ?1 run_id  ?2 now_ms  ?3 force
run_id = ?1
AND EXISTS (
    SELECT 1
    FROM workflow_event_locks AS head
    WHERE head.run_id = ?1 AND (?3 OR head.status <> 'running' OR head.lease_expires_at <= ?2)
)

-- name: delete_run
-- Removes every trace of a run, unless somebody drives it and force is 0.
-- statement: before
-- ?1 run_id
-- include: run_status

-- statement: events
-- ?1 run_id  ?2 now_ms  ?3 force
DELETE FROM workflow_events
WHERE
    -- include: deletable

-- statement: timers
-- ?1 run_id  ?2 now_ms  ?3 force
DELETE FROM workflow_timers
WHERE
    -- include: deletable

-- statement: inbox
-- ?1 run_id  ?2 now_ms  ?3 force
DELETE FROM workflow_signal_deliveries
WHERE
    -- include: deletable

-- statement: state
-- ?1 run_id  ?2 now_ms  ?3 force
DELETE FROM workflow_run_states
WHERE
    -- include: deletable

-- statement: run
-- ?1 run_id  ?2 now_ms  ?3 force
DELETE FROM workflow_runs
WHERE
    -- include: deletable

-- statement: head
-- ?1 run_id  ?2 now_ms  ?3 force
DELETE FROM workflow_event_locks
WHERE run_id = ?1 AND (?3 OR status <> 'running' OR lease_expires_at <= ?2)
RETURNING run_id;

-- fragment: oldest_ended
-- The runs that ended first, of those that may go. Of each status it looks at the first ones only, as many as may go.
-- ?1 finished_before_ms  ?2 statuses  ?3 workflow_ids  ?4 limit
SELECT head.run_id
FROM (SELECT DISTINCT status.value AS status FROM json_each(?2) AS status) AS wanted
CROSS JOIN workflow_event_locks AS head
WHERE
    head.status = wanted.status
    AND head.finished_at <= coalesce(
        (
            SELECT last_ended.finished_at
            FROM workflow_event_locks AS last_ended
            WHERE
                last_ended.status = wanted.status
                AND last_ended.finished_at < ?1
                AND (
                    ?3 IS NULL
                    OR last_ended.workflow_id IN (SELECT workflow.value FROM json_each(?3) AS workflow)
                )
            ORDER BY last_ended.finished_at
            LIMIT 1 OFFSET ?4
        ),
        ?1 - 1
    )
    AND (?3 IS NULL OR head.workflow_id IN (SELECT workflow.value FROM json_each(?3) AS workflow))
ORDER BY head.finished_at, head.run_id
LIMIT ?4

-- name: prune_runs
-- Removes every trace of the oldest ended runs. All statements pick the same runs: only the last one changes heads.
-- statement: events
-- ?1 finished_before_ms  ?2 statuses  ?3 workflow_ids  ?4 limit
DELETE FROM workflow_events
WHERE run_id IN (
    -- include: oldest_ended
);

-- statement: timers
-- ?1 finished_before_ms  ?2 statuses  ?3 workflow_ids  ?4 limit
DELETE FROM workflow_timers
WHERE run_id IN (
    -- include: oldest_ended
);

-- statement: inbox
-- ?1 finished_before_ms  ?2 statuses  ?3 workflow_ids  ?4 limit
DELETE FROM workflow_signal_deliveries
WHERE run_id IN (
    -- include: oldest_ended
);

-- statement: states
-- ?1 finished_before_ms  ?2 statuses  ?3 workflow_ids  ?4 limit
DELETE FROM workflow_run_states
WHERE run_id IN (
    -- include: oldest_ended
);

-- statement: runs
-- ?1 finished_before_ms  ?2 statuses  ?3 workflow_ids  ?4 limit
DELETE FROM workflow_runs
WHERE run_id IN (
    -- include: oldest_ended
);

-- statement: heads
-- ?1 finished_before_ms  ?2 statuses  ?3 workflow_ids  ?4 limit
DELETE FROM workflow_event_locks
WHERE run_id IN (
    -- include: oldest_ended
)
RETURNING run_id;
