-- Moves workflow_events into a new table of the same name: partitions by a hash of the run id, or one plain table.
--
-- No migration, and not recorded as one: code and migrations find the same table before and after. While it runs, nobody
-- reads or writes the log; workers wait, and repeat what they had to give up. Whatever goes wrong, all is as before.

BEGIN;

-- Whoever uses the log is waited for so long, and everybody else behind that. If it is not enough: all of this again.
SET LOCAL lock_timeout = '2s';
SET LOCAL statement_timeout = 0;

-- All else is found from here: the table by its oid, also under another name, and what belongs to it in its schema.
SELECT
    set_config('workflow.events', relation.oid::text, true) AS oid,
    set_config('workflow.name', quote_ident(relation.relname), true) AS name,
    set_config('search_path', quote_ident(space.nspname), true) AS path,
    set_config('default_tablespace', coalesce(place.spcname::text, ''), true) AS tablespace
FROM pg_catalog.pg_class AS relation
INNER JOIN pg_catalog.pg_namespace AS space ON space.oid = relation.relnamespace
LEFT JOIN pg_catalog.pg_tablespace AS place ON place.oid = relation.reltablespace
WHERE relation.oid = 'workflow_events'::regclass;

LOCK TABLE workflow_events IN ACCESS EXCLUSIVE MODE;

-- What would be lost, or left on the table that goes, is for its owner to take away before and to make again after.
DO $$
DECLARE
    events CONSTANT oid := current_setting('workflow.events')::oid;
    parts CONSTANT oid[] := ARRAY(SELECT inhrelid FROM pg_inherits WHERE inhparent = events) || events;
    obstacles text;
BEGIN
    SELECT string_agg(found.what, ', ') INTO obstacles FROM (
        SELECT 'the index ' || indexrelid::regclass AS what
        FROM pg_index WHERE indrelid = ANY(parts) AND NOT indisprimary
        UNION ALL
        SELECT 'the constraint ' || quote_ident(conname)
        FROM pg_constraint WHERE (conrelid = ANY(parts) OR confrelid = events) AND contype NOT IN ('p', 'n')
        UNION ALL
        SELECT 'the trigger ' || quote_ident(tgname)
        FROM pg_trigger WHERE tgrelid = ANY(parts) AND NOT tgisinternal
        UNION ALL
        SELECT DISTINCT 'the view or rule of ' || rule.ev_class::regclass
        FROM pg_depend AS needs
        INNER JOIN pg_rewrite AS rule ON rule.oid = needs.objid
        WHERE
            needs.classid = 'pg_rewrite'::regclass
            AND needs.refclassid = 'pg_class'::regclass
            AND needs.refobjid = ANY(parts)
        UNION ALL
        SELECT 'the publication ' || quote_ident(publication.pubname)
        FROM pg_publication_rel AS published
        INNER JOIN pg_publication AS publication ON publication.oid = published.prpubid
        WHERE published.prrelid = ANY(parts)
        UNION ALL
        SELECT 'row security' FROM pg_class WHERE oid = events AND relrowsecurity
        UNION ALL
        SELECT 'a replica identity of its own' FROM pg_class WHERE oid = events AND relreplident <> 'd'
    ) AS found;
    IF obstacles IS NOT NULL THEN
        RAISE EXCEPTION 'the log has %', obstacles
            USING ERRCODE = 'object_not_in_prerequisite_state',
                HINT = 'Take that away, run this again, and make it again on the new table.';
    END IF;
END $$;

-- A transaction of these levels that waits for the log has its snapshot, in which none of the new rows is: it would take
-- the log for empty, and go by that. What a program asks for by itself, as in its DSN, cannot be seen from here.
DO $$
DECLARE
    levels CONSTANT text := (
        SELECT string_agg(DISTINCT found.level, ', ')
        FROM (
            SELECT current_setting('default_transaction_isolation') AS level
            UNION ALL
            SELECT split_part(given.setting, '=', 2)
            FROM pg_db_role_setting AS kept
            CROSS JOIN LATERAL unnest(kept.setconfig) AS given (setting)
            WHERE
                kept.setdatabase IN (0, (SELECT oid FROM pg_database WHERE datname = current_database()))
                AND split_part(given.setting, '=', 1) = 'default_transaction_isolation'
        ) AS found
        WHERE found.level NOT LIKE 'read %'
    );
BEGIN
    IF levels IS NOT NULL AND current_setting('workflow.programs', true) IS DISTINCT FROM 'stopped' THEN
        RAISE EXCEPTION 'transactions are % here by default: one that waits would find the log empty', levels
            USING ERRCODE = 'object_not_in_prerequisite_state',
                HINT = 'Stop all programs that use these tables, and SET workflow.programs = stopped before this script.';
    END IF;
END $$;

ALTER TABLE workflow_events RENAME TO workflow_events_before;

CREATE TABLE workflow_events (
    LIKE workflow_events_before
    INCLUDING COMMENTS INCLUDING COMPRESSION INCLUDING DEFAULTS
    INCLUDING GENERATED INCLUDING STATISTICS INCLUDING STORAGE
) PARTITION BY HASH (run_id);

CREATE TABLE workflow_events_partition PARTITION OF workflow_events FOR VALUES WITH (MODULUS 2, REMAINDER 0);

-- The owner, the storage parameters, and no rights yet but the owner's: those of the partitions are never asked for.
DO $$
DECLARE
    events CONSTANT oid := current_setting('workflow.events')::oid;
    made CONSTANT regclass := current_setting('workflow.name')::regclass;
    stored CONSTANT oid := coalesce((SELECT min(inhrelid::oid) FROM pg_inherits WHERE inhparent = events), events);
    parameters CONSTANT text := (
        SELECT string_agg(given.parameter, ', ')
        FROM pg_class AS kept
        LEFT JOIN pg_class AS toast ON toast.oid = kept.reltoastrelid
        CROSS JOIN LATERAL (
            SELECT unnest(kept.reloptions) AS parameter
            UNION ALL
            SELECT 'toast.' || unnest(toast.reloptions)
        ) AS given
        WHERE kept.oid = stored
    );
    owner CONSTANT regrole := (SELECT relowner FROM pg_class WHERE oid = events);
    relation regclass;
    grantee text;
BEGIN
    FOR relation IN SELECT made UNION ALL SELECT inhrelid::regclass FROM pg_inherits WHERE inhparent = made LOOP
        EXECUTE format('ALTER TABLE %s OWNER TO %s', relation, owner);
        IF parameters IS NOT NULL AND (SELECT relkind FROM pg_class WHERE oid = relation) = 'r' THEN
            EXECUTE format('ALTER TABLE %s SET (%s)', relation, parameters);
        END IF;
        FOR grantee IN
            SELECT DISTINCT CASE given.grantee WHEN 0 THEN 'PUBLIC' ELSE given.grantee::regrole::text END
            FROM pg_class, aclexplode(pg_class.relacl) AS given
            WHERE pg_class.oid = relation AND given.grantee <> pg_class.relowner
        LOOP
            EXECUTE format('REVOKE ALL ON TABLE %s FROM %s', relation, grantee);
        END LOOP;
    END LOOP;
END $$;

INSERT INTO workflow_events SELECT * FROM workflow_events_before;

DO $$
DECLARE
    events CONSTANT oid := current_setting('workflow.events')::oid;
    made CONSTANT regclass := current_setting('workflow.name')::regclass;
    given record;
BEGIN
    FOR given IN
        SELECT '' AS of_columns, acl.grantee, acl.privilege_type, acl.is_grantable
        FROM pg_class, aclexplode(pg_class.relacl) AS acl
        WHERE pg_class.oid = events AND acl.grantee <> pg_class.relowner
        UNION ALL
        SELECT format('(%I)', attribute.attname), acl.grantee, acl.privilege_type, acl.is_grantable
        FROM pg_attribute AS attribute, aclexplode(attribute.attacl) AS acl
        WHERE attribute.attrelid = events
    LOOP
        EXECUTE format(
            'GRANT %s %s ON TABLE %s TO %s%s',
            given.privilege_type,
            given.of_columns,
            made,
            CASE given.grantee WHEN 0 THEN 'PUBLIC' ELSE given.grantee::regrole::text END,
            CASE WHEN given.is_grantable THEN ' WITH GRANT OPTION' END
        );
    END LOOP;
    EXECUTE format('COMMENT ON TABLE %s IS %L', made, obj_description(events, 'pg_class'));
END $$;

DROP TABLE workflow_events_before;

-- Once for all rows, which takes less than entry by entry; and under the name that the table of the migrations has it by.
ALTER TABLE workflow_events ADD PRIMARY KEY (run_id, event_index);

-- What the server plans by: nothing else looks at the partitions together.
ANALYZE workflow_events;

COMMIT;
