-- What every write of a driver is made of. A unit begins with `driver.before`, from which Python derives the verdict;
-- each write carries the fence, and the update of the head, which uses the fence up, comes last.

-- name: driver
-- The parts that the verbs share.
-- statement: before
-- ?1 run_id
SELECT
    head.status,
    head.lease_token,
    head.lease_expires_at,
    head.next_index,
    head.inbox_seq,
    head.cancel_requested,
    head.operation_id,
    head.operation_answer
FROM workflow_event_locks AS head
WHERE head.run_id = ?1;

-- statement: guard
-- Ends the whole batch with an error when the fence does not hold: what json() gets then is no JSON. What it gets depends
-- on a row, so that it cannot be worked out before.
-- ?1 run_id  ?2 lease_token  ?3 expected_next_index  ?4 operation_id
SELECT
    json(
        CASE
            WHEN EXISTS (
                SELECT 1
                FROM workflow_event_locks AS head
                WHERE
                    head.run_id = ?1
                    AND head.status = 'running'
                    AND head.lease_token = ?2
                    AND head.next_index = ?3
                    AND head.operation_id <> ?4
            ) THEN 'true'
            ELSE 'the fence does not hold'
        END
    ) AS held;

-- statement: event
-- ?1 run_id  ?2 lease_token  ?3 expected_next_index  ?4 operation_id
-- ?5 event_index  ?6 kind  ?7 step_id  ?8 now_ms  ?9 payload_bytes  ?10 payload
INSERT INTO workflow_events (run_id, event_index, kind, step_id, created_at, payload_bytes, payload)
SELECT head.run_id, ?5, ?6, ?7, ?8, ?9, ?10
FROM workflow_event_locks AS head
WHERE
    head.run_id = ?1
    AND head.status = 'running'
    AND head.lease_token = ?2
    AND head.next_index = ?3
    AND head.operation_id <> ?4;

-- statement: taken
-- ?1 run_id  ?2 lease_token  ?3 expected_next_index  ?4 operation_id  ?5 inbox_numbers
UPDATE workflow_signal_deliveries
SET taken = 1
WHERE
    run_id = ?1
    AND inbox_seq IN (SELECT number.value FROM json_each(?5) AS number)
    AND EXISTS (
        SELECT 1
        FROM workflow_event_locks AS head
        WHERE
            head.run_id = ?1
            AND head.status = 'running'
            AND head.lease_token = ?2
            AND head.next_index = ?3
            AND head.operation_id <> ?4
    );

-- statement: removed_timers
-- ?1 run_id  ?2 lease_token  ?3 expected_next_index  ?4 operation_id  ?5 timer_ids
DELETE FROM workflow_timers
WHERE
    run_id = ?1
    AND timer_id IN (SELECT timer.value FROM json_each(?5) AS timer)
    AND EXISTS (
        SELECT 1
        FROM workflow_event_locks AS head
        WHERE
            head.run_id = ?1
            AND head.status = 'running'
            AND head.lease_token = ?2
            AND head.next_index = ?3
            AND head.operation_id <> ?4
    );

-- statement: set_timers
-- ?1 run_id  ?2 lease_token  ?3 expected_next_index  ?4 operation_id  ?5 timers
INSERT INTO workflow_timers (run_id, timer_id, fire_at)
SELECT head.run_id, json_extract(timer.value, '$[0]'), json_extract(timer.value, '$[1]')
FROM workflow_event_locks AS head
CROSS JOIN json_each(?5) AS timer
WHERE
    head.run_id = ?1
    AND head.status = 'running'
    AND head.lease_token = ?2
    AND head.next_index = ?3
    AND head.operation_id <> ?4
ON CONFLICT (run_id, timer_id) DO UPDATE SET fire_at = excluded.fire_at;

-- statement: no_timers
-- ?1 run_id  ?2 lease_token  ?3 expected_next_index  ?4 operation_id
DELETE FROM workflow_timers
WHERE
    run_id = ?1
    AND EXISTS (
        SELECT 1
        FROM workflow_event_locks AS head
        WHERE
            head.run_id = ?1
            AND head.status = 'running'
            AND head.lease_token = ?2
            AND head.next_index = ?3
            AND head.operation_id <> ?4
    );
