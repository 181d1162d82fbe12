-- What operators say to runs, any number at once: ids come as one list, and each statement picks the same runs, because
-- only the last one changes heads.

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
FROM workflow_event_locks AS head
WHERE
    head.run_id IN (SELECT asked.value FROM json_each(?1) AS asked)
    AND head.status IN (SELECT status.value FROM json_each(?2) AS status);

-- statement: states
-- ?1 run_ids  ?2 statuses
UPDATE workflow_run_states
SET
    error = NULL,
    reason = NULL
WHERE run_id IN (
    SELECT head.run_id
    FROM workflow_event_locks AS head
    WHERE
        head.run_id IN (SELECT asked.value FROM json_each(?1) AS asked)
        AND head.status IN (SELECT status.value FROM json_each(?2) AS status)
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
        FROM workflow_event_locks AS head
        WHERE
            head.run_id IN (SELECT asked.value FROM json_each(?1) AS asked)
            AND head.status IN (SELECT status.value FROM json_each(?2) AS status)
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
