"""From a claim to its outcome: asks llm_service, gathers the text, writes what became of it under the claim's token."""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Final

from foundation.correlation import set_request_id
from foundation.logs import trace_of
from foundation.postgresql.database import Database
from foundation.postgresql.errors import DATABASE_ERRORS, describe, is_outage, is_wrong_data
from questions import booking, claims, suspects
from questions.claims import Claim, GenerationResult
from questions.states import ErrorReason
from worker_service.answering.answer_text import AnswerText
from worker_service.answering.generation import AnswerGeneration
from worker_service.answering.outcomes import Broken, Failed, Finished, Outcome, Refused, pause
from worker_service.answering.text_publisher import TextPublisher
from worker_service.claiming.engine_gate import EngineGate
from worker_service.claiming.leases import Lease

logger = logging.getLogger(__name__)

_TOGETHER_SECONDS: Final = 1.0
"""Answers that are broken off within this time may have been broken by one of them."""


@dataclass(eq=False, slots=True)
class _RunningAnswer:
    claim: Claim
    task: asyncio.Task[object]
    text: AnswerText | None = None
    generating: bool = True
    stopped: bool = False
    unwanted: bool = False
    """Stopped because the answer has ended, so that no other attempt will say what this one took."""
    has_progressed: bool = False
    """It has gone on for long enough to show that it breaks nothing at once."""
    settled: asyncio.Event = field(default_factory=asyncio.Event)
    """Set once it has gone on for long enough, or has ended."""

    def opened(self, text: AnswerText) -> None:
        self.text = text

    def stop(self) -> None:
        if self.generating and not self.stopped:
            self.task.cancel()
        self.stopped = True


class AnswerRunner:
    """Answers claims, many at a time, and stops any of them when asked to."""

    def __init__(
        self,
        generation: AnswerGeneration,
        *,
        database: Database,
        lease: Lease,
        gate: EngineGate,
        publisher: TextPublisher,
        reuse_seconds: float,
    ) -> None:
        self._generation = generation
        self._database = database
        self._engine = database.engine
        self._lease = lease
        self._gate = gate
        self._publisher = publisher
        self._reuse_seconds = reuse_seconds
        self._running: set[_RunningAnswer] = set()
        self._new_broke_at = -_TOGETHER_SECONDS
        self._acquitting: set[asyncio.Task[None]] = set()

    async def answer(self, claim: Claim, verdict: asyncio.Future[bool] | None = None) -> None:
        """Generate the claim's answer and write what becomes of it; nothing is written once it was stopped.

        Never raises but for cancellation. What it cannot write is handed back when the lease is next renewed.
        ``verdict`` learns of a suspect, once that is known, whether it broke nothing.
        """
        task = asyncio.current_task()
        assert task is not None
        set_request_id(claim.request_id)
        running = _RunningAnswer(claim, task)
        self._running.add(running)
        outcome: Outcome | None = None
        try:
            outcome = await self._generate_until_stopped(running, verdict)
            if outcome is not None:
                await self._write_outcome(running, outcome)
            elif running.unwanted:
                await self._book(running)
        except Exception as error:  # noqa: BLE001 - a slot outlives a defect; the message could quote an answer
            logger.error("answer %d: %s", claim.answer_id, describe(error), extra=trace_of(error))  # noqa: TRY400
        finally:
            self._running.discard(running)
            self._forget_text(running)
            set_request_id(None)
            _settle(verdict, isinstance(outcome, Finished | Failed))

    async def until_settled(self, seconds: float) -> None:
        """Wait until what is being generated now has gone on for long enough or has ended, but no longer."""
        unsettled = [running.settled for running in self._running if not running.settled.is_set()]
        waiting = [asyncio.create_task(settled.wait()) for settled in unsettled]
        if waiting:
            _, late = await asyncio.wait(waiting, timeout=seconds)
            for wait in late:
                wait.cancel()

    def stop(self, tokens: frozenset[int]) -> None:
        """Stop generating for these claims and write nothing for them: they are not ours any more."""
        for running in self._running:
            if running.claim.token in tokens:
                running.unwanted = True
                running.stop()

    def stop_answer(self, answer_id: int) -> None:
        """Stop generating this answer, under whichever claim, and write nothing for it."""
        for running in self._running:
            if running.claim.answer_id == answer_id:
                running.unwanted = True
                running.stop()

    def confirm(self, tokens: frozenset[int]) -> None:
        """PostgreSQL says that these claims are ours."""
        self._publisher.lease_renewed(tokens)

    def stop_all(self) -> None:
        """Stop everything, and write nothing."""
        for running in self._running:
            running.stop()

    def stop_generating(self) -> None:
        """Stop all whose answer is still being generated. Outcomes that are being written are not stopped."""
        for running in self._running:
            if running.generating:
                running.stop()

    async def _generate_until_stopped(
        self, running: _RunningAnswer, verdict: asyncio.Future[bool] | None
    ) -> Outcome | None:
        def on_progress() -> None:
            running.has_progressed = True
            running.settled.set()
            if running.claim.interruptions >= suspects.SUSPECT_FROM:
                self._acquitting.add(acquitting := asyncio.create_task(self._acquit(running.claim)))
                acquitting.add_done_callback(self._acquitting.discard)
            if running.claim.losses < suspects.SUSPECT_FROM:  # what kills workers may do so at any moment
                _settle(verdict, True)

        try:
            return await self._generation.generate(running.claim, running.opened, on_progress)
        except asyncio.CancelledError:
            if running.stopped and running.task.uncancel() == 0:
                self._forget_text(running)
                return None
            raise
        finally:
            running.generating = False
            running.settled.set()

    async def _write_outcome(self, running: _RunningAnswer, outcome: Outcome) -> None:
        claim = running.claim
        write: Callable[[], Awaitable[bool]]
        is_final = True
        match outcome:
            case Finished(result):
                write = partial(self._finish, claim, result)
            case Failed(reason):
                logger.info("answer %d failed: %s", claim.answer_id, reason)
                write = partial(claims.fail, self._engine, claim, reason)
            case Refused(why, retry_after):
                self._gate.refused(why, retry_after)
                write = partial(claims.wait, self._engine, claim, pause(claim.waits, retry_after))
                is_final = False
            case Broken(why, retry_after):
                self._gate.broke(why)
                logger.info("answer %d was interrupted: %s", claim.answer_id, why)
                delay = pause(claim.interruptions, retry_after)
                blamed = self._is_blamed(running)
                write = partial(claims.interrupted, self._engine, claim, delay, blamed=blamed)
                is_final = blamed and claim.interruptions + 1 >= suspects.POISON_FROM
        if not isinstance(outcome, Finished):  # an overload may come after text
            await self._book(running)
        if not await self._write(running, write):
            await self._book(running)
        elif is_final:
            self._publisher.close(claim.answer_id)

    async def _finish(self, claim: Claim, result: GenerationResult) -> bool:
        try:
            return await claims.finish(self._engine, claim, result, self._reuse_seconds)
        except DATABASE_ERRORS as error:
            if not is_wrong_data(error):
                raise
            # Another attempt would not end otherwise, and the answer would go round until its deadline.
            logger.error("answer %d cannot be stored: %s", claim.answer_id, describe(error))  # noqa: TRY400
            return await claims.fail(self._engine, claim, ErrorReason.NOT_STORABLE)

    def _is_blamed(self, running: _RunningAnswer) -> bool:
        """Whether an answer that was broken off may be what broke the engine.

        What breaks it does so at the same place again: whoever has gone beyond that is innocent. A suspect is
        only blamed if nobody else is to be blamed, which is why a trial waits until nothing else is new.
        """
        if running.has_progressed:
            return False
        now = time.monotonic()
        others = now - self._new_broke_at < _TOGETHER_SECONDS or any(
            other is not running and not other.settled.is_set() for other in self._running
        )
        self._new_broke_at = now
        return not (running.claim.is_suspect and others)

    async def _acquit(self, claim: Claim) -> None:
        with self._database.attempt():  # else it stays a suspect, and will be tried again if it breaks off
            await claims.acquit(self._engine, claim)

    def _forget_text(self, running: _RunningAnswer) -> None:
        if running.text is not None:
            self._publisher.forget(running.text)

    async def _book(self, running: _RunningAnswer) -> None:
        """Book what was received. Once: who stops an answer does not wait for the ledger."""
        if running.text is None:
            return
        try:
            await booking.book(self._engine, running.claim, running.text.usage)
        except DATABASE_ERRORS as error:
            if is_outage(error):
                self._database.reachability.failed(error)
            logger.warning("what answer %d took is not in the ledger: %s", running.claim.answer_id, describe(error))

    async def _write(self, running: _RunningAnswer, write: Callable[[], Awaitable[bool]]) -> bool:
        """Repeat the write until its outcome is known, as long as the claim is ours; whether it was written.

        Repeating is safe when a commit's outcome is not known: a write changes the state that it depends on.
        """

        def is_ours() -> bool:
            return not running.stopped and self._lease.worker_id is not None

        return bool(await self._database.retry(write, while_true=is_ours))


def _settle(verdict: asyncio.Future[bool] | None, broke_nothing: bool) -> None:
    if verdict is not None and not verdict.done():
        verdict.set_result(broke_nothing)
