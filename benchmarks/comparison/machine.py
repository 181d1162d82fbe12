"""The machine that a comparison ran on, as far as it matters for the figures: no names and no paths."""

from __future__ import annotations

import os
import platform
import sqlite3
import statistics
import subprocess
import tempfile
import time
from pathlib import Path

from workflow_test_support.repository import ROOT

from comparison.server import SETTINGS

__all__ = ["describe", "folder_on_disk"]

IN_MEMORY = {"tmpfs", "ramfs"}
PAGE, SYNCS = b"x" * 8192, 200
MOUNTS = Path("/proc/mounts")


def folder_on_disk() -> Path:
    """Return the folder for the databases: that of TMPDIR, else the system's for files that outlive a restart.

    Raises:
        ValueError: It is in memory, where a commit costs nothing.
    """
    lasting = Path("/var/tmp")  # each database gets a folder of its own there
    is_given = "TMPDIR" in os.environ or not lasting.is_dir()
    folder = Path(tempfile.gettempdir()) if is_given else lasting
    if _file_system(folder) in IN_MEMORY:
        raise ValueError("the folder for temporary files is in memory: set TMPDIR to one on a disk")
    return folder


def describe(postgres: str) -> dict[str, str]:
    """Return the facts, by title.

    Args:
        postgres: Version of the server.
    """
    folder = Path(tempfile.gettempdir())
    facts = {
        "cores": str(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()),
        "processor": _processor(),
        "memory": _memory(),
        "disk": f"{_file_system(folder) or 'unknown file system'}, {_sync_us(folder):,.0f} µs to write and sync a page",
        "system": f"{platform.system()} {'.'.join(platform.release().split('.')[:2])}",
        "Python": f"{platform.python_implementation()} {platform.python_version()}",
        "SQLite": sqlite3.sqlite_version,
        "PostgreSQL": f"{postgres}, {', '.join(SETTINGS)}, over TCP on the same machine",
        "commit": _commit(),
    }
    return {title: fact for title, fact in facts.items() if fact}


def _file_system(folder: Path) -> str:
    """Return the type of the file system that a folder is on, where Linux knows it."""
    if not MOUNTS.exists():
        return ""
    mounts = [line.split() for line in MOUNTS.read_text(encoding="utf-8", errors="replace").splitlines()]
    around = [fields for fields in mounts if folder.resolve().is_relative_to(fields[1])]
    return max(around, key=lambda fields: len(fields[1]))[2] if around else ""


def _sync_us(folder: Path) -> float:
    """Return the median time of a small durable write: what a commit cannot be quicker than."""
    times = []
    with tempfile.TemporaryFile(dir=folder, buffering=0) as file:
        for _ in range(SYNCS):
            began = time.perf_counter()
            file.write(PAGE)
            os.fsync(file.fileno())
            times.append(time.perf_counter() - began)
    return statistics.median(times) * 1e6


def _processor() -> str:
    """Return the model, where Linux knows it."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text(encoding="utf-8", errors="replace").splitlines() if info.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def _memory() -> str:
    try:
        size = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError):
        return ""
    return f"{size / 2**30:.0f} GiB"


def _commit() -> str:
    done = subprocess.run(
        ["git", "describe", "--always", "--dirty"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    return done.stdout.strip()
