"""How many generations this process holds, and how it comes to hold none."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from llm_service.errors import LlmError, Reason


class Admission:
    """Counts the generations in flight, up to a limit, and ends them when the process drains."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._held: set[asyncio.Timeout] = set()
        self._left = asyncio.Event()
        self._draining = False

    @property
    def held(self) -> int:
        """Generations in flight."""
        return len(self._held)

    def refuse_if_draining(self) -> None:
        """Raise LlmError DRAINING once the process drains."""
        if self._draining:
            raise LlmError(Reason.DRAINING, "llm_service is shutting down: try another replica")

    @asynccontextmanager
    async def slot(self) -> AsyncIterator[None]:
        """Room for one generation while the context lasts.

        Raises LlmError TOO_MANY_GENERATIONS, or DRAINING: at the beginning, or from within when its time is up.
        """
        self.refuse_if_draining()
        if len(self._held) >= self._limit:
            raise LlmError(
                Reason.TOO_MANY_GENERATIONS, f"llm_service holds {self._limit} generations, as many as it may"
            )
        try:
            async with asyncio.timeout(None) as scope:
                self._held.add(scope)
                try:
                    yield
                finally:
                    self._held.discard(scope)
                    self._left.set()
        except TimeoutError:
            self.refuse_if_draining()
            raise

    async def drain(self, seconds: float) -> None:
        """Refuse new generations, give those in flight so many seconds, then end them with DRAINING."""
        self._draining = True
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(seconds):
                await self._until_empty()
        except TimeoutError:
            for scope in self._held:
                scope.reschedule(loop.time())
            await self._until_empty()

    async def _until_empty(self) -> None:
        while self._held:
            self._left.clear()
            await self._left.wait()
