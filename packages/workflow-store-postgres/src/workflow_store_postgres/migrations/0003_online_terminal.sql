-- 0003_online_terminal: finds ended runs by their status and age.
-- Oldest code: 0.1.0
--
-- Pruning runs of some statuses reads those, however many others are as old. It replaces workflow_event_locks_ended.
-- No transaction: others write while the index is built. A build that was stopped leaves an unusable index behind: run
-- the file again, it drops that one first.

DROP INDEX CONCURRENTLY IF EXISTS workflow_event_locks_terminal;
CREATE INDEX CONCURRENTLY workflow_event_locks_terminal
    ON workflow_event_locks (status, finished_at, run_id)
    WHERE finished_at IS NOT NULL;

INSERT INTO workflow_schema_migrations (migration_id, package_name, package_version, oldest_code, checksum, applied_at)
VALUES (
    '0003_online_terminal',
    'workflow-store-postgres',
    '0.2.0',
    '0.1.0',
    NULL,
    floor(extract(epoch FROM clock_timestamp()) * 1000)
);
