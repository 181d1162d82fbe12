"""The environments of contenders: one for each system, made once and kept."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import runpy
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from workflow_test_support.repository import ROOT
from workflow_test_support.servers.node_tools import node, npm

__all__ = ["BEFORE", "Environment", "Environments", "SetupError", "stamped"]

BEFORE = "0.1.0"
"""The release that "before" means unless the command line names a commit."""

DISTRIBUTIONS = (
    "migrations-shared",
    "packages/workflow-runtime",
    "packages/workflow-store-sql",
    "packages/workflow-store-memory",
    "packages/workflow-store-d1",
    "packages/workflow-store-postgres",
)
KNOWN = ("pyproject.toml", "src/*/_version.py")
OURS = ("aiosqlite>=0.20,<1", "uvloop>=0.21,<1", "hatchling>=1.27,<2", "editables>=0.5,<1")
PEERS: Mapping[str, Sequence[str]] = {
    "absurd": ("absurd-sdk>=0.5,<0.6", "absurdctl>=0.5,<0.6", "psycopg[binary]>=3.2,<4"),
    "dbos": ("dbos>=3.4,<4",),
    "langgraph": (
        "langgraph-checkpoint-postgres>=3.2,<4",
        "langgraph-checkpoint-sqlite>=3.1,<4",
        "psycopg[binary]>=3.2,<4",  # it asks for the slower one without C
    ),
    "pgqueuer": ("pgqueuer[asyncpg]>=1.6,<2",),
    "procrastinate": ("procrastinate>=3.10,<4", "psycopg[binary]>=3.2,<4"),
}
"""Systems from PyPI, with what makes them fast, in ranges that their programs here were written for."""
SHOWN = {
    "ours": ("workflow-runtime", "workflow-store-postgres", "asyncpg", "aiosqlite", "uvloop"),
    "absurd": ("absurd-sdk", "psycopg"),
    "dbos": ("dbos", "SQLAlchemy", "psycopg"),
    "langgraph": ("langgraph-checkpoint-postgres", "langgraph-checkpoint-sqlite", "psycopg"),
    "pgqueuer": ("pgqueuer", "asyncpg"),
    "procrastinate": ("procrastinate", "psycopg"),
}
"""Packages whose versions the page shows."""
NPM = {
    "@tanstack/workflow-core": ">=0.0.3 <0.1",
    "@tanstack/workflow-runtime": ">=0.0.2 <0.1",
    "@tanstack/workflow-store-drizzle-postgres": ">=0.0.5 <0.1",
    "drizzle-orm": "^0.45.1",
    "pg": "^8.13.0",
}
# Its store asks for a core and a runtime that the registry does not have: it gets those that are there.
OVERRIDES = {name: f"${name}" for name in list(NPM)[:2]}
_TIMEOUT_S = 600
_VERSIONS = "import importlib.metadata as m, json, sys; print(json.dumps({n: m.version(n) for n in sys.argv[1:]}))"


class SetupError(Exception):
    """An environment cannot be made."""


@dataclass(frozen=True, slots=True)
class Environment:
    """Where a contender runs."""

    command: tuple[str, ...]
    """The interpreter."""
    versions: Mapping[str, str]
    variables: Mapping[str, str] = field(default_factory=dict)


class Environments:
    """All environments, in one folder.

    Args:
        folder: Where they are made, and found the next time.
        before: The release or commit of ours to compare with.
    """

    def __init__(self, folder: Path, before: str = BEFORE) -> None:
        self._folder = folder.resolve()
        self._before = before
        self._made: dict[str, Environment] = {}
        self._failed: dict[str, SetupError] = {}

    def get(self, name: str) -> Environment:
        """Return an environment, which is made when it is not there.

        Raises:
            SetupError: It cannot be made.
        """
        if name in self._failed:  # the next try would take as long
            raise self._failed[name]
        if name not in self._made:
            try:
                self._made[name] = self._make(name)
            except (OSError, subprocess.SubprocessError, SystemExit) as error:
                self._failed[name] = SetupError(f"the environment {name} cannot be made: {_told(error)}")
                raise self._failed[name] from error
        return self._made[name]

    def _make(self, name: str) -> Environment:
        match name:
            case "tanstack":
                return self._tanstack()
            case "before":
                return self._earlier()
            case "ours":
                folders = [word for one in DISTRIBUTIONS for word in ("--editable", str(ROOT / one))]
                return self._python(name, _described(), OURS, ("--no-build-isolation", *folders))
            case _:
                return self._python(name, "", PEERS[name])

    def _python(self, name: str, facts: str, *installs: Sequence[str]) -> Environment:
        folder = self._folder / name
        python = folder / ("Scripts" if os.name == "nt" else "bin") / "python"
        with stamped(folder, [sys.version, facts, *installs]) as is_new:
            if is_new:
                _run(sys.executable, "-m", "venv", str(folder))
                for words in installs:
                    _run(str(python), "-m", "pip", "install", "--quiet", *words)
        versions = json.loads(_run(str(python), "-c", _VERSIONS, *SHOWN[name]))
        return Environment((str(python),), versions, {"PYTHONPATH": str(ROOT / "benchmarks")})

    def _earlier(self) -> Environment:
        """Unpack the code of an earlier commit; it comes before today's, beside the drivers of today."""
        script = runpy.run_path(str(ROOT / "scripts" / "build_release.py"))
        folder = self._folder / f"before-{self._before.replace('/', '-')}"
        commit = script["commit_of"](self._before)
        with stamped(folder, [commit]) as is_new:
            if is_new:
                folder.mkdir(parents=True)
                script["build_release"](self._before, folder)
        ours = self.get("ours")
        paths = os.pathsep.join([str(folder), ours.variables["PYTHONPATH"]])
        code = f"{self._before} (commit {commit[:7]})"
        versions = {name: code if name.startswith("workflow-") else one for name, one in ours.versions.items()}
        return Environment(ours.command, versions, {"PYTHONPATH": paths})

    def _tanstack(self) -> Environment:
        folder = self._folder / "tanstack"
        package = {"private": True, "dependencies": NPM, "overrides": OVERRIDES}
        with stamped(folder, [package]) as is_new:
            if is_new:
                folder.mkdir(parents=True)
                (folder / "package.json").write_text(json.dumps(package))
                _run(
                    *map(str, npm()), "install", "--prefix", str(folder), "--ignore-scripts", "--no-audit", "--no-fund"
                )
        versions = {name: _npm_version(folder, name) for name in NPM}
        versions["node"] = _run(str(node()), "--version").strip()
        return Environment((str(node()),), versions, {"CONTENDER_PACKAGES": str(folder), "NODE_ENV": "production"})


def _described() -> str:
    """Return what an installation of ours knows by heart: when this changes, it must be made anew."""
    files = [path for one in DISTRIBUTIONS for name in KNOWN for path in sorted((ROOT / one).glob(name))]
    return hashlib.sha256(b"".join(path.read_bytes() for path in files)).hexdigest()


@contextlib.contextmanager
def stamped(folder: Path, facts: Sequence[object]) -> Iterator[bool]:
    """Yield whether a folder must be filled, which is then empty; it counts as filled when the block ends well."""
    stamp, wanted = folder / "made-of.json", json.dumps(facts, default=list)
    if stamp.exists() and stamp.read_text() == wanted:
        yield False
        return
    shutil.rmtree(folder, ignore_errors=True)
    folder.parent.mkdir(parents=True, exist_ok=True)
    yield True
    stamp.write_text(wanted)


def _npm_version(folder: Path, name: str) -> str:
    return str(json.loads((folder / "node_modules" / name / "package.json").read_text())["version"])


def _run(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True, timeout=_TIMEOUT_S, check=False)
    if done.returncode:
        raise OSError(f"{' '.join(command[:4])} failed: {(done.stderr or done.stdout)[-600:]}")
    return done.stdout


def _told(error: BaseException) -> str:
    return str(error) or type(error).__name__
