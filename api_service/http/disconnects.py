"""Noticing that a client goes before it has its response."""

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from starlette.types import Receive


@contextmanager
def disconnect_noticed(receive: Receive, leave: Callable[[], None]) -> Iterator[None]:
    """As long as the block lasts, ``leave`` is called when the client has gone."""
    noticing = asyncio.create_task(_notice(receive, leave))
    try:
        yield
    finally:
        noticing.cancel()


async def _notice(receive: Receive, leave: Callable[[], None]) -> None:
    try:
        while (await receive())["type"] != "http.disconnect":
            pass
    finally:
        leave()
