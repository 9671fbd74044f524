"""One generation, from a request that is within its limits to the events of its answer."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Mapping, Sequence
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass, field
from enum import Enum, auto
from typing import Any, Final, TypeVar

from langchain_core.language_models.chat_models import BaseChatModel
from langchain_core.messages import AIMessage, AIMessageChunk, BaseMessage
from langchain_core.messages.ai import UsageMetadata

from llm_service.catalogue import MODELS_CHANGE, ModelCatalogue, ServedModel
from llm_service.completions import TokenCounts, invalid
from llm_service.errors import LlmError, Reason
from llm_service.markers import without_markers

T = TypeVar("T")


class Finish(Enum):
    """Why a generation ended; the contract's FinishReason."""

    STOP = auto()
    OUTPUT_LIMIT = auto()
    TIME_LIMIT = auto()
    CONTENT_FILTER = auto()


# Tools are never offered, so a call of one is only the model's way to end.
_FINISHES: Final[Mapping[str, Finish]] = {
    "stop": Finish.STOP,
    "tool_calls": Finish.STOP,
    "function_call": Finish.STOP,
    "length": Finish.OUTPUT_LIMIT,
    "content_filter": Finish.CONTENT_FILTER,
}


@dataclass(frozen=True, slots=True)
class GenerationRequest:
    """What to generate. Empty and None mean what unset means in the contract."""

    messages: Sequence[BaseMessage]
    model: str = ""
    sampling: Mapping[str, float] = field(default_factory=dict)
    stop: Sequence[str] = ()
    max_output_tokens: int | None = None
    time_limit: float | None = None
    """Seconds from the call's arrival."""
    answer_prefix: str = ""


@dataclass(frozen=True, slots=True)
class Started:
    """The model server has accepted the generation."""

    model: str


@dataclass(frozen=True, slots=True)
class Text:
    """More text, and the tokens so far where the model server counts while it writes."""

    text: str
    counts: TokenCounts | None


@dataclass(frozen=True, slots=True)
class Completed:
    """The end."""

    finish: Finish
    counts: TokenCounts | None


Event = Started | Text | Completed


class Generator:
    """Runs generations through a LangChain chat model."""

    def __init__(self, chat_model: BaseChatModel, catalogue: ModelCatalogue) -> None:
        self._chat_model = chat_model
        self._catalogue = catalogue

    async def generate(self, request: GenerationRequest, arrived: float) -> AsyncGenerator[Event, None]:
        """One Started, any number of Text, one Completed; ``arrived`` is the call's arrival on the loop's clock.

        Closing the generator stops the model. Raises LlmError.
        """
        deadline = None if request.time_limit is None else arrived + request.time_limit
        counts: TokenCounts | None = None
        wrote = False
        try:
            async with self._accepted(request, deadline) as (model, chunks):
                yield Started(model.id)
                finish = None
                while finish is None:
                    chunk = await _before(deadline, anext(chunks))
                    if chunk.usage_metadata is not None:
                        counts = _sum(counts, chunk.usage_metadata)
                    if chunk.content:
                        wrote = True
                        yield Text(str(chunk.content), counts)
                    finish = chunk.response_metadata.get("finish_reason")
            if finish not in _FINISHES:
                raise invalid("ended its answer for a reason that is not OpenAI's")
            yield Completed(_FINISHES[finish], counts)
        except TimeoutError:
            if not wrote:
                raise LlmError(Reason.TIME_LIMIT, "the time limit passed before any text was written") from None
            yield Completed(Finish.TIME_LIMIT, counts)
        except LlmError as error:
            if error.reason in (Reason.MODEL_SERVER_UNAVAILABLE, Reason.MODEL_NOT_FOUND):
                self._catalogue.forget()
            raise

    @asynccontextmanager
    async def _accepted(
        self, request: GenerationRequest, deadline: float | None
    ) -> AsyncIterator[tuple[ServedModel, AsyncGenerator[AIMessageChunk, None]]]:
        """The model that has taken the request up, and its chunks but the first.

        The list of models may be older than what is served. Whoever named none is then answered by what is there.
        """
        model = await _before(deadline, self._prepare(request))
        for first in (True, False):
            async with aclosing(self._chunks(request, model)) as chunks:
                try:
                    await _before(deadline, anext(chunks))
                except LlmError as error:
                    if error.reason is not Reason.MODEL_NOT_FOUND:
                        raise
                    model = await _before(deadline, self._catalogue.instead_of(model, request.model))
                    if not first:
                        raise LlmError(Reason.MODEL_SERVER_UNAVAILABLE, MODELS_CHANGE) from None
                    if request.answer_prefix:
                        raise LlmError(Reason.CANNOT_CONTINUE, "the model that began the answer is gone") from None
                    continue
                yield model, chunks
                return

    async def _prepare(self, request: GenerationRequest) -> ServedModel:
        model = await self._catalogue.resolve(request.model)
        if request.answer_prefix and not await self._catalogue.can_continue(model):
            raise LlmError(Reason.CANNOT_CONTINUE, "the model server cannot continue an answer: unset answer_prefix")
        return model

    def _chunks(self, request: GenerationRequest, model: ServedModel) -> AsyncGenerator[AIMessageChunk, None]:
        messages = [type(message)(without_markers(message.text)) for message in request.messages]
        fields: dict[str, Any] = {**request.sampling, **model.dialect.stream_fields}
        if request.answer_prefix:
            messages.append(AIMessage(without_markers(request.answer_prefix)))
            fields |= model.dialect.continue_fields
        if request.max_output_tokens is not None:
            # vLLM refuses a limit that is larger than the context, which ends an answer anyway.
            fields["max_tokens"] = min(request.max_output_tokens, model.max_context_tokens or request.max_output_tokens)
        chunks = self._chat_model.astream(messages, stop=list(request.stop) or None, model=model.id, **fields)
        assert isinstance(chunks, AsyncGenerator)
        return chunks


async def _before(deadline: float | None, work: Awaitable[T]) -> T:
    async with asyncio.timeout_at(deadline):
        return await work


def _sum(counts: TokenCounts | None, added: UsageMetadata) -> TokenCounts:
    before = counts or TokenCounts(0, 0)
    cached = added.get("input_token_details", {}).get("cache_read")
    if cached is None:
        cached = before.cached_prompt
    elif before.cached_prompt is not None:
        cached += before.cached_prompt
    return TokenCounts(before.prompt + added["input_tokens"], before.completion + added["output_tokens"], cached)
