"""From a claim to the end of its generation: goes on where the attempt before broke off, and gathers the text."""

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from functools import partial
from typing import Final

from askmesh.llm.v1 import errors_pb2 as pb_errors
from askmesh.llm.v1.generation_pb2 import GenerationSpec
from askmesh.llm.v1.generation_service_pb2 import Completed, Started, TextDelta
from askmesh_client import GenerationClient, GenerationError, GenerationStream

from foundation.postgresql.database import Database
from foundation.settings import GenerationSettings
from live.answer_stream import RunningUsage
from models.identity import identity
from questions import claims
from questions.claims import Claim
from questions.requests import generation_spec, request_for
from questions.states import FinishReason
from worker_service.answering.answer_text import AnswerText
from worker_service.answering.outcomes import (
    Broken,
    Outcome,
    finish_of_end,
    finish_of_error,
    outcome_of_error,
    outcome_of_finish,
)
from worker_service.answering.text_publisher import TextPublisher
from worker_service.claiming.engine_gate import EngineGate
from worker_service.claiming.engine_probe import Progress

logger = logging.getLogger(__name__)

# llm_service ends a generation at time_limit by itself and sends what there is. Only if it cannot, the deadline does.
_DEADLINE_MARGIN_SECONDS: Final = 10.0
_LOOK_SECONDS: Final = 0.5
_MOST_TOKENS: Final = 2**31 - 1
"""More are no count, but a model server's mistake. PostgreSQL's integers hold no more."""
# The longest tokens of usual vocabularies have 16 letters, or a few of other scripts.
_BYTES_A_TOKEN: Final = 32
_FEW_BYTES: Final = 4_096
"""Limits of a few tokens may be exceeded by as much: some tokens are runs of 128 spaces."""
_FINAL_WRITE_SECONDS: Final = 1.0
"""So long before its deadline, at most, an answer ends with what there is, to be final in time."""
_FINAL_WRITE_SHARE: Final = 0.1


class _CannotContinueError(Exception):
    """The model server cannot go on from the text that was given out, or it is another model's by now."""


class AnswerGeneration:
    """Generates answers for claims."""

    def __init__(
        self,
        client: GenerationClient,
        *,
        database: Database,
        gate: EngineGate,
        publisher: TextPublisher,
        settings: GenerationSettings,
    ) -> None:
        self._client = client
        self._gate = gate
        self._publisher = publisher
        self._database = database
        self._engine = database.engine
        self._settings = settings

    async def generate(
        self, claim: Claim, opened: Callable[[AnswerText], None], on_progress: Callable[[], None]
    ) -> Outcome | None:
        """How the claim's generation ends; None if PostgreSQL says that the claim is not current any more.

        ``opened`` is told the text that is being written, whose ``usage`` counts what it takes. Who calls forgets it.
        ``on_progress`` is called once it has gone further than the attempts before, as ``Progress`` says.
        """
        text = await self._publisher.open(claim)
        lost = text is None
        text = text or AnswerText(claim)
        text.usage = text.usage.not_below(claim.spent)
        opened(text)
        if lost and not await self._take_back(text):
            return None
        if text.finish is not None:  # only the final write is missing
            return outcome_of_finish(text.finish, str(text), text.usage, text.writer)
        try:
            return await self._go_on(text, on_progress)
        except _CannotContinueError:
            return await self._go_on(text, on_progress) if await self._take_back(text) else None

    async def _go_on(self, text: AnswerText, on_progress: Callable[[], None]) -> Outcome:
        prefix, before = str(text), text.usage
        request = self._request(text.claim)
        if request.HasField("max_output_tokens") and before.written_tokens >= request.max_output_tokens:
            return self._finish(text, FinishReason.OUTPUT_LIMIT, before)
        spec = generation_spec(
            request,
            _request_id(text.claim),
            self._settings,
            written=prefix,
            written_tokens=before.written_tokens,
        )
        deadline = self._settings.max_generation_seconds + _DEADLINE_MARGIN_SECONDS
        try:
            async with self._until_deadline(text), self._client.stream(spec, timeout=deadline) as events:
                return await self._read(events, text, request, on_progress)
        except TimeoutError:
            return self._finish(text, FinishReason.TIME_LIMIT, text.usage)
        except GenerationError as error:
            if prefix and error.reason == pb_errors.ERROR_REASON_CANNOT_CONTINUE:
                raise _CannotContinueError from None
            if (finish := finish_of_error(error, continued=bool(prefix))) is not None:
                return self._finish(text, finish, text.usage)
            await self._publisher.settle(text)
            return outcome_of_error(error)

    async def _read(
        self, events: GenerationStream, text: AnswerText, request: GenerationSpec, on_progress: Callable[[], None]
    ) -> Outcome:
        before, continued = text.usage, bool(text.length)
        pieces = before.pieces
        limit = request.max_output_tokens if request.HasField("max_output_tokens") else self._settings.max_output_tokens
        room = limit * _BYTES_A_TOKEN + _FEW_BYTES - text.length
        progress: Progress | None = Progress(max(before.written_tokens, text.claim.spent.written_tokens))
        async for event in events:
            match event:
                case Started():
                    self._gate.accepted()
                    _check_writer(text, event, continued=continued)
                case TextDelta():
                    pieces += 1
                    # NUL, which a model that writes single bytes can write, PostgreSQL's text cannot hold.
                    more = event.text.replace("\0", "\N{REPLACEMENT CHARACTER}")
                    room -= len(more.encode())
                    if room < 0:  # a model server that does not know its limit would fill this process, and Redis
                        more = more.encode()[:room].decode(errors="ignore")
                    self._publisher.add(text, more, _usage(before, event, pieces))
                    if progress is not None and progress.is_enough(text.usage.written_tokens):
                        progress = None
                        self._gate.answered()
                        on_progress()
                    if room < 0:
                        logger.info("answer %d was longer than it may be", text.claim.answer_id)
                        return self._finish(text, FinishReason.OUTPUT_LIMIT, text.usage)
                case Completed():
                    self._gate.answered()
                    usage = _usage(before, event, pieces)
                    finish = finish_of_end(event)
                    if finish is None:
                        return Broken(f"unknown finish reason {event.finish_reason}")
                    return self._finish(text, finish, usage)
        await self._publisher.settle(text)
        return Broken("no end")

    @asynccontextmanager
    async def _until_deadline(self, text: AnswerText) -> AsyncIterator[None]:
        """Raise TimeoutError shortly before nobody would wait for the answer any more, if it has any text by then."""
        loop = asyncio.get_running_loop()
        watching: asyncio.Task[None] | None = None

        def begin(scope: asyncio.Timeout) -> None:
            nonlocal watching
            watching = asyncio.create_task(self._watch_deadline(text, scope))

        async with asyncio.timeout(None) as scope:
            timer = loop.call_later(_seconds_to_write(text.claim.seconds_left), begin, scope)
            try:
                yield
            finally:
                timer.cancel()
                if watching is not None:
                    watching.cancel()

    async def _watch_deadline(self, text: AnswerText, scope: asyncio.Timeout) -> None:
        """The earliest deadline has come; others may have joined, or have asked with a later one."""
        while True:
            left = 2 * _FINAL_WRITE_SECONDS
            with self._database.attempt():
                left = await claims.seconds_left(self._engine, text.claim)
            if left <= _FINAL_WRITE_SECONDS and text.length:
                scope.reschedule(asyncio.get_running_loop().time())
                return
            await asyncio.sleep(max(_seconds_to_write(left), _LOOK_SECONDS))

    def _finish(self, text: AnswerText, finish: FinishReason, usage: RunningUsage) -> Outcome:
        self._publisher.end(text, finish, usage)
        return outcome_of_finish(finish, str(text), usage, text.writer)

    def _request(self, claim: Claim) -> GenerationSpec:
        if claim.request is not None:
            return GenerationSpec.FromString(claim.request)
        assert claim.question_text is not None
        return request_for(claim.question_text, self._settings)

    async def _take_back(self, text: AnswerText) -> bool:
        """Begin anew; False if the claim is not current."""
        epoch = await self._database.retry(partial(claims.raise_epoch, self._engine, text.claim))
        if epoch is None:
            return False
        self._publisher.begin_anew(text, epoch)
        return True


def _request_id(claim: Claim) -> str:
    """What llm_service calls this attempt in its log: with the request of whoever asked, if that is known."""
    attempt = f"answer-{claim.answer_id}-{claim.attempt}"
    return f"{claim.request_id[:80]}:{attempt}" if claim.request_id else attempt


def _check_writer(text: AnswerText, started: Started, *, continued: bool) -> None:
    """One model writes an answer. Of text whose writer is not known, nobody can say that it is another's."""
    writer = identity(started.model, started.revision) or None
    if not continued:
        text.begins_by(writer)
    elif text.writer is not None and text.writer != writer:
        raise _CannotContinueError


def _usage(before: RunningUsage, event: TextDelta | Completed, pieces: int) -> RunningUsage:
    call = event.usage
    sane = max(call.prompt_tokens, call.completion_tokens, call.cached_prompt_tokens) <= _MOST_TOKENS
    if not (event.HasField("usage") and sane):
        return replace(before, pieces=pieces)
    cached = call.cached_prompt_tokens if call.HasField("cached_prompt_tokens") else None
    return before.and_of_call(
        RunningUsage(
            prompt_tokens=call.prompt_tokens,
            completion_tokens=call.completion_tokens,
            cached_prompt_tokens=cached,
            pieces=pieces,
        )
    )


def _seconds_to_write(left: float) -> float:
    """How long an answer may be written that is to be final in so many seconds."""
    return max(left - min(_FINAL_WRITE_SECONDS, left * _FINAL_WRITE_SHARE), 0.0)
