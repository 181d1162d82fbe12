"""A model of the store contract: what a store must answer and hold, as plain Python without waiting.

It is written from the clauses alone and shares nothing with any store. Read `state` first, then the verbs: `lifecycle`,
`driving`, `leases`, `inbox`, `ticks`, `looking`. Each verb takes the arguments of the contract and gives its answer, or
raises its error. Tokens are the model's own.
"""

from __future__ import annotations

from typing import Any

from .driving import DrivingVerbs
from .inbox import InboxVerbs
from .leases import LeaseVerbs
from .lifecycle import LifecycleVerbs
from .looking import LookingVerbs
from .refusals import refuse_bad_arguments
from .state import State, Unsettled
from .ticks import TickVerbs

__all__ = ["Model", "Unsettled"]


class Model(LifecycleVerbs, DrivingVerbs, LeaseVerbs, InboxVerbs, TickVerbs, LookingVerbs):
    """A store that is only its contract: it keeps everything in plain objects and is used by one caller."""

    def __init__(self) -> None:
        self.state: State = State()

    def call(self, verb: str, arguments: dict[str, Any]) -> Any:
        """Return the answer of a verb, or raise its error.

        Raises:
            Unsettled: The contract leaves the effect to the store. Nothing has changed.
        """
        refuse_bad_arguments(arguments)
        return getattr(self, verb)(**arguments)
