"""Opening connections of the store's own: what they are made with, and what is said when that fails."""

from __future__ import annotations

import os
import socket
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from inspect import signature
from typing import Any, TypeAlias

import asyncpg
from workflow_runtime.store import ConfigurationError

from .connections import in_time
from .failures import opening_error

__all__ = ["for_one", "open_pool", "pool_options"]

Connect: TypeAlias = Callable[..., Awaitable[asyncpg.Connection]]

_KEEPALIVE = {"TCP_KEEPIDLE": 5, "TCP_KEEPALIVE": 5, "TCP_KEEPINTVL": 3, "TCP_KEEPCNT": 3}
"""Times in seconds, by what systems call them. A peer that is gone is known after a quarter of a minute, and a firewall
that forgets idle connections sees traffic."""
_OF_POOLS = frozenset(
    {
        "connect",
        "init",
        "init_size",
        "loop",
        "max_inactive_connection_lifetime",
        "max_queries",
        "max_size",
        "min_size",
        "reset",
        "setup",
    }
)


class OwnConnection(asyncpg.Connection):  # type: ignore[misc]  # asyncpg ships no types
    """A connection of a pool that nobody but the store uses.

    No statement of the store leaves anything behind, so the round trip that would clean up is spared. A function that
    ran in a transaction may have left whatever it likes.
    """

    _was_lent = False

    def __init__(self, protocol: Any, transport: Any, *facts: Any, **more: Any) -> None:
        super().__init__(protocol, transport, *facts, **more)
        self._opened_by = os.getpid()
        _keep_alive(transport)

    def __del__(self) -> None:
        # In a forked child it belongs to the parent, which still uses it.
        if getattr(self, "_opened_by", None) == os.getpid():
            super().__del__()

    def transaction(self, **options: Any) -> Any:
        # The store's own statements are transactions by themselves.
        self._was_lent = True
        return super().transaction(**options)

    def get_reset_query(self) -> str:
        query: str = super().get_reset_query() if self._was_lent else ""
        self._was_lent = False
        return query


def pool_options(options: Mapping[str, Any], *, timeout_s: float) -> dict[str, Any]:
    """Complete what a user says about the pool.

    Args:
        options: As `asyncpg.create_pool` takes them.
        timeout_s: How long a new connection may take, where they do not say.

    Raises:
        ConfigurationError: An option that asyncpg does not know.
    """
    connect = options.get("connect")
    unknown = (
        [] if connect is not None else sorted(set(options) - _OF_POOLS - set(signature(asyncpg.connect).parameters))
    )
    if unknown:
        raise ConfigurationError(f"asyncpg has no such option: {', '.join(unknown)}")
    settings = {"application_name": "workflow-store-postgres", **(options.get("server_settings") or {})}
    defaults = {
        "min_size": 0,
        "connection_class": OwnConnection,
        # The statements are few and always the same: prepared once, they stay.
        "max_cached_statement_lifetime": 0,
        "timeout": timeout_s,
    }
    return {**defaults, **options, "server_settings": settings, "connect": connector(connect)}


def connector(connect: Connect | None) -> Connect:
    """Return a function that connects as another one does, or as asyncpg, and never quotes the DSN when it fails."""
    given: Connect = connect or asyncpg.connect

    async def connect_silently(*dsn: object, **options: Any) -> asyncpg.Connection:
        try:
            return await given(*dsn, **options)
        except Exception as error:  # noqa: BLE001  # it is raised again, or what it says is
            told = opening_error(error, from_asyncpg=connect is None)
        raise told

    return connect_silently


def for_one(options: Mapping[str, Any]) -> dict[str, Any]:
    """Leave out of a pool's options what does not concern a single connection."""
    return {name: value for name, value in options.items() if name not in _OF_POOLS}


async def open_pool(dsn: str | None, options: Mapping[str, Any], *, timeout_s: float) -> asyncpg.Pool:
    """Open a pool.

    Args:
        dsn: Where the database is.
        options: As `pool_options` gives them.
        timeout_s: How long that may take.

    Raises:
        ConfigurationError: A DSN, or options, that cannot work.
        StoreError: The server cannot be reached, or refuses.
    """
    try:
        pool = asyncpg.create_pool(dsn, **options)
    except (TypeError, ValueError) as error:
        # Raised before the DSN is read, so the message shows no password.
        raise ConfigurationError(f"the pool cannot be made: {error}") from error
    await in_time(pool, timeout_s, problem="no pool", undo=asyncpg.Pool.terminate)
    return pool


def _keep_alive(transport: Any) -> None:
    sock = transport.get_extra_info("socket")
    if sock is None or sock.family not in {socket.AF_INET, socket.AF_INET6}:
        return
    with suppress(OSError):
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        for name, value in _KEEPALIVE.items():
            if hasattr(socket, name):
                sock.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)
