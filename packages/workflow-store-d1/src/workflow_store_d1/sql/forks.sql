-- Runs that begin with the first part of another run's log.

-- fragment: forkable
-- The source, if its log is long enough and the new run does not exist.
-- ?1 run_id  ?2 new_run_id  ?3 from_index
source.run_id = ?1
AND source.next_index >= ?3
AND NOT EXISTS (SELECT 1 FROM workflow_event_locks AS head WHERE head.run_id = ?2)

-- name: fork_run
-- Creates a run from a part of another one's log, unless its id is taken. The head, which shows that, comes last.
-- statement: source
-- ?1 run_id
SELECT head.next_index
FROM workflow_event_locks AS head
WHERE head.run_id = ?1;

-- statement: run
-- ?1 run_id  ?2 new_run_id  ?3 from_index  ?4 workflow_version  ?5 now_ms
INSERT INTO workflow_runs (run_id, workflow_id, workflow_version, queue, priority, created_at)
SELECT ?2, source.workflow_id, coalesce(?4, source.workflow_version), source.queue, source.priority, ?5
FROM workflow_event_locks AS source
WHERE
    -- include: forkable

-- statement: state
-- ?1 run_id  ?2 new_run_id  ?3 from_index
INSERT INTO workflow_run_states (run_id, schedule_id, scheduled_at, forked_from, forked_from_index, input)
SELECT ?2, state.schedule_id, state.scheduled_at, ?1, ?3, state.input
FROM workflow_event_locks AS source
CROSS JOIN workflow_run_states AS state ON state.run_id = source.run_id
WHERE
    -- include: forkable

-- statement: events
-- ?1 run_id  ?2 new_run_id  ?3 from_index
INSERT INTO workflow_events (run_id, event_index, kind, step_id, created_at, payload_bytes, payload)
SELECT ?2, event.event_index, event.kind, event.step_id, event.created_at, event.payload_bytes, event.payload
FROM workflow_event_locks AS source
CROSS JOIN workflow_events AS event ON event.run_id = source.run_id AND event.event_index < ?3
WHERE
    -- include: forkable

-- statement: event
-- ?1 run_id  ?2 new_run_id  ?3 from_index  ?4 kind  ?5 step_id  ?6 now_ms  ?7 payload_bytes  ?8 payload
INSERT INTO workflow_events (run_id, event_index, kind, step_id, created_at, payload_bytes, payload)
SELECT ?2, ?3, ?4, ?5, ?6, ?7, ?8
FROM workflow_event_locks AS source
WHERE
    -- include: forkable

-- statement: head
-- ?1 run_id  ?2 new_run_id  ?3 from_index  ?4 workflow_version  ?5 now_ms  ?6 operation_id
INSERT INTO workflow_event_locks (
    -- include: new_head_columns
)
SELECT
    ?2, source.workflow_id, coalesce(?4, source.workflow_version), source.queue, source.priority, ?5, ?5, 'queued', ?5,
    0, ?6, '{}', ?3 + 1, 0, 0, 0, '[]'
FROM workflow_event_locks AS source
WHERE
    -- include: forkable
