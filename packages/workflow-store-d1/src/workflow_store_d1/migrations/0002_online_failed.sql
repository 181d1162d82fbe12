-- 0002_online_failed: finds runs that ended badly by their status.
-- Oldest code: 0.1.0
--
-- Listings and counts of runs that failed read those, however many finished.
-- Others wait to write while the index is built. Nothing needs it: apply it when there is little to do.

CREATE INDEX workflow_event_locks_failed
    ON workflow_event_locks (status, created_at, run_id)
    WHERE status IN ('aborted', 'dead', 'errored');

INSERT INTO workflow_schema_migrations (migration_id, package_name, package_version, oldest_code, checksum, applied_at)
VALUES (
    '0002_online_failed',
    'workflow-store-d1',
    '0.2.0',
    '0.1.0',
    NULL,
    CAST((julianday('now') - 2440587.5) * 86400000 AS INTEGER)
);
