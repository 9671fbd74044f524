"""GenerationService: the contract's messages to the domain's and back. Every status is made in statuses.py."""

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass
from typing import Any, Final, NoReturn
from uuid import uuid4

import grpc
from askmesh.llm.v1 import generation_pb2, generation_service_pb2, generation_service_pb2_grpc
from google.protobuf.duration_pb2 import Duration

from foundation.correlation import set_request_id
from foundation.logs import trace_of
from llm_service.errors import LlmError, Reason
from llm_service.generation import Completed, Event, Finish, Generator, Started, TextDelta
from llm_service.rpc.admission import Admission
from llm_service.rpc.statuses import abort
from llm_service.rpc.validation import checked, is_request_id
from llm_service.upstream.catalogue import ModelCatalogue
from llm_service.upstream.outage_log import GENERATION, LIST, OutageLog
from llm_service.upstream.stream.completions import CallUsage

logger = logging.getLogger(__name__)

Context = grpc.aio.ServicerContext[Any, Any]
_FINISHES: Final = {
    Finish.STOP: generation_pb2.FINISH_REASON_STOP,
    Finish.OUTPUT_LIMIT: generation_pb2.FINISH_REASON_OUTPUT_LIMIT,
    Finish.TIME_LIMIT: generation_pb2.FINISH_REASON_TIME_LIMIT,
    Finish.CONTENT_FILTER: generation_pb2.FINISH_REASON_CONTENT_FILTER,
}
# Nothing was generated, so that there was no attempt: also when they come after HTTP 200 and before any text.
_NOT_BEGUN: Final = frozenset(
    {Reason.MODEL_SERVER_OVERLOADED, Reason.MODEL_SERVER_UNAVAILABLE, Reason.MODEL_SERVER_DENIED}
)


@dataclass(slots=True)
class _CallRecord:
    """What is known of one call."""

    request_id: str
    arrived: float
    """On the loop's clock, in seconds."""
    model: str = ""
    """Set once the model server has accepted the generation."""
    revision: str = ""
    first_text_at: float | None = None

    def note(self, event: Event) -> None:
        if isinstance(event, Started):
            self.model, self.revision = event.model, event.revision
        elif isinstance(event, TextDelta) and self.first_text_at is None:
            self.first_text_at = _now()

    def timing(self) -> generation_pb2.Timing:
        first = None if self.first_text_at is None else _duration(self.first_text_at - self.arrived)
        return generation_pb2.Timing(time_to_first_text=first, total=_duration(_now() - self.arrived))


class GenerationServicer(generation_service_pb2_grpc.GenerationServiceServicer):
    """The three calls of the contract."""

    def __init__(
        self, generator: Generator, catalogue: ModelCatalogue, admission: Admission, outages: OutageLog
    ) -> None:
        self._generator = generator
        self._catalogue = catalogue
        self._admission = admission
        self._outages = outages

    async def Generate(  # noqa: N802
        self, request: generation_service_pb2.GenerateRequest, context: Context
    ) -> generation_service_pb2.GenerateResponse:
        texts: list[str] = []
        async with self._generation(request, context) as (call, events):
            async for event in events:
                call.note(event)
                if isinstance(event, TextDelta):
                    texts.append(event.text)
                elif isinstance(event, Completed):
                    return generation_service_pb2.GenerateResponse(
                        request_id=call.request_id,
                        model=call.model,
                        revision=call.revision,
                        text="".join(texts),
                        finish_reason=_FINISHES[event.finish],
                        usage=_usage(event.counts),
                        timing=call.timing(),
                    )
        raise AssertionError("a generation ends with Completed or an error")

    # A coroutine that writes, and not an iterator: grpc.aio would not close an iterator at once when the caller goes
    # away during a write, and the model would go on.
    async def GenerateStream(  # type: ignore[override]  # noqa: N802
        self, request: generation_service_pb2.GenerateStreamRequest, context: Context
    ) -> None:
        sequence = 0
        async with self._generation(request, context) as (call, events):
            async for event in events:
                call.note(event)
                match event:
                    case Started():
                        started = generation_service_pb2.Started(
                            request_id=call.request_id, model=event.model, revision=event.revision
                        )
                        answer = generation_service_pb2.GenerateStreamResponse(started=started)
                    case TextDelta():
                        sequence += 1
                        delta = generation_service_pb2.TextDelta(
                            sequence=sequence, text=event.text, usage=_usage(event.counts)
                        )
                        answer = generation_service_pb2.GenerateStreamResponse(text=delta)
                    case Completed():
                        completed = generation_service_pb2.Completed(
                            finish_reason=_FINISHES[event.finish], usage=_usage(event.counts), timing=call.timing()
                        )
                        answer = generation_service_pb2.GenerateStreamResponse(completed=completed)
                await context.write(answer)

    async def ListModels(  # noqa: N802
        self, request: generation_service_pb2.ListModelsRequest, context: Context
    ) -> generation_service_pb2.ListModelsResponse:
        del request  # it has no fields
        async with self._status_on_error(_call(), context, LIST):
            self._admission.refuse_if_draining()
            return generation_service_pb2.ListModelsResponse(
                models=[
                    generation_service_pb2.Model(
                        id=model.id,
                        is_default=is_default,
                        max_context_tokens=model.max_context_tokens,
                        revision=model.revision,
                    )
                    for model, is_default in await self._catalogue.list()
                ]
            )
        raise AssertionError("the list is returned or an error told")

    @asynccontextmanager
    async def _generation(
        self,
        request: generation_service_pb2.GenerateRequest | generation_service_pb2.GenerateStreamRequest,
        context: Context,
    ) -> AsyncIterator[tuple[_CallRecord, AsyncIterator[Event]]]:
        call = _call(request.spec)
        set_request_id(call.request_id)
        async with self._status_on_error(call, context, GENERATION):
            wanted = checked(request.spec if request.HasField("spec") else None)
            async with self._admission.slot(), aclosing(self._generator.generate(wanted, call.arrived)) as events:
                yield call, events

    @asynccontextmanager
    async def _status_on_error(self, call: _CallRecord, context: Context, kind: str) -> AsyncIterator[None]:
        """End the gRPC call with the status of whatever goes wrong within."""
        try:
            yield
        except LlmError as error:
            failure = error
        except Exception as error:
            if context.cancelled():  # writing to a caller who is gone fails in several ways
                raise
            failure = _defect(error)
        else:
            self._outages.succeeded(kind, call.arrived)
            return
        self._outages.failed(kind, failure)
        await _abort(failure, call, context)


def _call(spec: generation_pb2.GenerationSpec | None = None) -> _CallRecord:
    given = spec.request_id if spec else ""
    request_id = given if is_request_id(given) else uuid4().hex
    return _CallRecord(request_id, _now())


def _defect(error: Exception) -> LlmError:
    # The log says where it happened. The message can hold what people asked.
    logger.error("defect: %s", type(error).__name__, extra=trace_of(error))
    return LlmError(Reason.DEFECT, "llm_service has a defect: see its log")


async def _abort(error: LlmError, call: _CallRecord, context: Context) -> NoReturn:
    started = error.engine_started or (bool(call.model) and error.reason not in _NOT_BEGUN)
    await abort(error, call.request_id, context, engine_started=started)


def _usage(counts: CallUsage | None) -> generation_pb2.Usage | None:
    if counts is None:
        return None
    return generation_pb2.Usage(
        prompt_tokens=counts.prompt, completion_tokens=counts.completion, cached_prompt_tokens=counts.cached_prompt
    )


def _now() -> float:
    return asyncio.get_running_loop().time()


def _duration(seconds: float) -> Duration:
    duration = Duration()
    duration.FromNanoseconds(round(seconds * 1e9))
    return duration
