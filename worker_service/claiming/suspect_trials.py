"""Suspects are answered where nothing else is to blame, so that what breaks shows which of them breaks it."""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Final

from questions.claims import TRIAL_SECONDS, Claim
from questions.suspects import SUSPECT_FROM
from worker_service.answering.runner import AnswerRunner
from worker_service.claiming.dispatcher import ClaimDispatcher
from worker_service.claiming.engine_probe import EngineProbe

_SETTLE_SECONDS: Final = 5.0
"""What is being generated gets so long to show that it breaks nothing."""
_HANGS_AFTER_SECONDS: Final = 30.0
"""A suspect of which nothing is heard for so long does not keep the others waiting."""


class SuspectTrials:
    """Answers suspects: one at first, and twice as many each time that none of them broke anything.

    Nothing else is claimed until they have gone on for long enough: at most ``TRIAL_SECONDS``. When several were tried
    and something broke, nobody is blamed, and they are tried one by one.
    """

    def __init__(
        self,
        most: int,
        dispatcher: ClaimDispatcher,
        runner: AnswerRunner,
        probe: EngineProbe,
        start: Callable[[Coroutine[None, None, None]], asyncio.Task[None]],
    ) -> None:
        """``most``: suspects at a time. ``start`` makes the tasks in which they are answered."""
        self._most = most
        self._dispatcher = dispatcher
        self._runner = runner
        self._probe = probe
        self._start = start
        self._count = 1
        self._closing = False

    def close(self) -> None:
        """Try nobody any more."""
        self._closing = True

    async def run(self) -> None:
        """Try suspects until none is left, one breaks something, or the engine does not answer a control question.

        Without the latter an outage in which the model server breaks off every answer would make poison of the few
        questions that are open.
        """
        while not self._closing and await self._probe.is_answered():
            with self._dispatcher.pausing() as end_pause:
                await self._runner.until_settled(_SETTLE_SECONDS)
                suspects = await self._dispatcher.suspects(self._count) if not self._closing else []
                if not suspects:
                    return
                trials = {self._try(suspect) for suspect in suspects}
                await asyncio.wait(trials, timeout=TRIAL_SECONDS)
                end_pause()
            # What kills workers may do so at any moment: until it has ended it is tried alone.
            kills_workers = any(suspect.losses >= SUSPECT_FROM for suspect in suspects)
            await asyncio.wait(trials, timeout=None if kills_workers else _HANGS_AFTER_SECONDS)
            broke_nothing = all(trial.done() and trial.result() for trial in trials)
            self._count = min(self._count * 2, self._most) if broke_nothing else 1
            if not broke_nothing:
                return

    def _try(self, suspect: Claim) -> asyncio.Future[bool]:
        verdict: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        self._start(self._answer(suspect, verdict))
        return verdict

    async def _answer(self, suspect: Claim, verdict: asyncio.Future[bool]) -> None:
        try:
            await self._runner.answer(suspect, verdict)
        finally:
            self._dispatcher.give_back(suspect)
