"""A D1 database behind the REST-shaped server, as tests see it from outside the code that they test."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from http.client import HTTPConnection
from typing import Any
from urllib.parse import urlsplit

from workflow_test_support.servers.d1_server import D1Server, d1_server

__all__ = ["RestDatabase", "rest_database"]


class RestDatabase:
    """One database of a server."""

    def __init__(self, server: D1Server, name: str) -> None:
        self.account_id = server.account
        self.database_id = server.databases[name]
        self.token = server.token
        self.base_url = f"{server.url.rstrip('/')}/client/v4"
        self._address = urlsplit(server.url).netloc

    @property
    def arguments(self) -> dict[str, Any]:
        """Arguments of `connect_http` that reach it."""
        return {
            "account_id": self.account_id,
            "database_id": self.database_id,
            "token": self.token,
            "base_url": self.base_url,
        }

    def run(self, sql: str, *values: object) -> list[dict[str, Any]]:
        """Run one statement and give its rows."""
        (rows,) = self.run_all([{"sql": sql, "params": values}])
        return rows

    def run_all(self, batch: Sequence[dict[str, Any]]) -> list[list[dict[str, Any]]]:
        """Run statements as one transaction and give the rows of each."""
        path = f"/client/v4/accounts/{self.account_id}/d1/database/{self.database_id}/query"
        headers = {"Authorization": f"Bearer {self.token}", "Content-Type": "application/json"}
        # A connection for each call: the server ends those that are idle for a while.
        with closing(HTTPConnection(self._address, timeout=30)) as connection:
            connection.request("POST", path, json.dumps({"batch": list(batch)}), headers)
            answer = json.loads(connection.getresponse().read())
        assert answer["success"], answer["errors"]
        return [result["results"] for result in answer["result"]]

    def drop_everything(self) -> None:
        """Leave an empty database."""
        tables = self.run("SELECT name FROM sqlite_master WHERE type = 'table' AND name NOT GLOB '_cf_*'")
        if tables:
            self.run_all([{"sql": 'DROP TABLE "{}"'.format(table["name"].replace('"', '""'))} for table in tables])


@contextmanager
def rest_database() -> Iterator[RestDatabase]:
    """Run a server with one empty database.

    Raises:
        OSError: See `d1_server`.
    """
    with d1_server(("DB",)) as server:
        yield RestDatabase(server, "DB")
