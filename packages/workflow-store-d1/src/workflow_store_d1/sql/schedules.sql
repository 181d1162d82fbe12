-- Schedules and their ticks. The schedule's row says everything that decides: which tick is claimed and by whom, which
-- one was settled last, which one is buffered, and the earliest of those that were requested. A bucket, in the names of
-- the tables and the verbs, is one tick.

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
schedule.spec,
json_valid(schedule.spec) AS spec_valid,
schedule.input,
json_valid(schedule.input) AS input_valid

-- fragment: no_claimed_tick
-- What a schedule's row holds once no tick is claimed; other columns follow.
tick_at = NULL,
tick_source = NULL,
tick_overlap = NULL,
-- include: no_lease

-- name: upsert_schedule
-- Creates a schedule or changes its definition; writes nothing when the definition is the stored one.
-- statement: before
-- ?1 schedule_id
SELECT schedule.revision
FROM workflow_schedules AS schedule
WHERE schedule.schedule_id = ?1;

-- statement: created
-- ?1 schedule_id  ?2 workflow_id  ?3 workflow_version  ?4 overlap_policy  ?5 queue  ?6 priority  ?7 enabled
-- ?8 next_fire_at_ms  ?9 spec  ?10 input  ?11 now_ms  ?12 expected_revision
INSERT INTO workflow_schedules (
    schedule_id, workflow_id, workflow_version, overlap_policy, queue, priority, enabled,
    next_fire_at, revision, lease_number, created_at, updated_at, spec, input
)
SELECT ?1, ?2, ?3, ?4, ?5, ?6, coalesce(?7, 1), ?8, 1, 0, ?11, ?11, ?9, ?10
WHERE ?12 IS NULL
ON CONFLICT (schedule_id) DO NOTHING;

-- statement: changed
-- ?1 schedule_id  ?2 workflow_id  ?3 workflow_version  ?4 overlap_policy  ?5 queue  ?6 priority  ?7 enabled
-- ?8 next_fire_at_ms  ?9 spec  ?10 input  ?11 now_ms  ?12 expected_revision
UPDATE workflow_schedules
SET
    workflow_id = ?2,
    workflow_version = ?3,
    overlap_policy = ?4,
    queue = ?5,
    priority = ?6,
    enabled = coalesce(?7, enabled),
    next_fire_at = CASE WHEN spec <> ?9 OR coalesce(?7, enabled) > enabled THEN ?8 ELSE next_fire_at END,
    -- include: no_claimed_tick
    revision = revision + 1,
    updated_at = ?11,
    spec = ?9,
    input = ?10
WHERE
    schedule_id = ?1
    AND (?12 IS NULL OR revision = ?12)
    AND (workflow_id, workflow_version, overlap_policy, queue, priority, enabled, spec, input)
    <> (?2, ?3, ?4, ?5, ?6, coalesce(?7, enabled), ?9, ?10);

-- statement: after
-- ?1 schedule_id
SELECT
    -- include: schedule_columns
FROM workflow_schedules AS schedule
WHERE schedule.schedule_id = ?1;

-- name: get_schedule
-- Reads one schedule.
-- ?1 schedule_id
SELECT
    -- include: schedule_columns
FROM workflow_schedules AS schedule
WHERE schedule.schedule_id = ?1;

-- name: list_schedules
-- Lists schedules after one id, ordered by id.
-- ?1 after_schedule_id  ?2 limit
SELECT
    -- include: schedule_columns
FROM workflow_schedules AS schedule
WHERE schedule.schedule_id > ?1
ORDER BY schedule.schedule_id
LIMIT ?2;

-- name: delete_schedule
-- Removes a schedule and its ticks.
-- statement: buckets
-- ?1 schedule_id
DELETE FROM workflow_schedule_buckets
WHERE schedule_id = ?1;

-- statement: schedule
-- ?1 schedule_id
DELETE FROM workflow_schedules
WHERE schedule_id = ?1
RETURNING schedule_id;

-- fragment: first_requested_tick
-- The requested tick that is started first; those that wait for the previous run come last.
-- ?1 schedule_id
FROM workflow_schedule_buckets AS bucket
WHERE bucket.schedule_id = ?1
ORDER BY bucket.waits, bucket.fire_at
LIMIT 1

-- name: request_schedule_buckets
-- Writes down the ticks that are asked for, but for those that wait already.
-- statement: before
-- ?1 schedule_id
SELECT schedule.schedule_id
FROM workflow_schedules AS schedule
WHERE schedule.schedule_id = ?1;

-- statement: buckets
-- ?1 schedule_id  ?2 fire_times  ?3 now_ms  ?4 overlap
INSERT INTO workflow_schedule_buckets (schedule_id, fire_at, requested_at, waits, overlap)
SELECT schedule.schedule_id, asked.value, ?3, coalesce(?4, '') = 'buffer-all', ?4
FROM workflow_schedules AS schedule
CROSS JOIN json_each(?2) AS asked
WHERE schedule.schedule_id = ?1
ON CONFLICT (schedule_id, fire_at) DO NOTHING
RETURNING fire_at;

-- statement: schedule
-- ?1 schedule_id
UPDATE workflow_schedules
SET
    (requested_fire_at, requested_waits) = (
        SELECT bucket.fire_at, bucket.waits
        -- include: first_requested_tick
    )
WHERE
    schedule_id = ?1
    AND requested_fire_at IS NOT (
        SELECT bucket.fire_at
        -- include: first_requested_tick
    );

-- name: list_requested_buckets
-- Lists the ticks that were requested and are not settled.
-- ?1 schedule_id  ?2 from_ms  ?3 limit
SELECT bucket.fire_at, bucket.requested_at, bucket.overlap
FROM workflow_schedule_buckets AS bucket
WHERE bucket.schedule_id = ?1 AND bucket.fire_at >= ?2
ORDER BY bucket.fire_at
LIMIT ?3;

-- fragment: live_previous_run
-- The schedule's previous run, if it is live.
SELECT 1
FROM workflow_event_locks AS previous
WHERE previous.run_id = schedule.previous_run_id AND previous.status IN ('queued', 'running', 'paused')

-- fragment: has_next_tick
-- The schedule is enabled, and its next tick is not settled.
schedule.enabled = 1
AND schedule.next_fire_at > coalesce(schedule.last_fire_at, -1)

-- fragment: scheduled_workflows
-- Begins the statements that look for ticks: `lane` hops from one workflow with a next tick to another.
WITH RECURSIVE lane (workflow_id) AS (
    SELECT min(schedule.workflow_id)
    FROM workflow_schedules AS schedule
    WHERE
        -- include: has_next_tick
    UNION ALL
    SELECT (
        SELECT min(schedule.workflow_id)
        FROM workflow_schedules AS schedule
        WHERE
            -- include: has_next_tick
            AND schedule.workflow_id > lane.workflow_id
    )
    FROM lane
    WHERE lane.workflow_id IS NOT NULL
),

-- fragment: scheduled_in_lane
-- The schedules of one workflow that have a next tick; further conditions follow.
FROM workflow_schedules AS schedule
WHERE
    -- include: has_next_tick
    AND schedule.workflow_id = lane.workflow_id

-- fragment: requested_schedules
-- The schedules with a tick that was requested; further conditions follow.
SELECT schedule.schedule_id
FROM workflow_schedules AS schedule
WHERE
    schedule.requested_fire_at >= 0

-- fragment: requested_may_start
-- The requested tick does not wait, or the previous run is not live.
schedule.requested_waits = 0
OR NOT EXISTS (
    -- include: live_previous_run
)

-- fragment: buffered_schedules
-- The schedules with a buffered tick; further conditions follow.
SELECT schedule.schedule_id
FROM workflow_schedules AS schedule
WHERE
    schedule.buffered_fire_at >= 0

-- name: claim_due_schedule_buckets
-- Claims the tick of each schedule that comes first, unless one is claimed already.
-- `lane` hops from one workflow to the next, so that what is due of others, or later, costs nothing. Nothing is taken
-- where something has the token already: the batch was sent twice.
-- statement: schedules
-- ?1 owner  ?2 lease_token  ?3 lease_expires_at_ms  ?4 now_ms  ?5 limit  ?6 workflow_ids
-- include: scheduled_workflows
found (schedule_id) AS (
    SELECT due.schedule_id
    FROM lane
    CROSS JOIN workflow_schedules AS due
        ON due.schedule_id IN (
            SELECT schedule.schedule_id
            -- include: scheduled_in_lane
                AND schedule.next_fire_at <= ?4
                AND coalesce(schedule.lease_expires_at, 0) <= ?4
            ORDER BY schedule.next_fire_at, schedule.schedule_id
            LIMIT ?5
        )
    WHERE (?6 IS NULL OR lane.workflow_id IN (SELECT wanted.value FROM json_each(?6) AS wanted))
    UNION
    -- include: requested_schedules
        AND coalesce(schedule.lease_expires_at, 0) <= ?4
        AND (?6 IS NULL OR schedule.workflow_id IN (SELECT wanted.value FROM json_each(?6) AS wanted))
        AND (
            -- include: requested_may_start
        )
    UNION
    -- include: buffered_schedules
        AND coalesce(schedule.lease_expires_at, 0) <= ?4
        AND (?6 IS NULL OR schedule.workflow_id IN (SELECT wanted.value FROM json_each(?6) AS wanted))
        AND NOT EXISTS (
            -- include: live_previous_run
        )
),
waiting AS (
    SELECT
        schedule.schedule_id,
        schedule.next_fire_at,
        schedule.buffered_fire_at,
        schedule.requested_fire_at,
        CASE
            WHEN schedule.buffered_fire_at IS NOT NULL AND previous.run_id IS NULL THEN 'buffered'
            WHEN
                -- include: has_next_tick
                AND schedule.next_fire_at <= ?4
                AND (
                    schedule.next_fire_at <= coalesce(schedule.requested_fire_at, ?4)
                    OR (schedule.requested_waits = 1 AND previous.run_id IS NOT NULL)
                )
                THEN 'due'
            ELSE 'requested'
        END AS source
    FROM found
    CROSS JOIN workflow_schedules AS schedule ON schedule.schedule_id = found.schedule_id
    LEFT JOIN workflow_event_locks AS previous
        ON previous.run_id = schedule.previous_run_id AND previous.status IN ('queued', 'running', 'paused')
),
chosen AS (
    SELECT
        waiting.schedule_id,
        waiting.source,
        CASE waiting.source
            WHEN 'buffered' THEN waiting.buffered_fire_at
            WHEN 'due' THEN waiting.next_fire_at
            ELSE waiting.requested_fire_at
        END AS fire_at
    FROM waiting
    WHERE NOT EXISTS (SELECT 1 FROM workflow_schedules AS mine WHERE mine.lease_token = ?2)
    ORDER BY fire_at, waiting.schedule_id
    LIMIT ?5
)
UPDATE workflow_schedules
SET
    tick_at = chosen.fire_at,
    tick_source = chosen.source,
    tick_overlap = (
        SELECT bucket.overlap
        FROM workflow_schedule_buckets AS bucket
        WHERE bucket.schedule_id = chosen.schedule_id AND bucket.fire_at = chosen.fire_at
    ),
    lease_owner = ?1,
    lease_token = ?2,
    lease_number = workflow_schedules.lease_number + 1,
    lease_expires_at = ?3
FROM chosen
WHERE
    workflow_schedules.schedule_id = chosen.schedule_id
    -- Without this line every schedule would be read for it.
    AND workflow_schedules.schedule_id IN (SELECT chosen.schedule_id FROM chosen);

-- statement: claimed
-- ?1 lease_token
SELECT
    schedule.tick_at,
    schedule.tick_source,
    coalesce(schedule.tick_overlap, schedule.overlap_policy) AS tick_policy,
    schedule.lease_owner,
    schedule.lease_token,
    schedule.lease_number,
    schedule.lease_expires_at,
    previous.run_id AS overlapping_run_id,
    -- include: schedule_columns
FROM workflow_schedules AS schedule
LEFT JOIN workflow_event_locks AS previous
    ON previous.run_id = schedule.previous_run_id AND previous.status IN ('queued', 'running', 'paused')
WHERE schedule.lease_token = ?1
ORDER BY schedule.tick_at, schedule.schedule_id;

-- statement: next_due
-- What this claim took is claimed by now. A tick that could be claimed is due at the present.
-- ?1 lease_token  ?2 now_ms  ?3 workflow_ids
-- include: scheduled_workflows
found (schedule_id) AS (
    SELECT due.schedule_id
    FROM lane
    CROSS JOIN workflow_schedules AS due
        ON due.schedule_id IN (
            SELECT schedule.schedule_id
            -- include: scheduled_in_lane
                AND schedule.next_fire_at <= ?2
                AND coalesce(schedule.lease_expires_at, 0) <= ?2
            ORDER BY schedule.next_fire_at, schedule.schedule_id
            LIMIT 1
        )
    WHERE (?3 IS NULL OR lane.workflow_id IN (SELECT wanted.value FROM json_each(?3) AS wanted))
    UNION
    -- include: requested_schedules
        AND coalesce(schedule.lease_expires_at, 0) <= ?2
        AND (?3 IS NULL OR schedule.workflow_id IN (SELECT wanted.value FROM json_each(?3) AS wanted))
        AND (
            -- include: requested_may_start
        )
    UNION
    -- include: buffered_schedules
        AND coalesce(schedule.lease_expires_at, 0) <= ?2
        AND (?3 IS NULL OR schedule.workflow_id IN (SELECT wanted.value FROM json_each(?3) AS wanted))
        AND NOT EXISTS (
            -- include: live_previous_run
        )
)
SELECT min(tick.due_at) AS next_due
FROM (
    SELECT ?2 AS due_at
    FROM found
    UNION ALL
    SELECT (
        SELECT schedule.next_fire_at
        -- include: scheduled_in_lane
            AND schedule.next_fire_at > ?2
        ORDER BY schedule.next_fire_at
        LIMIT 1
    ) AS due_at
    FROM lane
    WHERE (?3 IS NULL OR lane.workflow_id IN (SELECT wanted.value FROM json_each(?3) AS wanted))
    UNION ALL
    SELECT schedule.lease_expires_at AS due_at
    FROM workflow_schedules AS schedule
    WHERE
        schedule.lease_token > ''
        AND schedule.lease_token <> ?1
        AND schedule.lease_expires_at > ?2
        AND (?3 IS NULL OR schedule.workflow_id IN (SELECT wanted.value FROM json_each(?3) AS wanted))
) AS tick;

-- statement: unclaimable
-- ?1 now_ms  ?2 limit  ?3 workflow_ids
-- include: scheduled_workflows
found (schedule_id) AS (
    SELECT due.schedule_id
    FROM lane
    CROSS JOIN workflow_schedules AS due
        ON due.schedule_id IN (
            SELECT schedule.schedule_id
            -- include: scheduled_in_lane
                AND schedule.next_fire_at <= ?1
                AND coalesce(schedule.lease_expires_at, 0) <= ?1
            ORDER BY schedule.next_fire_at, schedule.schedule_id
            LIMIT ?2
        )
    WHERE lane.workflow_id NOT IN (SELECT wanted.value FROM json_each(?3) AS wanted)
    UNION
    -- include: requested_schedules
        AND coalesce(schedule.lease_expires_at, 0) <= ?1
        AND schedule.workflow_id NOT IN (SELECT wanted.value FROM json_each(?3) AS wanted)
        AND (
            -- include: requested_may_start
        )
    UNION
    -- include: buffered_schedules
        AND coalesce(schedule.lease_expires_at, 0) <= ?1
        AND schedule.workflow_id NOT IN (SELECT wanted.value FROM json_each(?3) AS wanted)
        AND NOT EXISTS (
            -- include: live_previous_run
        )
)
SELECT found.schedule_id
FROM found
LIMIT ?2;

-- fragment: tick_fence
-- Holds for the worker that still has the claim of this tick, unless the schedule was changed.
-- ?1 schedule_id  ?2 fire_at_ms  ?3 lease_token  ?4 expected_revision
schedule.schedule_id = ?1
AND schedule.tick_at = ?2
AND schedule.lease_token = ?3
AND schedule.revision = ?4

-- fragment: previous_run_permits
-- Whether the previous run lets the tick start: the policy allows both, it is the tick's own run, or it is not live.
-- ?5 run_id
coalesce(schedule.tick_overlap, schedule.overlap_policy) = 'allow'
OR schedule.previous_run_id = ?5
OR NOT EXISTS (
    -- include: live_previous_run
)

-- fragment: buffered_tick_permits
-- Whether the buffered tick lets the tick start: there is none, it is the same one, or the policy passes it over.
-- ?2 fire_at_ms
schedule.buffered_fire_at IS NULL
OR schedule.buffered_fire_at = ?2
OR coalesce(schedule.tick_overlap, schedule.overlap_policy) = 'allow'
OR (
    schedule.buffered_fire_at < ?2
    AND coalesce(schedule.tick_overlap, schedule.overlap_policy) IN ('cancel-previous', 'terminate-previous')
)

-- fragment: startable_tick
-- The schedule, if its claimed tick may start and the run does not exist.
-- ?1 schedule_id  ?2 fire_at_ms  ?3 lease_token  ?4 expected_revision  ?5 run_id
FROM workflow_schedules AS schedule
WHERE
    -- include: tick_fence
    AND (
        -- include: previous_run_permits
    )
    AND (
        -- include: buffered_tick_permits
    )
    AND NOT EXISTS (SELECT 1 FROM workflow_event_locks AS head WHERE head.run_id = ?5)

-- name: mark_schedule_bucket_started
-- Settles a claimed tick: starts its run, skips it or puts it back. The schedule comes last: its token is the fence.
-- statement: before
-- ?1 schedule_id
SELECT
    schedule.revision,
    schedule.tick_at,
    schedule.lease_token,
    schedule.settled_fire_at,
    schedule.settled_operation_id,
    schedule.settled_outcome,
    schedule.buffered_fire_at,
    schedule.previous_run_id,
    previous.run_id AS live_run_id
FROM workflow_schedules AS schedule
LEFT JOIN workflow_event_locks AS previous
    ON previous.run_id = schedule.previous_run_id AND previous.status IN ('queued', 'running', 'paused')
WHERE schedule.schedule_id = ?1;

-- statement: run
-- ?1 schedule_id  ?2 fire_at_ms  ?3 lease_token  ?4 expected_revision  ?5 run_id  ?6 now_ms
INSERT INTO workflow_runs (run_id, workflow_id, workflow_version, queue, priority, created_at)
SELECT ?5, schedule.workflow_id, schedule.workflow_version, schedule.queue, schedule.priority, ?6
-- include: startable_tick

-- statement: state
-- ?1 schedule_id  ?2 fire_at_ms  ?3 lease_token  ?4 expected_revision  ?5 run_id
INSERT INTO workflow_run_states (run_id, schedule_id, scheduled_at, input)
SELECT ?5, ?1, ?2, schedule.input
-- include: startable_tick

-- statement: head
-- ?1 schedule_id  ?2 fire_at_ms  ?3 lease_token  ?4 expected_revision  ?5 run_id  ?6 now_ms
-- ?7 operation_id  ?8 operation_answer  ?9 due_at_ms
INSERT INTO workflow_event_locks (
    -- include: new_head_columns
)
SELECT
    ?5, schedule.workflow_id, schedule.workflow_version, schedule.queue, schedule.priority, ?6, ?6, 'queued', ?9,
    0, ?7, ?8, 0, 0, 0, 0, '[]'
-- include: startable_tick

-- statement: bucket
-- The schedule's row says which tick was settled last: the tick's own row has done its work, unless it waits on.
-- ?1 schedule_id  ?2 fire_at_ms  ?3 lease_token  ?4 expected_revision  ?5 run_id  ?6 action
DELETE FROM workflow_schedule_buckets
WHERE
    schedule_id = ?1
    AND fire_at = ?2
    AND EXISTS (
        SELECT 1
        FROM workflow_schedules AS schedule
        WHERE
            -- include: tick_fence
            AND (
                ?5 IS NULL OR
                -- include: previous_run_permits
            )
            AND (?6 <> 'buffer' OR coalesce(schedule.tick_overlap, '') <> 'buffer-all')
            AND (
                ?5 IS NULL OR
                -- include: buffered_tick_permits
            )
    );

-- statement: schedule
-- ?1 schedule_id  ?2 fire_at_ms  ?3 lease_token  ?4 expected_revision  ?5 run_id  ?6 next_fire_at_ms  ?7 now_ms
-- ?8 operation_id  ?9 action
UPDATE workflow_schedules AS schedule
SET
    next_fire_at = CASE WHEN tick_source = 'due' THEN ?6 ELSE next_fire_at END,
    last_fire_at = CASE WHEN tick_source = 'due' THEN ?2 ELSE last_fire_at END,
    buffered_fire_at = CASE
        WHEN ?9 = 'buffer' AND tick_overlap = 'buffer-all' THEN buffered_fire_at
        WHEN ?9 = 'buffer' AND coalesce(tick_overlap, overlap_policy) = 'buffer-one' THEN coalesce(buffered_fire_at, ?2)
        WHEN ?9 = 'buffer' THEN max(coalesce(buffered_fire_at, ?2), ?2)
        WHEN ?9 = 'start' AND coalesce(tick_overlap, overlap_policy) IN ('cancel-previous', 'terminate-previous')
            THEN NULL
        WHEN buffered_fire_at <> ?2 THEN buffered_fire_at
    END,
    (requested_fire_at, requested_waits) = (
        SELECT bucket.fire_at, bucket.waits
        -- include: first_requested_tick
    ),
    previous_run_id = coalesce(?5, previous_run_id),
    -- include: no_claimed_tick
    settled_fire_at = ?2,
    settled_operation_id = ?8,
    settled_outcome = CASE
        WHEN ?9 = 'start' THEN 'started'
        WHEN ?9 = 'skip' THEN 'skipped'
        WHEN tick_overlap = 'buffer-all' THEN 'buffered'
        WHEN buffered_fire_at > ?2 THEN 'skipped'
        WHEN coalesce(tick_overlap, overlap_policy) = 'buffer-one' AND buffered_fire_at <> ?2 THEN 'skipped'
        ELSE 'buffered'
    END,
    updated_at = ?7
WHERE
    -- include: tick_fence
    AND (
        ?5 IS NULL OR
        -- include: previous_run_permits
    )
    AND (
        ?5 IS NULL OR
        -- include: buffered_tick_permits
    )
RETURNING settled_outcome;
