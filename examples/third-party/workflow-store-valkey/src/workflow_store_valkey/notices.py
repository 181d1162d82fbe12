"""The role `SupportsNotify`: notices of work, which the functions publish on one channel."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress

from valkey.asyncio.client import PubSub
from valkey.exceptions import ValkeyError
from workflow_runtime.store import Listening, WorkNotice, get_logger, one_line

from .server import ANSWER_S, Server, make_client

__all__ = ["Notices"]

logger = get_logger(__name__)

RECONNECT_S = 0.5
CHECK_S = 5.0
"""How often a silent connection is asked whether it still lives."""


class Notices:
    """The method by which workers learn of work without polling."""

    _server: Server

    @asynccontextmanager
    async def listen(self, on_notice: Callable[[WorkNotice], None]) -> AsyncIterator[Listening]:
        """Call a function on each notice of work while the block lasts."""
        self._server.home.check()
        listener = Listener(self._server.url, f"{self._server.prefix}notices", on_notice)
        task = asyncio.create_task(listener.run())
        try:
            yield listener
        finally:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task


class Listener:
    """A connection that waits for notices, and comes back when it is lost.

    Args:
        url: Where the server is.
        channel: The channel of the store's notices.
        on_notice: What is called.
    """

    def __init__(self, url: str, channel: str, on_notice: Callable[[WorkNotice], None]) -> None:
        self.live = False
        self._url = url
        self._channel = channel
        self._on_notice = on_notice

    async def run(self) -> None:
        """Listen until cancelled."""
        while True:
            try:
                await self._listen()
            except (ValkeyError, OSError) as error:
                if self.live:  # once, not at each try to come back
                    logger.warning("the listener lost its connection, and makes another one: %s", one_line(str(error)))
            except Exception:  # nobody looks at this task before the block ends
                logger.exception("the listener failed, and makes another connection")
            self._set_live(live=False)
            await asyncio.sleep(RECONNECT_S)

    async def _listen(self) -> None:
        """Listen on one connection, until it is lost."""
        client = make_client(self._url)
        try:
            async with client.pubsub() as channel:
                async with asyncio.timeout(ANSWER_S):
                    await channel.subscribe(self._channel)
                await self._follow(channel)
        finally:
            await client.aclose()
            await client.connection_pool.disconnect()

    async def _follow(self, channel: PubSub) -> None:
        answered = True
        while True:
            message = await channel.get_message(timeout=CHECK_S)
            if message is None and not answered:
                raise ConnectionError("the server has not answered")
            if message is None:
                await channel.ping()
            answered = message is not None
            if message is not None and message["type"] == "subscribe":
                self._set_live(live=True)
            elif message is not None and message["type"] == "message":
                self._on_notice(WorkNotice(run_id=message["data"] or None))

    def _set_live(self, *, live: bool) -> None:
        if live != self.live:
            self.live = live
            self._on_notice(WorkNotice(run_id=None))
