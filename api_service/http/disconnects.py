"""Noticing that a client goes before it has its response."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager

from starlette.types import Receive

from api_service.core.watch import Watch


@contextmanager
def leaving_noticed(receive: Receive, watch: Watch) -> Iterator[None]:
    """As long as the block lasts, the watch is told when its client has gone."""
    noticing = asyncio.create_task(_notice(receive, watch))
    try:
        yield
    finally:
        noticing.cancel()


async def _notice(receive: Receive, watch: Watch) -> None:
    try:
        while (await receive())["type"] != "http.disconnect":
            pass
    finally:
        watch.leave()
