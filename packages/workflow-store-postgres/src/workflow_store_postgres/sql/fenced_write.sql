-- What the writes of a driver have in common. Each is one UPDATE of the head, whose conditions are the fence, and
-- everything else hangs on the row that it returns. No row: `fenced_write.before` says why.

-- name: fenced_write
-- The head, for the verdict on a write that did nothing. See runs.sql for `backed`.
-- statement: before
-- $1 run_id
SELECT
    head.status,
    head.lease_token,
    head.lease_expires_at,
    head.next_index,
    head.inbox_seq,
    head.cancel_requested,
    head.operation_id,
    head.operation_answer::text AS operation_answer,
    pg_logical_emit_message(true, 'workflow', '') IS NOT NULL AS backed
FROM workflow_event_locks AS head
WHERE head.run_id = $1::text;

-- statement: settled
-- As `before`, but it waits for a transaction that is being committed, and so sees it. The lock is a write, which waits for a
-- synchronous standby as well.
-- $1 run_id
SELECT
    head.status,
    head.lease_token,
    head.lease_expires_at,
    head.next_index,
    head.inbox_seq,
    head.cancel_requested,
    head.operation_id,
    head.operation_answer::text AS operation_answer
FROM workflow_event_locks AS head
WHERE head.run_id = $1::text
FOR NO KEY UPDATE;
