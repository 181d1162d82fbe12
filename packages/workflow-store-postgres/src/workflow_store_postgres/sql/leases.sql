-- Claiming runs and keeping the claim.
--
-- A claim is one statement that takes runs (`taken`) and says what else there is (`answer`); the block `claimed`, which
-- is put behind each of them, brings what belongs to the taken runs. All claims number their first parameters alike.
--
-- Traps. A row lock waits, or skips, and gives the newest version of its row; everything else in the statement is read
-- as of the statement's beginning. So `locked` repeats the conditions, and only a row that is still what `candidate`
-- saw is taken: operation_id, inbox_seq and lease_number together change with everything that a claim brings along.
-- Rows that somebody else holds are skipped; `candidate` looks a little further than the limit because of them.
-- A claim that got nothing although something is due was overtaken: the store tries again.
--
-- `lane` is a loose index scan: it hops from one (workflow, version, queue, priority) to the next, and each lane gives
-- no more runs than the claim may take. Runs of others, and runs whose time has not come, cost nothing.
-- `(SELECT $4::bigint)` hides a value from the server's estimates, so that a plan made for the values looks no cheaper
-- than the one that holds for all: the statement is then planned once for a connection, which is most of its cost.
-- A claim from an expired lease counts a crash when its driver gave a sign of life (silent_claims = 0), and else
-- each fourth time in a row: a claim whose answer was lost looks like a run that kills its worker at once.
-- due_at stays while a run is running (as the time since when it had been claimable), so that the answer keeps the
-- order in which the runs were chosen.

-- fragment: head_lanes
-- The lanes that heads are in.
SELECT head.workflow_id, head.workflow_version, head.queue, head.priority
FROM workflow_event_locks AS head

-- fragment: first_lane
-- The first of the lanes that are left.
ORDER BY head.workflow_id, head.workflow_version, head.queue, head.priority
LIMIT 1

-- fragment: further_lane
-- A lane behind the one that was found last.
AND (head.workflow_id, head.workflow_version, head.queue, head.priority)
> (lane.workflow_id, lane.workflow_version, lane.queue, lane.priority)

-- fragment: queued_lanes
-- Hops from one lane of queued runs to the next.
WITH RECURSIVE lane AS (
    (
        -- include: head_lanes
        WHERE head.status = 'queued'
        -- include: first_lane
    )
    UNION ALL
    SELECT further.workflow_id, further.workflow_version, further.queue, further.priority
    FROM lane
    CROSS JOIN LATERAL (
        -- include: head_lanes
        WHERE
            head.status = 'queued'
            -- include: further_lane
        -- include: first_lane
    ) AS further
),

-- fragment: known_lanes
-- The lanes that were found.
SELECT lane.workflow_id, lane.workflow_version, lane.queue, lane.priority
FROM lane

-- fragment: wanted_workflows
-- The workflows that the worker can run.
-- $10 workflow_ids  $11 workflow_versions
SELECT pair.workflow_id, pair.workflow_version
FROM unnest((SELECT $10::text[]), (SELECT $11::text[])) AS pair (workflow_id, workflow_version)

-- fragment: wanted_lanes
-- The lanes that the worker can run.
-- $10 workflow_ids  $11 workflow_versions  $12 queues
wanted AS MATERIALIZED (
    -- include: known_lanes
    WHERE
        (
            (SELECT $10::text[]) IS NULL
            OR (lane.workflow_id, lane.workflow_version) IN (
                -- include: wanted_workflows
            )
        )
        AND ((SELECT $12::text[]) IS NULL OR lane.queue = ANY((SELECT $12::text[])::text[]))
),

-- fragment: version_columns
-- What changes with everything that a claim brings along.
head.operation_id,
head.next_index,
head.inbox_seq,
head.lease_number,

-- fragment: claimed_or_dead
-- What a claim makes of a run: it is under a new lease, or dead if the claim `kills` it.
-- $1 owner  $2 lease_token  $3 lease_expires_at_ms  $4 now_ms
SELECT
    CASE WHEN claim.kills THEN 'dead' ELSE 'running' END,
    CASE WHEN NOT claim.kills THEN $1::text END,
    CASE WHEN NOT claim.kills THEN $2::text END,
    stored.lease_number + (NOT claim.kills)::int,
    CASE WHEN NOT claim.kills THEN $3::bigint END,
    CASE WHEN claim.kills THEN $4::bigint END

-- name: claim_run
-- Claims one run by its id.
-- $1 owner  $2 lease_token  $3 lease_expires_at_ms  $4 now_ms
-- $5 history_limit  $6 history_bytes  $7 inbox_limit  $8 inbox_bytes
-- $9 run_id  $10 max_crashes
WITH before AS MATERIALIZED (
    SELECT
        head.status,
        head.due_at,
        head.lease_expires_at,
        -- include: version_columns
        (head.status IN ('queued', 'paused') AND head.due_at <= $4::bigint)
        OR (head.status = 'running' AND head.lease_expires_at <= $4::bigint) AS claimable
    FROM workflow_event_locks AS head
    WHERE head.run_id = $9::text
),
taken AS (
    UPDATE workflow_event_locks AS stored
    SET
        (status, lease_owner, lease_token, lease_number, lease_expires_at, finished_at) = (
            -- include: claimed_or_dead
            FROM (
                SELECT
                    stored.status = 'running'
                    AND stored.crashes + (stored.silent_claims IN (0, 4))::int >= $10::bigint AS kills
            ) AS claim
        ),
        due_at = CASE WHEN stored.status = 'running' THEN stored.lease_expires_at ELSE stored.due_at END,
        crashes = stored.crashes + (stored.status = 'running' AND stored.silent_claims IN (0, 4))::int,
        silent_claims = CASE
            WHEN stored.status = 'running' AND stored.silent_claims IN (1, 2, 3) THEN stored.silent_claims + 1
            ELSE 1
        END,
        awaiting = '[]',
        updated_at = $4::bigint
    FROM before
    WHERE
        stored.run_id = $9::text
        AND before.claimable
        -- include: unchanged
        AND stored.lease_number = before.lease_number
        AND (
            (stored.status IN ('queued', 'paused') AND stored.due_at <= $4::bigint)
            OR (stored.status = 'running' AND stored.lease_expires_at <= $4::bigint)
        )
    RETURNING stored.*
),
answer AS (
    SELECT
        NULL::bigint AS next_due,
        before.claimable AND NOT EXISTS (SELECT 1 FROM taken) AS overtaken,
        before.status AS before_status,
        before.due_at AS before_due_at,
        before.lease_expires_at AS before_lease_expires_at
    FROM before
)
-- include: claimed

-- fragment: candidates_now
-- What `candidate` saw, as it is now.
SELECT head.run_id, head.operation_id, head.inbox_seq, head.lease_number
FROM workflow_event_locks AS head
WHERE
    head.run_id = ANY(ARRAY(SELECT candidate.run_id FROM candidate))

-- fragment: lock_free
-- Locks no more than the limit, and none that somebody else holds.
-- $9 limit
LIMIT (SELECT $9::bigint)
FOR NO KEY UPDATE SKIP LOCKED

-- fragment: still_candidate
-- What is locked, if no driver has written to it since `candidate` saw it.
INNER JOIN candidate
    ON
        candidate.run_id = locked.run_id
        AND candidate.operation_id = locked.operation_id

-- fragment: same_inbox_and_lease
-- Nothing was delivered to the run meanwhile, and nobody claimed it.
AND candidate.inbox_seq = locked.inbox_seq
AND candidate.lease_number = locked.lease_number

-- fragment: taken_unchanged
-- What is locked, if it is still what `candidate` saw.
-- include: still_candidate
        -- include: same_inbox_and_lease
WHERE stored.run_id = locked.run_id
RETURNING stored.*

-- fragment: no_single_run
-- The columns of `answer` that only the claim of one run fills.
NULL::text AS before_status,
NULL::bigint AS before_due_at,
NULL::bigint AS before_lease_expires_at

-- name: claim_stale_runs
-- Claims runs whose lease has expired, or parks them as dead.
-- $1 owner  $2 lease_token  $3 lease_expires_at_ms  $4 now_ms
-- $5 history_limit  $6 history_bytes  $7 inbox_limit  $8 inbox_bytes
-- $9 limit  $10 workflow_ids  $11 workflow_versions  $12 queues  $13 max_crashes
WITH held AS MATERIALIZED (
    SELECT
        head.run_id,
        head.operation_id,
        head.inbox_seq,
        head.lease_number,
        head.priority,
        head.lease_expires_at
    FROM workflow_event_locks AS head
    WHERE
        head.status = 'running'
        AND (
            (SELECT $10::text[]) IS NULL
            OR (head.workflow_id, head.workflow_version) IN (
                -- include: wanted_workflows
            )
        )
        AND ((SELECT $12::text[]) IS NULL OR head.queue = ANY((SELECT $12::text[])::text[]))
),
candidate AS MATERIALIZED (
    SELECT held.run_id, held.operation_id, held.inbox_seq, held.lease_number
    FROM held
    WHERE held.lease_expires_at <= (SELECT $4::bigint)
    ORDER BY held.priority DESC, held.lease_expires_at, held.run_id
    LIMIT (SELECT $9::bigint + 32)
),
locked AS MATERIALIZED (
    -- include: candidates_now
        AND head.status = 'running'
        AND head.lease_expires_at <= (SELECT $4::bigint)
    ORDER BY head.priority DESC, head.lease_expires_at, head.run_id
    -- include: lock_free
),
taken AS (
    UPDATE workflow_event_locks AS stored
    SET
        (status, lease_owner, lease_token, lease_number, lease_expires_at, finished_at) = (
            -- include: claimed_or_dead
            FROM (
                SELECT
                    stored.status = 'running'
                    AND stored.crashes + (stored.silent_claims IN (0, 4))::int >= $13::bigint AS kills
            ) AS claim
        ),
        due_at = stored.lease_expires_at,
        crashes = stored.crashes + (stored.silent_claims IN (0, 4))::int,
        silent_claims = CASE WHEN stored.silent_claims IN (0, 4) THEN 1 ELSE stored.silent_claims + 1 END,
        updated_at = $4::bigint
    FROM locked
    -- include: taken_unchanged
),
answer AS (
    SELECT
        min(held.lease_expires_at) AS next_due,
        $9::bigint > 0 AND min(held.lease_expires_at) <= $4::bigint AND NOT EXISTS (SELECT 1 FROM taken) AS overtaken,
        -- include: no_single_run
    FROM held
    WHERE held.run_id <> ALL(ARRAY(SELECT taken.run_id FROM taken))
)
-- include: claimed

-- fragment: in_lane
-- The runs of one lane.
AND head.workflow_id = wanted.workflow_id
AND head.workflow_version = wanted.workflow_version
AND head.queue = wanted.queue
AND head.priority = wanted.priority

-- fragment: due_in_lane
-- The runs of one lane whose time has come.
-- $4 now_ms
-- include: in_lane
AND head.due_at <= (SELECT $4::bigint)

-- fragment: waiting_in_lane
-- The runs of one lane that the claim does not take.
-- include: in_lane
AND head.run_id <> ALL(ARRAY(SELECT taken.run_id FROM taken))

-- fragment: earliest_due
-- The first runs of a lane, some more than the limit.
-- $9 limit
ORDER BY head.due_at, head.run_id
LIMIT (SELECT $9::bigint + 32)

-- fragment: most_urgent
-- The first runs of all lanes, some more than the limit.
-- $9 limit
ORDER BY due.priority DESC, due.due_at, due.run_id
LIMIT (SELECT $9::bigint + 32)

-- fragment: next_in_lane
-- The run of a lane that is due first.
ORDER BY head.due_at, head.run_id
LIMIT 1

-- fragment: lock_due
-- Locks the most urgent candidates.
-- $9 limit
ORDER BY head.priority DESC, head.due_at, head.run_id
-- include: lock_free

-- fragment: claim_head
-- The assignments that claim a run.
-- $1 owner  $2 lease_token  $3 lease_expires_at_ms  $4 now_ms
status = 'running',
-- include: lease_begun
silent_claims = 1,
awaiting = '[]',
updated_at = $4::bigint

-- fragment: next_due
-- When the next run is due, of those that are left in the lanes.
-- $4 now_ms  $9 limit
SELECT
    min(waiting.due_at) AS next_due,
    $9::bigint > 0 AND min(waiting.due_at) <= $4::bigint AND NOT EXISTS (SELECT 1 FROM taken) AS overtaken,
    -- include: no_single_run
FROM wanted

-- name: claim_pending_runs
-- Claims due queued runs.
-- $1 owner  $2 lease_token  $3 lease_expires_at_ms  $4 now_ms
-- $5 history_limit  $6 history_bytes  $7 inbox_limit  $8 inbox_bytes
-- $9 limit  $10 workflow_ids  $11 workflow_versions  $12 queues
-- include: queued_lanes
-- include: wanted_lanes
candidate AS MATERIALIZED (
    SELECT due.run_id, due.operation_id, due.next_index, due.inbox_seq, due.lease_number
    FROM wanted
    CROSS JOIN LATERAL (
        SELECT
            head.run_id,
            -- include: version_columns
            head.priority,
            head.due_at
        FROM workflow_event_locks AS head
        WHERE
            head.status = 'queued'
            -- include: due_in_lane
        -- include: earliest_due
    ) AS due
    -- include: most_urgent
),
locked AS MATERIALIZED (
    SELECT head.run_id, head.operation_id, head.next_index, head.inbox_seq, head.lease_number
    FROM workflow_event_locks AS head
    WHERE
        head.run_id = ANY(ARRAY(SELECT candidate.run_id FROM candidate))
        AND head.status = 'queued'
        AND head.due_at <= (SELECT $4::bigint)
    -- include: lock_due
),
taken AS (
    UPDATE workflow_event_locks AS stored
    SET
        -- include: claim_head
    FROM locked
    -- include: still_candidate
            AND candidate.next_index = locked.next_index
            -- include: same_inbox_and_lease
    WHERE stored.run_id = locked.run_id
    RETURNING stored.*
),
answer AS (
    -- include: next_due
    CROSS JOIN LATERAL (
        SELECT head.due_at
        FROM workflow_event_locks AS head
        WHERE
            head.status = 'queued'
            -- include: waiting_in_lane
        -- include: next_in_lane
    ) AS waiting
)
-- include: claimed

-- name: list_pending_runs
-- Lists what claim_pending_runs would take.
-- $1 now_ms  $2 limit  $3 workflow_ids  $4 workflow_versions  $5 queues
-- include: queued_lanes
wanted AS MATERIALIZED (
    -- include: known_lanes
    WHERE
        (
            (SELECT $3::text[]) IS NULL
            OR (lane.workflow_id, lane.workflow_version) IN (
                SELECT pair.workflow_id, pair.workflow_version
                FROM unnest((SELECT $3::text[]), (SELECT $4::text[])) AS pair (workflow_id, workflow_version)
            )
        )
        AND ((SELECT $5::text[]) IS NULL OR lane.queue = ANY((SELECT $5::text[])::text[]))
)
SELECT
    due.run_id,
    due.workflow_id,
    due.workflow_version,
    due.status,
    due.queue,
    due.priority,
    due.due_at,
    due.lease_owner,
    due.lease_expires_at,
    due.next_index,
    due.inbox_seq,
    due.cancel_requested,
    due.crashes,
    due.created_at,
    due.updated_at,
    due.finished_at
FROM wanted
CROSS JOIN LATERAL (
    SELECT head.*
    FROM workflow_event_locks AS head
    WHERE
        head.status = 'queued'
        -- include: in_lane
        AND head.due_at <= (SELECT $1::bigint)
    ORDER BY head.due_at, head.run_id
    LIMIT (SELECT $2::bigint)
) AS due
ORDER BY due.priority DESC, due.due_at, due.run_id
LIMIT (SELECT $2::bigint);

-- fragment: claimed
-- What a claim brings along; the end of each of the statements above. One row per taken run, and one without a run when
-- nothing was taken. Lists come as one array for each of their columns.
,
brought AS MATERIALIZED (
    SELECT taken.* FROM taken
)
SELECT
    answer.next_due,
    answer.overtaken,
    answer.before_status,
    answer.before_due_at,
    answer.before_lease_expires_at,
    brought.run_id,
    brought.workflow_id,
    brought.workflow_version,
    brought.status,
    brought.queue,
    brought.priority,
    brought.due_at,
    brought.lease_owner,
    brought.lease_token,
    brought.lease_number,
    brought.lease_expires_at,
    brought.next_index,
    brought.inbox_seq,
    brought.cancel_requested,
    brought.awaiting::text AS awaiting,
    brought.crashes,
    brought.created_at,
    brought.updated_at,
    brought.finished_at,
    -- include: state_columns
    state.input::text AS input,
    state.output::text AS output,
    state.error::text AS error,
    -- include: history_columns
    -- include: inbox_columns
    timers.timer_ids,
    timers.timer_times
FROM answer
LEFT JOIN brought ON true
LEFT JOIN workflow_run_states AS state ON state.run_id = brought.run_id
LEFT JOIN LATERAL (
    -- include: history_arrays
    FROM (
        -- include: counted_events
        WHERE event.run_id = brought.run_id AND event.event_index < $5::bigint
    ) AS page
    WHERE page.bytes_so_far <= $6::bigint OR page.event_index = 0
) AS history ON brought.status = 'running'
LEFT JOIN LATERAL (
    -- include: inbox_arrays
    FROM (
        -- include: counted_entries
        WHERE entry.run_id = brought.run_id AND NOT entry.taken
        WINDOW in_order AS (ORDER BY entry.inbox_seq ROWS UNBOUNDED PRECEDING)
        LIMIT $7::bigint
    ) AS page
    WHERE page.bytes_so_far <= $8::bigint OR page.position = 1
) AS inbox ON brought.status = 'running'
LEFT JOIN LATERAL (
    -- include: timer_arrays
    WHERE timer.run_id = brought.run_id AND timer.fire_at <= $4::bigint
) AS timers ON brought.status = 'running'
ORDER BY brought.priority DESC, brought.due_at, brought.run_id

-- name: heartbeat_run_lease
-- Renews a lease; gives no row when it is lost.
-- $1 run_id  $2 lease_token  $3 lease_expires_at_ms
UPDATE workflow_event_locks AS head
SET
    lease_expires_at = greatest(head.lease_expires_at, $3::bigint),
    silent_claims = 0
WHERE head.run_id = $1::text AND head.status = 'running' AND head.lease_token = $2::text
RETURNING
    head.lease_expires_at,
    head.inbox_seq,
    head.cancel_requested,
    floor(extract(epoch FROM clock_timestamp()) * 1000)::bigint AS clock;

-- fragment: asked_lease
-- The head of a run, if it is under the asked lease.
SELECT stored.run_id
FROM workflow_event_locks AS stored
WHERE stored.run_id = asked.run_id AND stored.lease_token = asked.lease_token AND stored.status = 'running'

-- name: heartbeat_run_leases
-- Renews leases, none of them named twice. Gives no place of one that is lost, and no end for a run that somebody else
-- is writing to: it waits for nobody, so that one run cannot keep the others from their renewals, and two calls cannot
-- wait for each other. Most answers are alike, so that a row holds the places of many: a row for each would take most of
-- the caller's time.
-- Each head is looked up by itself, which `LATERAL` with a lock, or with `OFFSET 0`, sees to. A join might compare each
-- with each: the server takes the list for ten rows, and a table that it knows nothing of for one.
-- $1 run_ids  $2 lease_tokens  $3 lease_expires_at_ms
WITH asked AS MATERIALIZED (
    SELECT pair.run_id, pair.lease_token, pair.place
    FROM unnest((SELECT $1::text[]), (SELECT $2::text[])) WITH ORDINALITY AS pair (run_id, lease_token, place)
),
free AS MATERIALIZED (
    SELECT asked.place, head.run_id
    FROM asked
    CROSS JOIN LATERAL (
        -- include: asked_lease
        FOR NO KEY UPDATE SKIP LOCKED
    ) AS head
),
renewed AS (
    UPDATE workflow_event_locks AS head
    SET
        lease_expires_at = greatest(head.lease_expires_at, $3::bigint),
        silent_claims = 0
    FROM free
    WHERE head.run_id = free.run_id
    RETURNING free.place, head.lease_expires_at, head.inbox_seq, head.cancel_requested
)
SELECT
    string_agg(renewed.place::text, ',') AS places,
    renewed.lease_expires_at,
    renewed.inbox_seq,
    renewed.cancel_requested,
    floor(extract(epoch FROM clock_timestamp()) * 1000)::bigint AS clock
FROM renewed
GROUP BY renewed.lease_expires_at, renewed.inbox_seq, renewed.cancel_requested
UNION ALL
SELECT string_agg(asked.place::text, ',') AS places, NULL, NULL, NULL, NULL
FROM asked
CROSS JOIN LATERAL (
    -- include: asked_lease
    OFFSET 0
) AS busy
WHERE asked.place NOT IN (SELECT renewed.place FROM renewed)
HAVING count(*) > 0;

-- name: release_run_lease
-- Hands a run over to any worker.
-- $1 run_id  $2 lease_token  $3 operation_id  $4 now_ms  $5 notifies
UPDATE workflow_event_locks AS head
SET
    status = 'queued',
    due_at = $4::bigint,
    -- include: lease_ended
    operation_id = $3::text,
    operation_answer = '{}',
    updated_at = $4::bigint
WHERE
    head.run_id = $1::text
    AND head.status = 'running'
    AND head.lease_token = $2::text
    AND head.operation_id <> $3::text
RETURNING
    true AS wakes,
    CASE WHEN $5::boolean THEN pg_notify('workflow_work_' || head.tableoid, head.run_id) END AS notified;
