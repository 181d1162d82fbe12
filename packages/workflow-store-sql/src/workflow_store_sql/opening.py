"""A store that is opened by `await` or by `async with`."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Generator
from types import TracebackType
from typing import TYPE_CHECKING, Any, Generic, NoReturn, Protocol, TypeVar

from workflow_runtime.store import StoreNotOpenError, refuse_in_handler

__all__ = ["StoreOpening"]


class _Closeable(Protocol):
    async def close(self) -> None: ...


S_co = TypeVar("S_co", bound=_Closeable, covariant=True)


class StoreOpening(Generic[S_co]):
    """A store on its way: `await` it and close it yourself, or enter it with `async with`.

    Args:
        open_store: Opens the store.
        call: The call that was made, for the error of a caller that takes this for the store.
    """

    def __init__(self, open_store: Callable[[], Coroutine[Any, Any, S_co]], call: str) -> None:
        self._open_store = open_store
        self._call = call
        self._store: S_co | None = None

    def __await__(self) -> Generator[Any, None, S_co]:
        refuse_in_handler("a store that is opened")
        return self._open_store().__await__()

    async def __aenter__(self) -> S_co:
        refuse_in_handler("a store that is opened")
        self._store = await self._open_store()
        return self._store

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._store is not None:
            await self._store.close()

    if not TYPE_CHECKING:  # type checkers know its attributes

        def __getattr__(self, name: str) -> NoReturn:
            raise StoreNotOpenError(self.__dict__.get("_call", "a store"), name)
