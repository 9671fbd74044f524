"""The places in which this process answers questions, one question a slot at a time."""

import asyncio
from collections.abc import Coroutine
from contextlib import suppress
from typing import Final

from foundation.background import log_when_broken
from worker_service.answering.runner import AnswerRunner
from worker_service.claiming.dispatcher import ClaimDispatcher
from worker_service.claiming.engine_probe import EngineProbe
from worker_service.claiming.suspect_trials import SuspectTrials

_LONGEST_HINT_SECONDS: Final = 600.0
"""A hint waits no longer for a free slot: RabbitMQ closes the channel of one kept for 1,800 s."""
_WRITE_SECONDS: Final = 5.0
"""What a stopping process gives to outcomes that are being written. Those not written by then are handed back."""


class Slots:
    """Up to ``capacity`` slots, and places for suspects; each claims and answers until nothing is due."""

    def __init__(self, capacity: int, dispatcher: ClaimDispatcher, runner: AnswerRunner, probe: EngineProbe) -> None:
        self._capacity = capacity
        self._dispatcher = dispatcher
        self._runner = runner
        self._busy: set[asyncio.Task[None]] = set()
        self._trials = SuspectTrials(capacity, dispatcher, runner, probe, self._start)
        self._trying: asyncio.Task[None] | None = None
        self._reconciling: asyncio.Task[None] | None = None
        self._freed = asyncio.Event()
        self._closing = False

    @property
    def capacity(self) -> int:
        """How many there are, without the places for suspects."""
        return self._capacity

    @property
    def free(self) -> int:
        """How many slots could start now."""
        return 0 if self._closing else max(self._capacity - len(self._busy), 0)

    @property
    def held(self) -> frozenset[int]:
        """Tokens of the claims that the slots hold."""
        return self._dispatcher.held

    async def work(self, count: int) -> None:
        """Do what a hint asks for: let up to ``count`` slots look for due questions now.

        Without a free slot it waits for one, so that the broker keeps further hints for other workers.
        """
        with suppress(TimeoutError):
            async with asyncio.timeout(_LONGEST_HINT_SECONDS):
                await self.until_free()
        self.start(count)

    async def until_free(self) -> bool:
        """Wait until a slot could start; False once none ever will."""
        while self.free == 0 and not self._closing:
            self._freed.clear()
            await self._freed.wait()
        return not self._closing

    def start(self, count: int) -> None:
        """Let up to ``count`` free slots look for due questions, and those that have just become free."""
        starting = min(count, self.free)
        for _ in range(starting):
            self._start(self._answer_due())
        if not starting:
            self._dispatcher.hurry()

    def start_trials(self) -> None:
        """Try questions that may be what kills workers or engines, unless some are being tried.

        They need no free slots: under full load they would never get any.
        """
        if not self._closing and (self._trying is None or self._trying.done()):
            self._trying = self._start(self._trials.run())

    def stop_answer(self, answer_id: int) -> None:
        """Nobody waits for this answer any more."""
        self._runner.stop_answer(answer_id)

    def lease_renewed(self, asked: frozenset[int], owned: frozenset[int]) -> None:
        """Stop with what is not ours any more, and hand back what is and nobody here knows of."""
        self._runner.stop(asked - owned)
        self._runner.confirm(owned)
        if owned - self.held:
            self._reconciling = asyncio.create_task(self._dispatcher.hand_back_strays())
            log_when_broken(self._reconciling, "handing back strays")

    def lease_lost(self) -> None:
        """Stop with everything."""
        self._runner.stop_all()

    async def close(self, grace: float, hurry: asyncio.Event) -> None:
        """Start no question any more, finish what can be, and stop with the rest, which is then to be handed back.

        grace: seconds for finishing; less if ``hurry`` is set.
        """
        self._closing = True
        self._trials.close()
        self._freed.set()
        hurried = asyncio.create_task(hurry.wait())
        idle = asyncio.create_task(self._wait_until_idle())
        await asyncio.wait({hurried, idle}, timeout=grace, return_when=asyncio.FIRST_COMPLETED)
        hurried.cancel()
        self._runner.stop_generating()
        await asyncio.wait({idle}, timeout=_WRITE_SECONDS)
        idle.cancel()
        self._runner.stop_all()

    async def _wait_until_idle(self) -> None:
        while self._busy:
            await asyncio.wait(self._busy)

    def _start(self, work: Coroutine[None, None, None]) -> asyncio.Task[None]:
        slot = asyncio.create_task(work)
        self._busy.add(slot)
        slot.add_done_callback(self._note_free)
        log_when_broken(slot, "a slot")
        return slot

    def _note_free(self, slot: asyncio.Task[None]) -> None:
        self._busy.discard(slot)
        self._freed.set()

    async def _answer_due(self) -> None:
        has_answered = False
        while not self._closing:
            claim = await self._dispatcher.next(patiently=has_answered)
            if claim is None:
                return
            has_answered = True
            try:
                if not self._closing:
                    await self._runner.answer(claim)
            finally:
                self._dispatcher.give_back(claim)
            if self._dispatcher.passes_over:
                self.start(1)  # this slot and another: where one is free again, an owner may have a bit more than that
