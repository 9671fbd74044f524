"""The stream of an OpenAI-compatible ``/chat/completions``: what its events say, read without a request at hand."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import orjson

from llm_service.errors import LlmError, Reason
from llm_service.sse import MAX_EVENT_BYTES, EventTooLargeError, SseParser

_MAX_COUNT: Final = 2**32 - 1


@dataclass(frozen=True, slots=True)
class TokenCounts:
    """Tokens since the generation's beginning, as the model server counted them."""

    prompt: int
    completion: int
    cached_prompt: int | None = None


@dataclass(slots=True)
class Piece:
    """What one read from the model server brought, in the order of its fields."""

    text: str = ""
    counts: TokenCounts | None = None
    finish_reason: str | None = None
    error: Mapping[str, Any] | None = None
    """The error object that the server put into the stream."""
    done: bool = False
    """Whether ``[DONE]`` has come."""


@dataclass(slots=True)
class CompletionReader:
    """Reads a stream of completion chunks, cut anywhere.

    All events of one read make one ``Piece``: while the process keeps up a piece is a token, and where it lags behind
    the pieces grow, so that the cost of a token falls when it matters.
    """

    _parser: SseParser = field(default_factory=SseParser)
    _events: int = 0

    @property
    def read_nothing(self) -> bool:
        """Whether no event has come yet."""
        return self._events == 0

    def feed(self, received: bytes) -> Piece:
        """Raises LlmError MODEL_SERVER_INVALID where the bytes are not a stream of completion chunks."""
        try:
            return self._read(self._parser.feed(received))
        except EventTooLargeError:
            raise invalid(f"sent an event of more than {MAX_EVENT_BYTES} bytes") from None

    def finish(self) -> Piece:
        """What stood at the stream's end without the line that ends an event; an event cut in two is dropped."""
        try:
            return self._read(self._parser.finish())
        except LlmError:
            return Piece()

    def _read(self, events: Sequence[bytes]) -> Piece:
        piece = Piece()
        counting: Mapping[str, Any] | None = None
        try:
            for event in events:
                self._events += 1
                if event == b"[DONE]":
                    piece.done = True
                    break
                chunk = orjson.loads(event)
                if error := chunk.get("error"):
                    piece.error = error if isinstance(error, dict) else {"message": str(error)}
                    break
                _add(piece, chunk)
                if chunk.get("usage") or chunk.get("timings"):
                    counting = chunk
            if counting is not None:  # each counts since the beginning
                piece.counts = _counts_of(counting)
        except (ValueError, TypeError, AttributeError, LookupError):
            raise invalid("sent an event that is not a completion chunk") from None
        return piece


def invalid(what: str) -> LlmError:
    """The error for a model server whose answer cannot be understood; ``what`` goes on from "the model server"."""
    return LlmError(Reason.MODEL_SERVER_INVALID, f"the model server {what}")


def _add(piece: Piece, chunk: Mapping[str, Any]) -> None:
    choices = chunk["choices"]
    if choices:
        choice = choices[0]
        # Other fields of the delta, such as a reasoning model's thoughts, are no part of the answer.
        piece.text += choice["delta"].get("content") or ""
        if finish_reason := choice.get("finish_reason"):
            piece.finish_reason = str(finish_reason)


def _counts_of(chunk: Mapping[str, Any]) -> TokenCounts:
    if usage := chunk.get("usage"):
        details = usage.get("prompt_tokens_details") or {}
        return _counts(usage["prompt_tokens"], usage.get("completion_tokens") or 0, details.get("cached_tokens"))
    timings = chunk["timings"]  # llama.cpp's counts while it writes, asked for by timings_per_token
    cached = timings["cache_n"]
    return _counts(timings["prompt_n"] + cached, timings["predicted_n"], cached)


def _counts(prompt: Any, completion: Any, cached: Any) -> TokenCounts:
    for count in (prompt, completion, 0 if cached is None else cached):
        if not isinstance(count, int) or not 0 <= count <= _MAX_COUNT:
            raise ValueError
    return TokenCounts(prompt, completion, cached)
