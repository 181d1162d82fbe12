"""The server that relays of tests are made of: it leaves nothing for the garbage collector to complain about."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import socket

import pytest
from workflow_test_support.relays.tcp_server import tcp_connection, tcp_server


async def _hold(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.read()


@pytest.mark.filterwarnings("error::ResourceWarning")
@pytest.mark.parametrize("turns", range(8))
async def test_end_breaks_connections_however_new_they_are(turns: int) -> None:
    """Accepted, not yet handed over, handed over and not begun, at work: pytest reports a writer left open."""
    async with tcp_server(_hold) as port:
        clients = [socket.create_connection(("127.0.0.1", port)) for _ in range(5)]
        for _ in range(turns):
            await asyncio.sleep(0)
    for client in clients:
        client.settimeout(10)
        with contextlib.suppress(ConnectionResetError):
            assert client.recv(1) == b""
        client.close()
    gc.collect()


async def test_handlers_serve_side_by_side() -> None:
    async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(await reader.readexactly(2))
        await reader.read()

    async with tcp_server(echo) as port:
        both = [await asyncio.open_connection("127.0.0.1", port) for _ in range(2)]
        for number, (_, writer) in enumerate(both):
            writer.write(b"%02d" % number)
        assert [await reader.readexactly(2) for reader, _ in both] == [b"00", b"01"]
        for _, writer in both:
            writer.close()


@pytest.mark.parametrize("turns", range(8))
async def test_connection_breaks_however_its_block_is_cancelled(turns: int) -> None:
    """A second cancellation hits it while it cleans up after the first, as when a relay ends beside its client."""

    connected = asyncio.Event()

    async def use(port: int) -> None:
        async with tcp_connection("127.0.0.1", port) as (reader, _):
            connected.set()
            try:
                await reader.read()
            finally:
                await asyncio.sleep(0)
                await asyncio.sleep(0)

    async with tcp_server(_hold) as port:
        using = asyncio.create_task(use(port))
        await connected.wait()
        using.cancel()
        for _ in range(turns):
            await asyncio.sleep(0)
        using.cancel()
        await asyncio.wait([using])
    del using
    gc.collect()
