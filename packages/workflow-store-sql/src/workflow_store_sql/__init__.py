"""What the SQL stores of workflow-runtime share, as values and functions. It talks to no database."""

from ._version import __version__
from .queries import InvalidQueryFileError, Query, load_queries, parse_queries
from .statements import load_statements

__all__ = [
    "InvalidQueryFileError",
    "Query",
    "__version__",
    "load_queries",
    "load_statements",
    "parse_queries",
]
