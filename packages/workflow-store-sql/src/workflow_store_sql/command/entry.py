"""The entry of the command: a sentence instead of a traceback where its library is not installed."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from .adapter import Adapter
from .reports import NOT_LOOKED

__all__ = ["main"]


def main(adapter: Adapter, arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit status.

    Args:
        adapter: The store.
        arguments: Words of the command line; by default those of the process.
    """
    given = list(sys.argv[1:] if arguments is None else arguments)
    try:
        import click  # noqa: F401, PLC0415  # comes with an extra
    except ModuleNotFoundError as error:
        if error.name != "click":
            raise
        sys.stderr.write(
            f'the command needs click, which comes with an extra: pip install "{adapter.distribution}[cli]"\n'
        )
        return NOT_LOOKED
    from .command_line import run  # noqa: PLC0415  # after it is known that click is there

    return run(adapter, given)
