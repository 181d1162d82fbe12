"""The database's own history of the soak: triggers write down what becomes of ticks and runs, in the order of commits.

The library knows nothing of it. A row is written in the very statement that changes something, so the history holds
what was committed and nothing else. Its numbers keep the order of any two changes of which one saw the other.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import asyncpg

__all__ = ["Entry", "install", "read_chronicle"]

What = Literal["scheduled", "settled", "created", "ended"]

_INSTALL = """
CREATE TABLE soak_payments (run_id text NOT NULL);

CREATE TABLE soak_chronicle (
    number bigserial PRIMARY KEY,
    at_ms bigint NOT NULL DEFAULT floor(extract(epoch FROM clock_timestamp()) * 1000),
    what text NOT NULL,
    subject text NOT NULL,
    tick_ms bigint,
    outcome text,
    source text
);

CREATE FUNCTION soak_note_schedule() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
    INSERT INTO soak_chronicle (what, subject, tick_ms) VALUES ('scheduled', NEW.schedule_id, NEW.next_fire_at);
    RETURN NULL;
END $$;
CREATE TRIGGER soak_scheduled AFTER INSERT ON workflow_schedules
    FOR EACH ROW EXECUTE FUNCTION soak_note_schedule();

CREATE FUNCTION soak_note_tick() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
    INSERT INTO soak_chronicle (what, subject, tick_ms, outcome, source)
    VALUES ('settled', NEW.schedule_id, NEW.settled_fire_at, NEW.settled_outcome, OLD.tick_source);
    RETURN NULL;
END $$;
CREATE TRIGGER soak_settled AFTER UPDATE ON workflow_schedules
    FOR EACH ROW WHEN (NEW.settled_operation_id IS DISTINCT FROM OLD.settled_operation_id)
    EXECUTE FUNCTION soak_note_tick();

CREATE FUNCTION soak_note_run() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
    INSERT INTO soak_chronicle (what, subject, outcome) VALUES (TG_ARGV[0], NEW.run_id, NEW.status);
    RETURN NULL;
END $$;
CREATE TRIGGER soak_created AFTER INSERT ON workflow_event_locks
    FOR EACH ROW EXECUTE FUNCTION soak_note_run('created');
CREATE TRIGGER soak_ended AFTER UPDATE OF status ON workflow_event_locks
    FOR EACH ROW WHEN (
        NEW.status IS DISTINCT FROM OLD.status
        AND (NEW.status IN ('finished', 'errored', 'aborted', 'dead')
             OR OLD.status IN ('finished', 'errored', 'aborted', 'dead'))
    )
    EXECUTE FUNCTION soak_note_run('ended');
"""
_READ = "SELECT at_ms, what, subject, tick_ms, outcome, source FROM soak_chronicle ORDER BY number"


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One line: a schedule was created, a tick was settled, a run was created or changed to or from its end."""

    at_ms: int
    what: What
    subject: str
    """The id of the schedule or of the run."""
    tick_ms: int | None = None
    outcome: str | None = None
    source: str | None = None


async def install(dsn: str) -> None:
    """Add the business table and the triggers to the store's tables."""
    connection = await asyncpg.connect(dsn)
    try:
        await connection.execute(_INSTALL)
    finally:
        await connection.close()


async def read_chronicle(connection: asyncpg.Connection) -> Sequence[Entry]:
    """Read all of it."""
    return [Entry(**row) for row in await connection.fetch(_READ)]
