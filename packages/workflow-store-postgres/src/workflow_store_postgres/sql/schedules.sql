-- Schedules and their ticks. The schedule's row says everything that decides: which tick is claimed and by whom, which
-- one was settled last, which one is buffered, and the earliest of those that were requested. A bucket, in the names of
-- the tables and the verbs, is one tick.
--
-- Traps. A row lock gives the newest version of the schedule, but the runs and the requested ticks are read as of the
-- statement's beginning: a run that was started while this statement waited would not be there, and count as ended. So
-- a statement acts only on a row that is still what its beginning saw: `changes` counts every change of the row. What it
-- then does not know of the previous run is at most that it has ended meanwhile. See runs.sql for `overtaken`
-- and `backed`.

-- fragment: schedule_columns
-- What the codec reads of a schedule.
schedule.schedule_id,
schedule.workflow_id,
schedule.workflow_version,
schedule.overlap_policy,
schedule.queue,
schedule.priority,
schedule.enabled,
schedule.next_fire_at,
schedule.last_fire_at,
schedule.buffered_fire_at,
schedule.previous_run_id,
schedule.revision,
schedule.created_at,
schedule.updated_at,
schedule.spec::text AS spec,
schedule.input::text AS input

-- fragment: asked_schedule
-- The schedule that the statement is about.
-- $1 schedule_id
FROM workflow_schedules AS stored
WHERE stored.schedule_id = $1::text

-- fragment: tick_ended
-- The assignments after which no tick is claimed.
tick_at = NULL,
tick_source = NULL,
tick_overlap = NULL,
-- include: lease_ended

-- name: upsert_schedule
-- Creates a schedule or changes its definition; changes nothing when the definition is the stored one.
-- $1 schedule_id  $2 workflow_id  $3 workflow_version  $4 overlap_policy  $5 queue  $6 priority  $7 enabled
-- $8 next_fire_at_ms  $9 spec  $10 input  $11 now_ms  $12 expected_revision
WITH before AS MATERIALIZED (
    SELECT
        stored.changes,
        $12::bigint IS NULL OR stored.revision = $12::bigint AS expected,
        (
            stored.workflow_id, stored.workflow_version, stored.overlap_policy, stored.queue,
            stored.priority, stored.enabled, stored.spec::text, stored.input::text
        )
        = (
            $2::text, $3::text, $4::text, $5::text,
            $6::smallint, coalesce($7::boolean, stored.enabled), $9::text, $10::text
        ) AS same
    -- include: asked_schedule
),
changed AS (
    UPDATE workflow_schedules AS stored
    SET
        workflow_id = $2::text,
        workflow_version = $3::text,
        overlap_policy = $4::text,
        queue = $5::text,
        priority = $6::smallint,
        enabled = coalesce($7::boolean, stored.enabled),
        next_fire_at = CASE
            WHEN stored.spec::text <> $9::text OR ($7::boolean AND NOT stored.enabled) THEN $8::bigint
            ELSE stored.next_fire_at
        END,
        -- include: tick_ended
        revision = stored.revision + 1,
        changes = stored.changes + 1,
        updated_at = $11::bigint,
        spec = $9::text::json,
        input = $10::text::json
    FROM before
    WHERE
        stored.schedule_id = $1::text
        AND stored.changes = before.changes
        AND before.expected
        AND NOT before.same
    RETURNING stored.*
),
created AS (
    INSERT INTO workflow_schedules AS stored (
        schedule_id, workflow_id, workflow_version, overlap_policy, queue, priority, enabled,
        next_fire_at, revision, changes, lease_number, created_at, updated_at, spec, input
    )
    SELECT
        $1::text, $2::text, $3::text, $4::text, $5::text, $6::smallint, coalesce($7::boolean, true),
        $8::bigint, 1, 0, 0, $11::bigint, $11::bigint, $9::text::json, $10::text::json
    WHERE $12::bigint IS NULL AND NOT EXISTS (SELECT 1 FROM before)
    ON CONFLICT (schedule_id) DO NOTHING
    RETURNING stored.*
),
found AS (
    SELECT 'updated' AS kind, changed.*
    FROM changed
    UNION ALL
    SELECT 'created' AS kind, created.*
    FROM created
    UNION ALL
    SELECT CASE WHEN before.expected THEN 'unchanged' ELSE 'conflict' END AS kind, stored.*
    FROM before
    INNER JOIN workflow_schedules AS stored ON stored.schedule_id = $1::text
    WHERE before.same OR NOT before.expected
)
SELECT
    found.kind IS NULL AND ($12::bigint IS NULL OR EXISTS (SELECT 1 FROM before)) AS overtaken,
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
    found.buffered_fire_at,
    found.previous_run_id,
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
    -- include: schedule_columns
FROM workflow_schedules AS schedule
WHERE schedule.schedule_id = $1::text;

-- name: list_schedules
-- Lists schedules after one id, ordered by id.
-- $1 after_schedule_id  $2 limit
SELECT
    -- include: schedule_columns
FROM workflow_schedules AS schedule
WHERE schedule.schedule_id > $1::text
ORDER BY schedule.schedule_id
LIMIT $2::bigint;

-- name: delete_schedule
-- Removes a schedule and its ticks.
-- $1 schedule_id
WITH before AS MATERIALIZED (
    SELECT stored.changes
    -- include: asked_schedule
),
schedule AS (
    DELETE FROM workflow_schedules AS stored
    USING before
    WHERE stored.schedule_id = $1::text AND stored.changes = before.changes
    RETURNING stored.schedule_id
),
buckets AS (
    DELETE FROM workflow_schedule_buckets AS bucket
    USING schedule
    WHERE bucket.schedule_id = schedule.schedule_id
)
SELECT NOT EXISTS (SELECT 1 FROM schedule) AS overtaken
FROM before;

-- name: request_schedule_buckets
-- Writes down the ticks that are asked for, but for those that wait already.
-- $1 schedule_id  $2 fire_times_ms  $3 now_ms  $4 overlap
WITH before AS MATERIALIZED (
    SELECT stored.changes
    -- include: asked_schedule
),
news AS MATERIALIZED (
    SELECT DISTINCT asked.fire_at
    FROM unnest((SELECT $2::text[]::bigint[])) AS asked (fire_at)
    WHERE
        NOT EXISTS (
            SELECT 1
            FROM workflow_schedule_buckets AS bucket
            WHERE bucket.schedule_id = (SELECT $1::text) AND bucket.fire_at = asked.fire_at
        )
),
schedule AS (
    UPDATE workflow_schedules AS stored
    SET
        -- Those that wait for no run come first.
        requested_fire_at = CASE
            WHEN stored.requested_waits < news_first.waits THEN stored.requested_fire_at
            WHEN stored.requested_waits > news_first.waits THEN news_first.fire_at
            ELSE least(stored.requested_fire_at, news_first.fire_at)
        END,
        requested_waits = least(stored.requested_waits, news_first.waits),
        changes = stored.changes + 1
    FROM before
    CROSS JOIN (
        SELECT min(news.fire_at) AS fire_at, coalesce($4::text, '') = 'buffer-all' AS waits
        FROM news
    ) AS news_first
    WHERE
        stored.schedule_id = $1::text
        AND stored.changes = before.changes
        AND EXISTS (SELECT 1 FROM news)
    RETURNING stored.schedule_id
),
buckets AS (
    INSERT INTO workflow_schedule_buckets (schedule_id, fire_at, requested_at, waits, overlap)
    SELECT schedule.schedule_id, news.fire_at, $3::bigint, coalesce($4::text, '') = 'buffer-all', $4::text
    FROM schedule
    CROSS JOIN news
)
SELECT
    EXISTS (SELECT 1 FROM news) AND NOT EXISTS (SELECT 1 FROM schedule) AS overtaken,
    CASE
        WHEN NOT EXISTS (SELECT 1 FROM news) THEN pg_logical_emit_message(true, 'workflow', '')
    END IS NOT NULL AS backed,
    (SELECT count(*) FROM news) AS requested
FROM before;

-- name: list_requested_buckets
-- Lists the ticks that were requested and are not settled.
-- $1 schedule_id  $2 from_ms  $3 limit
SELECT bucket.fire_at, bucket.requested_at, bucket.overlap
FROM workflow_schedule_buckets AS bucket
WHERE bucket.schedule_id = $1::text AND bucket.fire_at >= $2::bigint
ORDER BY bucket.fire_at
LIMIT $3::bigint;

-- fragment: has_next_tick
-- A schedule that is enabled and has a tick to come.
schedule.enabled
AND schedule.next_fire_at > coalesce(schedule.last_fire_at, -1)

-- fragment: scheduled_in_lane
-- The schedules of one workflow that have a tick to come.
-- include: has_next_tick
AND schedule.workflow_id = lane.workflow_id

-- name: claim_due_schedule_buckets
-- Claims the tick of each schedule that comes first, unless one is claimed already.
-- See leases.sql for `lane`, and for why values are hidden from the server.
-- $1 owner  $2 lease_token  $3 lease_expires_at_ms  $4 now_ms  $5 limit  $6 workflow_ids
WITH RECURSIVE lane AS (
    (
        SELECT schedule.workflow_id
        FROM workflow_schedules AS schedule
        WHERE schedule.enabled AND schedule.next_fire_at > coalesce(schedule.last_fire_at, -1)
        ORDER BY schedule.workflow_id
        LIMIT 1
    )
    UNION ALL
    SELECT further.workflow_id
    FROM lane
    CROSS JOIN LATERAL (
        SELECT schedule.workflow_id
        FROM workflow_schedules AS schedule
        WHERE
            -- include: has_next_tick
            AND schedule.workflow_id > lane.workflow_id
        ORDER BY schedule.workflow_id
        LIMIT 1
    ) AS further
),
found AS MATERIALIZED (
    SELECT due.schedule_id
    FROM lane
    CROSS JOIN LATERAL (
        SELECT schedule.schedule_id
        FROM workflow_schedules AS schedule
        WHERE
            -- include: scheduled_in_lane
            AND schedule.next_fire_at <= (SELECT $4::bigint)
            AND coalesce(schedule.lease_expires_at, 0) <= (SELECT $4::bigint)
        ORDER BY schedule.next_fire_at, schedule.schedule_id
        LIMIT (SELECT $5::bigint + 32)
    ) AS due
    UNION
    SELECT schedule.schedule_id
    FROM workflow_schedules AS schedule
    WHERE schedule.requested_fire_at IS NOT NULL
    UNION
    SELECT schedule.schedule_id
    FROM workflow_schedules AS schedule
    WHERE schedule.buffered_fire_at IS NOT NULL
),
scheduled AS MATERIALIZED (
    SELECT
        schedule.schedule_id,
        schedule.changes,
        schedule.buffered_fire_at,
        schedule.requested_fire_at,
        schedule.requested_waits,
        CASE
            WHEN
                -- include: has_next_tick
                AND schedule.next_fire_at <= (SELECT $4::bigint)
                THEN schedule.next_fire_at
        END AS due_fire_at,
        (
            SELECT previous.run_id
            FROM workflow_event_locks AS previous
            WHERE previous.run_id = schedule.previous_run_id AND previous.status IN ('queued', 'running', 'paused')
        ) AS live_run_id,
        (SELECT $6::text[]) IS NULL OR schedule.workflow_id = ANY((SELECT $6::text[])::text[]) AS wanted
    FROM workflow_schedules AS schedule
    WHERE
        schedule.schedule_id = ANY(ARRAY(SELECT found.schedule_id FROM found))
        AND coalesce(schedule.lease_expires_at, 0) <= (SELECT $4::bigint)
),
waiting AS MATERIALIZED (
    SELECT
        scheduled.schedule_id,
        scheduled.changes,
        scheduled.live_run_id,
        scheduled.wanted,
        tick.fire_at,
        tick.source
    FROM scheduled
    CROSS JOIN LATERAL (
        SELECT scheduled.buffered_fire_at AS fire_at, 'buffered' AS source, 1 AS place
        WHERE scheduled.buffered_fire_at IS NOT NULL AND scheduled.live_run_id IS NULL
        UNION ALL
        SELECT scheduled.due_fire_at, 'due', 2
        WHERE
            scheduled.due_fire_at <= coalesce(scheduled.requested_fire_at, scheduled.due_fire_at)
            OR (scheduled.due_fire_at IS NOT NULL AND scheduled.requested_waits AND scheduled.live_run_id IS NOT NULL)
        UNION ALL
        SELECT scheduled.requested_fire_at, 'requested', 3
        WHERE
            scheduled.requested_fire_at IS NOT NULL
            AND NOT (scheduled.requested_waits AND scheduled.live_run_id IS NOT NULL)
        ORDER BY place
        LIMIT 1
    ) AS tick
),
candidate AS MATERIALIZED (
    SELECT waiting.schedule_id, waiting.changes, waiting.live_run_id, waiting.fire_at, waiting.source
    FROM waiting
    WHERE waiting.wanted
    ORDER BY waiting.fire_at, waiting.schedule_id
    LIMIT (SELECT $5::bigint + 32)
),
locked AS MATERIALIZED (
    SELECT schedule.schedule_id, candidate.live_run_id, candidate.fire_at, candidate.source
    FROM candidate
    INNER JOIN workflow_schedules AS schedule
        ON schedule.schedule_id = candidate.schedule_id AND schedule.changes = candidate.changes
    WHERE schedule.schedule_id = ANY(ARRAY(SELECT candidate.schedule_id FROM candidate))
    ORDER BY candidate.fire_at, candidate.schedule_id
    LIMIT (SELECT $5::bigint)
    FOR NO KEY UPDATE OF schedule SKIP LOCKED
),
taken AS (
    UPDATE workflow_schedules AS stored
    SET
        tick_at = locked.fire_at,
        tick_source = locked.source,
        tick_overlap = (
            SELECT bucket.overlap
            FROM workflow_schedule_buckets AS bucket
            WHERE bucket.schedule_id = locked.schedule_id AND bucket.fire_at = locked.fire_at
        ),
        -- include: lease_begun
        changes = stored.changes + 1
    FROM locked
    WHERE stored.schedule_id = locked.schedule_id
    RETURNING stored.*, locked.live_run_id AS overlapping_run_id
),
answer AS (
    SELECT
        least(
            (
                SELECT $4::bigint
                FROM waiting
                WHERE waiting.wanted AND waiting.schedule_id <> ALL(ARRAY(SELECT taken.schedule_id FROM taken))
                LIMIT 1
            ),
            (
                SELECT min(later.next_fire_at)
                FROM lane
                CROSS JOIN LATERAL (
                    SELECT schedule.next_fire_at
                    FROM workflow_schedules AS schedule
                    WHERE
                        -- include: scheduled_in_lane
                        AND schedule.next_fire_at > (SELECT $4::bigint)
                    ORDER BY schedule.next_fire_at
                    LIMIT 1
                ) AS later
                WHERE (SELECT $6::text[]) IS NULL OR lane.workflow_id = ANY((SELECT $6::text[])::text[])
            ),
            (
                SELECT min(claimed.lease_expires_at)
                FROM workflow_schedules AS claimed
                WHERE
                    claimed.lease_token IS NOT NULL
                    AND claimed.lease_expires_at > (SELECT $4::bigint)
                    AND ((SELECT $6::text[]) IS NULL OR claimed.workflow_id = ANY((SELECT $6::text[])::text[]))
            )
        ) AS next_due,
        ARRAY(
            SELECT waiting.schedule_id
            FROM waiting
            WHERE NOT waiting.wanted
            LIMIT 10
        ) AS unclaimable,
        $5::bigint > 0
        AND EXISTS (SELECT 1 FROM candidate)
        AND NOT EXISTS (SELECT 1 FROM taken) AS overtaken
)
SELECT
    answer.next_due,
    answer.unclaimable,
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
    taken.buffered_fire_at,
    taken.previous_run_id,
    taken.revision,
    taken.created_at,
    taken.updated_at,
    taken.spec::text AS spec,
    taken.input::text AS input,
    taken.tick_at,
    taken.tick_source,
    coalesce(taken.tick_overlap, taken.overlap_policy) AS tick_policy,
    taken.lease_owner,
    taken.lease_token,
    taken.lease_number,
    taken.lease_expires_at,
    taken.overlapping_run_id
FROM answer
LEFT JOIN taken ON true
ORDER BY taken.tick_at, taken.schedule_id;

-- name: mark_schedule_bucket_started
-- Settles a claimed tick: starts its run, skips it or puts it back.
-- $1 schedule_id  $2 fire_at_ms  $3 lease_token  $4 expected_revision  $5 run_id  $6 next_fire_at_ms  $7 now_ms
-- $8 operation_id  $9 action  $10 due_at_ms  $11 creation_id  $12 creation_answer  $13 notifies
WITH before AS MATERIALIZED (
    SELECT
        stored.changes,
        (
            SELECT previous.run_id
            FROM workflow_event_locks AS previous
            WHERE previous.run_id = stored.previous_run_id AND previous.status IN ('queued', 'running', 'paused')
        ) AS live_run_id
    -- include: asked_schedule
),
schedule AS MATERIALIZED (
    SELECT stored.*, coalesce(stored.tick_overlap, stored.overlap_policy) AS tick_policy
    -- include: asked_schedule
    FOR NO KEY UPDATE
),
fenced AS MATERIALIZED (
    SELECT
        schedule.*,
        CASE
            WHEN $9::text = 'start' THEN 'started'
            WHEN $9::text = 'skip' THEN 'skipped'
            WHEN schedule.tick_policy = 'buffer-all' THEN 'buffered'
            WHEN schedule.buffered_fire_at > $2::bigint THEN 'skipped'
            WHEN schedule.tick_policy = 'buffer-one' AND schedule.buffered_fire_at <> $2::bigint THEN 'skipped'
            ELSE 'buffered'
        END AS outcome
    FROM schedule
    INNER JOIN before ON before.changes = schedule.changes
    WHERE
        schedule.tick_at = $2::bigint
        AND schedule.lease_token = $3::text
        AND schedule.revision = $4::bigint
        AND (
            $5::text IS NULL
            OR schedule.tick_policy = 'allow'
            OR before.live_run_id IS NULL
            OR before.live_run_id = $5::text
        )
        AND (
            $5::text IS NULL
            OR schedule.tick_policy = 'allow'
            OR coalesce(schedule.buffered_fire_at, $2::bigint) = $2::bigint
            OR (
                schedule.tick_policy IN ('cancel-previous', 'terminate-previous')
                AND schedule.buffered_fire_at < $2::bigint
            )
        )
),
head AS (
    INSERT INTO workflow_event_locks (
        -- include: queued_columns
    )
    SELECT
        $5::text, fenced.workflow_id, fenced.workflow_version, fenced.queue, fenced.priority,
        $7::bigint, $7::bigint, 'queued', $10::bigint,
        0, $11::text, $12::text::json, 0, 0, false, 0, '[]'
    FROM fenced
    WHERE $5::text IS NOT NULL
    -- include: unless_taken
),
-- include: write_run
state AS (
    INSERT INTO workflow_run_states (run_id, schedule_id, scheduled_at, input)
    SELECT head.run_id, fenced.schedule_id, $2::bigint, fenced.input
    FROM head
    CROSS JOIN fenced
),
bucket AS (
    DELETE FROM workflow_schedule_buckets AS stored
    USING fenced
    WHERE
        stored.schedule_id = fenced.schedule_id
        AND stored.fire_at = $2::bigint
        AND NOT (fenced.outcome = 'buffered' AND fenced.tick_policy = 'buffer-all')
),
first AS MATERIALIZED (
    SELECT bucket.fire_at, bucket.waits
    FROM workflow_schedule_buckets AS bucket
    CROSS JOIN fenced
    WHERE
        bucket.schedule_id = (SELECT $1::text)
        AND (bucket.fire_at <> $2::bigint OR (fenced.outcome = 'buffered' AND fenced.tick_policy = 'buffer-all'))
    ORDER BY bucket.waits, bucket.fire_at
    LIMIT 1
),
settled AS (
    UPDATE workflow_schedules AS stored
    SET
        next_fire_at = CASE WHEN fenced.tick_source = 'due' THEN $6::bigint ELSE fenced.next_fire_at END,
        last_fire_at = CASE WHEN fenced.tick_source = 'due' THEN $2::bigint ELSE fenced.last_fire_at END,
        buffered_fire_at = CASE
            WHEN fenced.outcome = 'buffered' AND fenced.tick_policy = 'buffer-all' THEN fenced.buffered_fire_at
            WHEN fenced.outcome = 'buffered' THEN $2::bigint
            WHEN fenced.outcome = 'started' AND fenced.tick_policy IN ('cancel-previous', 'terminate-previous') THEN NULL
            WHEN fenced.buffered_fire_at <> $2::bigint THEN fenced.buffered_fire_at
        END,
        requested_fire_at = (SELECT first.fire_at FROM first),
        requested_waits = (SELECT first.waits FROM first),
        previous_run_id = coalesce($5::text, fenced.previous_run_id),
        -- include: tick_ended
        settled_fire_at = $2::bigint,
        settled_operation_id = $8::text,
        settled_outcome = fenced.outcome,
        changes = fenced.changes + 1,
        updated_at = $7::bigint
    FROM fenced
    WHERE stored.schedule_id = fenced.schedule_id
)
SELECT
    schedule.changes <> before.changes AS overtaken,
    schedule.revision,
    schedule.tick_at,
    schedule.lease_token,
    schedule.settled_fire_at,
    schedule.settled_operation_id,
    schedule.settled_outcome,
    schedule.buffered_fire_at,
    schedule.previous_run_id,
    before.live_run_id,
    fenced.outcome,
    head.run_id IS NOT NULL AS wakes,
    CASE
        WHEN $13::boolean AND head.run_id IS NOT NULL
            THEN pg_notify('workflow_work_' || head.tableoid, head.run_id)
    END AS notified
FROM schedule
CROSS JOIN before
LEFT JOIN fenced ON true
LEFT JOIN head ON true;
