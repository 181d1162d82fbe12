-- 0001_expand_environment: which environment the tables belong to.
-- Oldest code: 0.1.0
--
-- A program of another environment refuses them: a copy of production that was restored elsewhere is left alone. Written
-- in any row, it holds for all tables. Without it every program takes them.

ALTER TABLE workflow_schema_migrations ADD COLUMN environment TEXT;

INSERT INTO workflow_schema_migrations (migration_id, package_name, package_version, oldest_code, checksum, applied_at)
VALUES (
    '0001_expand_environment',
    'workflow-store-d1',
    '0.2.0',
    '0.1.0',
    NULL,
    CAST((julianday('now') - 2440587.5) * 86400000 AS INTEGER)
);
