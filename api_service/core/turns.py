"""The turns that this process gives to new questions, and how fast workers get on."""

import asyncio
import math
from typing import Final

from sqlalchemy.ext.asyncio import AsyncEngine

from api_service.core.sampling import every_second
from owners.turns import OwnerQueue, Turns, sample

# Of the newest sample in the average; the pace follows a change within about ten samples.
_WEIGHT: Final = 0.2
_UNKNOWN_SECONDS: Final = 10
_MOST_SECONDS: Final = 600


class TurnKeeper:
    """Gives turns, and looks once a second where the claims are."""

    def __init__(self, engine: AsyncEngine) -> None:
        self._engine = engine
        self._turns = Turns()
        self._claims: int | None = None
        self._sampled_at = 0.0
        self._pace: float | None = None

    async def next(self, queue: OwnerQueue) -> int:
        """The turn for a new answer. Waits for PostgreSQL the first time only, and raises what that raises."""
        if self._claims is None:
            await self._sample()
        return self._turns.next(queue)

    def give_back(self, queue: OwnerQueue) -> None:
        """The turn given last was not used."""
        self._turns.give_back(queue)

    def seconds_until_shorter(self, waiting: int) -> int:
        """Whole seconds in which workers claim a tenth of so many at their present pace; 10 where that is unknown.

        A tenth, so that not all who were refused come back for the first place that is free.
        """
        if not self._pace or self._pace < 0.01:
            return _UNKNOWN_SECONDS
        return max(1, min(_MOST_SECONDS, math.ceil(waiting / 10 / self._pace)))

    async def watch(self) -> None:
        """Look until cancelled."""
        await every_second(self._sample, "the turns of the questions that wait")

    async def _sample(self) -> None:
        queues = self._turns.begin_sample()
        now = asyncio.get_running_loop().time()
        found = await sample(self._engine, queues)
        if self._claims is not None and (seconds := now - self._sampled_at) > 0:
            pace = (found.claims - self._claims) / seconds
            self._pace = pace if self._pace is None else self._pace + _WEIGHT * (pace - self._pace)
        self._claims, self._sampled_at = found.claims, now
        self._turns.take(found)
