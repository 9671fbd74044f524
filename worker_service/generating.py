"""From a claim to the end of its generation: goes on where the attempt before broke off, and gathers the text."""

import asyncio
import random
from collections.abc import Callable
from dataclasses import replace
from typing import Final

from askmesh.llm.v1 import errors_pb2 as pb_errors
from askmesh.llm.v1.generation_service_pb2 import Completed, Started, TextDelta
from askmesh_client import GenerationClient, GenerationError, GenerationStream
from sqlalchemy.ext.asyncio import AsyncEngine

from foundation.settings import GenerationSettings
from questions import claims
from questions.answer_stream import Usage
from questions.claims import Claim
from questions.prompts import generation_spec
from questions.states import FinishReason
from worker_service.control import Progress
from worker_service.engine_gate import EngineGate
from worker_service.outages import DATABASE_ERRORS, Outage, is_defect
from worker_service.outcomes import (
    Broken,
    Outcome,
    finish_of_end,
    finish_of_error,
    outcome_of_error,
    outcome_of_finish,
)
from worker_service.texts import Text, Texts

# llm_service ends a generation at time_limit by itself and sends what there is. Only if it cannot, the deadline does.
_DEADLINE_MARGIN_SECONDS: Final = 10.0
_DATABASE_RETRY_SECONDS: Final = 0.5


class _CannotContinueError(Exception):
    """The model server cannot go on from the text that was given out."""


class Generating:
    """Generates answers for claims."""

    def __init__(
        self,
        engine: AsyncEngine,
        client: GenerationClient,
        gate: EngineGate,
        database: Outage,
        *,
        texts: Texts,
        settings: GenerationSettings,
    ) -> None:
        self._engine = engine
        self._client = client
        self._gate = gate
        self._texts = texts
        self._database = database
        self._settings = settings

    async def generate(
        self, claim: Claim, opened: Callable[[Text], None], went_on: Callable[[], None]
    ) -> Outcome | None:
        """How the claim's generation ends; None if PostgreSQL says that the claim is not current any more.

        ``opened`` is told the text that is being written, whose ``usage`` counts what it takes. Who calls forgets it.
        ``went_on`` is called once it has gone further than the attempts before, as ``Progress`` says.
        """
        text = await self._texts.open(claim)
        lost = text is None
        text = text or Text(claim)
        text.usage = text.usage.not_below(claim.spent)
        opened(text)
        if lost and not await self._take_back(text):
            return None
        if text.finish is not None:  # only the final write is missing
            return outcome_of_finish(text.finish, str(text), text.usage)
        try:
            return await self._go_on(text, went_on)
        except _CannotContinueError:
            return await self._go_on(text, went_on) if await self._take_back(text) else None

    async def _go_on(self, text: Text, went_on: Callable[[], None]) -> Outcome:
        prefix, before = str(text), text.usage
        if before.written_tokens >= self._settings.max_output_tokens:
            return self._finish(text, FinishReason.OUTPUT_LIMIT, before)
        claim = text.claim
        spec = generation_spec(
            claim.answer_id,
            claim.attempt,
            claim.question_text,
            self._settings,
            written=prefix,
            written_tokens=before.written_tokens,
        )
        deadline = self._settings.max_generation_seconds + _DEADLINE_MARGIN_SECONDS
        try:
            async with self._client.stream(spec, timeout=deadline) as events:
                return await self._read(events, text, went_on)
        except GenerationError as error:
            if prefix and error.reason == pb_errors.ERROR_REASON_CANNOT_CONTINUE:
                raise _CannotContinueError from None
            if (finish := finish_of_error(error, continued=bool(prefix))) is not None:
                return self._finish(text, finish, text.usage)
            await self._texts.settle(text)
            return outcome_of_error(error)

    async def _read(self, events: GenerationStream, text: Text, went_on: Callable[[], None]) -> Outcome:
        before = text.usage
        pieces = before.pieces
        progress: Progress | None = Progress(max(before.written_tokens, text.claim.spent.written_tokens))
        async for event in events:
            match event:
                case Started():
                    self._gate.accepted()
                case TextDelta():
                    pieces += 1
                    # NUL, which a model that writes single bytes can write, PostgreSQL's text cannot hold.
                    more = event.text.replace("\0", "\N{REPLACEMENT CHARACTER}")
                    self._texts.add(text, more, _usage(before, event, pieces))
                    if progress is not None and progress.is_enough(text.usage.written_tokens):
                        progress = None
                        self._gate.answered()
                        went_on()
                case Completed():
                    self._gate.answered()
                    usage = _usage(before, event, pieces)
                    finish = finish_of_end(event)
                    if finish is None:
                        return Broken(f"unknown finish reason {event.finish_reason}")
                    return self._finish(text, finish, usage)
        await self._texts.settle(text)
        return Broken("no end")

    def _finish(self, text: Text, finish: FinishReason, usage: Usage) -> Outcome:
        self._texts.end(text, finish, usage)
        return outcome_of_finish(finish, str(text), usage)

    async def _take_back(self, text: Text) -> bool:
        """Begin anew; False if the claim is not current."""
        while True:
            try:
                epoch = await claims.raise_epoch(self._engine, text.claim)
            except DATABASE_ERRORS as error:
                if is_defect(error):
                    raise
                self._database.begins(error)
                await asyncio.sleep(_DATABASE_RETRY_SECONDS * random.uniform(0.5, 1.5))  # noqa: S311 - spreads load
            else:
                self._database.ends()
                break
        if epoch is None:
            return False
        self._texts.begin_anew(text, epoch)
        return True


def _usage(before: Usage, event: TextDelta | Completed, pieces: int) -> Usage:
    if not event.HasField("usage"):
        return replace(before, pieces=pieces)
    call = event.usage
    cached = call.cached_prompt_tokens if call.HasField("cached_prompt_tokens") else None
    return before.and_of_call(call.prompt_tokens, call.completion_tokens, cached, pieces)
