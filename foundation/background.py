"""What runs in the background of a process, for as long as that lives: watched, so that no job ends in silence.

A job that breaks is logged and started again after a pause. One that breaks again and again makes the process
``broken``, which its liveness probe says, or for which it ends; until then it goes on being started.
"""

import asyncio
import logging
from collections.abc import Callable, Coroutine
from typing import Any, Final

from foundation.logs import trace_of
from foundation.settings import SettingsError

logger = logging.getLogger(__name__)

_PAUSE_SECONDS: Final = 1.0
_LONGEST_PAUSE_SECONDS: Final = 30.0
_SOUND_SECONDS: Final = 60.0
"""A job that has run for so long is sound again, however often it broke before."""
_MOST_IN_A_ROW: Final = 5

Job = Callable[[], Coroutine[Any, Any, None]]


class Background:
    """The jobs of one process, all on one event loop."""

    def __init__(self, on_broken: Callable[[], None] | None = None) -> None:
        """``on_broken`` is called when a job has broken so often that the process is of no use any more."""
        self._on_broken = on_broken
        self._jobs: dict[asyncio.Task[None], str] = {}
        self._broken: set[str] = set()

    @property
    def broken(self) -> list[str]:
        """The jobs that break whenever they are started."""
        return sorted(self._broken)

    def run(self, name: str, job: Job) -> None:
        """Run this job until it returns, which says that it has nothing more to do. ``name``: for the log."""
        task = asyncio.create_task(self._supervise(name, job), name=name)
        self._jobs[task] = name
        task.add_done_callback(self._jobs.pop)

    async def close(self) -> None:
        """End all jobs."""
        while self._jobs:
            for job in self._jobs:
                job.cancel()
            # Again and again: asyncio.wait_for, of which redis-py is fond, can swallow a cancellation in Python 3.11.
            await asyncio.wait(self._jobs, timeout=0.1)

    async def _supervise(self, name: str, job: Job) -> None:
        loop = asyncio.get_running_loop()
        in_a_row = 0
        while True:
            began = loop.time()
            sound = loop.call_later(_SOUND_SECONDS, self._broken.discard, name)
            try:
                await job()
            except SettingsError as error:  # starting it again would not help
                logger.critical("%s cannot run: %s", name, error)
                self._note_broken(name)
                return
            except (Exception, asyncio.CancelledError) as error:
                if _is_cancelled(error):
                    raise
                in_a_row = 1 if loop.time() - began >= _SOUND_SECONDS else in_a_row + 1
                log_defect(name, error)
            else:
                self._broken.discard(name)
                return
            finally:
                sound.cancel()
            if in_a_row >= _MOST_IN_A_ROW:
                self._note_broken(name)
            await asyncio.sleep(min(_PAUSE_SECONDS * 2 ** (in_a_row - 1), _LONGEST_PAUSE_SECONDS))

    def _note_broken(self, name: str) -> None:
        if name not in self._broken:
            self._broken.add(name)
            if self._on_broken is not None:
                self._on_broken()


def log_when_broken(task: asyncio.Task[Any], name: str) -> None:
    """Have the log say if this task, which nobody awaits, ends by a defect."""

    def note(ended: asyncio.Task[Any]) -> None:
        if not ended.cancelled() and (error := ended.exception()) is not None:
            log_defect(name, error)

    task.add_done_callback(note)


def log_defect(name: str, error: BaseException) -> None:
    """Log where a job broke, without the error's message, which could quote a question or an answer."""
    logger.error("%s broke: %s", name, type(error).__name__, extra=trace_of(error))


def _is_cancelled(error: BaseException) -> bool:
    task = asyncio.current_task()
    return isinstance(error, asyncio.CancelledError) and task is not None and task.cancelling() > 0
