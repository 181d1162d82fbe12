"""Build the wheels of an earlier release from the history, and unpack them into a folder.

    python scripts/build_release.py 0.1.0 FOLDER

A process with FOLDER first in PYTHONPATH runs the code of that release, beside the drivers that are installed here. The
tests of upgrades use it: an earlier release works on the tables of a later one. The comparison with other systems uses
it too: what a change wins is measured beside the code before it, which is any commit.
"""

from __future__ import annotations

import io
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Mapping
from pathlib import Path

ROOT = Path(__file__).parents[1]
RELEASES: Mapping[str, str] = {"0.1.0": "e30242e7628d15e23920c50e7a5828796c05aff1"}
"""The commit of each release whose tables may be met."""
FOLDERS = (
    "migrations-shared",
    "contract-tests",
    "packages/workflow-runtime",
    "packages/workflow-store-sql",
    "packages/workflow-store-memory",
    "packages/workflow-store-d1",
    "packages/workflow-store-postgres",
)


def build_release(version: str, target: Path) -> None:
    """Unpack the wheels of a release into a folder.

    Args:
        version: One of `RELEASES`, or whatever git knows as a commit.
        target: A folder that is there.

    Raises:
        SystemExit: The history does not reach back so far, or a wheel cannot be built.
    """
    with tempfile.TemporaryDirectory() as scratch:
        source, wheels = Path(scratch, "source"), Path(scratch, "wheels")
        _export(commit_of(version), source)
        for folder in FOLDERS:
            build = [sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory", str(wheels)]
            _run(build, source / folder)
        for wheel in wheels.glob("*.whl"):
            with zipfile.ZipFile(wheel) as archive:
                archive.extractall(target)  # noqa: S202  # made a moment ago


def commit_of(version: str) -> str:
    """Return the commit of a release, or of whatever git knows by that name.

    Raises:
        SystemExit: There is no such commit.
    """
    if version in RELEASES:
        return RELEASES[version]
    found = _git("rev-parse", "--verify", f"{version}^{{commit}}")
    if found.returncode:
        raise SystemExit(f"neither a release nor a commit: {version}")
    return found.stdout.decode().strip()


def _export(commit: str, target: Path) -> None:
    archive = _git("archive", commit, *FOLDERS)
    if archive.returncode:
        _git("fetch", "--unshallow")  # a clone may know the last commits only
        archive = _git("archive", commit, *FOLDERS)
    if archive.returncode:
        raise SystemExit(f"the history here does not reach back to {commit}: {archive.stderr.decode()}")
    with tarfile.open(fileobj=io.BytesIO(archive.stdout)) as tar:
        tar.extractall(target, filter="data")


def _git(*words: str) -> subprocess.CompletedProcess[bytes]:
    command = ["git", *words]
    return subprocess.run(command, cwd=ROOT, capture_output=True, check=False)  # noqa: S603  # our words


def _run(command: list[str], folder: Path) -> None:
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)  # noqa: S603  # our words
    if done.returncode:
        raise SystemExit(f"{folder.name} cannot be built:\n{done.stdout}{done.stderr}")


if __name__ == "__main__":
    if len(sys.argv) != 3:
        raise SystemExit(__doc__)
    Path(sys.argv[2]).mkdir(parents=True, exist_ok=True)
    build_release(sys.argv[1], Path(sys.argv[2]))
