"""The command `python -m workflow_store_sql`, for reading and explaining what a store sends.

    python -m workflow_store_sql show STORE [QUERY]

STORE is the end of the store's import name: `d1` for `workflow_store_d1`. Prints the query as it is sent, with the
default table names; without a query the names of all.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from .statements import load_statements

__all__ = ["main"]


def main(arguments: Sequence[str]) -> int:
    """Run the command and return its exit status."""
    match arguments:
        case ["show", store, *queries] if len(queries) <= 1:
            text, status = _show(store, *queries)
        case _:
            text, status = str(__doc__), 2
    (sys.stderr if status else sys.stdout).write(f"{text}\n")
    return status


def _show(store: str, query: str | None = None) -> tuple[str, int]:
    try:
        statements = load_statements(f"workflow_store_{store}")
    except (ModuleNotFoundError, FileNotFoundError):
        return f"there is no SQL store {store!r} here", 1
    if query is None:
        return "\n".join(sorted(statements)), 0
    if query not in statements:
        return f"{store} has no query {query!r}; without a query the command lists them", 1
    return statements[query], 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
