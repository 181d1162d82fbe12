"""The command that each SQL store has for its tables: what both share. Nothing here imports click before it runs."""

from .adapter import Adapter, ConnectionOption, Names, Partitioning, Patience, Tables
from .entry import main
from .look import Look
from .repairs import ChecksumRepair, EnvironmentRepair, RecordRepair, Repair

__all__ = [
    "Adapter",
    "ChecksumRepair",
    "ConnectionOption",
    "EnvironmentRepair",
    "Look",
    "Names",
    "Partitioning",
    "Patience",
    "RecordRepair",
    "Repair",
    "Tables",
    "main",
]
