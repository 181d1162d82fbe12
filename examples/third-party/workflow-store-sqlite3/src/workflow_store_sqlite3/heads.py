"""The head of a run: the row by which every unit decides, and the moves that several verbs make."""

from __future__ import annotations

from sqlite3 import Connection, Row

from workflow_runtime.store import JsonText, RunStatus


def find_head(db: Connection, run_id: str) -> Row | None:
    """Read the row that decides."""
    row: Row | None = db.execute("SELECT * FROM workflow_runs WHERE run_id = ?", (run_id,)).fetchone()
    return row


def set_head(db: Connection, run_id: str, **columns: object) -> None:
    """Set columns of a run's head."""
    assignments = ", ".join(f"{name} = :{name}" for name in columns)
    db.execute(f"UPDATE workflow_runs SET {assignments} WHERE run_id = :id", {**columns, "id": run_id})


def queue_run(db: Connection, run_id: str, *, now_ms: int, **columns: object) -> None:
    """Make a run claimable by anybody from now on."""
    columns = {"claimable_at_ms": now_ms, "lease_owner": None, "lease_token": None, **columns}
    set_head(db, run_id, status=RunStatus.QUEUED, updated_at_ms=now_ms, **columns)


def end_run(db: Connection, run_id: str, status: RunStatus, *, now_ms: int, reason: str | None = None) -> None:
    """Give a run its last status: nobody holds it any more, and its timers are gone unless it is parked."""
    no_claim = {"claimable_at_ms": None, "lease_owner": None, "lease_token": None}
    set_head(db, run_id, status=status, reason=reason, finished_at_ms=now_ms, updated_at_ms=now_ms, **no_claim)
    if status is not RunStatus.DEAD:
        db.execute("DELETE FROM workflow_timers WHERE run_id = ?", (run_id,))


def insert_run(
    db: Connection, run_id: str, input: JsonText, *, now_ms: int, next_index: int = 0, **columns: object
) -> None:
    """Insert a queued run."""
    columns |= {"run_id": run_id, "status": RunStatus.QUEUED, "next_index": next_index}
    columns |= {"created_at_ms": now_ms, "updated_at_ms": now_ms}
    names = ", ".join(columns)
    values = ", ".join(f":{name}" for name in columns)
    db.execute(f"INSERT INTO workflow_runs ({names}) VALUES ({values})", columns)
    db.execute("INSERT INTO workflow_run_data (run_id, input) VALUES (?, ?)", (run_id, input))
