-- What is asked about the tables themselves.

-- name: read_schema
-- Returns where a name without a schema would be created, where the first of our names is found, and whether the given
-- schema is there.
-- $1 schema  $2 table_names
SELECT
    current_schema()::text AS current,
    (
        SELECT space.nspname::text
        FROM unnest(current_schemas(false)) WITH ORDINALITY AS path (name, position)
        INNER JOIN pg_catalog.pg_namespace AS space ON space.nspname = path.name
        INNER JOIN pg_catalog.pg_class AS relation ON relation.relnamespace = space.oid
        WHERE relation.relname::text = ANY($2::text[])
        ORDER BY path.position
        LIMIT 1
    ) AS visible,
    EXISTS (SELECT 1 FROM pg_catalog.pg_namespace AS space WHERE space.nspname = $1::text) AS present;

-- name: read_relations
-- Returns which of our names are taken in a schema, with each of their columns.
-- $1 schema  $2 table_names
SELECT
    relation.relname::text AS table_name,
    attribute.attname::text AS column_name
FROM pg_catalog.pg_class AS relation
INNER JOIN pg_catalog.pg_namespace AS space ON space.oid = relation.relnamespace
LEFT JOIN pg_catalog.pg_attribute AS attribute
    ON attribute.attrelid = relation.oid AND attribute.attnum > 0 AND NOT attribute.attisdropped
WHERE
    space.nspname = $1::text
    AND relation.relname::text = ANY($2::text[])
ORDER BY relation.relname;

-- name: read_columns
-- Returns the columns of our tables, with their types.
-- $1 schema  $2 table_names
SELECT
    relation.relname::text AS table_name,
    attribute.attname::text AS column_name,
    format_type(attribute.atttypid, attribute.atttypmod) AS column_type,
    NOT attribute.attnotnull AS nullable
FROM pg_catalog.pg_class AS relation
INNER JOIN pg_catalog.pg_namespace AS space ON space.oid = relation.relnamespace
INNER JOIN pg_catalog.pg_attribute AS attribute
    ON attribute.attrelid = relation.oid AND attribute.attnum > 0 AND NOT attribute.attisdropped
WHERE
    space.nspname = $1::text
    AND relation.relname::text = ANY($2::text[])
    AND relation.relkind IN ('r', 'p');

-- name: read_indexes
-- Returns the indexes of our tables. Those of constraints are among them.
-- $1 schema  $2 table_names
SELECT
    relation.relname::text AS table_name,
    index_relation.relname::text AS index_name,
    index.indisunique AS is_unique,
    index.indisvalid AND index.indisready AS is_valid,
    (
        SELECT string_agg(coalesce(attribute.attname::text, '?'), ',' ORDER BY part.position)
        FROM unnest(index.indkey::smallint[]) WITH ORDINALITY AS part (number, position)
        LEFT JOIN pg_catalog.pg_attribute AS attribute
            ON attribute.attrelid = relation.oid AND attribute.attnum = part.number
    ) AS index_columns
FROM pg_catalog.pg_class AS relation
INNER JOIN pg_catalog.pg_namespace AS space ON space.oid = relation.relnamespace
INNER JOIN pg_catalog.pg_index AS index ON index.indrelid = relation.oid
INNER JOIN pg_catalog.pg_class AS index_relation ON index_relation.oid = index.indexrelid
WHERE
    space.nspname = $1::text
    AND relation.relname::text = ANY($2::text[]);

-- name: read_applied_migrations
-- Reads what was applied.
SELECT applied.migration_id, applied.package_name, applied.oldest_code, applied.checksum
FROM workflow_schema_migrations AS applied
ORDER BY applied.migration_id;

-- name: record_checksum
-- Completes the row that a migration has written about itself.
-- $1 migration_id  $2 checksum
UPDATE workflow_schema_migrations
SET checksum = $2::text
WHERE migration_id = $1::text AND checksum IS NULL;

-- name: limit_lock_waits
-- Lets no statement of the transaction wait long for a table: whoever comes after it would wait too.
SET LOCAL lock_timeout = '500ms';

-- name: try_migration_lock
-- Takes the lock of those who migrate, until the end of the transaction.
-- $1 key
SELECT pg_catalog.pg_try_advisory_xact_lock($1::bigint) AS taken;

-- fragment: holder_columns
-- Who holds a lock, and since when. A prepared transaction has no process.
held.pid,
activity.application_name,
activity.usename::text AS role,
coalesce(host(activity.client_addr), 'this machine') AS address,
activity.state,
activity.xact_start::text AS since

-- name: read_migration_lock_holder
-- Returns who holds it.
-- $1 key
SELECT
    -- include: holder_columns
FROM pg_catalog.pg_locks AS held
LEFT JOIN pg_catalog.pg_stat_activity AS activity ON activity.pid = held.pid
WHERE
    held.locktype = 'advisory'
    AND held.granted
    AND held.database = (SELECT base.oid FROM pg_catalog.pg_database AS base WHERE base.datname = current_database())
    AND held.classid = (($1::bigint >> 32) & 4294967295)::oid
    AND held.objid = ($1::bigint & 4294967295)::oid
    AND held.objsubid = 1;

-- name: read_table_users
-- Returns whose transactions have used our tables, the one that began first before the others.
-- $1 schema  $2 table_names
SELECT DISTINCT
    -- include: holder_columns
FROM pg_catalog.pg_locks AS held
INNER JOIN pg_catalog.pg_class AS relation ON relation.oid = held.relation
INNER JOIN pg_catalog.pg_namespace AS space ON space.oid = relation.relnamespace
LEFT JOIN pg_catalog.pg_stat_activity AS activity ON activity.pid = held.pid
WHERE
    held.locktype = 'relation'
    AND held.granted
    AND held.database = (SELECT base.oid FROM pg_catalog.pg_database AS base WHERE base.datname = current_database())
    AND held.pid IS DISTINCT FROM pg_backend_pid()
    AND space.nspname = $1::text
    AND relation.relname::text = ANY($2::text[])
ORDER BY since
LIMIT 5;

-- name: read_clock
-- Reads the database's time.
SELECT floor(extract(epoch FROM clock_timestamp()) * 1000)::bigint AS clock;
