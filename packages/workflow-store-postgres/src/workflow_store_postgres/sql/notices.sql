-- Notices of work for waiting workers.
--
-- The channel is named after the head table's oid: the same for all who use the same table, however they find it, and
-- another one for each set of tables. A statement that may make work notifies of it in its own transaction, when its
-- parameter `notifies` says so; `wakes` in its answer says whether there was work. Within a short time one commit
-- notifies, since such commits of a whole server wait for each other; `notify` brings what was left out.

-- name: read_channel
-- Gives the channel of a table; NULL when there is no such table.
-- $1 head_table
SELECT 'workflow_work_' || to_regclass($1::text)::oid AS channel;

-- name: notify
-- Sends notices of several runs; of an empty id when anything may have happened.
-- $1 head_table  $2 run_ids
SELECT count(pg_notify('workflow_work_' || to_regclass($1::text)::oid, notified.run_id)) AS notified
FROM unnest($2::text[]) AS notified (run_id);

-- name: probe
-- Notifies the listener that waits on a channel of its own, and returns the channel on which it should be listening.
-- $1 head_table  $2 probe_channel
SELECT
    count(pg_notify($2::text, '')) AS notified,
    'workflow_work_' || to_regclass($1::text)::oid AS channel;
