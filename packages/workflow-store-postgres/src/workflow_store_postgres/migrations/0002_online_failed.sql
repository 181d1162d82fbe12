-- 0002_online_failed: finds runs that ended badly by their status.
-- Oldest code: 0.1.0
--
-- Listings and counts of runs that failed read those, however many finished.
-- No transaction: others write while the index is built. A build that was stopped leaves an unusable index behind: run
-- the file again, it drops that one first.

DROP INDEX CONCURRENTLY IF EXISTS workflow_event_locks_failed;
CREATE INDEX CONCURRENTLY workflow_event_locks_failed
    ON workflow_event_locks (status, created_at, run_id)
    WHERE status IN ('aborted', 'dead', 'errored');

INSERT INTO workflow_schema_migrations (migration_id, package_name, package_version, oldest_code, checksum, applied_at)
VALUES (
    '0002_online_failed',
    'workflow-store-postgres',
    '0.2.0',
    '0.1.0',
    NULL,
    floor(extract(epoch FROM clock_timestamp()) * 1000)
);
