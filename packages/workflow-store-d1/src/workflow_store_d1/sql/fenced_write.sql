-- What every write of a driver is made of. The batch begins with `fenced_write.before`, from which Python derives the
-- verdict; each write carries the fence, and the update of the head, which uses the fence up, comes last.

-- fragment: fence
-- Holds for the driver whose lease, log and operation these are.
-- ?1 run_id  ?2 lease_token  ?3 expected_next_index  ?4 operation_id
head.run_id = ?1
AND head.status = 'running'
AND head.lease_token = ?2
AND head.next_index = ?3
AND head.operation_id <> ?4

-- fragment: fenced_head
-- The head, if the fence holds.
-- ?1 run_id  ?2 lease_token  ?3 expected_next_index  ?4 operation_id
SELECT 1
FROM workflow_event_locks AS head
WHERE
    -- include: fence

-- fragment: head_fence
-- The fence where the head itself is updated, which uses it up.
run_id = ?1
AND status = 'running'
AND lease_token = ?2
AND next_index = ?3
AND operation_id <> ?4

-- name: fenced_write
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
                -- include: fenced_head
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
    -- include: fence

-- statement: events
-- 2 to 16 events; for one this would read a row more. facts: [[kind, step_id, payload_bytes], ...].
-- Each payload is bound by itself, because a list of them could be too large for one value.
-- ?1 run_id  ?2 lease_token  ?3 expected_next_index  ?4 operation_id
-- ?5 first_index  ?6 now_ms  ?7 facts
-- ?8 payload_0  ?9 payload_1  ?10 payload_2  ?11 payload_3  ?12 payload_4  ?13 payload_5  ?14 payload_6  ?15 payload_7
-- ?16 payload_8  ?17 payload_9  ?18 payload_10  ?19 payload_11  ?20 payload_12  ?21 payload_13  ?22 payload_14  ?23 payload_15
INSERT INTO workflow_events (run_id, event_index, kind, step_id, created_at, payload_bytes, payload)
SELECT
    head.run_id,
    ?5 + fact.key,
    json_extract(fact.value, '$[0]'),
    json_extract(fact.value, '$[1]'),
    ?6,
    json_extract(fact.value, '$[2]'),
    CASE fact.key
        WHEN 0 THEN ?8
        WHEN 1 THEN ?9
        WHEN 2 THEN ?10
        WHEN 3 THEN ?11
        WHEN 4 THEN ?12
        WHEN 5 THEN ?13
        WHEN 6 THEN ?14
        WHEN 7 THEN ?15
        WHEN 8 THEN ?16
        WHEN 9 THEN ?17
        WHEN 10 THEN ?18
        WHEN 11 THEN ?19
        WHEN 12 THEN ?20
        WHEN 13 THEN ?21
        WHEN 14 THEN ?22
        WHEN 15 THEN ?23
    END
FROM workflow_event_locks AS head
CROSS JOIN json_each(?7) AS fact
WHERE
    -- include: fence

-- statement: taken
-- ?1 run_id  ?2 lease_token  ?3 expected_next_index  ?4 operation_id  ?5 inbox_numbers
UPDATE workflow_signal_deliveries
SET taken = 1
WHERE
    run_id = ?1
    AND inbox_seq IN (SELECT number.value FROM json_each(?5) AS number)
    AND EXISTS (
        -- include: fenced_head
    );

-- statement: removed_timers
-- ?1 run_id  ?2 lease_token  ?3 expected_next_index  ?4 operation_id  ?5 timer_ids
DELETE FROM workflow_timers
WHERE
    run_id = ?1
    AND timer_id IN (SELECT timer.value FROM json_each(?5) AS timer)
    AND EXISTS (
        -- include: fenced_head
    );

-- statement: set_timers
-- ?1 run_id  ?2 lease_token  ?3 expected_next_index  ?4 operation_id  ?5 timers
INSERT INTO workflow_timers (run_id, timer_id, fire_at)
SELECT head.run_id, json_extract(timer.value, '$[0]'), json_extract(timer.value, '$[1]')
FROM workflow_event_locks AS head
CROSS JOIN json_each(?5) AS timer
WHERE
    -- include: fence
ON CONFLICT (run_id, timer_id) DO UPDATE SET fire_at = excluded.fire_at;

-- statement: no_timers
-- ?1 run_id  ?2 lease_token  ?3 expected_next_index  ?4 operation_id
DELETE FROM workflow_timers
WHERE
    run_id = ?1
    AND EXISTS (
        -- include: fenced_head
    );
