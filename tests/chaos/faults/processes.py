"""Services that die, freeze, or are restarted."""

import asyncio
import random
import time
from functools import partial
from signal import SIGCONT, SIGKILL, SIGSTOP, SIGTERM

from tests.chaos.faults import Fault
from tests.chaos.stage import Stage

_POISON = """
    SELECT w.name FROM questions q JOIN answers a ON a.id = q.answer_id JOIN workers w ON w.id = a.holder
    WHERE a.state = 'in_progress' AND q.text LIKE '% poison %'
"""
_WAITING_POISON = """
    SELECT FROM questions q JOIN answers a ON a.id = q.answer_id
    WHERE a.finished_at IS NULL AND q.text LIKE '% poison %'
"""


class KillOne(Fault):
    """kill -9 of one replica; the supervisor starts another."""

    def __init__(self, service: str) -> None:
        self._service = service

    async def inject(self, stage: Stage, rng: random.Random) -> None:
        await stage.until(lambda: bool(stage.pids(self._service)), f"there is a {self._service}")
        stage.send(SIGKILL, rng.choice(sorted(stage.pids(self._service).values())))


class KillHolder(Fault):
    """kill -9 of a worker that holds answers; the supervisor starts another."""

    async def inject(self, stage: Stage, rng: random.Random) -> None:
        give_up_at = time.monotonic() + 60
        while not await self._has_killed(stage, rng):
            assert time.monotonic() < give_up_at, "no worker holds an answer"
            await asyncio.sleep(0.1)

    async def _has_killed(self, stage: Stage, rng: random.Random) -> bool:
        holders = sorted(await stage.holders())
        if not holders:
            return False
        pid = rng.choice(holders)
        stage.send(SIGSTOP, pid)  # so that it cannot end them all before it dies
        holds = pid in await stage.holders()
        stage.send(SIGKILL if holds else SIGCONT, pid)
        return holds


class KillAll(Fault):
    """kill -9 of all replicas at once."""

    def __init__(self, service: str) -> None:
        self._service = service

    async def inject(self, stage: Stage, rng: random.Random) -> None:
        await stage.until(lambda: bool(stage.pids(self._service)), f"there is a {self._service}")
        for pid in stage.pids(self._service).values():
            stage.send(SIGKILL, pid)


class KillSweeper(Fault):
    """kill -9 of a worker in the middle of the statement by which it takes back what another dead one held."""

    async def inject(self, stage: Stage, rng: random.Random) -> None:
        async with asyncio.timeout(60):
            # The fault before may have hit one that has been started again, and has no lease yet.
            while len(leases := await stage.leases_of_running()) < 2:
                await asyncio.sleep(0.1)
        pid = rng.choice(sorted(leases))
        stage.send(SIGKILL, pid)
        while leases[pid] in (await stage.leases()).values():
            await asyncio.sleep(0.1)
        killed = asyncio.Event()
        loop = asyncio.get_running_loop()

        def kill(sweeper: int) -> None:
            stage.proxy.on_sweep(None)
            stage.send(SIGKILL, sweeper)
            loop.call_soon_threadsafe(killed.set)

        stage.proxy.on_sweep(kill)
        async with asyncio.timeout(60):
            await killed.wait()


class KillHolderOfPoison(Fault):
    """What a question does that kills the worker which answers it, each time until it is set aside."""

    # Three to become a suspect and two more alone; where it is tried beside others, nobody is blamed.
    _MOST_KILLS = 12

    async def inject(self, stage: Stage, rng: random.Random) -> None:
        kills = 0
        async with asyncio.timeout(200):
            while await stage.fetch(_WAITING_POISON):
                if (pid := await self._holder(stage)) is not None:
                    kills += 1
                    stage.send(SIGKILL, pid)
                    await stage.until(partial(self._is_gone, stage, pid), "it is dead")
                await asyncio.sleep(0.1)
        assert 5 <= kills <= self._MOST_KILLS, f"it was set aside after {kills} kills"

    @staticmethod
    def _is_gone(stage: Stage, pid: int) -> bool:
        return pid not in stage.pids("worker_service").values()

    async def _holder(self, stage: Stage) -> int | None:
        """The process id of the worker that answers it, unless that one is dead already."""
        held = [int(row["name"].split()[-1]) for row in await stage.fetch(_POISON)]
        return next((pid for pid in held if pid in stage.pids("worker_service").values()), None)


class Freeze(Fault):
    """SIGSTOP of one worker until its lease has run out, then SIGCONT."""

    async def inject(self, stage: Stage, rng: random.Random) -> None:
        await stage.until(lambda: bool(stage.pids("worker_service")), "there is a worker")
        pid = rng.choice(sorted(stage.pids("worker_service").values()))
        stage.send(SIGSTOP, pid)
        try:
            await asyncio.sleep(stage.setup.lease_seconds + rng.uniform(1, 4))
        finally:
            stage.send(SIGCONT, pid)


class RollingRestart(Fault):
    """SIGTERM to one replica of every service after the other, each when its predecessor is back."""

    async def inject(self, stage: Stage, rng: random.Random) -> None:
        names = [name for name in stage.pids() if "_service" in name]
        rng.shuffle(names)
        for name in names:
            before = stage.pids()[name]
            stage.send(SIGTERM, before)
            await stage.until(partial(stage.is_back, name, before=before), f"{name} is back")


class KillEverything(Fault):
    """kill -9 of the supervisor and all below it at once, as a power cut would; then ``make run`` again."""

    async def inject(self, stage: Stage, rng: random.Random) -> None:
        await asyncio.to_thread(stage.mesh.kill_everything)
        await asyncio.sleep(rng.uniform(0, 2))
        await asyncio.to_thread(stage.mesh.start)
