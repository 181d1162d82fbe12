"""A second server that follows another one and takes no writes."""

from __future__ import annotations

from workflow_test_support.servers.postgres_server import LocalServer

__all__ = ["Standby"]


class Standby(LocalServer):
    """A read-only copy of a running server.

    Args:
        primary: The server that it follows.
        durable: As for any server of our own.
    """

    def __init__(self, primary: LocalServer, *, durable: bool = False) -> None:
        self._primary_dsn = primary.dsn
        super().__init__(f"primary_conninfo={self._primary_dsn}", durable=durable)

    def _make_data(self) -> None:
        self._run("pg_basebackup", "-d", self._primary_dsn, "-X", "stream", "-c", "fast", "--no-sync")
        # Not by `pg_basebackup -R`: a newer one writes settings that an older server does not know.
        (self._data / "standby.signal").touch()
