"""Playing a script on the model and on stores, answer by answer."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from workflow_runtime.store import RunSummary, Schedule, WorkflowExecutionStore

from ..model import Model, Unsettled
from .freedoms import Raised, normal
from .script import Operation, TickToken, Token, Tokens, resolve

__all__ = ["Difference", "Match", "Player"]

MODEL = "the model"
PAGED = {"list_runs", "list_schedules"}
"""Verbs that a script plays page by page to the end: only the whole is settled by the contract."""
GIVING_TOKENS = {
    "create_run",
    "claim_run",
    "claim_pending_runs",
    "claim_stale_runs",
    "claim_due_timers",
    "claim_due_schedule_buckets",
}
MOST_PAGES = 1_000


@dataclass(frozen=True)
class Difference:
    """The first operation whose answers differ."""

    script: tuple[Operation, ...]
    """The operations that were played; the last one gave it."""
    sent: tuple[dict[str, Any], ...]
    """Their arguments as they were sent, but with symbols for tokens."""
    answers: dict[str, Any]
    """The answers as they came, by the name of who gave them."""
    forms: dict[str, Any]
    """The same without what is free, by which they were compared."""

    @property
    def operation(self) -> Operation:
        """The operation whose answers differ."""
        return self.script[-1]


class Player:
    """One store in a match."""

    def __init__(self, name: str, handles: Sequence[WorkflowExecutionStore]) -> None:
        self.name = name
        self.handles: tuple[WorkflowExecutionStore, ...] = tuple(handles)
        self.tokens: Tokens = Tokens()
        self.sent: dict[str, dict[str, Any]] = {}
        self._turn = 0

    async def call(self, verb: str, arguments: dict[str, Any]) -> Any:
        """Return the answer, or the error in place of it. The handles take turns."""
        self._turn += 1
        store = self.handles[self._turn % len(self.handles)]
        try:
            if verb in PAGED:
                return await _all_pages(store, verb, arguments)
            return await getattr(store, verb)(**arguments)
        except Exception as error:  # noqa: BLE001  # whatever a store raises is its answer
            return Raised(error)


class Match:
    """The model and stores with one script, of which the operations come one by one.

    Args:
        players: The stores.
    """

    def __init__(self, *players: Player) -> None:
        self.model: Model = Model()
        self.played: list[Operation] = []
        self._shown: list[dict[str, Any]] = []
        self._tokens = Tokens()
        self._sent: dict[str, dict[str, Any]] = {}
        self._players = players

    async def play(self, operation: Operation) -> Difference | None:
        """Make one call everywhere and return how the answers differ. What the contract leaves open is not played."""
        arguments = self._arguments(operation, self._tokens, self._sent)
        if arguments is None:
            return None
        # Before the model changes: symbols stand for the state that the call meets.
        theirs = [self._arguments(operation, player.tokens, player.sent) for player in self._players]
        try:
            expected: Any = self._ask_model(operation.verb, arguments)
        except Unsettled:
            return None
        self.played.append(operation)
        self._shown.append(_with_token_symbols(operation, arguments))
        calls = [player.call(operation.verb, sent or {}) for player, sent in zip(self._players, theirs, strict=True)]
        given = await asyncio.gather(*calls)
        if operation.verb not in GIVING_TOKENS and all(answer == expected for answer in given):
            return None  # equal to the last detail, as most are
        answers = {
            MODEL: expected,
            **{player.name: answer for player, answer in zip(self._players, given, strict=True)},
        }
        tokens = [self._tokens, *(player.tokens for player in self._players)]
        forms = {
            who: normal(answer, learned, now_ms=arguments.get("now_ms"), again=operation.again)
            for (who, answer), learned in zip(answers.items(), tokens, strict=True)
        }
        if all(form == forms[MODEL] for form in forms.values()):
            return None
        return Difference(tuple(self.played), tuple(self._shown), answers, forms)

    def _ask_model(self, verb: str, arguments: dict[str, Any]) -> Any:
        try:
            if verb in PAGED:
                return _all_model_pages(self.model, verb, arguments)
            return self.model.call(verb, arguments)
        except Unsettled:
            raise
        except Exception as error:  # noqa: BLE001  # its refusals
            return Raised(error)

    def _arguments(
        self, operation: Operation, tokens: Tokens, sent: dict[str, dict[str, Any]]
    ) -> dict[str, Any] | None:
        operation_id = operation.arguments.get("operation_id")
        if operation.again:
            return sent.get(str(operation_id))
        arguments = resolve(operation.arguments, self.model, tokens)
        if operation_id is not None:
            sent[str(operation_id)] = arguments
        return arguments


def _with_token_symbols(operation: Operation, arguments: dict[str, Any]) -> dict[str, Any]:
    if operation.again:
        return dict(operation.arguments)
    tokens = {name: value for name, value in operation.arguments.items() if isinstance(value, Token | TickToken)}
    return arguments | tokens


async def _all_pages(store: WorkflowExecutionStore, verb: str, arguments: dict[str, Any]) -> list[Any]:
    items: list[Any] = []
    cursor: str | None = None
    for _ in range(MOST_PAGES):
        page: Any = await getattr(store, verb)(**arguments, cursor=cursor)
        more = _items(page)
        if len(more) > arguments["limit"]:
            raise AssertionError(f"a page of at most {arguments['limit']} holds {len(more)}")
        items += more
        cursor = page.next_cursor
        if cursor is None:
            return items
    raise AssertionError(f"{verb} has no end after {MOST_PAGES} pages")


def _all_model_pages(model: Model, verb: str, arguments: dict[str, Any]) -> list[Any]:
    page: Any = model.call(verb, arguments)
    if arguments["limit"]:
        page = model.call(verb, arguments | {"limit": 10**6})
    return _items(page)


def _items(page: Any) -> list[RunSummary | Schedule]:
    return list(page.runs if hasattr(page, "runs") else page.schedules)
