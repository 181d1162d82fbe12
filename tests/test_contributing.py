"""CONTRIBUTING.md names whatever can be set or called."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[1]
FOLDERS = ("packages", "migrations-shared", "contract-tests", "tests", "test-support", "benchmarks", "examples")
MADE = {"node_modules", "demo-output"}
"""Folders of files that are not ours: what is installed, and what the demo copies and damages."""
PAGE = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")


def test_variables_of_the_tests_are_documented() -> None:
    modules = [ROOT / "noxfile.py", *(path for folder in FOLDERS for path in (ROOT / folder).rglob("*.py"))]
    texts = [path.read_text(encoding="utf-8") for path in modules if MADE.isdisjoint(path.parts)]
    used = {name for text in texts for name in re.findall(r"[\"'](WORKFLOW_[A-Z_]+)[\"'] *[,:)\]]", text)}

    assert len(used) > 8
    assert {name for name in used if f"`{name}`" not in PAGE} == set()


def test_sessions_are_documented() -> None:
    text = (ROOT / "noxfile.py").read_text(encoding="utf-8")
    sessions = re.findall(r"@nox\.session.*\n(?:@nox.*\n)?def (\w+)", text)
    table = text.split("\nSESSIONS = {\n")[1].split("\n}\n")[0]
    sessions += re.findall(r'^    "(\w+)": ', table, flags=re.MULTILINE)

    assert len(sessions) == len(set(sessions)) > 14
    assert [name for name in sessions if not re.search(rf"`{name}[`(-]", PAGE)] == []


def test_rooms_are_there() -> None:
    """Each path of the map is a file or folder of this repository."""
    section = PAGE.split("## Where things are")[1].split("\n## ")[0]
    paths = set(re.findall(r"`([\w/.-]+(?:\.py|/[\w-]+))`", section))
    runtime = ROOT / "packages/workflow-runtime"
    bases = (
        ROOT,
        runtime / "src/workflow_runtime",
        runtime / "tests",
        ROOT / "packages/workflow-store-d1/src/workflow_store_d1",
        ROOT / "contract-tests/src/workflow_contract_tests",
    )

    assert len(paths) > 40
    assert {path for path in paths if not any((base / path).exists() for base in bases)} == set()
