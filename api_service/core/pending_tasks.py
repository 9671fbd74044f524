"""What goes on behind a request that does not wait for it."""

import asyncio
from collections.abc import Coroutine

from foundation.background import log_when_broken


class PendingTasks:
    """Calls to Redis that nobody waits for, until the process stops."""

    def __init__(self) -> None:
        # The event loop holds tasks weakly.
        self._tasks: set[asyncio.Task[None]] = set()

    def start(self, work: Coroutine[None, None, None]) -> None:
        """Begin, and log what it raises."""
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        log_when_broken(task, "telling Redis")

    async def close(self) -> None:
        """Wait for all that have begun."""
        await asyncio.gather(*self._tasks, return_exceptions=True)
