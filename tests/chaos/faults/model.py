"""A model server that dies, freezes, refuses, or talks nonsense."""

import asyncio
import random

from tests.chaos.faults import Fault
from tests.chaos.stage import Stage


class KillModelServer(Fault):
    """kill -9, and some seconds without any."""

    async def inject(self, stage: Stage, rng: random.Random) -> None:
        await asyncio.to_thread(stage.model.kill)
        await asyncio.sleep(rng.uniform(0, 5))
        await asyncio.to_thread(stage.model.start)


class FreezeModelServer(Fault):
    """It hangs in the middle of all answers; then it goes on, or somebody kills it and starts another."""

    async def inject(self, stage: Stage, rng: random.Random) -> None:
        stage.model.freeze()
        await asyncio.sleep(rng.uniform(2, 6))
        if rng.random() < 0.5:
            stage.model.thaw()
        else:
            await asyncio.to_thread(stage.model.kill)
            await asyncio.to_thread(stage.model.start)


class FailRequests(Fault):
    """All requests fail for some seconds, each time in another of these ways."""

    def __init__(self, *ways: str, seconds: float = 4) -> None:
        """``ways``: faults of the fake model server."""
        self._ways = list(ways)
        self._seconds = seconds

    async def inject(self, stage: Stage, rng: random.Random) -> None:
        way = self._ways.pop(0)
        self._ways.append(way)
        await asyncio.to_thread(stage.model.fail, way)
        await asyncio.sleep(self._seconds * rng.uniform(0.5, 1))
        await asyncio.to_thread(stage.model.fail, "")
