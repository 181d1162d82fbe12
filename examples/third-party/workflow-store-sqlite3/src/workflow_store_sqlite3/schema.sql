-- Everything that decides stands in workflow_runs: the head of each run. Payloads lie beside it, so that
-- renewing a lease does not write a large input again. What belongs to a run goes when the run goes.

CREATE TABLE IF NOT EXISTS workflow_schema (version INTEGER NOT NULL) STRICT;

CREATE TABLE IF NOT EXISTS workflow_runs (
    run_id TEXT PRIMARY KEY,
    workflow_id TEXT NOT NULL,
    workflow_version TEXT NOT NULL,
    queue TEXT NOT NULL,
    priority INTEGER NOT NULL,
    status TEXT NOT NULL,
    created_at_ms INTEGER NOT NULL,
    updated_at_ms INTEGER NOT NULL,
    finished_at_ms INTEGER,
    -- when a queued run is due, the lease of a running one ends, the earliest timer of a paused one fires
    claimable_at_ms INTEGER,
    next_index INTEGER NOT NULL,
    inbox_seq INTEGER NOT NULL DEFAULT 0,
    cancel_requested INTEGER NOT NULL DEFAULT 0,
    reason TEXT,
    crashes INTEGER NOT NULL DEFAULT 0,
    silent_claims INTEGER NOT NULL DEFAULT 0,
    lease_owner TEXT,
    lease_token TEXT,
    lease_number INTEGER NOT NULL DEFAULT 0,
    lease_heard INTEGER NOT NULL DEFAULT 0,
    -- the last driver's write, or the creation, and what it answered
    last_operation_id TEXT NOT NULL,
    last_answer TEXT NOT NULL DEFAULT '{}',
    schedule_id TEXT,
    scheduled_at_ms INTEGER,
    forked_from_run_id TEXT,
    forked_from_index INTEGER
) STRICT;

CREATE INDEX IF NOT EXISTS workflow_runs_claimable ON workflow_runs (status, claimable_at_ms);
CREATE INDEX IF NOT EXISTS workflow_runs_created ON workflow_runs (created_at_ms, run_id);

CREATE TABLE IF NOT EXISTS workflow_run_data (
    run_id TEXT PRIMARY KEY REFERENCES workflow_runs ON DELETE CASCADE,
    input TEXT NOT NULL,
    output TEXT,
    error TEXT,
    awaited TEXT NOT NULL DEFAULT '[]'
) STRICT;

CREATE TABLE IF NOT EXISTS workflow_events (
    run_id TEXT NOT NULL REFERENCES workflow_runs ON DELETE CASCADE,
    event_index INTEGER NOT NULL,
    kind TEXT NOT NULL,
    step_id TEXT,
    payload TEXT,
    created_at_ms INTEGER NOT NULL,
    PRIMARY KEY (run_id, event_index)
) STRICT;

CREATE TABLE IF NOT EXISTS workflow_inbox (
    run_id TEXT NOT NULL REFERENCES workflow_runs ON DELETE CASCADE,
    inbox_seq INTEGER NOT NULL,
    kind TEXT NOT NULL,
    name TEXT NOT NULL,
    delivery_id TEXT NOT NULL,
    payload TEXT,
    received_at_ms INTEGER NOT NULL,
    taken INTEGER NOT NULL DEFAULT 0,
    PRIMARY KEY (run_id, inbox_seq)
) STRICT;

-- A run that was aborted and retried can be asked to end once more.
CREATE UNIQUE INDEX IF NOT EXISTS workflow_inbox_once
    ON workflow_inbox (run_id, kind, delivery_id) WHERE kind <> 'cancel';
CREATE INDEX IF NOT EXISTS workflow_inbox_untaken ON workflow_inbox (run_id, inbox_seq) WHERE NOT taken;

CREATE TABLE IF NOT EXISTS workflow_timers (
    run_id TEXT NOT NULL REFERENCES workflow_runs ON DELETE CASCADE,
    timer_id TEXT NOT NULL,
    fire_at_ms INTEGER NOT NULL,
    PRIMARY KEY (run_id, timer_id)
) STRICT;

CREATE TABLE IF NOT EXISTS workflow_schedules (
    schedule_id TEXT PRIMARY KEY,
    workflow_id TEXT NOT NULL,
    workflow_version TEXT NOT NULL,
    spec TEXT NOT NULL,
    input TEXT NOT NULL,
    overlap_policy TEXT NOT NULL,
    queue TEXT NOT NULL,
    priority INTEGER NOT NULL,
    enabled INTEGER NOT NULL,
    next_fire_at_ms INTEGER,
    last_fire_at_ms INTEGER,
    buffered_fire_at_ms INTEGER,
    previous_run_id TEXT,
    revision INTEGER NOT NULL DEFAULT 1,
    created_at_ms INTEGER NOT NULL,
    updated_at_ms INTEGER NOT NULL,
    -- the one tick that is claimed, if any
    claimed_fire_at_ms INTEGER,
    claimed_source TEXT,
    claim_token TEXT,
    claim_number INTEGER NOT NULL DEFAULT 0,
    claim_expires_at_ms INTEGER,
    -- the last tick that was settled
    last_operation_id TEXT,
    last_answer TEXT
) STRICT;

CREATE TABLE IF NOT EXISTS workflow_requested_ticks (
    schedule_id TEXT NOT NULL REFERENCES workflow_schedules ON DELETE CASCADE,
    fire_at_ms INTEGER NOT NULL,
    overlap TEXT,
    requested_at_ms INTEGER NOT NULL,
    PRIMARY KEY (schedule_id, fire_at_ms)
) STRICT;
