-- What is asked about the tables themselves.

-- name: read_tables
-- Returns which of our names are taken in this database, with each of their columns.
-- ?1 table_names
SELECT
    master.name AS table_name,
    info.name AS column_name
FROM sqlite_master AS master
LEFT JOIN pragma_table_info(master.name) AS info
WHERE
    master.type IN ('table', 'view')
    AND lower(master.name) IN (SELECT lower(wanted.value) FROM json_each(?1) AS wanted)
ORDER BY master.name;

-- name: read_columns
-- Returns the columns of our tables, with their types.
-- ?1 table_names
SELECT
    master.name AS table_name,
    info.name AS column_name,
    info.type AS column_type,
    info."notnull" = 0 AS nullable
FROM sqlite_master AS master
CROSS JOIN pragma_table_xinfo(master.name) AS info
WHERE
    master.type = 'table'
    AND lower(master.name) IN (SELECT lower(wanted.value) FROM json_each(?1) AS wanted);

-- name: read_indexes
-- Returns the indexes of our tables. Those of constraints are among them.
-- ?1 table_names
SELECT
    master.name AS table_name,
    listed.name AS index_name,
    listed."unique" AS is_unique,
    1 AS is_valid,
    (SELECT group_concat(coalesce(info.name, '?')) FROM pragma_index_info(listed.name) AS info) AS index_columns
FROM sqlite_master AS master
CROSS JOIN pragma_index_list(master.name) AS listed
WHERE
    master.type = 'table'
    AND lower(master.name) IN (SELECT lower(wanted.value) FROM json_each(?1) AS wanted);

-- name: read_applied_migrations
-- Reads what was applied. Which columns there are depends on it.
SELECT applied.*
FROM workflow_schema_migrations AS applied
ORDER BY applied.migration_id;

-- name: record_checksum
-- Completes the row that a migration has written about itself.
-- ?1 migration_id  ?2 checksum
UPDATE workflow_schema_migrations
SET checksum = ?2
WHERE migration_id = ?1 AND checksum IS NULL;

-- name: replace_checksum
-- Records a checksum whatever was recorded before, as an operator wants it.
-- ?1 migration_id  ?2 checksum
UPDATE workflow_schema_migrations
SET checksum = ?2
WHERE migration_id = ?1;

-- name: mark_environment
-- Marks new tables with the environment that they belong to.
-- ?1 environment
UPDATE workflow_schema_migrations
SET environment = ?1;

-- name: read_clock
-- Reads the database's time.
SELECT CAST((julianday('now') - 2440587.5) * 86400000 AS INTEGER) AS clock;
