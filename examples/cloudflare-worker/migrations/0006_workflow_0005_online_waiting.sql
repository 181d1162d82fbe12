-- 0005_online_waiting: finds runs that wait by their status.
-- Oldest code: 0.1.0
--
-- Listings and counts of queued and of paused runs read those, however many have ended. Running runs are not in it: they
-- are as few as the workers can drive, and have an index already.
-- Others wait to write while the index is built. Nothing needs it: apply it when there is little to do.

CREATE INDEX workflow_event_locks_waiting
    ON workflow_event_locks (status, created_at, run_id)
    WHERE status IN ('paused', 'queued');

INSERT INTO workflow_schema_migrations (migration_id, package_name, package_version, oldest_code, checksum, applied_at)
VALUES (
    '0005_online_waiting',
    'workflow-store-d1',
    '0.2.0',
    '0.1.0',
    NULL,
    CAST((julianday('now') - 2440587.5) * 86400000 AS INTEGER)
);
