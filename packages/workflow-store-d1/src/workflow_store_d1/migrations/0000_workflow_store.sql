-- 0000_workflow_store: the tables of workflow-store-d1.
-- Oldest code: 0.1.0
--
-- Runs as it is: `wrangler d1 execute DB --file 0000_workflow_store.sql`, or `sqlite3 app.db < 0000_workflow_store.sql`.
-- It is meant for a database without these tables and stops at the first one that exists.
--
-- Times are integers, milliseconds since the Unix epoch. Payloads are JSON text and stand last in their rows, so that
-- reading the columns before them does not read them. Tables with payloads have a rowid: without one, SQLite reads a
-- whole row for each key that it compares.

-- Which migrations were applied. oldest_code: the oldest release that may run on the tables since; an older one that starts
-- reads it, for it does not know the file.
CREATE TABLE workflow_schema_migrations (
    migration_id TEXT NOT NULL PRIMARY KEY,
    package_name TEXT NOT NULL,
    package_version TEXT NOT NULL,
    oldest_code TEXT,
    checksum TEXT,
    applied_at INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

-- What never changes about a run. Listings walk its indexes, which no transition touches.
CREATE TABLE workflow_runs (
    run_id TEXT NOT NULL PRIMARY KEY,
    workflow_id TEXT NOT NULL,
    workflow_version TEXT NOT NULL,
    queue TEXT NOT NULL,
    priority INTEGER NOT NULL,
    created_at INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

CREATE INDEX workflow_runs_created ON workflow_runs (created_at, run_id);
CREATE INDEX workflow_runs_workflow ON workflow_runs (workflow_id, created_at, run_id);

-- The payloads of a run that are written once, and where it comes from.
-- schedule_id and scheduled_at: the tick that started it. forked_from and forked_from_index: the run whose log it began with,
-- and how many events of it.
CREATE TABLE workflow_run_states (
    run_id TEXT NOT NULL PRIMARY KEY,
    schedule_id TEXT,
    scheduled_at INTEGER,
    forked_from TEXT,
    forked_from_index INTEGER,
    reason TEXT,
    error TEXT,
    output TEXT,
    input TEXT NOT NULL
) STRICT;

-- The head of a run: the one row that every unit decides by.
-- due_at: queued, claimable from then on; paused, the earliest timer; running, since when it had been claimable.
-- awaiting: what a paused run waits for, as [[kind, name, step_id, until], ...]. It is here and not beside the input,
-- because writing it there would write a large input again with every pause.
-- silent_claims: claims in a row, up to the last one, under which no driver was heard of; 0 when it was.
-- operation_id and operation_answer: the last write of a driver.
CREATE TABLE workflow_event_locks (
    run_id TEXT NOT NULL PRIMARY KEY,
    status TEXT NOT NULL,
    workflow_id TEXT NOT NULL,
    workflow_version TEXT NOT NULL,
    queue TEXT NOT NULL,
    priority INTEGER NOT NULL,
    due_at INTEGER,
    lease_owner TEXT,
    lease_token TEXT,
    lease_number INTEGER NOT NULL,
    lease_expires_at INTEGER,
    next_index INTEGER NOT NULL,
    inbox_seq INTEGER NOT NULL,
    cancel_requested INTEGER NOT NULL,
    crashes INTEGER NOT NULL,
    silent_claims INTEGER NOT NULL DEFAULT 1,
    awaiting TEXT NOT NULL,
    operation_id TEXT NOT NULL,
    operation_answer TEXT NOT NULL,
    created_at INTEGER NOT NULL,
    updated_at INTEGER NOT NULL,
    finished_at INTEGER,
    lane TEXT NOT NULL GENERATED ALWAYS AS (json_array(workflow_id, workflow_version, queue, priority)) VIRTUAL
) STRICT, WITHOUT ROWID;

-- A lane is what one worker can or cannot run (workflow, version, queue) in one priority. Within its lane a run waits
-- by due time, so a claim looks at nothing but what it takes, whatever waits in the lanes of others.
-- The lease's expiry is in no index: every append moves it.
CREATE INDEX workflow_event_locks_queued ON workflow_event_locks (lane, due_at, run_id) WHERE status = 'queued';
CREATE INDEX workflow_event_locks_paused ON workflow_event_locks (lane, due_at, run_id) WHERE status = 'paused';
CREATE INDEX workflow_event_locks_running ON workflow_event_locks (lease_token, run_id) WHERE status = 'running';
CREATE INDEX workflow_event_locks_ended ON workflow_event_locks (finished_at, run_id) WHERE finished_at IS NOT NULL;

-- The log. payload_bytes lets a page be measured without reading it.
CREATE TABLE workflow_events (
    run_id TEXT NOT NULL,
    event_index INTEGER NOT NULL,
    kind TEXT NOT NULL,
    step_id TEXT,
    created_at INTEGER NOT NULL,
    payload_bytes INTEGER NOT NULL,
    payload TEXT,
    PRIMARY KEY (run_id, event_index)
) STRICT;

-- The pending timers.
CREATE TABLE workflow_timers (
    run_id TEXT NOT NULL,
    timer_id TEXT NOT NULL,
    fire_at INTEGER NOT NULL,
    PRIMARY KEY (run_id, timer_id)
) STRICT, WITHOUT ROWID;

-- The inbox. Taken entries stay: they deduplicate for the life of the run's record.
CREATE TABLE workflow_signal_deliveries (
    run_id TEXT NOT NULL,
    inbox_seq INTEGER NOT NULL,
    kind TEXT NOT NULL,
    name TEXT NOT NULL,
    delivery_id TEXT NOT NULL,
    received_at INTEGER NOT NULL,
    taken INTEGER NOT NULL,
    payload_bytes INTEGER NOT NULL,
    payload TEXT,
    PRIMARY KEY (run_id, inbox_seq),
    CONSTRAINT workflow_signal_deliveries_once UNIQUE (run_id, kind, delivery_id)
) STRICT;

CREATE INDEX workflow_signal_deliveries_untaken
    ON workflow_signal_deliveries (run_id, inbox_seq, payload_bytes)
    WHERE taken = 0;

-- A schedule, and what is going on with its ticks.
-- next_fire_at: the tick by the schedule's own time; it is due when it lies above last_fire_at, the high-water mark.
-- buffered_fire_at: the tick that waits for the end of previous_run_id, the last run that a tick started.
-- requested_fire_at: of the ticks in workflow_schedule_buckets the earliest that need not wait for the end of a run; if all
-- must, the earliest of them, and requested_waits says so.
-- tick_* and lease_*: the tick that is claimed; tick_overlap was requested with it. settled_*: the tick that was settled last, for a repeat.
CREATE TABLE workflow_schedules (
    schedule_id TEXT NOT NULL PRIMARY KEY,
    workflow_id TEXT NOT NULL,
    workflow_version TEXT NOT NULL,
    overlap_policy TEXT NOT NULL,
    queue TEXT NOT NULL,
    priority INTEGER NOT NULL,
    enabled INTEGER NOT NULL,
    next_fire_at INTEGER,
    last_fire_at INTEGER,
    buffered_fire_at INTEGER,
    requested_fire_at INTEGER,
    requested_waits INTEGER,
    previous_run_id TEXT,
    tick_at INTEGER,
    tick_source TEXT,
    tick_overlap TEXT,
    lease_owner TEXT,
    lease_token TEXT,
    lease_number INTEGER NOT NULL,
    lease_expires_at INTEGER,
    settled_fire_at INTEGER,
    settled_operation_id TEXT,
    settled_outcome TEXT,
    revision INTEGER NOT NULL,
    created_at INTEGER NOT NULL,
    updated_at INTEGER NOT NULL,
    spec TEXT NOT NULL,
    input TEXT NOT NULL
) STRICT;

-- A claim finds what it can take, and when something will be due, without looking at any other schedule.
CREATE INDEX workflow_schedules_due
    ON workflow_schedules (workflow_id, next_fire_at, schedule_id)
    WHERE enabled = 1 AND next_fire_at > coalesce(last_fire_at, -1);
CREATE INDEX workflow_schedules_requested
    ON workflow_schedules (requested_fire_at, schedule_id)
    WHERE requested_fire_at IS NOT NULL;
CREATE INDEX workflow_schedules_buffered
    ON workflow_schedules (buffered_fire_at, schedule_id)
    WHERE buffered_fire_at IS NOT NULL;
CREATE INDEX workflow_schedules_claimed ON workflow_schedules (lease_token) WHERE lease_token IS NOT NULL;

-- The ticks that were requested and are not settled yet. overlap: what holds for them in place of the schedule's policy;
-- waits: whether it is buffer-all, with which a tick waits for its turn.
CREATE TABLE workflow_schedule_buckets (
    schedule_id TEXT NOT NULL,
    fire_at INTEGER NOT NULL,
    requested_at INTEGER NOT NULL,
    waits INTEGER NOT NULL,
    overlap TEXT,
    PRIMARY KEY (schedule_id, fire_at)
) STRICT, WITHOUT ROWID;

CREATE INDEX workflow_schedule_buckets_first ON workflow_schedule_buckets (schedule_id, waits, fire_at);

INSERT INTO workflow_schema_migrations (migration_id, package_name, package_version, oldest_code, checksum, applied_at)
VALUES (
    '0000_workflow_store',
    'workflow-store-d1',
    '0.1.0',
    '0.1.0',
    NULL,
    CAST((julianday('now') - 2440587.5) * 86400000 AS INTEGER)
);
