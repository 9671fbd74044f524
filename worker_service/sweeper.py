"""Keeps questions moving that nobody was woken for. Every worker sweeps; two at once do no harm."""

import asyncio
import random
from typing import Final

from sqlalchemy.ext.asyncio import AsyncEngine

from foundation.redis_client import MeshRedis
from questions.owners import are_several
from questions.signals import publish_ended
from questions.sweeping import sweep
from worker_service.outages import DATABASE_ERRORS, Outage
from worker_service.shares import Shares
from worker_service.slots import Slots

_ROUND_SECONDS: Final = 2.0


class Sweeper:
    """Sweeps PostgreSQL, and lets free slots of this process look for what is due.

    It starts slots itself instead of sending hints, because it then needs no broker: with the broker down, blocked or
    slow, due questions are answered all the same, one round later.
    """

    def __init__(
        self, engine: AsyncEngine, redis: MeshRedis, slots: Slots, database: Outage, shares: Shares | None = None
    ) -> None:
        """``shares`` learns from it whether there are several owners."""
        self._engine = engine
        self._redis = redis
        self._slots = slots
        self._database = database
        self._shares = shares

    async def run(self) -> None:
        """Sweep for ever."""
        while True:
            try:
                await self.sweep_once()
            except DATABASE_ERRORS as error:
                self._database.begins(error)
            else:
                self._database.ends()
            # Jitter keeps the workers of a fleet from sweeping in step.
            await asyncio.sleep(_ROUND_SECONDS * random.uniform(0.8, 1.2))  # noqa: S311 - no secret

    async def sweep_once(self) -> None:
        """One round. Raises one of DATABASE_ERRORS if PostgreSQL does not answer."""
        if self._shares is not None:
            self._shares.several_owners = await are_several(self._engine)
        swept = await sweep(self._engine, count_due_up_to=max(self._slots.free, 1))
        if swept.due:
            self._slots.start(swept.due)
            self._slots.start_suspect()
        if swept.ended_answers:
            for answer_id in swept.ended_answers:
                self._slots.stop_answer(answer_id)
            await publish_ended(self._redis, swept.ended_answers)
