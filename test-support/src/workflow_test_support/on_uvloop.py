"""A pytest plugin: all tests run on uvloop's event loop, `asyncio.run` in them too.

python -m pytest -p workflow_test_support.on_uvloop
"""

from __future__ import annotations

import asyncio

import uvloop


def pytest_configure() -> None:
    """Set the policy that pytest-asyncio and `asyncio.run` ask for their loops."""
    asyncio.set_event_loop_policy(uvloop.EventLoopPolicy())
