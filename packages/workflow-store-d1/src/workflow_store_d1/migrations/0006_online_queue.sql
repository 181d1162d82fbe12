-- 0006_online_queue: finds the runs of a queue that is not the default one.
-- Oldest code: 0.1.0
--
-- Listings and counts by queue read those, however many others there are. Runs of the default queue are not in it: who
-- names no queue pays nothing.
-- Others wait to write while the index is built. Nothing needs it: apply it when there is little to do.

CREATE INDEX workflow_runs_queue
    ON workflow_runs (queue, created_at, run_id)
    WHERE queue <> 'default';

INSERT INTO workflow_schema_migrations (migration_id, package_name, package_version, oldest_code, checksum, applied_at)
VALUES (
    '0006_online_queue',
    'workflow-store-d1',
    '0.2.0',
    '0.1.0',
    NULL,
    CAST((julianday('now') - 2440587.5) * 86400000 AS INTEGER)
);
