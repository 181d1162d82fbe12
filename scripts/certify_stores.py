"""Certify every store of this repository, and keep the certificates in `docs/certificates`.

Names of stores choose some of them; without any it takes all. `--check` certifies nothing: it asserts that each
certificate that is there is unchanged, certifies its store, and stands on the page.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from workflow_contract_tests.report import hash_of

ROOT = Path(__file__).parents[1]
CERTIFICATES = ROOT / "docs" / "certificates"
PAGE = CERTIFICATES / "README.md"
THIRD_PARTY = ROOT / "examples" / "third-party"
OURS = "workflow_test_support.harnesses"


@dataclass(frozen=True)
class Store:
    """One store and how the command gets at it."""

    title: str
    factory: str
    """`module:function` of its harness."""
    folder: Path = ROOT
    """Where the module lies, if it is not installed."""


STORES = {
    "memory": Store("Memory", f"{OURS}.memory:harness"),
    "sqlite": Store("SQLite file", f"{OURS}.sqlite:harness"),
    "postgres": Store("PostgreSQL", f"{OURS}.postgres:harness"),
    "d1-binding": Store("D1, by a Worker's binding", f"{OURS}.d1_server:binding_harness"),
    "d1-rest": Store("D1, by the REST API", f"{OURS}.d1_server:rest_harness"),
    "third-party-jsonl": Store(
        "JSON lines (example)", "jsonl_harness:harness", THIRD_PARTY / "workflow-store-jsonl" / "tests"
    ),
    "third-party-sqlite3": Store(
        "Plain sqlite3 (example)", "sqlite3_harness:harness", THIRD_PARTY / "workflow-store-sqlite3" / "tests"
    ),
    "third-party-valkey": Store(
        "Valkey (example)", "valkey_harness:harness", THIRD_PARTY / "workflow-store-valkey" / "tests"
    ),
}

_HEAD = """\
# Certificates

What `workflow-certify` said of the stores of this repository: every case of all levels, at scale 1. A release writes
these files anew (`nox -s certificates`). To see for yourself, run the command on the harness that stands in the table,
or let `workflow-certify verify` look at a JSON file, with the version of the contract tests that it names. [What a
certificate proves, and what it does not](../../contract-tests/README.md#what-the-certificate-proves).

| Store | Verdict | Levels | Cases that passed | Cases that do not apply | Minutes | Report |
|---|---|---|---|---|---|---|
"""


def main() -> int:
    """Do what the arguments say and return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("stores", nargs="*", metavar="store", help=f"one of {', '.join(STORES)}; all without any")
    parser.add_argument("--check", action="store_true", help="certify nothing, look at what is there")
    options = parser.parse_args()
    if unknown := set(options.stores) - STORES.keys():
        parser.error(f"no store {', '.join(sorted(unknown))}; there are {', '.join(STORES)}")
    if options.check:
        problems = find_problems()
        sys.stdout.write("".join(f"{problem}\n" for problem in problems))
        return 1 if problems else 0
    CERTIFICATES.mkdir(exist_ok=True)
    refused = [name for name in options.stores or STORES if not certify(name)]
    PAGE.write_text(render_page(), encoding="utf-8")
    for name in refused:
        sys.stderr.write(f"{name}: not certified\n")
    return 1 if refused else 0


def certify(name: str) -> bool:
    """Examine a store and write its certificate. Return True if it is certified."""
    store, target = STORES[name], CERTIFICATES / name
    files = [f"--{kind}={target}.{suffix}" for kind, suffix in (("json", "json"), ("markdown", "md"), ("badge", "svg"))]
    sys.stdout.write(f"\n{name}\n")
    sys.stdout.flush()
    with tempfile.TemporaryDirectory() as scratch:  # the command keeps its last results where it runs
        command = [sys.executable, "-m", "workflow_contract_tests", store.factory, *files]
        done = subprocess.run(command, cwd=scratch, env=_environment(store.folder), check=False)  # noqa: S603
    return done.returncode == 0


def _environment(folder: Path) -> dict[str, str]:
    """Return the variables of a run. The scale and the seed of a certificate are the kit's own."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("WORKFLOW_CONTRACT_")}
    return kept | {"PYTHONPATH": os.pathsep.join((str(folder), os.environ.get("PYTHONPATH", ""))).rstrip(os.pathsep)}


def render_page() -> str:
    """Return the page of what is there."""
    return _HEAD + "".join(_row(name) for name in STORES if _report_of(name).exists())


def _row(name: str) -> str:
    report = _load(name)
    levels = [level for level, verdict in report["levels"].items() if verdict["status"] == "certified"]
    outcomes = [result["outcome"] for result in report["results"]]
    subject = ", ".join(f"{key} {value}" for key, value in report["subject"].items() if value != "none")
    cells = (
        f"**{STORES[name].title}**, {report['distribution']} {report['distribution_version']}"
        + (f"; {subject}" if subject else "")
        + f"<br>`{STORES[name].factory}`",
        f"![{'certified' if report['certified'] else 'not certified'}]({name}.svg)",
        ", ".join(levels),
        str(outcomes.count("passed")),
        str(outcomes.count("not-applicable")),
        f"{report['seconds'] / 60:.1f}",
        f"[table]({name}.md), [JSON]({name}.json)",
    )
    return f"| {' | '.join(cells)} |\n"


def find_problems(names: Sequence[str] = tuple(STORES)) -> list[str]:
    """Return what is wrong with the certificates that are there."""
    problems = []
    for name in names:
        if not _report_of(name).exists():
            problems.append(f"{name}: there is no certificate")
            continue
        report = _load(name)
        if report["hash"] != hash_of(report):
            problems.append(f"{name}: the certificate was changed after it was written")
        elif not report["certified"]:
            problems.append(f"{name}: the certificate certifies nothing")
    if not problems and PAGE.read_text(encoding="utf-8") != render_page():
        problems.append(f"{PAGE.relative_to(ROOT)} does not say what the certificates say")
    return problems


def _report_of(name: str) -> Path:
    return CERTIFICATES / f"{name}.json"


def _load(name: str) -> dict[str, Any]:
    document: dict[str, Any] = json.loads(_report_of(name).read_text(encoding="utf-8"))
    return document


if __name__ == "__main__":
    sys.exit(main())
