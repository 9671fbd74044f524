"""What an event says that is no plain chunk of OpenAI's: where its text, its counts and its error stand.

Text:

- ``delta.content``, a string or a list of parts ``{"type": "text", "text": …}`` (Mistral, OpenRouter, Databricks).
- ``message`` in place of ``delta``: servers that ignore ``"stream": true``; microsoft/agent-framework#5734.
- ``text`` in place of ``delta``: the legacy completions API, as of FastChat and llama-cpp-python.
- ``delta.refusal`` of OpenAI; ``message`` without ``choices``, of Ollama's own API.
- Not ``reasoning_content`` and ``reasoning`` (vLLM, SGLang, DeepSeek) nor parts of the type ``thinking`` (Mistral).

Counts:

- ``usage`` beside the choices, or in the choice (Moonshot), with OpenAI's names or Anthropic's (gateways).
- ``timings`` of llama.cpp, without ``cache_n`` before September 2025 (ggml-org/llama.cpp#15827) and in ik_llama.cpp.

Errors:

- ``{"error": {…}}``: OpenAI, vLLM, llama.cpp, SGLang; OpenRouter also in the choice.
- ``{"error": "…", "error_type": "…"}``: text-generation-inference.
- ``{"object": "error", "message": …, "code": …}``: vLLM before 0.10, FastChat.
- ``{"type": "error", …}``, ``{"detail": …}``, ``{"message": …, "code": …}``, ``{"code": …, "msg": …}``: Anthropic,
  FastAPI, gateways.

What carries none of these says nothing, and costs nothing.
"""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import orjson

MAX_COUNT: Final = 2**31 - 1
"""PostgreSQL keeps counts as integers; what is larger is no count."""

_TEXT_TYPES: Final = frozenset({None, "", "text", "output_text", "refusal"})
_PROMPT_KEYS: Final = ("prompt_tokens", "input_tokens")
_COMPLETION_KEYS: Final = ("completion_tokens", "output_tokens")
_DETAILS_KEYS: Final = ("prompt_tokens_details", "input_tokens_details")
# Of a chunk, and not of an error that it tells.
_OF_CHUNKS: Final = frozenset({"error", "choices", "usage", "timings", "id", "created", "model", "object"})
_MESSAGES: Final = ("message", "msg", "detail", "error_message", "error_msg")
_CODES: Final = ("code", "status_code", "error_code", "error_type", "status")
_BAD: Final = frozenset({"error", "failed", "failure", "fail"})
# Words for what is no error although it has a message, as a place in a queue.
_FINE: Final = frozenset({"", "0", "200", "ok", "success", "processing", "pending", "queued", "running", "in_progress"})


class UnreadableError(Exception):
    """The data is no JSON; ``is_cut`` where it begins as an object, so that text may be lost with it."""

    def __init__(self, *, is_cut: bool) -> None:
        super().__init__()
        self.is_cut = is_cut


@dataclass(frozen=True, slots=True)
class CallUsage:
    """Tokens since the generation's beginning, as the model server counted them."""

    prompt: int
    completion: int
    cached_prompt: int | None = None


def document(data: bytes) -> Any:
    r"""The JSON in the data, read as tolerantly as the standard library can. Raises UnreadableError.

    NaN, control characters within strings, halves of surrogate pairs, as ``\ud83d`` or as bytes, and integers of any
    size are read; bytes that are no UTF-8 become U+FFFD.
    """
    try:
        return orjson.loads(data)
    except ValueError:
        pass
    try:
        text = data.decode("utf-8", "surrogatepass")
    except UnicodeDecodeError:
        text = data.decode("utf-8", "replace")
    try:
        return json.loads(text, strict=False)
    except (ValueError, RecursionError):
        raise UnreadableError(is_cut=text.lstrip().startswith("{")) from None


def text_of(choice: Mapping[str, Any], beginning: str, written: int) -> str:
    """The text that a choice adds to what was written, which has so many characters and begins so.

    A ``message`` at the end that repeats the answer adds what it has beyond it.
    """
    delta, message = choice.get("delta"), choice.get("message")
    if text := delta if isinstance(delta, str) else _text_in(delta):
        return text
    if text := _text_in(message):
        repeats = written and choice.get("finish_reason") and len(text) >= written and text.startswith(beginning)
        return text[written:] if repeats else text
    return _text(choice.get("text"))


def plain_counts(chunk: Mapping[str, Any]) -> CallUsage | None:
    """The counts of a chunk as vLLM sends one with each token; None where they are anything else."""
    usage = chunk.get("usage")
    if not isinstance(usage, dict) or usage.get("prompt_tokens_details") is not None:
        return None
    prompt, completion = usage.get("prompt_tokens"), usage.get("completion_tokens")
    if type(prompt) is int and type(completion) is int and 0 < prompt <= MAX_COUNT and 0 <= completion <= MAX_COUNT:
        return CallUsage(prompt, completion)
    return None


def counts_of(chunk: Mapping[str, Any], before: CallUsage | None) -> CallUsage | None:
    """The counts in a chunk or choice; one that is no count is what it was before. None where none is new."""
    usage = chunk.get("usage")
    if isinstance(usage, Mapping):
        details = _first(usage, _DETAILS_KEYS)
        cached = _count(details.get("cached_tokens")) if isinstance(details, Mapping) else None
        return _counts(_first(usage, _PROMPT_KEYS), _first(usage, _COMPLETION_KEYS), cached, before)
    timings = chunk.get("timings")  # llama.cpp's counts while it writes, asked for by timings_per_token
    if isinstance(timings, Mapping):
        read, cached = _count(timings.get("prompt_n")), _count(timings.get("cache_n"))
        prompt = None if read is None else read + (cached or 0)
        return _counts(prompt, timings.get("predicted_n"), cached, before)
    return None


def error_of(chunk: Mapping[str, Any], *, is_error_event: bool) -> Mapping[str, Any] | None:
    """The error that an event tells, with what stands beside it, in one object; None where it tells none.

    ``is_told``: the event calls itself an error, whatever it holds.
    """
    error = chunk.get("error")
    if isinstance(error, list):
        error = error[0] if error else None
    beside = {key: value for key, value in chunk.items() if key not in _OF_CHUNKS}
    if error:
        return {**beside, **(error if isinstance(error, Mapping) else {"message": str(error)})}
    if is_error_event or any(_word(chunk.get(key)) in _BAD for key in ("object", "type", "status")):
        return beside
    if chunk.get("choices"):
        return None
    message = _first(chunk, _MESSAGES)
    says_more = chunk.get("detail") or any(_is_code(chunk.get(key)) for key in _CODES)
    return beside if message and not isinstance(message, Mapping) and says_more else None


def _is_code(value: Any) -> bool:
    """Whether this is the code of an error: a word, or a number of 400 or more, as gateways have their own."""
    if isinstance(value, str):
        return value.lower() not in _FINE
    return isinstance(value, int) and value >= 400


def _word(value: Any) -> str | int | float | None:
    """A value that can be looked up; None for what is no word or number."""
    return value if isinstance(value, str | int | float) else None


def _text_in(said: Any) -> str:
    """The text of a delta or message."""
    return (_text(said.get("content")) or _text(said.get("refusal"))) if isinstance(said, Mapping) else ""


def _text(content: Any) -> str:
    if isinstance(content, str):
        return content
    if isinstance(content, list):
        return "".join(map(_text_of_part, content))
    if isinstance(content, Mapping):
        return _text_of_part(content)
    if isinstance(content, bool) or not isinstance(content, int | float):
        return ""
    return str(content) if math.isfinite(content) else ""


def _text_of_part(part: Any) -> str:
    if isinstance(part, Mapping):
        kind = _word(part.get("type"))
        if kind not in _TEXT_TYPES:
            return ""
        part = part.get("refusal" if kind == "refusal" else "text")
        if isinstance(part, Mapping):  # of OpenAI's Assistants, on Azure
            part = part.get("value")
    return part if isinstance(part, str) else ""


def _counts(prompt: Any, completion: Any, cached: int | None, before: CallUsage | None) -> CallUsage | None:
    of_prompt, of_completion = _count(prompt), _count(completion)
    if not of_prompt and not of_completion:  # zeros stand for "not known yet"
        return None
    known = before or CallUsage(0, 0)
    return CallUsage(
        known.prompt if of_prompt is None else of_prompt,
        known.completion if of_completion is None else of_completion,
        known.cached_prompt if cached is None else cached,
    )


def _count(value: Any) -> int | None:
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    is_count = isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= MAX_COUNT
    return value if is_count else None


def _first(mapping: Mapping[str, Any], keys: Sequence[str]) -> Any:
    return next((mapping[key] for key in keys if mapping.get(key) is not None), None)
