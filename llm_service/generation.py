"""One generation, from a request that is within its limits to the events of its answer."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Mapping
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass
from enum import Enum, auto
from typing import Final, TypeVar

from langchain_core.language_models.chat_models import BaseChatModel
from langchain_core.messages import AIMessageChunk
from langchain_core.messages.ai import UsageMetadata

from llm_service.errors import LlmError, Reason
from llm_service.generation_request import GenerationRequest
from llm_service.upstream.catalogue import MODELS_CHANGE, ModelCatalogue, ServedModel
from llm_service.upstream.stream.completions import CallUsage
from llm_service.upstream.stream.finish_reasons import CONTENT_FILTER, LENGTH, STOP, TIME_LIMIT

T = TypeVar("T")


class Finish(Enum):
    """Why a generation ended; the contract's FinishReason."""

    STOP = auto()
    OUTPUT_LIMIT = auto()
    TIME_LIMIT = auto()
    CONTENT_FILTER = auto()


_FINISHES: Final[Mapping[str, Finish]] = {
    STOP: Finish.STOP,
    LENGTH: Finish.OUTPUT_LIMIT,
    CONTENT_FILTER: Finish.CONTENT_FILTER,
    TIME_LIMIT: Finish.TIME_LIMIT,
}
# A token has at most so much text on average: in the languages that take most bytes it has 10 to 16. A model server
# that writes more ignores the limit.
_BYTES_A_TOKEN: Final = 32
# A token alone may be longer, as one of 128 blanks is.
_LEAST_BYTES: Final = 1_024
# The limit where neither the request nor the model server names one: 4 MiB of text.
_UNKNOWN_TOKENS: Final = 1 << 17


# After these reasons another model server may answer, with other models.
_FORGOTTEN_AFTER: Final = frozenset(
    {Reason.MODEL_SERVER_UNAVAILABLE, Reason.GENERATION_INTERRUPTED, Reason.MODEL_NOT_FOUND}
)


@dataclass(frozen=True, slots=True)
class Started:
    """The model server has accepted the generation."""

    model: str
    revision: str = ""


@dataclass(frozen=True, slots=True)
class TextDelta:
    """More text, and the tokens so far where the model server counts while it writes."""

    text: str
    counts: CallUsage | None


@dataclass(frozen=True, slots=True)
class Completed:
    """The end."""

    finish: Finish
    counts: CallUsage | None


Event = Started | TextDelta | Completed


@dataclass(slots=True)
class _TextBudget:
    """The bytes of text that an answer may still have."""

    left: int
    is_exceeded: bool = False

    def take(self, text: str) -> str:
        """The text, or as much of it as the budget has left."""
        size = len(text.encode())
        if size > self.left:
            self.is_exceeded = True
            text = text.encode()[: self.left].decode(errors="ignore")
        self.left -= min(size, self.left)
        return text


class Generator:
    """Runs generations through a LangChain chat model."""

    def __init__(self, chat_model: BaseChatModel, catalogue: ModelCatalogue) -> None:
        self._chat_model = chat_model
        self._catalogue = catalogue

    async def generate(self, request: GenerationRequest, arrived: float) -> AsyncGenerator[Event, None]:
        """One Started, any number of TextDelta, one Completed; ``arrived`` is the call's arrival on the loop's clock.

        Closing the generator stops the model. Text beyond what the token limit can have is cut off and stops the
        model, too: OUTPUT_LIMIT. Raises LlmError.
        """
        deadline = None if request.time_limit is None else arrived + request.time_limit
        counts: CallUsage | None = None
        wrote = False
        finish, ended = None, None
        try:
            async with self._accepted(request, deadline) as (model, chunks):
                yield Started(model.id, model.revision)
                budget = _TextBudget(_most_bytes(request, model))
                while finish is None:
                    chunk = await _before(deadline, anext(chunks))
                    if chunk.usage_metadata is not None:
                        counts = _sum(counts, chunk.usage_metadata)
                    if text := budget.take(str(chunk.content)):
                        wrote = True
                        yield TextDelta(text, counts)
                    ended = chunk.additional_kwargs.get("finish_reason", None if text else ended)
                    finish = LENGTH if budget.is_exceeded else chunk.response_metadata.get("finish_reason")
            yield Completed(_FINISHES[finish], counts)
        except TimeoutError:
            if ended is None and not wrote:
                raise LlmError(Reason.TIME_LIMIT, "the time limit passed before any text was written") from None
            # After the finish reason the text is whole, and only counts are missing.
            yield Completed(Finish.TIME_LIMIT if ended is None else _FINISHES[ended], counts)
        except LlmError as error:
            if error.reason in _FORGOTTEN_AFTER:
                self._catalogue.forget()
            raise

    @asynccontextmanager
    async def _accepted(
        self, request: GenerationRequest, deadline: float | None
    ) -> AsyncIterator[tuple[ServedModel, AsyncGenerator[AIMessageChunk, None]]]:
        """The model that has taken the request up, and its chunks but the first.

        The list of models may be out of date. A request that names no model is then answered by one that is served.
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
        chunks = self._chat_model.astream(request.chat_messages(), **request.completion_fields(model))
        assert isinstance(chunks, AsyncGenerator)
        return chunks


def _most_bytes(request: GenerationRequest, model: ServedModel) -> int:
    """How much text an answer may have."""
    tokens = min(request.max_output_tokens or _UNKNOWN_TOKENS, model.max_context_tokens or _UNKNOWN_TOKENS)
    return max(_LEAST_BYTES, tokens * _BYTES_A_TOKEN)


async def _before(deadline: float | None, work: Awaitable[T]) -> T:
    async with asyncio.timeout_at(deadline):
        return await work


def _sum(counts: CallUsage | None, added: UsageMetadata) -> CallUsage:
    before = counts or CallUsage(0, 0)
    cached = added.get("input_token_details", {}).get("cache_read")
    if cached is None:
        cached = before.cached_prompt
    elif before.cached_prompt is not None:
        cached += before.cached_prompt
    return CallUsage(before.prompt + added["input_tokens"], before.completion + added["output_tokens"], cached)
