"""The in-memory workflow store: the readable reference of the store contract, for tests and for trying things out."""

from ._version import __version__
from .data import InMemoryData
from .store import InMemoryWorkflowStore

__all__ = ["InMemoryData", "InMemoryWorkflowStore", "__version__"]
