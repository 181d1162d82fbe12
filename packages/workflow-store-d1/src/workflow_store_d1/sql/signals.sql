-- Delivering into a run's inbox. The head's update acts on a marker: an entry above inbox_seq is there exactly when
-- this very batch has just inserted it.

-- fragment: delivery_columns
-- What the codec reads of an entry of the inbox.
delivery.run_id,
delivery.inbox_seq,
delivery.kind,
delivery.name,
delivery.delivery_id,
delivery.received_at,
delivery.payload,
json_valid(delivery.payload) AS payload_valid

-- fragment: awaited
-- The delivery among the things that the run waits for.
-- ?2 kind  ?3 name
SELECT 1
FROM json_each(head.awaiting) AS waiting
WHERE json_extract(waiting.value, '$[0]') = ?2 AND json_extract(waiting.value, '$[1]') = ?3

-- fragment: delivered_now
-- The entry that this batch has inserted; the head does not count it yet.
-- ?1 run_id
SELECT 1
FROM workflow_signal_deliveries AS entry
WHERE entry.run_id = ?1 AND entry.inbox_seq = workflow_event_locks.inbox_seq + 1

-- name: deliver
-- Puts a signal, a decision or a wish to retry into the inbox and wakes a run that waits for it; for a wish, any.
-- statement: before
-- ?1 run_id  ?2 kind  ?3 name  ?4 delivery_id
SELECT
    head.status,
    head.inbox_seq,
    known.inbox_seq AS known_seq,
    known.payload AS known_payload,
    json_valid(known.payload) AS known_payload_valid,
    head.status = 'paused' AND (
        ?2 = 'retry'
        OR EXISTS (
            -- include: awaited
        )
    ) AS awaited
FROM workflow_event_locks AS head
LEFT JOIN workflow_signal_deliveries AS known
    ON known.run_id = head.run_id AND known.kind = ?2 AND known.delivery_id = ?4
WHERE head.run_id = ?1;

-- statement: entry
-- ?1 run_id  ?2 kind  ?3 name  ?4 delivery_id  ?5 only_if_waiting  ?6 now_ms  ?7 payload_bytes  ?8 payload
INSERT INTO workflow_signal_deliveries (
    run_id, inbox_seq, kind, name, delivery_id, received_at, taken, payload_bytes, payload
)
SELECT head.run_id, head.inbox_seq + 1, ?2, ?3, ?4, ?6, 0, ?7, ?8
FROM workflow_event_locks AS head
WHERE
    head.run_id = ?1
    AND head.status IN ('queued', 'running', 'paused', 'dead')
    AND (
        NOT ?5
        OR (
            head.status = 'paused'
            AND EXISTS (
                -- include: awaited
            )
        )
    )
    AND NOT EXISTS (
        SELECT 1
        FROM workflow_signal_deliveries AS known
        WHERE known.run_id = ?1 AND known.kind = ?2 AND known.delivery_id = ?4
    );

-- statement: waken
-- ?1 run_id  ?2 kind  ?3 name  ?4 now_ms
UPDATE workflow_event_locks
SET
    status = 'queued',
    due_at = ?4,
    awaiting = '[]'
WHERE
    run_id = ?1
    AND status = 'paused'
    AND (
        ?2 = 'retry'
        OR EXISTS (
            SELECT 1
            FROM json_each(awaiting) AS waiting
            WHERE json_extract(waiting.value, '$[0]') = ?2 AND json_extract(waiting.value, '$[1]') = ?3
        )
    )
    AND EXISTS (
        -- include: delivered_now
    );

-- statement: head
-- ?1 run_id  ?2 now_ms
UPDATE workflow_event_locks
SET
    inbox_seq = inbox_seq + 1,
    updated_at = ?2
WHERE
    run_id = ?1
    AND EXISTS (
        -- include: delivered_now
    );

-- fragment: cancel_entry
-- Begins the statements that put the request to end into inboxes.
-- ?2 now_ms  ?3 payload_bytes  ?4 payload
INSERT INTO workflow_signal_deliveries (
    run_id, inbox_seq, kind, name, delivery_id, received_at, taken, payload_bytes, payload
)
SELECT head.run_id, head.inbox_seq + 1, 'cancel', 'cancel', 'cancel', ?2, 0, ?3, ?4
FROM workflow_event_locks AS head

-- fragment: cancelled_head
-- The head of a run that was asked to end. A queued run that has been due for a while keeps its place.
-- ?2 now_ms
inbox_seq = inbox_seq + 1,
cancel_requested = 1,
due_at = CASE status WHEN 'queued' THEN min(due_at, ?2) WHEN 'paused' THEN ?2 ELSE due_at END,
status = CASE status WHEN 'paused' THEN 'queued' ELSE status END,
awaiting = '[]',
updated_at = ?2

-- name: cancel_run
-- Puts the request to end into the inbox.
-- statement: before
-- ?1 run_id
SELECT head.status, head.inbox_seq, known.inbox_seq AS known_seq
FROM workflow_event_locks AS head
LEFT JOIN workflow_signal_deliveries AS known
    ON known.run_id = head.run_id AND known.kind = 'cancel' AND known.delivery_id = 'cancel'
WHERE head.run_id = ?1;

-- statement: entry
-- ?1 run_id  ?2 now_ms  ?3 payload_bytes  ?4 payload
-- include: cancel_entry
WHERE
    head.run_id = ?1
    AND head.status IN ('queued', 'running', 'paused')
    AND NOT EXISTS (
        SELECT 1
        FROM workflow_signal_deliveries AS known
        WHERE known.run_id = ?1 AND known.kind = 'cancel' AND known.delivery_id = 'cancel'
    );

-- statement: head
-- ?1 run_id  ?2 now_ms
UPDATE workflow_event_locks
SET
    -- include: cancelled_head
WHERE
    run_id = ?1
    AND EXISTS (
        -- include: delivered_now
    );

-- fragment: entry_position
-- The place of an entry in its page, with the bytes up to it; `in_order` is the statement's window.
entry.run_id,
entry.inbox_seq,
sum(entry.payload_bytes) OVER in_order AS bytes_so_far,
row_number() OVER in_order AS position

-- name: read_inbox
-- Reads entries that are not taken yet. The inner query measures the page without touching the payloads.
-- ?1 run_id  ?2 after_seq  ?3 limit  ?4 max_bytes
SELECT
    -- include: delivery_columns
FROM (
    SELECT
        -- include: entry_position
    FROM (
        SELECT untaken.run_id, untaken.inbox_seq, untaken.payload_bytes
        FROM workflow_signal_deliveries AS untaken INDEXED BY workflow_signal_deliveries_untaken
        WHERE untaken.run_id = ?1 AND untaken.taken = 0 AND untaken.inbox_seq > ?2
        ORDER BY untaken.inbox_seq
        LIMIT ?3
    ) AS entry
    WINDOW in_order AS (ORDER BY entry.inbox_seq ROWS UNBOUNDED PRECEDING)
) AS page
CROSS JOIN workflow_signal_deliveries AS delivery
    ON delivery.run_id = page.run_id AND delivery.inbox_seq = page.inbox_seq
WHERE page.bytes_so_far <= ?4 OR page.position = 1;
