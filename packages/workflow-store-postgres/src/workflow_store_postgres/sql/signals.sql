-- Delivering into a run's inbox. The head is locked, the entry takes the next number, the head moves on to it.
-- See runs.sql for `before`, `overtaken` and `backed`.

-- fragment: delivery_columns
-- The columns of a new entry.
run_id, inbox_seq, kind, name, delivery_id, received_at, taken, payload_bytes, payload

-- fragment: awaited
-- True for a paused run that waits for what is delivered.
-- $2 kind  $3 name
stored.status = 'paused' AND (
    $2::text = 'retry'
    OR EXISTS (
        SELECT 1
        FROM json_array_elements(stored.awaiting) AS waiting (item)
        WHERE waiting.item ->> 0 = $2::text AND waiting.item ->> 1 = $3::text
    )
) AS awaited

-- fragment: backed_if_known
-- True when the entry was there before; see runs.sql for `backed`.
CASE
    WHEN known.inbox_seq IS NOT NULL THEN pg_logical_emit_message(true, 'workflow', '')
END IS NOT NULL AS backed

-- name: deliver
-- Puts a signal, a decision or a wish to retry into the inbox and wakes a run that waits for it; for a wish, any.
-- Whether the entry is known is decided by the table's constraint, which sees what was committed while the statement waited for the head.
-- $1 run_id  $2 kind  $3 name  $4 delivery_id  $5 only_if_waiting  $6 now_ms  $7 payload  $8 notifies
WITH before AS MATERIALIZED (
    SELECT
        stored.status,
        stored.status IN ('queued', 'running', 'paused', 'dead') AS open,
        -- include: awaited
    -- include: asked_run
),
known AS MATERIALIZED (
    SELECT entry.inbox_seq, entry.payload::text AS payload
    FROM workflow_signal_deliveries AS entry
    WHERE entry.run_id = $1::text AND entry.kind = $2::text AND entry.delivery_id = $4::text
),
locked AS MATERIALIZED (
    SELECT
        stored.run_id,
        stored.inbox_seq,
        -- include: awaited
    FROM workflow_event_locks AS stored
    WHERE
        stored.run_id = $1::text
        AND stored.status IN ('queued', 'running', 'paused', 'dead')
        AND NOT EXISTS (SELECT 1 FROM known)
    FOR NO KEY UPDATE
),
entry AS (
    INSERT INTO workflow_signal_deliveries (
        -- include: delivery_columns
    )
    SELECT
        locked.run_id,
        locked.inbox_seq + 1,
        $2::text,
        $3::text,
        $4::text,
        $6::bigint,
        false,
        coalesce(octet_length($7::text), 0),
        $7::text::json
    FROM locked
    WHERE locked.awaited OR NOT $5::boolean
    ON CONFLICT (run_id, kind, delivery_id) DO NOTHING
    RETURNING run_id, inbox_seq
),
head AS (
    UPDATE workflow_event_locks AS stored
    SET
        inbox_seq = entry.inbox_seq,
        status = CASE WHEN locked.awaited THEN 'queued' ELSE stored.status END,
        due_at = CASE WHEN locked.awaited THEN $6::bigint ELSE stored.due_at END,
        awaiting = CASE WHEN locked.awaited THEN '[]' ELSE stored.awaiting END,
        updated_at = $6::bigint
    FROM entry
    CROSS JOIN locked
    WHERE stored.run_id = entry.run_id
    RETURNING
        stored.tableoid,
        stored.run_id,
        stored.inbox_seq,
        locked.awaited,
        locked.awaited OR stored.status = 'running' AS wakes
)
SELECT
    before.status,
    known.inbox_seq AS known_seq,
    known.payload AS known_payload,
    head.inbox_seq,
    head.awaited,
    coalesce(head.wakes, false) AS wakes,
    CASE WHEN $8::boolean AND head.wakes THEN pg_notify('workflow_work_' || head.tableoid, head.run_id) END AS notified,
    head.inbox_seq IS NULL
    AND known.inbox_seq IS NULL
    AND before.open
    AND (before.awaited OR NOT $5::boolean) AS overtaken,
    -- include: backed_if_known
FROM before
LEFT JOIN known ON true
LEFT JOIN head ON true;

-- fragment: cancellable
-- A run that has not ended and was not asked to.
AND stored.status IN ('queued', 'running', 'paused')
AND NOT stored.cancel_requested

-- fragment: cancelling
-- The assignments that ask a run to end and wake it.
-- $2 now_ms
inbox_seq = stored.inbox_seq + 1,
cancel_requested = true,
due_at = CASE stored.status
    WHEN 'queued' THEN least(stored.due_at, $2::bigint)
    WHEN 'paused' THEN $2::bigint
    ELSE stored.due_at
END,
status = CASE stored.status WHEN 'paused' THEN 'queued' ELSE stored.status END,
awaiting = '[]',
updated_at = $2::bigint

-- fragment: cancel_entry
-- Puts the request to end into the inbox.
-- $2 now_ms  $3 payload
INSERT INTO workflow_signal_deliveries (
    -- include: delivery_columns
)
SELECT
    head.run_id,
    head.inbox_seq,
    'cancel',
    'cancel',
    'cancel',
    $2::bigint,
    false,
    octet_length($3::text),
    $3::text::json
FROM head

-- name: cancel_run
-- Puts the request to end into the inbox. A queued run that has been due for a while keeps its place.
-- $1 run_id  $2 now_ms  $3 payload  $4 notifies
WITH before AS MATERIALIZED (
    SELECT stored.status, stored.status IN ('queued', 'running', 'paused') AS open
    -- include: asked_run
),
known AS MATERIALIZED (
    SELECT entry.inbox_seq
    FROM workflow_signal_deliveries AS entry
    WHERE entry.run_id = $1::text AND entry.kind = 'cancel' AND entry.delivery_id = 'cancel'
),
head AS (
    UPDATE workflow_event_locks AS stored
    SET
        -- include: cancelling
    WHERE
        stored.run_id = $1::text
        -- include: cancellable
    RETURNING stored.tableoid, stored.run_id, stored.inbox_seq
),
entry AS (
    -- include: cancel_entry
)
SELECT
    before.status,
    known.inbox_seq AS known_seq,
    head.inbox_seq,
    head.run_id IS NOT NULL AS wakes,
    CASE
        WHEN $4::boolean AND head.run_id IS NOT NULL
            THEN pg_notify('workflow_work_' || head.tableoid, head.run_id)
    END AS notified,
    before.open AND known.inbox_seq IS NULL AND head.inbox_seq IS NULL AS overtaken,
    -- include: backed_if_known
FROM before
LEFT JOIN known ON true
LEFT JOIN head ON true;

-- fragment: counted_entries
-- Entries of the inbox, each with its place and the bytes of all payloads up to its own.
SELECT
    entry.inbox_seq,
    entry.kind,
    entry.name,
    entry.delivery_id,
    entry.received_at,
    entry.payload,
    sum(entry.payload_bytes) OVER in_order AS bytes_so_far,
    row_number() OVER in_order AS position
FROM workflow_signal_deliveries AS entry

-- name: read_inbox
-- Reads entries that are not taken yet.
-- $1 run_id  $2 after_seq  $3 limit  $4 max_bytes
SELECT
    page.inbox_seq,
    page.kind,
    page.name,
    page.delivery_id,
    page.received_at,
    page.payload::text AS payload
FROM (
    -- include: counted_entries
    WHERE entry.run_id = $1::text AND NOT entry.taken AND entry.inbox_seq > $2::bigint
    WINDOW in_order AS (ORDER BY entry.inbox_seq ROWS UNBOUNDED PRECEDING)
    LIMIT $3::bigint
) AS page
WHERE page.bytes_so_far <= $4::bigint OR page.position = 1
ORDER BY page.inbox_seq;
