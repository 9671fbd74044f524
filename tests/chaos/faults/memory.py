"""What a model server without bounds would take of a machine."""

import asyncio
import random
from contextlib import suppress

import psutil
from redis.asyncio import Redis

from tests.chaos.faults import Fault
from tests.chaos.stage import Stage

# What docker-compose.yml and the manifests give a service.
_MOST_BYTES = 512 << 20
_MOST_IN_VALKEY = 128 << 20


class WatchMemory(Fault):
    """Breaks nothing, and looks how much memory each service and Valkey have while questions do."""

    async def prepare(self, stage: Stage) -> None:
        self._most: dict[str, int] = {}
        self._watching = asyncio.create_task(self._watch(stage))

    async def inject(self, stage: Stage, rng: random.Random) -> None:
        """The questions are what breaks things."""

    async def release(self) -> None:
        self._watching.cancel()
        with suppress(asyncio.CancelledError):
            await self._watching
        assert self._most, "nothing was looked at"
        beyond = {name: size for name, size in self._most.items() if size > _MOST_BYTES}
        assert not beyond, beyond
        assert self._most["valkey"] < _MOST_IN_VALKEY, self._most

    async def _watch(self, stage: Stage) -> None:
        async with Redis.from_url(stage.valkey_url) as valkey:
            while True:
                for name, pid in stage.pids().items():
                    if "_service" in name:
                        with suppress(psutil.NoSuchProcess):
                            self._note(name, psutil.Process(pid).memory_info().rss)
                self._note("valkey", (await valkey.info("memory"))["used_memory_peak"])
                await asyncio.sleep(0.2)

    def _note(self, name: str, size: int) -> None:
        self._most[name] = max(size, self._most.get(name, 0))
