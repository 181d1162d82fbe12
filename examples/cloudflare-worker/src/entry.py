"""The Worker: people and programs call `fetch`, Cloudflare's cron calls `scheduled`."""

from __future__ import annotations

import hmac
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from http import HTTPStatus
from urllib.parse import urlsplit

import api
import workflows
from workers import Request, Response, WorkerEntrypoint
from workflow_runtime import WorkflowRuntime, meter_queries
from workflow_runtime.hosting import sweep_handler
from workflow_store_d1 import D1WorkflowStore


class Default(WorkerEntrypoint):
    """What Cloudflare calls; one object for each call."""

    async def fetch(self, request: Request) -> Response:
        """Answer with JSON."""
        if self._is_allowed(request):
            async with self._runtime() as runtime:
                path, text = urlsplit(request.url).path, await request.text()
                status, body = await api.handle(runtime, request.method, path, text)
        else:
            status, body = api.refuse(HTTPStatus.UNAUTHORIZED, "say the token: `Authorization: Bearer ...`")
        return Response.from_json(body, status=status)

    async def scheduled(self, *_: object) -> None:
        """Do what is due, within what one call of a Worker may cost."""
        max_queries = int(self.env.MAX_QUERIES)
        async with self._runtime() as runtime:
            sweep = sweep_handler(runtime, timedelta(seconds=20), max_queries=max_queries)
            with meter_queries(max_queries):
                await runtime.materialize_schedules()  # a query for each, unless a deployment has changed it
                print(json.dumps(await sweep()))

    def _is_allowed(self, request: Request) -> bool:
        said = request.headers.get("authorization") or ""
        return hmac.compare_digest(said.encode(), f"Bearer {self.env.API_TOKEN}".encode())

    @asynccontextmanager
    async def _runtime(self) -> AsyncIterator[WorkflowRuntime]:
        async with D1WorkflowStore(self.env.DB) as store:
            yield WorkflowRuntime(store=store, workflows=workflows.WORKFLOWS, schedules=workflows.SCHEDULES)
