"""A workflow store on Valkey or Redis, written from the published contract alone."""

from .store import ValkeyWorkflowStore

__all__ = ["ValkeyWorkflowStore"]
