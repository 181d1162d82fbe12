-- Looking at many runs. A statement must be as good when the server keeps one plan for all values: so each page is cut
-- out of an index before anything else is read of its runs, whatever the filters.
-- A long list of what a run waits for is cut to its first AWAITED_SHOWN things, and counted; a short one goes as it is.

-- fragment: listed_columns
-- What the codec reads of a run in a listing.
-- include: head_columns
-- include: past_columns
CASE
    WHEN head.status <> 'paused' THEN NULL
    WHEN octet_length(head.awaiting::text) <= 1000 THEN head.awaiting::text
    WHEN json_typeof(head.awaiting) = 'array'
        THEN json_build_array(head.awaiting -> 0, head.awaiting -> 1, head.awaiting -> 2)::text
END AS awaiting,
CASE
    WHEN
        head.status = 'paused'
        AND octet_length(head.awaiting::text) > 1000
        AND json_typeof(head.awaiting) = 'array'
        THEN json_array_length(head.awaiting)
END AS awaited_count

-- fragment: listing
-- The runs of a page.
SELECT
    -- include: listed_columns
FROM page
CROSS JOIN LATERAL (
    SELECT found.* FROM workflow_event_locks AS found WHERE found.run_id = page.run_id LIMIT 1
) AS head

-- fragment: held_statuses
-- Finds the statuses that are asked for, or else which there are, by jumping from one to the next in
-- workflow_event_locks_listed. What is given is never searched for: a condition on a parameter alone is looked at once.
-- $1 statuses
held AS (
    (
        SELECT head.status FROM workflow_event_locks AS head
        WHERE (SELECT $1::text[]) IS NULL
        ORDER BY head.status
        LIMIT 1
    )
    UNION ALL
    SELECT later.status
    FROM held
    CROSS JOIN LATERAL (
        SELECT head.status FROM workflow_event_locks AS head
        WHERE head.status > held.status
        ORDER BY head.status
        LIMIT 1
    ) AS later
),

asked AS (
    SELECT held.status FROM held
    UNION
    SELECT unnest((SELECT $1::text[]))
)

-- fragment: kinds
-- Their workflows likewise.
-- $2 workflow_ids
found_kind AS (
    SELECT asked.status, head.workflow_id
    FROM asked
    CROSS JOIN LATERAL (
        SELECT first_head.workflow_id FROM workflow_event_locks AS first_head
        WHERE first_head.status = asked.status AND (SELECT $2::text[]) IS NULL
        ORDER BY first_head.workflow_id
        LIMIT 1
    ) AS head
    UNION ALL
    SELECT later.status, later.workflow_id
    FROM found_kind
    CROSS JOIN LATERAL (
        SELECT head.status, head.workflow_id FROM workflow_event_locks AS head
        WHERE head.status = found_kind.status AND head.workflow_id > found_kind.workflow_id
        ORDER BY head.workflow_id
        LIMIT 1
    ) AS later
),

kind AS (
    SELECT found_kind.status, found_kind.workflow_id FROM found_kind
    UNION
    SELECT asked.status, unnest((SELECT $2::text[])) FROM asked
)

-- fragment: lanes
-- Begins the statements that filter by status, workflow or queue: the lanes that they read, in each of which runs stand
-- in the order of creation.
-- $1 statuses  $2 workflow_ids  $3 queues
WITH RECURSIVE
-- include: held_statuses
,
-- include: kinds
,
found_lane AS (
    SELECT kind.status, kind.workflow_id, head.queue
    FROM kind
    CROSS JOIN LATERAL (
        SELECT first_head.queue FROM workflow_event_locks AS first_head
        WHERE
            first_head.status = kind.status
            AND first_head.workflow_id = kind.workflow_id
            AND (SELECT $3::text[]) IS NULL
        ORDER BY first_head.queue
        LIMIT 1
    ) AS head
    UNION ALL
    SELECT later.status, later.workflow_id, later.queue
    FROM found_lane
    CROSS JOIN LATERAL (
        SELECT head.status, head.workflow_id, head.queue FROM workflow_event_locks AS head
        WHERE
            head.status = found_lane.status
            AND head.workflow_id = found_lane.workflow_id
            AND head.queue > found_lane.queue
        ORDER BY head.queue
        LIMIT 1
    ) AS later
),

wanted AS (
    SELECT found_lane.status, found_lane.workflow_id, found_lane.queue FROM found_lane
    UNION
    SELECT kind.status, kind.workflow_id, unnest((SELECT $3::text[])) FROM kind
)

-- fragment: in_listed_lane
-- The runs of one of the lanes that are wanted.
head.status = wanted.status
AND head.workflow_id = wanted.workflow_id
AND head.queue = wanted.queue

-- name: list_runs
-- Lists all runs, oldest first.
-- $1 after_created_at_ms  $2 after_run_id  $3 created_before_ms  $4 limit
WITH page AS (
    SELECT run.created_at, run.run_id
    FROM workflow_runs AS run
    WHERE (run.created_at, run.run_id) > ($1::bigint, $2::text) AND run.created_at < $3::bigint
    ORDER BY run.created_at, run.run_id
    LIMIT $4::bigint
)

-- include: listing
ORDER BY page.created_at, page.run_id;

-- name: list_runs_descending
-- Lists all runs, newest first.
-- $1 before_created_at_ms  $2 before_run_id  $3 created_from_ms  $4 limit
WITH page AS (
    SELECT run.created_at, run.run_id
    FROM workflow_runs AS run
    WHERE (run.created_at, run.run_id) < ($1::bigint, $2::text) AND run.created_at >= $3::bigint
    ORDER BY run.created_at DESC, run.run_id DESC
    LIMIT $4::bigint
)

-- include: listing
ORDER BY page.created_at DESC, page.run_id DESC;

-- fragment: nearby_filters
-- Those of the runs just before or after a place that a listing asks for.
-- $1 statuses  $2 workflow_ids  $3 queues
CROSS JOIN LATERAL (
    SELECT head.status FROM workflow_event_locks AS head WHERE head.run_id = run.run_id LIMIT 1
) AS found
WHERE
    ($2::text[] IS NULL OR run.workflow_id = ANY($2::text[]))
    AND ($3::text[] IS NULL OR run.queue = ANY($3::text[]))
    AND ($1::text[] IS NULL OR found.status = ANY($1::text[]))

-- name: list_nearby_runs
-- Lists those of the next runs that are asked for, oldest first, of ten times the page: where they are common, they fill
-- it, however many lanes there are.
-- $1 statuses  $2 workflow_ids  $3 queues  $4 after_created_at_ms  $5 after_run_id  $6 created_before_ms  $7 limit
WITH page AS (
    SELECT run.created_at, run.run_id
    FROM (
        SELECT later.created_at, later.run_id, later.workflow_id, later.queue
        FROM workflow_runs AS later
        WHERE (later.created_at, later.run_id) > ($4::bigint, $5::text) AND later.created_at < $6::bigint
        ORDER BY later.created_at, later.run_id
        LIMIT (SELECT 10 * $7::bigint)
    ) AS run
    -- include: nearby_filters
    ORDER BY run.created_at, run.run_id
    LIMIT $7::bigint
)

-- include: listing
ORDER BY page.created_at, page.run_id;

-- name: list_nearby_runs_descending
-- Lists those of the runs before that are asked for, newest first, of ten times the page.
-- $1 statuses  $2 workflow_ids  $3 queues  $4 before_created_at_ms  $5 before_run_id  $6 created_from_ms  $7 limit
WITH page AS (
    SELECT run.created_at, run.run_id
    FROM (
        SELECT earlier.created_at, earlier.run_id, earlier.workflow_id, earlier.queue
        FROM workflow_runs AS earlier
        WHERE (earlier.created_at, earlier.run_id) < ($4::bigint, $5::text) AND earlier.created_at >= $6::bigint
        ORDER BY earlier.created_at DESC, earlier.run_id DESC
        LIMIT (SELECT 10 * $7::bigint)
    ) AS run
    -- include: nearby_filters
    ORDER BY run.created_at DESC, run.run_id DESC
    LIMIT $7::bigint
)

-- include: listing
ORDER BY page.created_at DESC, page.run_id DESC;

-- fragment: heads_after
-- The runs of a lane that is wanted from a place on, oldest first. The server is not to plan for the place: a plan for
-- all values is as good, and planning takes longer than the rest.
-- $4 after_created_at_ms  $5 after_run_id  $6 created_before_ms
SELECT head.created_at, head.run_id
FROM workflow_event_locks AS head
WHERE
    -- include: in_listed_lane
    AND (head.created_at, head.run_id) > ((SELECT $4::bigint), (SELECT $5::text))
    AND head.created_at < (SELECT $6::bigint)
ORDER BY head.created_at, head.run_id

-- fragment: heads_before
-- The same up to a place, newest first.
-- $4 before_created_at_ms  $5 before_run_id  $6 created_from_ms
SELECT head.created_at, head.run_id
FROM workflow_event_locks AS head
WHERE
    -- include: in_listed_lane
    AND (head.created_at, head.run_id) < ((SELECT $4::bigint), (SELECT $5::text))
    AND head.created_at >= (SELECT $6::bigint)
ORDER BY head.created_at DESC, head.run_id DESC

-- name: list_runs_in_lanes
-- Lists the runs of some statuses, workflows and queues, oldest first. It looks for the nearest run of each lane, and
-- reads on where those are that may be on the page.
-- $1 statuses  $2 workflow_ids  $3 queues  $4 after_created_at_ms  $5 after_run_id  $6 created_before_ms  $7 limit
-- include: lanes
,
nearest AS (
    SELECT wanted.status, wanted.workflow_id, wanted.queue
    FROM wanted
    CROSS JOIN LATERAL (
        -- include: heads_after
        LIMIT 1
    ) AS found
    ORDER BY found.created_at, found.run_id
    LIMIT (SELECT $7::bigint)
),

page AS (
    SELECT found.created_at, found.run_id
    FROM nearest AS wanted
    CROSS JOIN LATERAL (
        -- include: heads_after
        LIMIT (SELECT $7::bigint)
    ) AS found
    ORDER BY found.created_at, found.run_id
    LIMIT (SELECT $7::bigint)
)

-- include: listing
ORDER BY page.created_at, page.run_id;

-- name: list_runs_in_lanes_descending
-- Lists the runs of some statuses, workflows and queues, newest first. It looks for the nearest run of each lane, and
-- reads on where those are that may be on the page.
-- $1 statuses  $2 workflow_ids  $3 queues  $4 before_created_at_ms  $5 before_run_id  $6 created_from_ms  $7 limit
-- include: lanes
,
nearest AS (
    SELECT wanted.status, wanted.workflow_id, wanted.queue
    FROM wanted
    CROSS JOIN LATERAL (
        -- include: heads_before
        LIMIT 1
    ) AS found
    ORDER BY found.created_at DESC, found.run_id DESC
    LIMIT (SELECT $7::bigint)
),

page AS (
    SELECT found.created_at, found.run_id
    FROM nearest AS wanted
    CROSS JOIN LATERAL (
        -- include: heads_before
        LIMIT (SELECT $7::bigint)
    ) AS found
    ORDER BY found.created_at DESC, found.run_id DESC
    LIMIT (SELECT $7::bigint)
)

-- include: listing
ORDER BY page.created_at DESC, page.run_id DESC;

-- fragment: failed_heads
-- The runs that failed, of one of the statuses that are wanted, with the columns that order a listing.
SELECT head.created_at, head.run_id
FROM workflow_event_locks AS head
WHERE
    head.status = wanted.status
    AND head.status IN ('aborted', 'dead', 'errored')

-- name: list_failed_runs
-- Lists runs that failed, oldest first: whatever their workflows and queues, and however many others finished.
-- $1 statuses  $2 after_created_at_ms  $3 after_run_id  $4 created_before_ms  $5 limit
WITH page AS (
    SELECT found.created_at, found.run_id
    FROM (SELECT DISTINCT unnest($1::text[]) AS status) AS wanted
    CROSS JOIN LATERAL (
        -- include: failed_heads
            AND (head.created_at, head.run_id) > ($2::bigint, $3::text)
            AND head.created_at < $4::bigint
        ORDER BY head.created_at, head.run_id
        LIMIT $5::bigint
    ) AS found
    ORDER BY found.created_at, found.run_id
    LIMIT $5::bigint
)

-- include: listing
ORDER BY page.created_at, page.run_id;

-- name: list_failed_runs_descending
-- Lists runs that failed, newest first.
-- $1 statuses  $2 before_created_at_ms  $3 before_run_id  $4 created_from_ms  $5 limit
WITH page AS (
    SELECT found.created_at, found.run_id
    FROM (SELECT DISTINCT unnest($1::text[]) AS status) AS wanted
    CROSS JOIN LATERAL (
        -- include: failed_heads
            AND (head.created_at, head.run_id) < ($2::bigint, $3::text)
            AND head.created_at >= $4::bigint
        ORDER BY head.created_at DESC, head.run_id DESC
        LIMIT $5::bigint
    ) AS found
    ORDER BY found.created_at DESC, found.run_id DESC
    LIMIT $5::bigint
)

-- include: listing
ORDER BY page.created_at DESC, page.run_id DESC;

-- fragment: runs_by_prefix
-- The runs whose ids begin alike that a listing asks for, with the columns that order it.
-- $1 statuses  $2 workflow_ids  $3 queues  $8 run_id_pattern
SELECT run.created_at, run.run_id
FROM workflow_runs AS run
LEFT JOIN workflow_event_locks AS head ON head.run_id = run.run_id
WHERE
    run.run_id LIKE $8::text
    AND ($2::text[] IS NULL OR run.workflow_id = ANY($2::text[]))
    AND ($3::text[] IS NULL OR run.queue = ANY($3::text[]))
    AND ($1::text[] IS NULL OR head.status = ANY($1::text[]))

-- name: list_runs_by_prefix
-- Lists the runs whose ids begin alike, oldest first. Only good when planned for its values: then the pattern becomes
-- bounds of the index, on every version of the server.
-- $1 statuses  $2 workflow_ids  $3 queues  $4 after_created_at_ms  $5 after_run_id  $6 created_before_ms  $7 limit
-- $8 run_id_pattern
WITH page AS (
    -- include: runs_by_prefix
        AND (run.created_at, run.run_id) > ($4::bigint, $5::text)
        AND run.created_at < $6::bigint
    ORDER BY run.created_at, run.run_id
    LIMIT $7::bigint
)

-- include: listing
ORDER BY page.created_at, page.run_id;

-- name: list_runs_by_prefix_descending
-- Lists the runs whose ids begin alike, newest first. Only good when planned for its values.
-- $1 statuses  $2 workflow_ids  $3 queues  $4 before_created_at_ms  $5 before_run_id  $6 created_from_ms  $7 limit
-- $8 run_id_pattern
WITH page AS (
    -- include: runs_by_prefix
        AND (run.created_at, run.run_id) < ($4::bigint, $5::text)
        AND run.created_at >= $6::bigint
    ORDER BY run.created_at DESC, run.run_id DESC
    LIMIT $7::bigint
)

-- include: listing
ORDER BY page.created_at DESC, page.run_id DESC;

-- name: count_all_runs
-- Counts all runs by status.
SELECT head.status, count(*) AS run_count
FROM workflow_event_locks AS head
GROUP BY head.status;

-- name: count_runs
-- Counts runs by status, lane by lane.
-- $1 statuses  $2 workflow_ids  $3 queues  $4 created_from_ms  $5 created_before_ms
-- include: lanes
SELECT wanted.status, sum(counted.runs)::bigint AS run_count
FROM wanted
CROSS JOIN LATERAL (
    SELECT count(*) AS runs
    FROM workflow_event_locks AS head
    WHERE
        -- include: in_listed_lane
        AND head.created_at >= $4::bigint
        AND head.created_at < $5::bigint
) AS counted
GROUP BY wanted.status
HAVING sum(counted.runs) > 0;

-- name: count_runs_by_prefix
-- Counts the runs whose ids begin alike. Only good when planned for its values.
-- $1 statuses  $2 workflow_ids  $3 queues  $4 created_from_ms  $5 created_before_ms  $6 run_id_pattern
SELECT head.status, count(*) AS run_count
FROM workflow_event_locks AS head
WHERE
    head.run_id LIKE $6::text
    AND ($1::text[] IS NULL OR head.status = ANY($1::text[]))
    AND ($2::text[] IS NULL OR head.workflow_id = ANY($2::text[]))
    AND ($3::text[] IS NULL OR head.queue = ANY($3::text[]))
    AND head.created_at >= $4::bigint
    AND head.created_at < $5::bigint
GROUP BY head.status;
