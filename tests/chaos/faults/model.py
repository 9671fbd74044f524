"""A model server that dies, freezes, refuses, or talks nonsense."""

import asyncio
import random
import time
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

from tests.chaos.faults import Fault
from tests.chaos.stage import Stage
from tests.fakes.manners import MANNERS


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


class KillInLongAnswers(Fault):
    """kill -9 when all answers are being written, and a new one a second later."""

    async def inject(self, stage: Stage, rng: random.Random) -> None:
        await asyncio.sleep(rng.uniform(3, 6))
        await asyncio.to_thread(stage.model.kill)
        await asyncio.sleep(1)
        await asyncio.to_thread(stage.model.start)


class StartAgain(Fault):
    """Nothing but somebody who starts the model server again a second after it has died."""

    def __init__(self) -> None:
        self._deaths: list[tuple[float, float]] = []

    async def prepare(self, stage: Stage) -> None:
        self._starting = asyncio.create_task(self._start_again(stage))

    @property
    def deaths(self) -> Sequence[tuple[float, float]]:
        return self._deaths

    async def inject(self, stage: Stage, rng: random.Random) -> None:
        """The questions are what kills it."""

    async def release(self) -> None:
        self._starting.cancel()
        with suppress(asyncio.CancelledError):
            await self._starting

    async def _start_again(self, stage: Stage) -> None:
        while True:
            await asyncio.sleep(0.1)
            if not stage.model.runs:
                noticed_at = time.time()
                await asyncio.sleep(1)
                await asyncio.to_thread(stage.model.kill)  # only to close what is left of it
                await asyncio.to_thread(stage.model.start)
                self._deaths.append((noticed_at - 0.5, time.time()))


class ChangeManners(Fault):
    """Another way to write a stream each second, or another refusal that says nothing against the question."""

    _WAYS: tuple[dict[str, Any], ...] = (
        *({"fault": "", "manner": manner} for manner in MANNERS if manner),
        *({"fault": str(status)} for status in (401, 402, 403, 405, 408, 409, 424, 425, 429, 499, 500, 502, 503, 529)),
        {"fault": "unlisted"},
        {"fault": "error", "at": 0, "code": 503},
    )

    def __init__(self) -> None:
        self._left: list[dict[str, Any]] = []

    async def inject(self, stage: Stage, rng: random.Random) -> None:
        try:
            for _ in range(4):
                if not self._left:
                    self._left = rng.sample(self._WAYS, len(self._WAYS))
                await asyncio.to_thread(stage.model.fail, **self._left.pop())
                await asyncio.sleep(1)
        finally:
            await asyncio.to_thread(stage.model.fail, "")
