-- Schedules and their ticks.

-- name: upsert_schedule
-- Creates a schedule or changes its definition; writes nothing when the definition is the stored one.
-- statement: before
-- ?1 schedule_id
SELECT schedule.revision
FROM workflow_schedules AS schedule
WHERE schedule.schedule_id = ?1;

-- statement: schedule
-- ?1 schedule_id  ?2 workflow_id  ?3 workflow_version  ?4 overlap_policy  ?5 queue  ?6 priority  ?7 enabled
-- ?8 next_fire_at_ms  ?9 spec  ?10 input  ?11 now_ms
INSERT INTO workflow_schedules AS stored (
    schedule_id, workflow_id, workflow_version, overlap_policy, queue, priority, enabled,
    next_fire_at, last_fire_at, revision, created_at, updated_at, spec, input
)
VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, NULL, 1, ?11, ?11, ?9, ?10)
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
        stored.priority, stored.enabled, stored.spec, stored.input
    )
    <> (
        excluded.workflow_id, excluded.workflow_version, excluded.overlap_policy, excluded.queue,
        excluded.priority, excluded.enabled, excluded.spec, excluded.input
    );

-- statement: after
-- ?1 schedule_id
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
    schedule.spec,
    json_valid(schedule.spec) AS spec_valid,
    schedule.input,
    json_valid(schedule.input) AS input_valid
FROM workflow_schedules AS schedule
WHERE schedule.schedule_id = ?1;

-- name: get_schedule
-- Reads one schedule.
-- ?1 schedule_id
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
    schedule.spec,
    json_valid(schedule.spec) AS spec_valid,
    schedule.input,
    json_valid(schedule.input) AS input_valid
FROM workflow_schedules AS schedule
WHERE schedule.schedule_id = ?1;

-- name: list_schedules
-- Lists schedules after one id, ordered by id.
-- ?1 after_schedule_id  ?2 limit
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
    schedule.spec,
    json_valid(schedule.spec) AS spec_valid,
    schedule.input,
    json_valid(schedule.input) AS input_valid
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

-- name: claim_due_schedule_buckets
-- Claims the due tick of each schedule, unless it is claimed or lies at or before the high-water mark.
-- statement: buckets
-- ?1 owner  ?2 lease_token  ?3 lease_expires_at_ms  ?4 now_ms  ?5 limit
INSERT INTO workflow_schedule_buckets AS stored (
    schedule_id, fire_at, lease_owner, lease_token, lease_number, lease_expires_at
)
SELECT schedule.schedule_id, schedule.next_fire_at, ?1, ?2, 1, ?3
FROM workflow_schedules AS schedule
LEFT JOIN workflow_schedule_buckets AS bucket
    ON bucket.schedule_id = schedule.schedule_id AND bucket.fire_at = schedule.next_fire_at
WHERE
    schedule.enabled = 1
    AND schedule.next_fire_at <= ?4
    AND (schedule.last_fire_at IS NULL OR schedule.next_fire_at > schedule.last_fire_at)
    AND (bucket.lease_expires_at IS NULL OR bucket.lease_expires_at <= ?4)
ORDER BY schedule.next_fire_at, schedule.schedule_id
LIMIT ?5
ON CONFLICT (schedule_id, fire_at) DO UPDATE
SET
    lease_owner = excluded.lease_owner,
    lease_token = excluded.lease_token,
    lease_number = stored.lease_number + 1,
    lease_expires_at = excluded.lease_expires_at;

-- statement: claimed
-- ?1 lease_token  ?2 now_ms
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
    schedule.spec,
    json_valid(schedule.spec) AS spec_valid,
    schedule.input,
    json_valid(schedule.input) AS input_valid,
    bucket.fire_at,
    bucket.lease_owner,
    bucket.lease_token,
    bucket.lease_number,
    bucket.lease_expires_at
FROM workflow_schedules AS schedule
CROSS JOIN workflow_schedule_buckets AS bucket
    ON bucket.schedule_id = schedule.schedule_id AND bucket.fire_at = schedule.next_fire_at
WHERE schedule.enabled = 1 AND schedule.next_fire_at <= ?2 AND bucket.lease_token = ?1
ORDER BY schedule.next_fire_at, schedule.schedule_id;

-- statement: next_due
-- ?1 lease_token  ?2 now_ms
SELECT min(tick.due_at) AS next_due
FROM (
    SELECT min(later.next_fire_at) AS due_at
    FROM workflow_schedules AS later
    WHERE
        later.enabled = 1
        AND later.next_fire_at > ?2
        AND (later.last_fire_at IS NULL OR later.next_fire_at > later.last_fire_at)
    UNION ALL
    SELECT min(coalesce(bucket.lease_expires_at, schedule.next_fire_at)) AS due_at
    FROM workflow_schedules AS schedule
    LEFT JOIN workflow_schedule_buckets AS bucket
        ON bucket.schedule_id = schedule.schedule_id AND bucket.fire_at = schedule.next_fire_at
    WHERE
        schedule.enabled = 1
        AND schedule.next_fire_at <= ?2
        AND (schedule.last_fire_at IS NULL OR schedule.next_fire_at > schedule.last_fire_at)
        AND bucket.lease_token IS NOT ?1
) AS tick;

-- name: mark_schedule_bucket_started
-- Starts a claimed tick's run, or skips the tick, and moves the schedule on. The bucket comes last: its token is the
-- fence. Older ticks are forgotten; the high-water mark keeps them from firing again.
-- statement: before
-- ?1 schedule_id  ?2 fire_at_ms
SELECT
    schedule.revision,
    bucket.lease_token,
    bucket.outcome,
    bucket.run_id,
    bucket.operation_id
FROM workflow_schedules AS schedule
LEFT JOIN workflow_schedule_buckets AS bucket
    ON bucket.schedule_id = schedule.schedule_id AND bucket.fire_at = ?2
WHERE schedule.schedule_id = ?1;

-- statement: run
-- ?1 schedule_id  ?2 fire_at_ms  ?3 lease_token  ?4 expected_revision  ?5 run_id  ?6 now_ms
INSERT INTO workflow_runs (run_id, workflow_id, workflow_version, queue, priority, created_at)
SELECT ?5, schedule.workflow_id, schedule.workflow_version, schedule.queue, schedule.priority, ?6
FROM workflow_schedules AS schedule
CROSS JOIN workflow_schedule_buckets AS bucket
    ON bucket.schedule_id = schedule.schedule_id AND bucket.fire_at = ?2
WHERE
    schedule.schedule_id = ?1
    AND schedule.revision = ?4
    AND bucket.lease_token = ?3
    AND NOT EXISTS (SELECT 1 FROM workflow_event_locks AS head WHERE head.run_id = ?5);

-- statement: state
-- ?1 schedule_id  ?2 fire_at_ms  ?3 lease_token  ?4 expected_revision  ?5 run_id
INSERT INTO workflow_run_states (run_id, input)
SELECT ?5, schedule.input
FROM workflow_schedules AS schedule
CROSS JOIN workflow_schedule_buckets AS bucket
    ON bucket.schedule_id = schedule.schedule_id AND bucket.fire_at = ?2
WHERE
    schedule.schedule_id = ?1
    AND schedule.revision = ?4
    AND bucket.lease_token = ?3
    AND NOT EXISTS (SELECT 1 FROM workflow_event_locks AS head WHERE head.run_id = ?5);

-- statement: head
-- ?1 schedule_id  ?2 fire_at_ms  ?3 lease_token  ?4 expected_revision  ?5 run_id  ?6 now_ms
-- ?7 operation_id  ?8 operation_answer
INSERT INTO workflow_event_locks (
    run_id, workflow_id, workflow_version, queue, priority, created_at, updated_at, status, due_at,
    lease_number, operation_id, operation_answer, next_index, inbox_seq, cancel_requested, crashes, awaiting
)
SELECT
    ?5, schedule.workflow_id, schedule.workflow_version, schedule.queue, schedule.priority, ?6, ?6, 'queued', ?6,
    0, ?7, ?8, 0, 0, 0, 0, '[]'
FROM workflow_schedules AS schedule
CROSS JOIN workflow_schedule_buckets AS bucket
    ON bucket.schedule_id = schedule.schedule_id AND bucket.fire_at = ?2
WHERE
    schedule.schedule_id = ?1
    AND schedule.revision = ?4
    AND bucket.lease_token = ?3
    AND NOT EXISTS (SELECT 1 FROM workflow_event_locks AS head WHERE head.run_id = ?5);

-- statement: schedule
-- ?1 schedule_id  ?2 fire_at_ms  ?3 lease_token  ?4 expected_revision  ?5 next_fire_at_ms  ?6 now_ms
UPDATE workflow_schedules
SET
    next_fire_at = ?5,
    last_fire_at = max(coalesce(last_fire_at, ?2), ?2),
    updated_at = ?6
WHERE
    schedule_id = ?1
    AND revision = ?4
    AND EXISTS (
        SELECT 1
        FROM workflow_schedule_buckets AS bucket
        WHERE bucket.schedule_id = ?1 AND bucket.fire_at = ?2 AND bucket.lease_token = ?3
    );

-- statement: older_buckets
-- ?1 schedule_id  ?2 fire_at_ms  ?3 lease_token  ?4 expected_revision
DELETE FROM workflow_schedule_buckets
WHERE
    schedule_id = ?1
    AND fire_at < ?2
    AND EXISTS (
        SELECT 1
        FROM workflow_schedules AS schedule
        CROSS JOIN workflow_schedule_buckets AS bucket
            ON bucket.schedule_id = schedule.schedule_id AND bucket.fire_at = ?2
        WHERE schedule.schedule_id = ?1 AND schedule.revision = ?4 AND bucket.lease_token = ?3
    );

-- statement: bucket
-- ?1 schedule_id  ?2 fire_at_ms  ?3 lease_token  ?4 expected_revision  ?5 outcome  ?6 run_id  ?7 operation_id
UPDATE workflow_schedule_buckets
SET
    lease_owner = NULL,
    lease_token = NULL,
    lease_expires_at = NULL,
    outcome = ?5,
    run_id = ?6,
    operation_id = ?7
WHERE
    schedule_id = ?1
    AND fire_at = ?2
    AND lease_token = ?3
    AND EXISTS (
        SELECT 1
        FROM workflow_schedules AS schedule
        WHERE schedule.schedule_id = ?1 AND schedule.revision = ?4
    );
