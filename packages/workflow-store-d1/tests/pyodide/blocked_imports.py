"""Runs inside Pyodide: from here on nothing of ours may import what a Worker's Python lacks, now or later."""

import builtins
from collections.abc import Mapping
from typing import Any

OURS = frozenset({"workflow_migrations", "workflow_runtime", "workflow_store_sql", "workflow_store_d1"})
LACKING = frozenset({"fcntl", "multiprocessing", "sqlite3", "ssl", "subprocess", "threading"})

_import = builtins.__import__


def _import_unless_lacking(name: str, globals: Mapping[str, Any] | None = None, *others: Any, **options: Any) -> Any:
    importer = (globals or {}).get("__name__") or ""
    if importer.partition(".")[0] in OURS and name.partition(".")[0] in LACKING:
        raise ImportError(f"{importer} imports {name}")
    return _import(name, globals, *others, **options)


builtins.__import__ = _import_unless_lacking
