"""What a network does between the services and PostgreSQL."""

import asyncio
import random

from tests.chaos.faults import Fault
from tests.chaos.stage import Stage


class CutCommits(Fault):
    """Connections of services break just when they have told PostgreSQL to commit: nobody learns what came of it."""

    def __init__(self, count: int = 15) -> None:
        """``count``: how many."""
        self._count = count

    async def inject(self, stage: Stage, rng: random.Random) -> None:
        wanted = stage.proxy.cut_commits + self._count
        stage.proxy.cut_commits_of(self._count, rng)
        await stage.until(lambda: stage.proxy.cut_commits >= wanted, "that many services commit")


class CutOffWorker(Fault):
    """Nothing passes between one worker and PostgreSQL until its lease has run out; then what was held up arrives."""

    async def inject(self, stage: Stage, rng: random.Random) -> None:
        await stage.until(lambda: bool(stage.pids("worker_service")), "there is a worker")
        pid = rng.choice(sorted(stage.pids("worker_service").values()))
        stage.proxy.freeze(pid)
        try:
            await asyncio.sleep(stage.setup.lease_seconds + rng.uniform(1, 5))
        finally:
            stage.proxy.thaw(pid)
