"""Import of an object by its `module:name`."""

from __future__ import annotations

import importlib
import operator
from typing import Any

from .harness import HarnessError

__all__ = ["load_object"]


def load_object(path: str) -> Any:
    """Return the object that `module:name` or `module:Class.method` names.

    Raises:
        HarnessError: There is no such object.
    """
    module_name, colon, name = path.partition(":")
    if not colon or not name:
        raise HarnessError(f"{path!r} is not of the form module:name")
    try:
        return operator.attrgetter(name)(importlib.import_module(module_name))
    except (ImportError, AttributeError) as error:
        raise HarnessError(f"cannot load {path!r}: {error}") from error
