-- Telling waiting workers of work.
--
-- The channel is named after the head table's oid: the same for all who use the same table, however they find it, and
-- another one for each set of tables. A statement that may make work tells of it by itself, in its own transaction, when
-- its parameter `tells` says so; `wakes` in its answer says whether there was something to tell. At most one commit in
-- a while tells, for such commits of a whole server wait for each other; `tell` brings what was left out.

-- name: read_channel
-- Gives the channel of a table; NULL when there is no such table.
-- $1 head_table
SELECT 'workflow_work_' || to_regclass($1::text)::oid AS channel;

-- name: tell
-- Tells of several runs; of an empty id when anything may have happened.
-- $1 head_table  $2 run_ids
SELECT count(pg_notify('workflow_work_' || to_regclass($1::text)::oid, told.run_id)) AS told
FROM unnest($2::text[]) AS told (run_id);

-- name: probe
-- Tells the listener that waits on a channel of its own, and gives the channel on which it should be listening.
-- $1 head_table  $2 probe_channel
SELECT
    count(pg_notify($2::text, '')) AS told,
    'workflow_work_' || to_regclass($1::text)::oid AS channel;
