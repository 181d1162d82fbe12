-- 0004_contract_ended: takes away workflow_event_locks_ended.
-- Oldest code: 0.2.0
--
-- Since 0.2.0 pruning reads workflow_event_locks_terminal. Without the old index 0.1.0 would read every run instead.

DROP INDEX workflow_event_locks_ended;

INSERT INTO workflow_schema_migrations (migration_id, package_name, package_version, oldest_code, checksum, applied_at)
VALUES (
    '0004_contract_ended',
    'workflow-store-d1',
    '0.2.0',
    '0.2.0',
    NULL,
    CAST((julianday('now') - 2440587.5) * 86400000 AS INTEGER)
);
