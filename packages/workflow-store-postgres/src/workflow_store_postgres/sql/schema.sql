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

-- name: read_faults
-- Returns whether our tables have a primary key, and whether one in partitions by hash lacks some of them.
-- $1 schema  $2 table_names
SELECT
    relation.relname::text AS table_name,
    EXISTS (
        SELECT 1
        FROM pg_catalog.pg_index AS index
        WHERE index.indrelid = relation.oid AND index.indisprimary AND index.indisvalid
    ) AS has_key,
    divided.partstrat IS NOT DISTINCT FROM 'h' AND (
        -- Each takes one hash in so many. A hair less than all of them, because thirds have no last digit.
        SELECT coalesce(sum(1 / substring(pg_get_expr(part.relpartbound, part.oid) FROM 'modulus (\d+)')::numeric), 0)
        FROM pg_catalog.pg_inherits AS inherits
        INNER JOIN pg_catalog.pg_class AS part ON part.oid = inherits.inhrelid
        WHERE inherits.inhparent = relation.oid AND NOT inherits.inhdetachpending
    ) < 0.9999 AS lacks_partitions
FROM pg_catalog.pg_class AS relation
INNER JOIN pg_catalog.pg_namespace AS space ON space.oid = relation.relnamespace
LEFT JOIN pg_catalog.pg_partitioned_table AS divided ON divided.partrelid = relation.oid
WHERE
    space.nspname = $1::text
    AND relation.relname::text = ANY($2::text[])
    AND relation.relkind IN ('r', 'p')
ORDER BY relation.relname;

-- name: read_partitions
-- Returns the partitions of a table, if it has some.
-- $1 schema  $2 table_name
SELECT part.relname::text AS name
FROM pg_catalog.pg_class AS relation
INNER JOIN pg_catalog.pg_namespace AS space ON space.oid = relation.relnamespace
INNER JOIN pg_catalog.pg_inherits AS inherits ON inherits.inhparent = relation.oid
INNER JOIN pg_catalog.pg_class AS part ON part.oid = inherits.inhrelid
WHERE space.nspname = $1::text AND relation.relname::text = $2::text AND relation.relkind = 'p'
ORDER BY part.relname;

-- name: read_applied_migrations
-- Reads what was applied. 0000 has no column for the environment; a result that changes would break prepared statements.
SELECT
    applied.migration_id,
    applied.package_name,
    applied.oldest_code,
    applied.checksum,
    to_jsonb(applied) ->> 'environment' AS environment
FROM workflow_schema_migrations AS applied
ORDER BY applied.migration_id;

-- name: read_migration_records
-- Reads all that is recorded about what was applied, for an operator.
SELECT
    applied.migration_id,
    applied.package_name,
    applied.package_version,
    applied.oldest_code,
    applied.checksum,
    applied.applied_at,
    to_jsonb(applied) ->> 'environment' AS environment
FROM workflow_schema_migrations AS applied
ORDER BY applied.migration_id;

-- name: read_server
-- Reads where the connection leads, for an operator.
SELECT
    current_database()::text AS database,
    current_setting('server_version') AS version;

-- name: record_checksum
-- Completes the row that a migration has written about itself.
-- $1 migration_id  $2 checksum
UPDATE workflow_schema_migrations
SET checksum = $2::text
WHERE migration_id = $1::text AND checksum IS NULL;

-- name: replace_checksum
-- Records a checksum whatever was recorded before, as an operator wants it.
-- $1 migration_id  $2 checksum
UPDATE workflow_schema_migrations
SET checksum = $2::text
WHERE migration_id = $1::text;

-- name: mark_environment
-- Marks new tables with the environment that they belong to.
-- $1 environment
UPDATE workflow_schema_migrations
SET environment = $1::text;

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
-- Returns whose transactions have used our tables since some seconds ago, the one that began first before the others.
-- $1 schema  $2 table_names  $3 seconds
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
    AND (held.pid IS NULL OR activity.xact_start < clock_timestamp() - make_interval(secs => $3::float8))
    AND space.nspname = $1::text
    AND relation.relname::text = ANY($2::text[])
ORDER BY since
LIMIT 5;

-- name: read_index
-- Returns whether an index can be used, if it is there.
-- $1 schema  $2 index_name
SELECT index.indisvalid AND index.indisready AS is_valid
FROM pg_catalog.pg_class AS index_relation
INNER JOIN pg_catalog.pg_namespace AS space ON space.oid = index_relation.relnamespace
INNER JOIN pg_catalog.pg_index AS index ON index.indexrelid = index_relation.oid
WHERE space.nspname = $1::text AND index_relation.relname::text = $2::text;

-- name: read_index_builders
-- Returns who may be building an index of a table: who does holds this lock from its first moment to its last.
-- $1 schema  $2 table_name
SELECT DISTINCT
    -- include: holder_columns
FROM pg_catalog.pg_locks AS held
INNER JOIN pg_catalog.pg_class AS relation ON relation.oid = held.relation
INNER JOIN pg_catalog.pg_namespace AS space ON space.oid = relation.relnamespace
LEFT JOIN pg_catalog.pg_stat_activity AS activity ON activity.pid = held.pid
WHERE
    held.locktype = 'relation'
    AND held.granted
    AND held.mode = 'ShareUpdateExclusiveLock'
    AND held.database = (SELECT base.oid FROM pg_catalog.pg_database AS base WHERE base.datname = current_database())
    AND held.pid IS DISTINCT FROM pg_backend_pid()
    AND activity.backend_type IS DISTINCT FROM 'autovacuum worker'
    AND space.nspname = $1::text
    AND relation.relname::text = $2::text
ORDER BY since;

-- name: lock_against_builders
-- Waits until nobody builds an index of the head table, and keeps everybody from beginning to.
LOCK TABLE workflow_event_locks IN SHARE UPDATE EXCLUSIVE MODE;

-- name: read_index_progress
-- Returns how far the building of an index is, and whose transaction it waits for.
-- $1 schema  $2 table_name
SELECT
    progress.phase,
    progress.blocks_done,
    progress.blocks_total,
    -- include: holder_columns
FROM pg_catalog.pg_stat_progress_create_index AS progress
INNER JOIN pg_catalog.pg_class AS relation ON relation.oid = progress.relid
INNER JOIN pg_catalog.pg_namespace AS space ON space.oid = relation.relnamespace
LEFT JOIN pg_catalog.pg_stat_activity AS activity ON activity.pid = nullif(progress.current_locker_pid, 0)
CROSS JOIN LATERAL (SELECT activity.pid) AS held
WHERE progress.datname = current_database() AND space.nspname = $1::text AND relation.relname::text = $2::text;

-- name: read_clock
-- Reads the database's time.
SELECT floor(extract(epoch FROM clock_timestamp()) * 1000)::bigint AS clock;
