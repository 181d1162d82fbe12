"""TCP servers and connections for relays and stand-ins of tests, which leave no connection open behind them."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

__all__ = ["Handler", "tcp_connection", "tcp_server"]

Handler = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@asynccontextmanager
async def tcp_server(handler: Handler) -> AsyncIterator[int]:
    """Serve connections on a free port of 127.0.0.1; gives the port.

    At the end all handlers are cancelled and all connections broken, those too whose handlers have not begun.
    `asyncio.start_server` leaves such connections to the garbage collector, which complains in whatever test runs then.
    """
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.setblocking(False)
        tasks: set[asyncio.Task[None]] = set()
        accepting = asyncio.create_task(_accept(listener, handler, tasks))
        try:
            yield listener.getsockname()[1]
        finally:
            accepting.cancel()
            await asyncio.wait([accepting])
            for task in tasks:
                task.cancel()
            if tasks:
                await asyncio.wait(tasks)
            await asyncio.sleep(0)  # for the transports' last callbacks


async def _accept(listener: socket.socket, handler: Handler, tasks: set[asyncio.Task[None]]) -> None:
    loop = asyncio.get_running_loop()
    while True:
        connection, _ = await loop.sock_accept(listener)
        task = asyncio.create_task(_serve(connection, handler))
        tasks.add(task)
        task.add_done_callback(tasks.discard)
        task.add_done_callback(lambda _, ended=connection: ended.close())  # type: ignore[misc]


async def _serve(connection: socket.socket, handler: Handler) -> None:
    reader, writer = await asyncio.open_connection(sock=connection)
    try:
        await handler(reader, writer)
    finally:
        writer.transport.abort()


@asynccontextmanager
async def tcp_connection(host: str, port: int) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    """Connect to a server; the connection breaks when the block ends, or is cancelled wherever it is."""
    reader, writer = await asyncio.open_connection(host, port)
    try:
        yield reader, writer
    finally:
        writer.transport.abort()
