"""Control questions: short and harmless ones, by which a worker learns whether the engine answers at all."""

import asyncio
import logging
import os
import time
from collections.abc import Callable
from itertools import count
from typing import Final

from askmesh.llm.v1.generation_service_pb2 import Completed, TextDelta
from askmesh_client import GenerationClient, GenerationError, OverloadedError

from foundation.settings import GenerationSettings
from questions.requests import CONTROL_TOKENS, control_spec
from worker_service.answering.outcomes import Failed, outcome_of_error
from worker_service.claiming.engine_gate import EngineGate

logger = logging.getLogger(__name__)

LONG_ENOUGH_SECONDS: Final = 2.0
_WAIT_SECONDS: Final = 60.0
"""For a few tokens, which may wait in the model server's queue."""


class Progress:
    """Whether a generation has gone on for long enough to say that neither it nor the engine breaks at once.

    That is as many pieces of text as a control question has tokens, or two seconds of text. What breaks an engine
    breaks it at the same place again, so that text written before is no progress.
    """

    def __init__(self, before: int, clock: Callable[[], float] = time.monotonic) -> None:
        """``before``: tokens that earlier attempts had written."""
        self._before = before
        self._clock = clock
        self._began: float | None = None

    def is_enough(self, written: int) -> bool:
        """Tokens are written, so many in all."""
        if written <= self._before:
            return False
        if self._began is None:
            self._began = self._clock()
        return written - self._before >= CONTROL_TOKENS or self._clock() - self._began >= LONG_ENOUGH_SECONDS


class EngineProbe:
    """Asks control questions."""

    def __init__(self, client: GenerationClient, settings: GenerationSettings, gate: EngineGate) -> None:
        self._client = client
        self._settings = settings
        self._gate = gate
        self._numbers = count(1)

    async def is_answered(self, *, to_its_end: bool = True) -> bool:
        """Whether the engine answers one now; not ``to_its_end``: or goes on with one for long enough.

        One that is refused for what it asks is answered, too: the model server has understood it.
        """
        progress, pieces = Progress(0), 0
        spec = control_spec(f"control-{os.getpid()}-{next(self._numbers)}", self._settings)
        try:
            async with self._client.stream(spec, timeout=_WAIT_SECONDS) as events:
                async for event in events:
                    match event:
                        case TextDelta():
                            pieces += 1
                            if progress.is_enough(pieces) and not to_its_end:
                                return True
                        case Completed():
                            return True
        except GenerationError as error:
            if isinstance(error, OverloadedError):
                self._gate.refused("overloaded", error.retry_after)
            return isinstance(outcome_of_error(error), Failed)
        return False


class ProbeLoop:
    """Opens the gate of a worker: while it is closed, asks control questions until one is answered.

    A question that hangs does not keep the next ones from being asked: a server that has come back answers those.
    """

    def __init__(self, probe: EngineProbe, gate: EngineGate, opened: Callable[[], None]) -> None:
        """``opened`` is called when questions may be claimed again."""
        self._probe = probe
        self._gate = gate
        self._opened = opened
        self._asked: set[asyncio.Task[None]] = set()

    async def run(self) -> None:
        """Probe for ever."""
        while True:
            await self._gate.until_closed()
            try:
                await self._probe_until_open()
            finally:
                for asked in self._asked:
                    asked.cancel()
            self._opened()

    async def _probe_until_open(self) -> None:
        while self._gate.is_closed:
            if self._gate.seconds_to_probe == 0:
                self._gate.probed()
                asked = asyncio.create_task(self._ask())
                self._asked.add(asked)
                asked.add_done_callback(self._note_end)
            pause = asyncio.create_task(asyncio.sleep(self._gate.seconds_to_probe))
            try:
                await asyncio.wait({pause, *self._asked}, return_when=asyncio.FIRST_COMPLETED)
            finally:
                pause.cancel()

    async def _ask(self) -> None:
        if await self._probe.is_answered(to_its_end=False):
            self._gate.probe_succeeded()

    def _note_end(self, asked: asyncio.Task[None]) -> None:
        self._asked.discard(asked)
        if not asked.cancelled() and (defect := asked.exception()):
            logger.error("a control question could not be asked: %s", type(defect).__name__)
