"""The repository that this package is installed from. It is always an editable installation."""

from __future__ import annotations

from pathlib import Path

__all__ = ["ROOT"]

ROOT = Path(__file__).parents[3]
