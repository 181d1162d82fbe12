"""The verification of a report: its hash, and the verdict that follows from its results."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

from ._version import __version__
from .harness import HarnessError
from .report import CaseResult, Report, hash_of
from .verdict import catalogue_hash

__all__ = ["verify"]

_FACTS = tuple(name for name in Report.__slots__ if name != "bench")
"""The fields that the verdict is recomputed from. A report has a bench or not."""


def verify(path: Path) -> tuple[bool, list[str]]:
    """Return True if the report certifies its store, and what there is to say of it.

    Raises:
        HarnessError: It is no report, or one of another version of these tests, which other cases decide.
    """
    document = _load(path)
    if document.get("hash") != hash_of(document):
        return False, ["the report was changed after it was written: its hash does not fit"]
    if document["catalogue"] != catalogue_hash():
        raise HarnessError(
            f"the report is of workflow-contract-tests {document['suite_version']}, whose cases are others than those "
            f"of {__version__}; verify it with that version"
        )
    report = _report(document)
    levels = {verdict.level: dataclasses.asdict(verdict) for verdict in report.levels}
    lines = [*(str(verdict) for verdict in report.levels), report.summary()]
    if (document["certified"], document["levels"]) != (report.certified, levels):
        return False, [*lines, "the report says something else than its results"]
    return report.certified, lines


def _load(path: Path) -> dict[str, Any]:
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise HarnessError(f"cannot read {path}: {error}") from error
    needed = {"hash", "catalogue", "certified", "levels", *_FACTS}
    if not isinstance(document, dict) or not needed <= document.keys():
        raise HarnessError(f"{path} is no report of this command")
    return document


def _report(document: dict[str, Any]) -> Report:
    facts = {name: document[name] for name in _FACTS}
    results = tuple(CaseResult(**result | {"clauses": tuple(result["clauses"])}) for result in facts["results"])
    lists = {name: tuple(facts[name]) for name in ("capabilities", "objections", "roles")}
    return Report(**facts | lists | {"results": results})
