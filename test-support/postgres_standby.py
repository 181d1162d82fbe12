"""A second server that follows another one and takes no writes."""

from __future__ import annotations

from postgres_server import LocalServer

__all__ = ["Standby"]


class Standby(LocalServer):
    """A read-only copy of a running server."""

    def __init__(self, primary: LocalServer) -> None:
        self._primary_dsn = primary.dsn
        super().__init__(f"primary_conninfo={self._primary_dsn}")

    def _make_data(self) -> None:
        self._run("pg_basebackup", "-d", self._primary_dsn, "-X", "stream", "-c", "fast", "--no-sync")
        # Not by `pg_basebackup -R`: a newer one writes settings that an older server does not know.
        (self._data / "standby.signal").touch()
