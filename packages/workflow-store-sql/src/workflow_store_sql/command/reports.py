"""The answers of the command: as text for people, and as JSON whose keys stay."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from workflow_migrations import Migration, Phase
from workflow_runtime.store import SchemaDamagedError, WorkflowError, one_line

from ..rows import Row
from .look import Look, Step
from .repairs import Repair

__all__ = ["FINE", "NOT_DONE", "NOT_LOOKED", "Report"]

FINE, NOT_DONE, NOT_LOOKED = 0, 1, 2
"""The exit statuses."""

_CAN_RUN = "this release can run on these tables"
_LATER = {
    "online": "an index; programs do without it",
    "contract": "needs --phase contract, once no program of an earlier release runs",
}
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """An answer of the command."""

    facts: Mapping[str, Any]
    """The answer as JSON."""
    text: str
    """The answer for people."""
    exit_status: int = FINE
    problem: str | None = None
    """The sentence for stderr, where something is wrong."""

    @classmethod
    def of_error(cls, error: WorkflowError, exit_status: int) -> Report:
        """Return the answer where an error is the outcome."""
        facts: dict[str, Any] = {"type": type(error).__name__, "message": str(error)}
        if isinstance(error, SchemaDamagedError):
            facts["problems"] = list(error.problems)
        return cls(facts={"error": facts}, text="", exit_status=exit_status, problem=one_line(error))

    @classmethod
    def of_status(cls, look: Look) -> Report:
        """Return where the tables are, what is recorded, what is missing, and whether this release can run on them."""
        problem = look.problem()
        verdict = _CAN_RUN if problem is None else str(problem)
        missing = look.missing()
        facts = {
            "package": look.shipped.distribution,
            "version": look.shipped.version,
            "place": dict(look.place),
            "environment": look.environment,
            "recorded": [_record(look, row) for row in look.records],
            "missing": {phase: [one.migration_id for one in missing if one.phase == phase] for phase in _phases()},
            "unusable_indexes": [_unusable(look, row) for row in look.unusable],
            "index_builders": dict(look.builders),
            "can_run": problem is None,
            "verdict": verdict,
        }
        return cls(
            facts=facts,
            text="\n".join([*_status_lines(facts, look), one_line(verdict)]),
            exit_status=FINE if problem is None else NOT_DONE,
        )

    @classmethod
    def of_plan(cls, look: Look, phase: Phase, *, exit_code: bool) -> Report:
        """Return what would be applied.

        Args:
            look: What is there.
            phase: The last phase that is wanted.
            exit_code: Whether the exit status says if anything is to be applied.
        """
        steps = look.steps(phase)
        planned = {step.migration.migration_id for step in steps}
        later = [one for one in look.missing() if one.migration_id not in planned]
        facts = {
            "phase": phase,
            "environment": look.environment,
            "steps": [
                {**_migration(step.migration), "unit": step.unit, "transaction": step.transaction} for step in steps
            ],
            "later": [_migration(one) for one in later],
        }
        lines = _step_lines(steps) or ["nothing is to be applied"]
        lines += [f"later: {one.migration_id} ({_LATER.get(one.phase, one.phase)})" for one in later]
        return cls(facts=facts, text="\n".join(lines), exit_status=NOT_DONE if exit_code and steps else FINE)

    @classmethod
    def of_check(cls, *, deep: bool) -> Report:
        """Return that all is well."""
        compared = "; columns and indexes are as the migrations make them" if deep else ""
        return cls(facts={"deep": deep, "can_run": True}, text=f"{_CAN_RUN}{compared}")

    @classmethod
    def of_migration(cls, before: Look, after: Look, phase: Phase) -> Report:
        """Return what was applied, and what is left."""
        was = {one.migration_id for one in before.missing()}
        left = after.missing()
        still = {one.migration_id for one in left}
        applied = [one.migration_id for one in before.shipped.migrations if one.migration_id in was - still]
        after.check()
        facts = {
            "phase": phase,
            "environment": after.environment,
            "applied": applied,
            "left": [_migration(one) for one in left],
            "index_builders": dict(after.builders),
            "can_run": True,
        }
        lines = [f"applied: {', '.join(applied) or 'nothing'}"]
        lines += [f"left: {one.migration_id} ({_LATER.get(one.phase, one.phase)})" for one in left]
        lines += _builder_lines(after.builders)
        return cls(facts=facts, text="\n".join([*lines, _CAN_RUN]))

    @classmethod
    def of_script(cls, migrations: Sequence[Migration], script: str) -> Report:
        """Return migrations as SQL."""
        facts = {"migrations": [_migration(one) | {"checksum": one.checksum} for one in migrations], "sql": script}
        return cls(facts=facts, text=script.rstrip("\n"))

    @classmethod
    def of_path(cls, path: str) -> Report:
        """Return where the files are."""
        return cls(facts={"path": path}, text=path)

    @classmethod
    def of_repair(cls, repair: Repair | None) -> Report:
        """Return what was written."""
        if repair is None:
            return cls(facts={"changed": False, "change": None}, text="nothing is to be repaired")
        facts = {"changed": True, "change": repair.description}
        return cls(facts=facts, text=f"done: {one_line(repair.description)}")

    def as_json(self, command: str) -> str:
        """Write it for programs."""
        return json.dumps({"command": command, **self.facts}, indent=2, ensure_ascii=False)


def _phases() -> Sequence[Phase]:
    return ("expand", "online", "contract")


def _migration(one: Migration) -> dict[str, Any]:
    return {"id": one.migration_id, "phase": one.phase, "does": _purpose(one)}


def _purpose(migration: Migration) -> str:
    """Return what the first line of the file says."""
    first = migration.sql.splitlines()[0].removeprefix("--").strip()
    return first.removeprefix(f"{migration.migration_id}:").strip()


def _record(look: Look, row: Row) -> dict[str, Any]:
    return {
        "id": row["migration_id"],
        "applied_at": _time(row["applied_at"]),
        "package_version": row["package_version"],
        "oldest_code": row["oldest_code"],
        "checksum": _checksum_state(look, row),
    }


def _checksum_state(look: Look, row: Row) -> str:
    shipped = {one.migration_id: one.checksum for one in look.shipped.migrations}
    if row["migration_id"] not in shipped:
        return "unknown"
    if row["checksum"] is None:
        return "absent"
    return "matches" if row["checksum"] == shipped[row["migration_id"]] else "differs"


def _time(ms: object) -> str | None:
    """Write a time; `None` for what is none, as somebody may have written anything."""
    try:
        return f"{(_EPOCH + timedelta(milliseconds=int(str(ms)))).isoformat(timespec='milliseconds')[:23]}Z"
    except (ValueError, OverflowError):
        return None


def _unusable(look: Look, row: Row) -> dict[str, Any]:
    builder = look.builders.get(row["table_name"])
    return {"index": row["index_name"], "table": row["table_name"], "builder": builder}


_CHECKSUMS = {
    "matches": "checksum matches",
    "differs": "CHECKSUM DIFFERS: applied with another text",
    "absent": "no checksum recorded",
    "unknown": "unknown to this release",
}


def _status_lines(facts: Mapping[str, Any], look: Look) -> Iterable[str]:
    yield f"{facts['package']} {facts['version']}"
    yield f"looked in: {', '.join(f'{key} {one_line(value)}' for key, value in facts['place'].items())}"
    marks = ", ".join(map(one_line, look.environments))
    yield f"environment: {marks or 'none, the tables are not marked'}"
    yield "recorded:" if facts["recorded"] else "recorded: nothing"
    for row in facts["recorded"]:
        shipped = f"shipped with {row['package_version']}"
        told = (row["id"], row["applied_at"] or "at an unknown time", shipped, _CHECKSUMS[row["checksum"]])
        yield "  " + "  ".join(map(one_line, told))
    for phase, ids in facts["missing"].items():
        yield f"missing, {phase}: {', '.join(ids) or 'nothing'}"
    for row in facts["unusable_indexes"]:
        who = "nobody builds it" if row["builder"] is None else "it is being built"
        yield f"unusable index: {one_line(row['index'])} of {one_line(row['table'])}; {who}"
    yield from _builder_lines(facts["index_builders"])


def _builder_lines(builders: Mapping[str, str]) -> list[str]:
    return [f"an index of {one_line(table)} is being built by {one_line(who)}" for table, who in builders.items()]


def _step_lines(steps: Sequence[Step]) -> list[str]:
    lines = []
    for step in steps:
        how = f"transaction {step.unit}" if step.transaction else "without a transaction"
        lines.append(f"{step.migration.migration_id}  {step.migration.phase}, {how}: {_purpose(step.migration)}")
    return lines
