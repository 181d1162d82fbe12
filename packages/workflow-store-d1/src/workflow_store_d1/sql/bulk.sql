-- Calls for any number of runs at once. What they are about comes as one list, and each statement picks the same runs,
-- because only the last one changes heads.

-- fragment: asked_creation
-- The values of a run that is to be created.
-- ?1 runs, as [[run_id, workflow_id, workflow_version, queue, priority, due_at_ms, operation_id, input], ...]
FROM json_each(?1) AS asked
WHERE NOT EXISTS (
    SELECT 1
    FROM workflow_event_locks AS head
    WHERE head.run_id = json_extract(asked.value, '$[0]')
)

-- name: create_runs
-- Creates runs unless their ids are taken.
-- statement: before
-- ?1 runs
SELECT
    head.run_id,
    head.workflow_id,
    head.operation_id,
    state.input = json_extract(asked.value, '$[7]') AS same_input,
    CASE WHEN state.input = json_extract(asked.value, '$[7]') THEN NULL ELSE state.input END AS input
FROM json_each(?1) AS asked
CROSS JOIN workflow_event_locks AS head ON head.run_id = json_extract(asked.value, '$[0]')
LEFT JOIN workflow_run_states AS state ON state.run_id = head.run_id;

-- statement: runs
-- ?1 runs  ?2 now_ms
INSERT INTO workflow_runs (run_id, workflow_id, workflow_version, queue, priority, created_at)
SELECT
    json_extract(asked.value, '$[0]'),
    json_extract(asked.value, '$[1]'),
    json_extract(asked.value, '$[2]'),
    json_extract(asked.value, '$[3]'),
    json_extract(asked.value, '$[4]'),
    ?2
-- include: asked_creation

-- statement: states
-- ?1 runs
INSERT INTO workflow_run_states (run_id, input)
SELECT json_extract(asked.value, '$[0]'), json_extract(asked.value, '$[7]')
-- include: asked_creation

-- statement: heads
-- ?1 runs  ?2 now_ms
INSERT INTO workflow_event_locks (
    -- include: new_head_columns
)
SELECT
    json_extract(asked.value, '$[0]'),
    json_extract(asked.value, '$[1]'),
    json_extract(asked.value, '$[2]'),
    json_extract(asked.value, '$[3]'),
    json_extract(asked.value, '$[4]'),
    ?2,
    ?2,
    'queued',
    json_extract(asked.value, '$[5]'),
    0,
    json_extract(asked.value, '$[6]'),
    '{}',
    0,
    0,
    0,
    0,
    '[]'
-- include: asked_creation

-- fragment: asked_signals
-- The signals that are to be delivered, each with the head of its run.
-- ?1 signals, as [[run_id, signal_id, name, payload], ...]
FROM json_each(?1) AS asked
CROSS JOIN workflow_event_locks AS head ON head.run_id = json_extract(asked.value, '$[0]')
LEFT JOIN workflow_signal_deliveries AS known
    ON
        known.run_id = head.run_id
        AND known.kind = 'signal'
        AND known.delivery_id = json_extract(asked.value, '$[1]')

-- fragment: signals_now
-- The entries that this batch has inserted; the head does not count them yet.
FROM workflow_signal_deliveries AS entry
WHERE entry.run_id = workflow_event_locks.run_id AND entry.inbox_seq > workflow_event_locks.inbox_seq

-- fragment: asked_heads
-- The heads of the runs that signals are for.
-- ?1 signals
workflow_event_locks.run_id IN (SELECT json_extract(asked.value, '$[0]') FROM json_each(?1) AS asked)

-- name: deliver_signals
-- Puts signals into inboxes, in their order, and wakes the runs that wait for them.
-- statement: before
-- ?1 signals
SELECT
    asked.key AS place,
    head.status,
    head.inbox_seq,
    known.inbox_seq AS known_seq,
    head.status = 'paused' AND EXISTS (
        SELECT 1
        FROM json_each(head.awaiting) AS waiting
        WHERE
            json_extract(waiting.value, '$[0]') = 'signal'
            AND json_extract(waiting.value, '$[1]') = json_extract(asked.value, '$[2]')
    ) AS awaited
-- include: asked_signals

-- statement: entries
-- ?1 signals  ?2 now_ms
INSERT INTO workflow_signal_deliveries (
    run_id, inbox_seq, kind, name, delivery_id, received_at, taken, payload_bytes, payload
)
SELECT
    head.run_id,
    head.inbox_seq + row_number() OVER (PARTITION BY head.run_id ORDER BY asked.key),
    'signal',
    json_extract(asked.value, '$[2]'),
    json_extract(asked.value, '$[1]'),
    ?2,
    0,
    coalesce(length(json_extract(asked.value, '$[3]')), 0),
    json_extract(asked.value, '$[3]')
-- include: asked_signals
WHERE head.status IN ('queued', 'running', 'paused', 'dead') AND known.run_id IS NULL;

-- statement: waken
-- ?1 signals  ?2 now_ms
UPDATE workflow_event_locks
SET
    status = 'queued',
    due_at = ?2,
    awaiting = '[]'
WHERE
    -- include: asked_heads
    AND status = 'paused'
    AND EXISTS (
        SELECT 1
        FROM json_each(workflow_event_locks.awaiting) AS waiting
        WHERE
            json_extract(waiting.value, '$[0]') = 'signal'
            AND json_extract(waiting.value, '$[1]') IN (
                SELECT entry.name
                -- include: signals_now
            )
    );

-- statement: heads
-- ?1 signals  ?2 now_ms
UPDATE workflow_event_locks
SET
    inbox_seq = (
        SELECT max(entry.inbox_seq)
        FROM workflow_signal_deliveries AS entry
        WHERE entry.run_id = workflow_event_locks.run_id
    ),
    updated_at = ?2
WHERE
    -- include: asked_heads
    AND EXISTS (
        SELECT 1
        -- include: signals_now
    );

-- fragment: retried_heads
-- The heads of the asked runs that may be retried.
-- ?1 run_ids  ?2 statuses
FROM workflow_event_locks AS head
WHERE
    head.run_id IN (SELECT asked.value FROM json_each(?1) AS asked)
    AND head.status IN (SELECT status.value FROM json_each(?2) AS status)

-- name: retry_runs
-- Gives runs that ended wrongly back to the workers, with an event at the end of their logs.
-- statement: before
-- ?1 run_ids
SELECT head.run_id, head.status, head.next_index
FROM workflow_event_locks AS head
WHERE head.run_id IN (SELECT asked.value FROM json_each(?1) AS asked);

-- statement: events
-- ?1 run_ids  ?2 statuses  ?3 now_ms  ?4 kind  ?5 step_id  ?6 payload_bytes  ?7 payload
INSERT INTO workflow_events (run_id, event_index, kind, step_id, created_at, payload_bytes, payload)
SELECT head.run_id, head.next_index, ?4, ?5, ?3, ?6, ?7
-- include: retried_heads

-- statement: states
-- ?1 run_ids  ?2 statuses
UPDATE workflow_run_states
SET
    -- include: no_failure
WHERE run_id IN (
    SELECT head.run_id
    -- include: retried_heads
);

-- statement: requests
-- Under another delivery id the request to end stays in the inbox, and a new one is no duplicate of it.
-- ?1 run_ids  ?2 statuses
UPDATE workflow_signal_deliveries
SET
    taken = 1,
    delivery_id = 'cancel:' || inbox_seq
WHERE
    kind = 'cancel'
    AND delivery_id = 'cancel'
    AND run_id IN (
        SELECT head.run_id
        -- include: retried_heads
            AND head.status = 'aborted'
    );

-- statement: heads
-- ?1 run_ids  ?2 statuses  ?3 now_ms
UPDATE workflow_event_locks
SET
    cancel_requested = CASE status WHEN 'aborted' THEN 0 ELSE cancel_requested END,
    status = 'queued',
    due_at = ?3,
    next_index = next_index + 1,
    crashes = 0,
    updated_at = ?3,
    finished_at = NULL
WHERE
    run_id IN (SELECT asked.value FROM json_each(?1) AS asked)
    AND status IN (SELECT status.value FROM json_each(?2) AS status);

-- name: cancel_runs
-- Puts requests to end into inboxes. As in signals.sql, an entry above inbox_seq is there exactly when this very batch
-- has just inserted it.
-- statement: before
-- ?1 run_ids
SELECT head.run_id, head.status, head.inbox_seq, known.inbox_seq AS known_seq
FROM workflow_event_locks AS head
LEFT JOIN workflow_signal_deliveries AS known
    ON known.run_id = head.run_id AND known.kind = 'cancel' AND known.delivery_id = 'cancel'
WHERE head.run_id IN (SELECT asked.value FROM json_each(?1) AS asked);

-- statement: entries
-- ?1 run_ids  ?2 now_ms  ?3 payload_bytes  ?4 payload
-- include: cancel_entry
WHERE
    head.run_id IN (SELECT asked.value FROM json_each(?1) AS asked)
    AND head.status IN ('queued', 'running', 'paused')
    AND NOT EXISTS (
        SELECT 1
        FROM workflow_signal_deliveries AS known
        WHERE known.run_id = head.run_id AND known.kind = 'cancel' AND known.delivery_id = 'cancel'
    );

-- statement: heads
-- ?1 run_ids  ?2 now_ms
UPDATE workflow_event_locks
SET
    -- include: cancelled_head
WHERE
    run_id IN (SELECT asked.value FROM json_each(?1) AS asked)
    AND EXISTS (
        SELECT 1
        FROM workflow_signal_deliveries AS entry
        WHERE
            entry.run_id = workflow_event_locks.run_id
            AND entry.inbox_seq = workflow_event_locks.inbox_seq + 1
    );

-- fragment: run_statuses
-- The statuses that decide to which runs the verb applies.
-- ?1 run_ids
SELECT head.run_id, head.status
FROM workflow_event_locks AS head
WHERE head.run_id IN (SELECT asked.value FROM json_each(?1) AS asked)

-- fragment: terminable_runs
-- The asked runs that may be terminated.
-- ?1 run_ids
SELECT head.run_id
FROM workflow_event_locks AS head
WHERE
    head.run_id IN (SELECT asked.value FROM json_each(?1) AS asked)
    AND head.status IN ('queued', 'running', 'paused', 'dead')

-- name: terminate_runs
-- Ends runs without their handlers and fences their drivers off.
-- statement: before
-- ?1 run_ids
-- include: run_statuses

-- statement: states
-- ?1 run_ids  ?2 reason
UPDATE workflow_run_states
SET reason = ?2
WHERE run_id IN (
    -- include: terminable_runs
);

-- statement: timers
-- ?1 run_ids
DELETE FROM workflow_timers
WHERE run_id IN (
    -- include: terminable_runs
);

-- statement: heads
-- ?1 run_ids  ?2 now_ms
UPDATE workflow_event_locks
SET
    -- include: aborted_head
WHERE
    run_id IN (SELECT asked.value FROM json_each(?1) AS asked)
    AND status IN ('queued', 'running', 'paused', 'dead');

-- name: requeue_runs
-- Gives dead runs back to the workers.
-- statement: before
-- ?1 run_ids
-- include: run_statuses

-- statement: states
-- ?1 run_ids
UPDATE workflow_run_states
SET
    -- include: no_failure
WHERE run_id IN (
    SELECT head.run_id
    FROM workflow_event_locks AS head
    WHERE head.run_id IN (SELECT asked.value FROM json_each(?1) AS asked) AND head.status = 'dead'
);

-- statement: heads
-- ?1 run_ids  ?2 now_ms
UPDATE workflow_event_locks
SET
    -- include: requeued_head
WHERE run_id IN (SELECT asked.value FROM json_each(?1) AS asked) AND status = 'dead';
