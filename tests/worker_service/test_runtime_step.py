"""How the runtime's end becomes Celery's."""

import asyncio
from collections.abc import Callable
from contextlib import suppress
from types import SimpleNamespace

from worker_service.runtime_step import RuntimeStep
from worker_service.waking.loop_thread import LoopThread


class BrokenRuntime:
    """One of whose parts breaks before ``start`` has returned."""

    def __init__(self, on_defect: Callable[[], None]) -> None:
        self.hurried = False
        self._on_defect = on_defect

    def start(self) -> None:
        self._on_defect()

    def hurry(self) -> None:
        self.hurried = True


async def test_a_part_that_breaks_at_once_stops_the_worker() -> None:
    made: list[BrokenRuntime] = []

    def open_runtime(on_defect: Callable[[], None]) -> BrokenRuntime:
        made.append(BrokenRuntime(on_defect))
        return made[0]

    step = RuntimeStep(SimpleNamespace(), LoopThread(), open_runtime)  # type: ignore[arg-type]
    await step._open()
    assert made[0].hurried
    assert step._stopping is not None
    # Before it begins: it ends the process.
    step._stopping.cancel()
    with suppress(asyncio.CancelledError):
        await step._stopping
