-- Many runs created, and many signals delivered, by one statement. What they are about comes as lists of texts, out of
-- sight of the planner: see combined.sql. No statement here waits while it has something locked that others may want.

-- name: create_runs
-- Creates runs unless their ids are taken, none of them named twice, and gives the ids that were taken. They are created in
-- the order of their ids, so that two such statements, which wait for each other's ids, do not do so for ever.
-- `IS TRUE` keeps the lookups of ids from becoming joins, which compare each with each where the server knows nothing of
-- how many there are.
-- $1 run_ids  $2 workflow_ids  $3 workflow_versions  $4 queues  $5 priorities  $6 due times  $7 operation_ids  $8 inputs
-- $9 now_ms
WITH asked AS MATERIALIZED (
    SELECT given.*
    FROM unnest(
        (SELECT $1::text[]), (SELECT $2::text[]), (SELECT $3::text[]), (SELECT $4::text[]),
        (SELECT $5::text[]), (SELECT $6::text[]), (SELECT $7::text[]), (SELECT $8::text[])
    )
        AS given (run_id, workflow_id, workflow_version, queue, priority, due_at, operation_id, input)
),
head AS (
    INSERT INTO workflow_event_locks (
        -- include: queued_columns
    )
    SELECT
        asked.run_id,
        asked.workflow_id,
        asked.workflow_version,
        asked.queue,
        asked.priority::smallint,
        $9::bigint,
        $9::bigint,
        'queued',
        asked.due_at::bigint,
        0,
        asked.operation_id,
        '{}',
        0,
        0,
        false,
        0,
        '[]'
    FROM asked
    ORDER BY asked.run_id COLLATE "C"
    -- include: unless_taken
),
-- include: write_run
state AS (
    INSERT INTO workflow_run_states (run_id, input)
    SELECT asked.run_id, asked.input::json
    FROM asked
    WHERE (asked.run_id IN (SELECT head.run_id FROM head)) IS TRUE
)
SELECT asked.run_id
FROM asked
WHERE (asked.run_id IN (SELECT head.run_id FROM head)) IS NOT TRUE;

-- name: read_creations
-- Reads of runs what tells whether they are as they should have been created. See runs.sql for `backed`.
-- $1 run_ids  $2 inputs
SELECT
    stored.run_id,
    stored.workflow_id,
    stored.operation_id,
    state.input::text = asked.input AS same_input,
    CASE WHEN state.input::text = asked.input THEN NULL ELSE state.input::text END AS input,
    pg_logical_emit_message(true, 'workflow', '') IS NOT NULL AS backed
FROM unnest((SELECT $1::text[]), (SELECT $2::text[])) AS asked (run_id, input)
CROSS JOIN LATERAL (
    SELECT head.run_id, head.workflow_id, head.operation_id
    FROM workflow_event_locks AS head
    WHERE head.run_id = asked.run_id
    OFFSET 0
) AS stored
LEFT JOIN LATERAL (
    SELECT created.input
    FROM workflow_run_states AS created
    WHERE created.run_id = asked.run_id
    OFFSET 0
) AS state ON true;

-- name: deliver_signals
-- Puts signals into inboxes, none of them twice, and wakes the runs that wait for them.
-- A head that somebody has locked, or whose inbox has grown since the statement began, is left out, and so gives no answer
-- for its signals: others do not wait for it, and what is known of its inbox would be old.
-- Gives two kinds of rows: one for each signal that changes nothing, and one for each run that was written to, with the
-- numbers of its signals in their order; they have the inbox numbers up to `inbox_seq`. Signals of a run travel as lists.
-- `number` is that of the row's first signal.
-- $1 run_ids  $2 signal_ids  $3 names  $4 payloads  $5 times of the calls  $6 whether each notifies
WITH looked AS MATERIALIZED (
    SELECT
        asked.run_id,
        asked.signal_id,
        asked.name,
        asked.payload,
        asked.now_at::bigint AS now_at,
        asked.notifies::boolean AS notifies,
        asked.number,
        stored.status,
        stored.inbox_seq,
        stored.status IN ('queued', 'running', 'paused', 'dead') AS open,
        known.inbox_seq AS known_seq
    FROM unnest(
        (SELECT $1::text[]), (SELECT $2::text[]), (SELECT $3::text[]),
        (SELECT $4::text[]), (SELECT $5::text[]), (SELECT $6::text[])
    )
        WITH ORDINALITY AS asked (run_id, signal_id, name, payload, now_at, notifies, number)
    LEFT JOIN LATERAL (
        SELECT head.status, head.inbox_seq
        FROM workflow_event_locks AS head
        WHERE head.run_id = asked.run_id
        OFFSET 0
    ) AS stored ON true
    LEFT JOIN LATERAL (
        SELECT entry.inbox_seq
        FROM workflow_signal_deliveries AS entry
        WHERE entry.run_id = asked.run_id AND entry.kind = 'signal' AND entry.delivery_id = asked.signal_id
        OFFSET 0
    ) AS known ON true
),
wanted AS MATERIALIZED (
    SELECT
        looked.run_id,
        looked.inbox_seq,
        array_agg(looked.number ORDER BY looked.number) AS numbers,
        array_agg(looked.signal_id ORDER BY looked.number) AS signal_ids,
        array_agg(looked.name ORDER BY looked.number) AS names,
        array_agg(looked.payload ORDER BY looked.number) AS payloads,
        array_agg(looked.now_at ORDER BY looked.number) AS times,
        bool_or(looked.notifies) AS notifies
    FROM looked
    WHERE looked.open AND looked.known_seq IS NULL
    GROUP BY looked.run_id, looked.inbox_seq
),
locked AS MATERIALIZED (
    SELECT
        wanted.*,
        cardinality(wanted.numbers) AS added,
        free.status,
        free.awaiting
    FROM wanted
    CROSS JOIN LATERAL (
        SELECT head.status, head.awaiting
        FROM workflow_event_locks AS head
        WHERE
            head.run_id = wanted.run_id
            AND head.inbox_seq = wanted.inbox_seq
            AND head.status IN ('queued', 'running', 'paused', 'dead')
        FOR NO KEY UPDATE SKIP LOCKED
    ) AS free
),
moved AS MATERIALIZED (
    SELECT
        locked.*,
        CASE
            WHEN locked.status = 'paused' THEN (
                SELECT min(given.place)
                FROM unnest(locked.names) WITH ORDINALITY AS given (name, place)
                INNER JOIN json_array_elements(locked.awaiting) AS waiting (item)
                    ON waiting.item ->> 1 = given.name AND waiting.item ->> 0 = 'signal'
            )
        END AS awaited_place
    FROM locked
),
entries AS (
    INSERT INTO workflow_signal_deliveries (
        -- include: delivery_columns
    )
    SELECT
        moved.run_id,
        moved.inbox_seq + given.place,
        'signal',
        given.name,
        given.signal_id,
        given.now_at,
        false,
        coalesce(octet_length(given.payload), 0),
        given.payload::json
    FROM moved
    CROSS JOIN LATERAL unnest(moved.signal_ids, moved.names, moved.payloads, moved.times)
        WITH ORDINALITY AS given (signal_id, name, payload, now_at, place)
),
head AS (
    UPDATE workflow_event_locks AS stored
    SET
        inbox_seq = moved.inbox_seq + moved.added,
        status = CASE WHEN moved.awaited_place IS NULL THEN stored.status ELSE 'queued' END,
        due_at = coalesce(moved.times[moved.awaited_place], stored.due_at),
        awaiting = CASE WHEN moved.awaited_place IS NULL THEN stored.awaiting ELSE '[]' END,
        updated_at = moved.times[moved.added]
    FROM moved
    WHERE stored.run_id = moved.run_id
    RETURNING
        stored.tableoid,
        stored.run_id,
        moved.notifies,
        stored.inbox_seq,
        moved.numbers,
        moved.awaited_place,
        stored.status = 'running' OR moved.awaited_place IS NOT NULL AS wakes
)
SELECT
    looked.number,
    looked.number::text AS numbers,
    looked.status,
    looked.known_seq,
    NULL AS inbox_seq,
    NULL AS awaited_place,
    false AS wakes,
    NULL AS notified,
    CASE
        WHEN looked.known_seq IS NOT NULL THEN pg_logical_emit_message(true, 'workflow', '')
    END IS NOT NULL AS backed
FROM looked
WHERE looked.known_seq IS NOT NULL OR looked.open IS NOT TRUE
UNION ALL
SELECT
    head.numbers[1],
    array_to_string(head.numbers, ','),
    NULL,
    NULL,
    head.inbox_seq,
    head.awaited_place,
    head.wakes,
    CASE WHEN head.notifies AND head.wakes THEN pg_notify('workflow_work_' || head.tableoid, head.run_id)::text END,
    NULL
FROM head;
