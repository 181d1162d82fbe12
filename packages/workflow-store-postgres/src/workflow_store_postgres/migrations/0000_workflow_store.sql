-- 0000_workflow_store: the tables of workflow-store-postgres.
-- Oldest code: 0.1.0
--
-- Runs as it is: `psql -v ON_ERROR_STOP=1 -f 0000_workflow_store.sql`. It is meant for a schema without these tables: it
-- stops at the first one that exists and leaves nothing behind.
--
-- Times are milliseconds since the Unix epoch. Ids are compared byte by byte (COLLATE "C"). Payloads are json, which
-- keeps their very text; jsonb would not.

BEGIN;

-- Which migrations were applied. oldest_code: the oldest release that may run on the tables since; an older one that starts
-- reads it, for it does not know the file.
CREATE TABLE workflow_schema_migrations (
    migration_id text COLLATE "C" PRIMARY KEY,
    package_name text NOT NULL,
    package_version text NOT NULL,
    oldest_code text,
    checksum text,
    applied_at bigint NOT NULL
);

-- What never changes about a run. Listings without a filter walk its index, which no transition touches.
CREATE TABLE workflow_runs (
    created_at bigint NOT NULL,
    priority smallint NOT NULL,
    run_id text COLLATE "C" PRIMARY KEY,
    workflow_id text COLLATE "C" NOT NULL,
    workflow_version text COLLATE "C" NOT NULL,
    queue text COLLATE "C" NOT NULL
);

CREATE INDEX workflow_runs_created ON workflow_runs (created_at, run_id);

-- The payloads of a run that are written once, and where it comes from.
-- schedule_id and scheduled_at: the tick that started it. forked_from and forked_from_index: the run whose log it began with,
-- and how many events of it.
CREATE TABLE workflow_run_states (
    scheduled_at bigint,
    forked_from_index bigint,
    run_id text COLLATE "C" PRIMARY KEY,
    schedule_id text COLLATE "C",
    forked_from text COLLATE "C",
    reason text,
    error json,
    output json,
    input json NOT NULL
);

-- The head of a run: the one row that every unit locks and decides by. It is narrow, has room for its next versions,
-- and what appends and renewals change is in no index: they rewrite neither indexes nor pages.
-- due_at: queued, claimable from then on; paused, the earliest timer; running, since when it had been claimable.
-- awaiting: what a paused run waits for, as [[kind, name, step_id, until], ...]; a delivery decides by it.
-- silent_claims: claims in a row, up to the last one, under which no driver was heard of; 0 when it was.
-- operation_id and operation_answer: the last write of a driver.
CREATE TABLE workflow_event_locks (
    next_index bigint NOT NULL,
    inbox_seq bigint NOT NULL,
    lease_number bigint NOT NULL,
    lease_expires_at bigint,
    due_at bigint,
    created_at bigint NOT NULL,
    updated_at bigint NOT NULL,
    finished_at bigint,
    crashes integer NOT NULL,
    priority smallint NOT NULL,
    silent_claims smallint NOT NULL DEFAULT 1,
    cancel_requested boolean NOT NULL,
    run_id text COLLATE "C" PRIMARY KEY,
    status text COLLATE "C" NOT NULL,
    workflow_id text COLLATE "C" NOT NULL,
    workflow_version text COLLATE "C" NOT NULL,
    queue text COLLATE "C" NOT NULL,
    lease_owner text COLLATE "C",
    lease_token text COLLATE "C",
    operation_id text COLLATE "C" NOT NULL,
    operation_answer json NOT NULL,
    awaiting json NOT NULL
) WITH (fillfactor = 70, autovacuum_vacuum_scale_factor = 0.05);

-- A lane is what one worker can or cannot run (workflow, version, queue) in one priority. Within its lane a run waits
-- by due time, so a claim looks at nothing but what it takes, whatever waits in the lanes of others.
CREATE INDEX workflow_event_locks_queued
    ON workflow_event_locks (workflow_id, workflow_version, queue, priority, due_at, run_id)
    WHERE status = 'queued';
CREATE INDEX workflow_event_locks_paused
    ON workflow_event_locks (workflow_id, workflow_version, queue, priority, due_at, run_id)
    WHERE status = 'paused' AND due_at IS NOT NULL;
-- The running runs are as few as the workers can drive, so expired leases are found by looking at all of them.
CREATE INDEX workflow_event_locks_running ON workflow_event_locks (run_id) WHERE status = 'running';
-- Listings and counts with a filter: by status, workflow and queue, in the order of creation.
CREATE INDEX workflow_event_locks_listed ON workflow_event_locks (status, workflow_id, queue, created_at, run_id);
CREATE INDEX workflow_event_locks_ended ON workflow_event_locks (finished_at, run_id) WHERE finished_at IS NOT NULL;

-- The log. payload_bytes lets a page be measured without reading it.
CREATE TABLE workflow_events (
    event_index bigint NOT NULL,
    created_at bigint NOT NULL,
    payload_bytes integer NOT NULL,
    run_id text COLLATE "C" NOT NULL,
    kind text COLLATE "C" NOT NULL,
    step_id text COLLATE "C",
    payload json,
    PRIMARY KEY (run_id, event_index)
);

-- The pending timers.
CREATE TABLE workflow_timers (
    fire_at bigint NOT NULL,
    run_id text COLLATE "C" NOT NULL,
    timer_id text COLLATE "C" NOT NULL,
    PRIMARY KEY (run_id, timer_id)
);

-- The inbox. Taken entries stay: they deduplicate for the life of the run's record.
CREATE TABLE workflow_signal_deliveries (
    inbox_seq bigint NOT NULL,
    received_at bigint NOT NULL,
    payload_bytes integer NOT NULL,
    taken boolean NOT NULL,
    run_id text COLLATE "C" NOT NULL,
    kind text COLLATE "C" NOT NULL,
    name text COLLATE "C" NOT NULL,
    delivery_id text COLLATE "C" NOT NULL,
    payload json,
    PRIMARY KEY (run_id, inbox_seq),
    CONSTRAINT workflow_signal_deliveries_once UNIQUE (run_id, kind, delivery_id)
);

CREATE INDEX workflow_signal_deliveries_untaken ON workflow_signal_deliveries (run_id, inbox_seq) WHERE NOT taken;

-- A schedule, and what is going on with its ticks.
-- next_fire_at: the tick by the schedule's own time; it is due when it lies above last_fire_at, the high-water mark.
-- buffered_fire_at: the tick that waits for the end of previous_run_id, the last run that a tick started.
-- requested_fire_at: of the ticks in workflow_schedule_buckets the earliest that need not wait for the end of a run; if all
-- must, the earliest of them, and requested_waits says so.
-- tick_* and lease_*: the tick that is claimed; tick_overlap was requested with it. settled_*: the tick that was settled last, for a repeat.
-- changes counts the changes of this row: it tells a unit that has waited for the row that what it has read is old.
CREATE TABLE workflow_schedules (
    next_fire_at bigint,
    last_fire_at bigint,
    buffered_fire_at bigint,
    requested_fire_at bigint,
    tick_at bigint,
    lease_number bigint NOT NULL,
    lease_expires_at bigint,
    settled_fire_at bigint,
    revision bigint NOT NULL,
    changes bigint NOT NULL,
    created_at bigint NOT NULL,
    updated_at bigint NOT NULL,
    priority smallint NOT NULL,
    enabled boolean NOT NULL,
    requested_waits boolean,
    schedule_id text COLLATE "C" PRIMARY KEY,
    workflow_id text COLLATE "C" NOT NULL,
    workflow_version text COLLATE "C" NOT NULL,
    overlap_policy text COLLATE "C" NOT NULL,
    queue text COLLATE "C" NOT NULL,
    previous_run_id text COLLATE "C",
    tick_source text COLLATE "C",
    tick_overlap text COLLATE "C",
    lease_owner text COLLATE "C",
    lease_token text COLLATE "C",
    settled_operation_id text COLLATE "C",
    settled_outcome text COLLATE "C",
    spec json NOT NULL,
    input json NOT NULL
);

-- A claim finds what it can take, and when something will be due, without looking at any other schedule.
CREATE INDEX workflow_schedules_due
    ON workflow_schedules (workflow_id, next_fire_at, schedule_id)
    WHERE enabled AND next_fire_at > coalesce(last_fire_at, -1);
CREATE INDEX workflow_schedules_requested ON workflow_schedules (schedule_id) WHERE requested_fire_at IS NOT NULL;
CREATE INDEX workflow_schedules_buffered ON workflow_schedules (schedule_id) WHERE buffered_fire_at IS NOT NULL;
CREATE INDEX workflow_schedules_claimed ON workflow_schedules (schedule_id) WHERE lease_token IS NOT NULL;

-- The ticks that were requested and are not settled yet. overlap: what holds for them in place of the schedule's policy;
-- waits: whether it is buffer-all, with which a tick waits for its turn.
CREATE TABLE workflow_schedule_buckets (
    fire_at bigint NOT NULL,
    requested_at bigint NOT NULL,
    waits boolean NOT NULL,
    schedule_id text COLLATE "C" NOT NULL,
    overlap text COLLATE "C",
    PRIMARY KEY (schedule_id, fire_at)
);

CREATE INDEX workflow_schedule_buckets_first ON workflow_schedule_buckets (schedule_id, waits, fire_at);

INSERT INTO workflow_schema_migrations (migration_id, package_name, package_version, oldest_code, checksum, applied_at)
VALUES (
    '0000_workflow_store',
    'workflow-store-postgres',
    '0.1.0',
    '0.1.0',
    NULL,
    floor(extract(epoch FROM clock_timestamp()) * 1000)
);

COMMIT;
