"""The model of the contract as a store, so that the catalogue can be held against it."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable
from typing import Any

from workflow_contract_tests import StoreHarness
from workflow_contract_tests.model import Model, Unsettled
from workflow_runtime.errors import StoreOperationError
from workflow_runtime.store import StoreCapabilities
from workflow_runtime.store.arguments import checked

__all__ = ["ModelStore", "model_harness"]


def _verb(method: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(method)
    async def call(self: ModelStore, **arguments: Any) -> Any:
        try:
            return method(self._model(), **arguments)
        except Unsettled as error:
            raise StoreOperationError(str(error)) from error

    return checked(call)


class ModelStore:
    """A handle on a model. Arguments are checked as every store checks them."""

    capabilities = StoreCapabilities(max_payload_bytes=1_000_000, durable=False)

    def __init__(self, model: Callable[[], Model]) -> None:
        self._model = model  # what handles share must not look like a store of its own

    async def ensure_schema(self) -> None:
        """There are no tables."""

    async def check_schema(self) -> None:
        """There are no tables."""

    async def read_clock(self) -> int:
        return time.time_ns() // 1_000_000


for _name in dir(Model):
    if not _name.startswith("_") and _name != "call":
        setattr(ModelStore, _name, _verb(getattr(Model, _name)))


def model_harness() -> StoreHarness:
    """A harness for the model."""
    model = Model()
    reasons = {"processes": "a model lives in one process", "corrupt": "nothing to damage"}
    return StoreHarness(lambda: ModelStore(lambda: model), contract_version="0.1", not_applicable=reasons)  # type: ignore[arg-type,return-value]  # its verbs are set by name
