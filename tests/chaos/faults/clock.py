"""A wall clock that jumps."""

import asyncio
import random
import tempfile
import time
from datetime import datetime
from pathlib import Path
from signal import SIGTERM

import pytest

from tests.chaos.faults import Fault
from tests.chaos.stage import Stage
from tests.worker_service.processes import WorkerProcess

_DAY = 86_400
_SHORTEST_JUMP_SECONDS = 60
# The library looks at its file again after so long.
_LOOKS_EACH_SECONDS = 1


class JumpingClock(Fault):
    """One more worker, whose wall clock jumps by up to 30 days in either direction. Its monotonic clock goes on."""

    async def prepare(self, stage: Stage) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="askmesh-chaos-")
        self._offset = Path(self._folder.name, "offset")
        self._jump(0)
        clock = {
            "LD_PRELOAD": str(_find_library()),
            "FAKETIME_TIMESTAMP_FILE": str(self._offset),
            "FAKETIME_CACHE_DURATION": str(_LOOKS_EACH_SECONDS),
            "FAKETIME_DONT_FAKE_MONOTONIC": "1",
        }
        self._worker = WorkerProcess(stage.worker_environment() | clock, Path(self._folder.name, "worker.log"))
        await self._worker.ready()

    async def inject(self, stage: Stage, rng: random.Random) -> None:
        self._jump(round(rng.choice([-1, 1]) * rng.uniform(_SHORTEST_JUMP_SECONDS, 30 * _DAY)))
        await asyncio.sleep(_LOOKS_EACH_SECONDS + rng.uniform(0, 1))

    async def release(self) -> None:
        self._worker.send(SIGTERM)
        await self._worker.ended()
        last = self._worker.log_text().splitlines()[-1]
        told = datetime.fromisoformat(last[:19]).timestamp()
        assert abs(told - time.time()) > _SHORTEST_JUMP_SECONDS / 2, f"its clock never jumped: {last}"
        self._worker.__exit__()
        self._folder.cleanup()

    def _jump(self, seconds: int) -> None:
        draft = self._offset.with_suffix(".draft")
        draft.write_text(f"{seconds:+d}\n")
        draft.replace(self._offset)


def _find_library() -> Path:
    for library in sorted(Path("/usr/lib").glob("*/faketime/libfaketimeMT.so.1")):
        return library
    pytest.skip("libfaketime is not installed; on Debian: apt-get install libfaketime")
