-- 0003_online_terminal: finds ended runs by their status and age.
-- Oldest code: 0.1.0
--
-- Pruning runs of some statuses reads those, however many others are as old. It replaces workflow_event_locks_ended.
-- Others wait to write while the index is built. Nothing needs it: apply it when there is little to do.

CREATE INDEX workflow_event_locks_terminal
    ON workflow_event_locks (status, finished_at, run_id)
    WHERE finished_at IS NOT NULL;

INSERT INTO workflow_schema_migrations (migration_id, package_name, package_version, oldest_code, checksum, applied_at)
VALUES (
    '0003_online_terminal',
    'workflow-store-d1',
    '0.2.0',
    '0.1.0',
    NULL,
    CAST((julianday('now') - 2440587.5) * 86400000 AS INTEGER)
);
