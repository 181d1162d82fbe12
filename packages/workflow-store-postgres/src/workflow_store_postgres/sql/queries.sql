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

-- fragment: listing_filters
-- The runs of the statuses, workflows and queues that a listing asks for.
-- $1 statuses  $2 workflow_ids  $3 queues
AND ($1::text[] IS NULL OR head.status = ANY($1::text[]))
AND ($2::text[] IS NULL OR head.workflow_id = ANY($2::text[]))
AND ($3::text[] IS NULL OR head.queue = ANY($3::text[]))

-- fragment: listing_by_prefix
-- Those of them whose ids begin alike.
-- $1 statuses  $2 workflow_ids  $3 queues  $8 run_id_pattern
SELECT
    -- include: listed_columns
FROM workflow_runs AS run
INNER JOIN workflow_event_locks AS head ON head.run_id = run.run_id
WHERE
    run.run_id LIKE $8::text
    -- include: listing_filters

-- fragment: lanes
-- Begins the statements that filter by status, workflow or queue: finds which of them there are, by jumping from one
-- to the next in workflow_event_locks_listed.
-- $1 statuses  $2 workflow_ids  $3 queues
WITH RECURSIVE held AS (
    (SELECT head.status FROM workflow_event_locks AS head ORDER BY head.status LIMIT 1)
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

lane AS (
    SELECT head.status, head.workflow_id, head.queue
    FROM held
    CROSS JOIN LATERAL (
        SELECT first_head.status, first_head.workflow_id, first_head.queue
        FROM workflow_event_locks AS first_head
        WHERE first_head.status = held.status
        ORDER BY first_head.workflow_id, first_head.queue
        LIMIT 1
    ) AS head
    WHERE $1::text[] IS NULL OR held.status = ANY($1::text[])
    UNION ALL
    SELECT later.status, later.workflow_id, later.queue
    FROM lane
    CROSS JOIN LATERAL (
        SELECT head.status, head.workflow_id, head.queue FROM workflow_event_locks AS head
        WHERE head.status = lane.status AND (head.workflow_id, head.queue) > (lane.workflow_id, lane.queue)
        ORDER BY head.workflow_id, head.queue
        LIMIT 1
    ) AS later
),

wanted AS (
    SELECT lane.status, lane.workflow_id, lane.queue
    FROM lane
    WHERE
        ($2::text[] IS NULL OR lane.workflow_id = ANY($2::text[]))
        AND ($3::text[] IS NULL OR lane.queue = ANY($3::text[]))
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

-- fragment: heads_in_lane
-- The runs of a lane that is wanted, with the columns that order a listing.
SELECT head.created_at, head.run_id
FROM workflow_event_locks AS head
WHERE
    -- include: in_listed_lane

-- name: list_runs_in_lanes
-- Lists the runs of some statuses, workflows and queues, oldest first.
-- $1 statuses  $2 workflow_ids  $3 queues  $4 after_created_at_ms  $5 after_run_id  $6 created_before_ms  $7 limit
-- include: lanes
,
page AS (
    SELECT found.created_at, found.run_id
    FROM wanted
    CROSS JOIN LATERAL (
        -- include: heads_in_lane
            AND (head.created_at, head.run_id) > ($4::bigint, $5::text)
            AND head.created_at < $6::bigint
        ORDER BY head.created_at, head.run_id
        LIMIT $7::bigint
    ) AS found
    ORDER BY found.created_at, found.run_id
    LIMIT $7::bigint
)

-- include: listing
ORDER BY page.created_at, page.run_id;

-- name: list_runs_in_lanes_descending
-- Lists the runs of some statuses, workflows and queues, newest first.
-- $1 statuses  $2 workflow_ids  $3 queues  $4 before_created_at_ms  $5 before_run_id  $6 created_from_ms  $7 limit
-- include: lanes
,
page AS (
    SELECT found.created_at, found.run_id
    FROM wanted
    CROSS JOIN LATERAL (
        -- include: heads_in_lane
            AND (head.created_at, head.run_id) < ($4::bigint, $5::text)
            AND head.created_at >= $6::bigint
        ORDER BY head.created_at DESC, head.run_id DESC
        LIMIT $7::bigint
    ) AS found
    ORDER BY found.created_at DESC, found.run_id DESC
    LIMIT $7::bigint
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

-- name: list_runs_by_prefix
-- Lists the runs whose ids begin alike, oldest first. Only good when planned for its values: then the pattern becomes
-- bounds of the index, on every version of the server.
-- $1 statuses  $2 workflow_ids  $3 queues  $4 after_created_at_ms  $5 after_run_id  $6 created_before_ms  $7 limit
-- $8 run_id_pattern
-- include: listing_by_prefix
    AND (run.created_at, run.run_id) > ($4::bigint, $5::text)
    AND run.created_at < $6::bigint
ORDER BY run.created_at, run.run_id
LIMIT $7::bigint;

-- name: list_runs_by_prefix_descending
-- Lists the runs whose ids begin alike, newest first. Only good when planned for its values.
-- $1 statuses  $2 workflow_ids  $3 queues  $4 before_created_at_ms  $5 before_run_id  $6 created_from_ms  $7 limit
-- $8 run_id_pattern
-- include: listing_by_prefix
    AND (run.created_at, run.run_id) < ($4::bigint, $5::text)
    AND run.created_at >= $6::bigint
ORDER BY run.created_at DESC, run.run_id DESC
LIMIT $7::bigint;

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
    -- include: listing_filters
    AND head.created_at >= $4::bigint
    AND head.created_at < $5::bigint
GROUP BY head.status;
