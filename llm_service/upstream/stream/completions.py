"""The stream of an OpenAI-compatible ``/chat/completions``: what its events say, read without a request at hand.

What a stream may look like, and why, stands in docs/decisions/0038.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import orjson

from llm_service.errors import LlmError, Reason
from llm_service.upstream.stream.choice_picker import ChoicePicker
from llm_service.upstream.stream.cumulative_texts import CumulativeTextDetector
from llm_service.upstream.stream.finish_reasons import BROKEN_OFF, STOP, TIME_LIMIT, meaning_of
from llm_service.upstream.stream.shapes import (
    CallUsage,
    UnreadableError,
    counts_of,
    document,
    error_of,
    plain_counts,
    text_of,
)
from llm_service.upstream.stream.sse import MAX_BODY_BYTES, MAX_EVENT_BYTES, ErrorData, EventTooLargeError, SseParser

__all__ = ["CallUsage", "CompletionReader", "Piece", "interrupted", "invalid"]

_DONE: Final = frozenset({b"[DONE]", b"DONE"})
_NO_TEXT: Final = (None, "")
_OTHER_PLACES: Final = frozenset({"message", "text"})
_BEGINNING: Final = 64
"""Characters by which a message is known that repeats the answer at its end."""


@dataclass(slots=True)
class Piece:
    """What one read from the model server brought, in the order of its fields."""

    text: str = ""
    counts: CallUsage | None = None
    finish_reason: str | None = None
    """A meaning of finish_reasons.py: with this piece's text the answer is whole."""
    error: Mapping[str, Any] | None = None
    """The error that the server put into the stream, and what stood beside it; the refusals say what it means."""
    failure: LlmError | None = None
    """Why the stream cannot be read on."""
    done: bool = False
    """Whether ``[DONE]`` has come."""

    @property
    def is_last(self) -> bool:
        """Whether nothing that follows is of use."""
        return self.done or self.error is not None or self.failure is not None


@dataclass(slots=True)
class CompletionReader:
    """Reads a stream of completion chunks, cut anywhere.

    All events of one read make one ``Piece``. While the process keeps up, a piece is a token. When it lags behind, the
    pieces grow, so that a token costs less when it matters.

    ``_read_plain`` is a fast path for the chunks that OpenAI and vLLM send; ``_read_odd`` reads any chunk, these
    included, and takes over where the fast path returns False.
    """

    ends_often: bool = False
    """Whether finish reasons have come with more text after them: some servers put one into every chunk."""
    skipped: int = 0
    """Events that were objects, and neither a completion chunk, counts nor an error."""
    _parser: SseParser = field(default_factory=SseParser)
    _choices: ChoicePicker = field(default_factory=ChoicePicker)
    _deltas: CumulativeTextDetector = field(default_factory=CumulativeTextDetector)
    _plain_index: int | None = None  # of choices that need no closer look, once that is known
    _counting: Mapping[str, Any] | None = None  # the last chunk that counts: each does so since the beginning
    _counts: CallUsage | None = None
    _finish: str | None = None
    _finished_at: int = 0  # of _read_characters
    _read_characters: int = 0  # also of halves of a surrogate pair
    _read_any: bool = False
    _has_last_counts: bool = False  # counts have come as a server sends them when its answer is whole
    _beginning: str = ""
    _written: int = 0
    _half: str = ""  # of a surrogate pair whose other half may come
    _has_halves: bool = False  # the text of this read has some

    @property
    def wrote(self) -> bool:
        """Whether text has come."""
        return self._read_characters > 0

    @property
    def is_whole(self) -> bool:
        """Whether a finish reason has come with the text or after it.

        A finish reason before any text does not count: Open WebUI sends one with its first chunk and with thoughts
        (open-webui/open-webui#23921, #16377). A finish reason that more text follows was not the end.
        """
        return self._finish is not None and 0 < self._read_characters == self._finished_at

    def feed(self, received: bytes) -> Piece:
        """What these bytes bring."""
        try:
            return self._read(self._parser.feed(received))
        except EventTooLargeError:
            limit = f"{MAX_EVENT_BYTES} bytes, or a body of more than {MAX_BODY_BYTES}"
            return Piece(failure=invalid(f"sent an event of more than {limit}"))

    def finish(self) -> Piece:
        """What stood at the stream's end without the line that ends an event; an event cut in two is dropped."""
        piece = self._read(self._parser.finish(), is_end=True)
        piece.failure = None
        return piece

    def ending(self, *, is_done: bool, is_cut: bool) -> Piece:
        """How a stream ended that is not known to be whole: with a finish reason, or with a failure.

        ``is_done``: ``[DONE]`` came. ``is_cut``: the connection broke. A text that ends in good order without either
        may have been cut by a proxy, unless counts came as they come with a whole answer only.
        """
        if self.wrote and (is_done or (self._has_last_counts and not is_cut)):
            return Piece(finish_reason=self._finish or STOP)
        if self._finish is not None and not self.wrote and not is_cut:
            return Piece(finish_reason=self._finish)  # of an answer without a text
        if self._parser.has_markup and not self._read_any:
            message = (
                "the model server answers with a web page: check ASKMESH_MODEL_URL, and any proxy before the server"
            )
            return Piece(failure=LlmError(Reason.MODEL_SERVER_UNAVAILABLE, message))
        if is_done or not (self._read_any or is_cut):  # a stream that is only cut has begun as a stream
            return Piece(failure=invalid("ended its answer without a text and without a finish reason"))
        return Piece(failure=interrupted())

    def _read(self, events: Sequence[bytes], *, is_end: bool = False) -> Piece:
        piece = Piece()
        self._read_any = self._read_any or bool(events)
        for event in events:
            if not self._read_plain(event, piece):
                self._count_held(piece)
                self._read_odd(event, piece)
                if piece.is_last:
                    break
        if self._counting is not None:
            self._count_held(piece)
        is_end = is_end or piece.is_last
        if is_end and self._plain_index is None:
            self._take_kept(piece)
        self._read_characters += len(piece.text)
        if piece.finish_reason is not None and not self.is_whole:
            piece.finish_reason = None
        if self._half or self._has_halves:
            self._join_halves(piece, is_end=is_end or self.is_whole)
        if self._written < _BEGINNING:
            self._beginning += piece.text[: _BEGINNING - self._written]
        self._written += len(piece.text)
        return piece

    def _read_plain(self, event: bytes, piece: Piece) -> bool:
        """Read a chunk of text as OpenAI has it, which nearly every event is; False where it is something else."""
        try:
            chunk = orjson.loads(event)
            (choice,) = chunk["choices"]
            delta = choice["delta"]
            text = delta.get("content")
            if (
                choice["index"] != self._plain_index
                or choice.get("finish_reason")
                or "finishReason" in choice
                or chunk.get("error")
            ):
                return False
            if text:
                piece.text += text
            elif text not in _NO_TEXT or "refusal" in delta or not _OTHER_PLACES.isdisjoint(choice):
                return False
        except (ValueError, TypeError, AttributeError, LookupError):
            return False
        if chunk.get("usage") or chunk.get("timings"):
            self._counting = chunk
        return True

    def _read_odd(self, data: bytes, piece: Piece) -> None:
        """Read an event that is no plain chunk, or not yet known to be."""
        is_error_event = isinstance(data, ErrorData)
        data = data.strip()
        while data.startswith(b"data:"):  # relays that put their own before what they got
            data = data[5:].lstrip()
        if data.upper() in _DONE:
            piece.done = True
            return
        try:
            values = document(data)
        except UnreadableError as error:
            self._read_unreadable(data, piece, is_error_event=is_error_event, is_cut=error.is_cut)
            return
        for value in values if isinstance(values, list) else [values]:
            if isinstance(value, Mapping):
                self._read_chunk(value, piece, is_error_event=is_error_event)
            elif value == "[DONE]":
                piece.done = True
            elif is_error_event:
                piece.error = {"message": str(value)}
            if piece.is_last:
                return

    def _read_unreadable(self, data: bytes, piece: Piece, *, is_error_event: bool, is_cut: bool) -> None:
        if is_error_event:
            piece.error = {"message": data.decode(errors="replace")}
            return
        lines = data.splitlines()
        if len(lines) > 1:
            for line in lines:
                self._read_odd(line, piece)
                if piece.is_last:
                    return
        elif is_cut:  # what is no JSON at all, as "ping", says nothing
            piece.failure = invalid("sent an event that is not JSON")

    def _read_chunk(self, chunk: Mapping[str, Any], piece: Piece, *, is_error_event: bool) -> None:
        choices = self._choices.pick(chunk, is_begun=self._deltas.is_settled)
        for choice in choices:
            self._take(choice, piece)
        if self._deltas.is_settled:
            self._plain_index = self._choices.index
        counts_before = piece.counts
        self._count(chunk, piece)
        if not chunk.get("choices") and piece.counts is not counts_before and (self._read_characters or piece.text):
            self._has_last_counts = True
        if any("message" in choice for choice in choices) and chunk.get("object") == "chat.completion":
            self._has_last_counts = True
        error = error_of(chunk, is_error_event=is_error_event)
        if error is not None:
            piece.error = error
        elif "choices" not in chunk and not choices and piece.counts is counts_before:
            self.skipped += 1

    def _take(self, choice: Mapping[str, Any], piece: Piece) -> None:
        beginning = (self._beginning + piece.text)[:_BEGINNING]
        self._add(self._deltas.add(text_of(choice, beginning, self._written + len(piece.text))), piece)
        self._count(choice, piece)
        reason = choice.get("finish_reason") or choice.get("finishReason") or choice.get("done_reason")
        meaning = meaning_of(reason)
        if meaning == TIME_LIMIT and not self._read_characters and not piece.text:
            meaning = BROKEN_OFF
        if meaning == BROKEN_OFF:
            told = {"error": choice.get("error") or (reason if isinstance(reason, Mapping) else None)}
            piece.error = error_of(told, is_error_event=True)
        elif meaning:
            self._add(self._deltas.end(), piece)
            read = self._read_characters + len(piece.text)
            self.ends_often = self.ends_often or 0 < self._finished_at < read
            self._finish, self._finished_at = meaning, read
            piece.finish_reason = meaning

    def _take_kept(self, piece: Piece) -> None:
        if self._finish is None:
            for choice in self._choices.end():
                self._take(choice, piece)
        self._add(self._deltas.end(), piece)

    def _add(self, text: str, piece: Piece) -> None:
        try:
            text.encode()
        except UnicodeEncodeError:
            self._has_halves = True
        piece.text += text

    def _count_held(self, piece: Piece) -> None:
        counting, self._counting = self._counting, None
        if counting is not None:
            self._count(counting, piece)

    def _count(self, chunk: Mapping[str, Any], piece: Piece) -> None:
        counts = plain_counts(chunk) or counts_of(chunk, self._counts)
        if counts is not None:
            piece.counts = self._counts = counts

    def _join_halves(self, piece: Piece, *, is_end: bool) -> None:
        """Make characters of surrogate pairs, also of those cut in two; a half alone becomes U+FFFD."""
        text = self._half + piece.text
        self._half, self._has_halves = "", False
        if text and not is_end and "\ud800" <= text[-1] <= "\udbff":
            text, self._half = text[:-1], text[-1]
        piece.text = text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")


def invalid(what: str) -> LlmError:
    """The error for a model server whose answer cannot be understood; ``what`` goes on from "the model server"."""
    return LlmError(Reason.MODEL_SERVER_INVALID, f"the model server {what}")


def interrupted() -> LlmError:
    """The error for a model server that broke off after it had accepted the generation."""
    return LlmError(Reason.GENERATION_INTERRUPTED, "the model server broke off the answer")
