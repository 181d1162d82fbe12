"""A workflow store in one file of JSON lines: what somebody writes who has never seen how the others are made."""

from .store import JsonlWorkflowStore

__all__ = ["JsonlWorkflowStore"]
