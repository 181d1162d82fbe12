-- Schedules and their ticks. Whoever works on a tick locks its schedule first. See runs.sql for `before` and `overtaken`.

-- name: upsert_schedule
-- Creates a schedule or changes its definition; changes nothing when the definition is the stored one.
-- See runs.sql for `backed`.
-- $1 schedule_id  $2 workflow_id  $3 workflow_version  $4 overlap_policy  $5 queue  $6 priority  $7 enabled
-- $8 next_fire_at_ms  $9 spec  $10 input  $11 now_ms
WITH same AS MATERIALIZED (
    SELECT stored.*
    FROM workflow_schedules AS stored
    WHERE
        stored.schedule_id = $1::text
        AND (
            stored.workflow_id, stored.workflow_version, stored.overlap_policy, stored.queue,
            stored.priority, stored.enabled, stored.spec::text, stored.input::text
        )
        = ($2::text, $3::text, $4::text, $5::text, $6::smallint, $7::boolean, $9::text, $10::text)
),
written AS (
    INSERT INTO workflow_schedules AS stored (
        schedule_id, workflow_id, workflow_version, overlap_policy, queue, priority, enabled,
        next_fire_at, last_fire_at, revision, claims, created_at, updated_at, spec, input
    )
    SELECT
        $1::text, $2::text, $3::text, $4::text, $5::text, $6::smallint, $7::boolean,
        $8::bigint, NULL, 1, 0, $11::bigint, $11::bigint, $9::text::json, $10::text::json
    WHERE NOT EXISTS (SELECT 1 FROM same)
    ON CONFLICT (schedule_id) DO UPDATE
    SET
        workflow_id = excluded.workflow_id,
        workflow_version = excluded.workflow_version,
        overlap_policy = excluded.overlap_policy,
        queue = excluded.queue,
        priority = excluded.priority,
        enabled = excluded.enabled,
        next_fire_at = excluded.next_fire_at,
        revision = stored.revision + 1,
        updated_at = excluded.updated_at,
        spec = excluded.spec,
        input = excluded.input
    WHERE
        (
            stored.workflow_id, stored.workflow_version, stored.overlap_policy, stored.queue,
            stored.priority, stored.enabled, stored.spec::text, stored.input::text
        )
        <> (
            excluded.workflow_id, excluded.workflow_version, excluded.overlap_policy, excluded.queue,
            excluded.priority, excluded.enabled, excluded.spec::text, excluded.input::text
        )
    RETURNING stored.*
),
found AS (
    SELECT CASE WHEN written.revision = 1 THEN 'created' ELSE 'updated' END AS kind, written.*
    FROM written
    UNION ALL
    SELECT 'unchanged' AS kind, same.*
    FROM same
)
SELECT
    found.kind IS NULL AS overtaken,
    CASE
        WHEN found.kind = 'unchanged' THEN pg_logical_emit_message(true, 'workflow', '')
    END IS NOT NULL AS backed,
    found.kind,
    found.schedule_id,
    found.workflow_id,
    found.workflow_version,
    found.overlap_policy,
    found.queue,
    found.priority,
    found.enabled,
    found.next_fire_at,
    found.last_fire_at,
    found.revision,
    found.created_at,
    found.updated_at,
    found.spec::text AS spec,
    found.input::text AS input
FROM (VALUES (1)) AS asked (once)
LEFT JOIN found ON true;

-- name: get_schedule
-- Reads one schedule.
-- $1 schedule_id
SELECT
    schedule.schedule_id,
    schedule.workflow_id,
    schedule.workflow_version,
    schedule.overlap_policy,
    schedule.queue,
    schedule.priority,
    schedule.enabled,
    schedule.next_fire_at,
    schedule.last_fire_at,
    schedule.revision,
    schedule.created_at,
    schedule.updated_at,
    schedule.spec::text AS spec,
    schedule.input::text AS input
FROM workflow_schedules AS schedule
WHERE schedule.schedule_id = $1::text;

-- name: list_schedules
-- Lists schedules after one id, ordered by id.
-- $1 after_schedule_id  $2 limit
SELECT
    schedule.schedule_id,
    schedule.workflow_id,
    schedule.workflow_version,
    schedule.overlap_policy,
    schedule.queue,
    schedule.priority,
    schedule.enabled,
    schedule.next_fire_at,
    schedule.last_fire_at,
    schedule.revision,
    schedule.created_at,
    schedule.updated_at,
    schedule.spec::text AS spec,
    schedule.input::text AS input
FROM workflow_schedules AS schedule
WHERE schedule.schedule_id > $1::text
ORDER BY schedule.schedule_id
LIMIT $2::bigint;

-- name: delete_schedule
-- Removes a schedule and its ticks.
-- $1 schedule_id
WITH before AS MATERIALIZED (
    SELECT stored.claims
    FROM workflow_schedules AS stored
    WHERE stored.schedule_id = $1::text
),
schedule AS (
    DELETE FROM workflow_schedules AS stored
    USING before
    WHERE stored.schedule_id = $1::text AND stored.claims = before.claims
    RETURNING stored.schedule_id
),
buckets AS (
    DELETE FROM workflow_schedule_buckets AS bucket
    USING schedule
    WHERE bucket.schedule_id = schedule.schedule_id
)
SELECT NOT EXISTS (SELECT 1 FROM schedule) AS overtaken
FROM before;

-- name: claim_due_schedule_buckets
-- Claims the due tick of each schedule, unless it is claimed or lies at or before the high-water mark.
-- See leases.sql for the traps.
-- $1 owner  $2 lease_token  $3 lease_expires_at_ms  $4 now_ms  $5 limit
WITH candidate AS MATERIALIZED (
    SELECT schedule.schedule_id, schedule.claims
    FROM workflow_schedules AS schedule
    LEFT JOIN workflow_schedule_buckets AS bucket
        ON bucket.schedule_id = schedule.schedule_id AND bucket.fire_at = schedule.next_fire_at
    WHERE
        schedule.enabled
        AND schedule.next_fire_at <= (SELECT $4::bigint)
        AND (schedule.last_fire_at IS NULL OR schedule.next_fire_at > schedule.last_fire_at)
        AND (bucket.lease_expires_at IS NULL OR bucket.lease_expires_at <= (SELECT $4::bigint))
    ORDER BY schedule.next_fire_at, schedule.schedule_id
    LIMIT (SELECT $5::bigint + 32)
),
locked AS MATERIALIZED (
    SELECT schedule.schedule_id, schedule.claims
    FROM workflow_schedules AS schedule
    WHERE
        schedule.schedule_id = ANY(ARRAY(SELECT candidate.schedule_id FROM candidate))
        AND schedule.enabled
        AND schedule.next_fire_at <= (SELECT $4::bigint)
        AND (schedule.last_fire_at IS NULL OR schedule.next_fire_at > schedule.last_fire_at)
    ORDER BY schedule.next_fire_at, schedule.schedule_id
    LIMIT (SELECT $5::bigint)
    FOR NO KEY UPDATE SKIP LOCKED
),
taken AS (
    UPDATE workflow_schedules AS stored
    SET claims = stored.claims + 1
    FROM locked
    INNER JOIN candidate ON candidate.schedule_id = locked.schedule_id AND candidate.claims = locked.claims
    WHERE stored.schedule_id = locked.schedule_id
    RETURNING stored.*
),
bucket AS (
    INSERT INTO workflow_schedule_buckets AS stored (
        schedule_id, fire_at, lease_owner, lease_token, lease_number, lease_expires_at
    )
    SELECT taken.schedule_id, taken.next_fire_at, $1::text, $2::text, 1, $3::bigint
    FROM taken
    ON CONFLICT (schedule_id, fire_at) DO UPDATE
    SET
        lease_owner = excluded.lease_owner,
        lease_token = excluded.lease_token,
        lease_number = stored.lease_number + 1,
        lease_expires_at = excluded.lease_expires_at
    RETURNING
        stored.schedule_id,
        stored.fire_at,
        stored.lease_owner,
        stored.lease_token,
        stored.lease_number,
        stored.lease_expires_at
),
answer AS (
    SELECT
        min(tick.due_at) AS next_due,
        $5::bigint > 0 AND min(tick.due_at) <= $4::bigint AND NOT EXISTS (SELECT 1 FROM taken) AS overtaken
    FROM (
        (
            SELECT later.next_fire_at AS due_at
            FROM workflow_schedules AS later
            WHERE
                later.enabled
                AND later.next_fire_at > (SELECT $4::bigint)
                AND (later.last_fire_at IS NULL OR later.next_fire_at > later.last_fire_at)
            ORDER BY later.next_fire_at
            LIMIT 1
        )
        UNION ALL
        -- Few schedules are due at a time; a join would make the server read all ticks in case they were many.
        SELECT
            coalesce(
                (
                    SELECT bucket.lease_expires_at
                    FROM workflow_schedule_buckets AS bucket
                    WHERE bucket.schedule_id = schedule.schedule_id AND bucket.fire_at = schedule.next_fire_at
                ),
                schedule.next_fire_at
            ) AS due_at
        FROM workflow_schedules AS schedule
        WHERE
            schedule.enabled
            AND schedule.next_fire_at <= (SELECT $4::bigint)
            AND (schedule.last_fire_at IS NULL OR schedule.next_fire_at > schedule.last_fire_at)
            AND schedule.schedule_id <> ALL(ARRAY(SELECT taken.schedule_id FROM taken))
    ) AS tick
)
SELECT
    answer.next_due,
    answer.overtaken,
    taken.schedule_id,
    taken.workflow_id,
    taken.workflow_version,
    taken.overlap_policy,
    taken.queue,
    taken.priority,
    taken.enabled,
    taken.next_fire_at,
    taken.last_fire_at,
    taken.revision,
    taken.created_at,
    taken.updated_at,
    taken.spec::text AS spec,
    taken.input::text AS input,
    bucket.fire_at,
    bucket.lease_owner,
    bucket.lease_token,
    bucket.lease_number,
    bucket.lease_expires_at
FROM answer
LEFT JOIN bucket ON true
LEFT JOIN taken ON taken.schedule_id = bucket.schedule_id
ORDER BY taken.next_fire_at, taken.schedule_id;

-- name: mark_schedule_bucket_started
-- Starts a claimed tick's run, or skips the tick, and moves the schedule on. Older ticks are forgotten; the high-water
-- mark keeps them from firing again.
-- $1 schedule_id  $2 fire_at_ms  $3 lease_token  $4 expected_revision  $5 next_fire_at_ms  $6 run_id  $7 now_ms
-- $8 operation_id  $9 outcome  $10 creation_id  $11 creation_answer  $12 tells
WITH schedule AS MATERIALIZED (
    SELECT
        stored.schedule_id,
        stored.revision,
        stored.workflow_id,
        stored.workflow_version,
        stored.queue,
        stored.priority,
        stored.input
    FROM workflow_schedules AS stored
    WHERE stored.schedule_id = $1::text
    FOR NO KEY UPDATE
),
bucket AS MATERIALIZED (
    SELECT stored.lease_token, stored.outcome, stored.run_id, stored.operation_id
    FROM workflow_schedule_buckets AS stored
    WHERE
        stored.schedule_id = (SELECT schedule.schedule_id FROM schedule)
        AND stored.fire_at = $2::bigint
    FOR NO KEY UPDATE
),
fenced AS MATERIALIZED (
    SELECT schedule.*
    FROM schedule
    INNER JOIN bucket ON bucket.lease_token = $3::text
    WHERE schedule.revision = $4::bigint
),
head AS (
    INSERT INTO workflow_event_locks (
        run_id, workflow_id, workflow_version, queue, priority, created_at, updated_at, status, due_at,
        lease_number, operation_id, operation_answer, next_index, inbox_seq, cancel_requested, crashes, awaiting
    )
    SELECT
        $6::text, fenced.workflow_id, fenced.workflow_version, fenced.queue, fenced.priority,
        $7::bigint, $7::bigint, 'queued', $7::bigint,
        0, $10::text, $11::text::json, 0, 0, false, 0, '[]'
    FROM fenced
    WHERE $6::text IS NOT NULL
    ON CONFLICT (run_id) DO NOTHING
    RETURNING tableoid, run_id, workflow_id, workflow_version, queue, priority, created_at
),
run AS (
    INSERT INTO workflow_runs (run_id, workflow_id, workflow_version, queue, priority, created_at)
    SELECT head.run_id, head.workflow_id, head.workflow_version, head.queue, head.priority, head.created_at
    FROM head
),
state AS (
    INSERT INTO workflow_run_states (run_id, input)
    SELECT head.run_id, fenced.input
    FROM head
    CROSS JOIN fenced
),
moved AS (
    UPDATE workflow_schedules AS stored
    SET
        next_fire_at = $5::bigint,
        last_fire_at = greatest(stored.last_fire_at, $2::bigint),
        updated_at = $7::bigint
    FROM fenced
    WHERE stored.schedule_id = fenced.schedule_id
),
forgotten AS (
    DELETE FROM workflow_schedule_buckets AS stored
    USING fenced
    WHERE stored.schedule_id = fenced.schedule_id AND stored.fire_at < $2::bigint
),
marked AS (
    UPDATE workflow_schedule_buckets AS stored
    SET
        lease_owner = NULL,
        lease_token = NULL,
        lease_expires_at = NULL,
        outcome = $9::text,
        run_id = $6::text,
        operation_id = $8::text
    FROM fenced
    WHERE stored.schedule_id = fenced.schedule_id AND stored.fire_at = $2::bigint
)
SELECT
    schedule.revision,
    bucket.lease_token,
    bucket.outcome,
    bucket.run_id,
    bucket.operation_id,
    head.run_id IS NOT NULL AS wakes,
    CASE
        WHEN $12::boolean AND head.run_id IS NOT NULL
            THEN pg_notify('workflow_work_' || head.tableoid, head.run_id)
    END AS told
FROM schedule
LEFT JOIN bucket ON true
LEFT JOIN head ON true;
