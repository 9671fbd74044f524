"""What a model server's error says, whatever its shape: its words, its number, the fields that it points at.

| shape | who sends it |
| --- | --- |
| ``{"error": {"message", "type", "code", "param"}}`` | OpenAI, vLLM, llama.cpp, SGLang, OpenRouter, LiteLLM |
| ``{"object": "error", "message", "type", "code"}`` | vLLM before 0.10, TensorRT-LLM, Mistral |
| ``{"error": "text", "error_type": "overloaded"}`` | text-generation-inference |
| ``{"error": {"message", "http_status_code"}}`` | text-generation-inference, within a stream |
| ``{"error": "text"}`` | Ollama, LM Studio |
| ``{"detail": "text"}``, ``{"detail": [{"type", "loc", "msg", "input"}]}`` | FastAPI, Mistral, also below ``message`` |
| ``{"error": {"code", "innererror": {"code"}}}`` | Azure |
| ``{"statusCode", "message"}`` | Azure API Management |
| ``[{"error": {"code": 400, "status": "INVALID_ARGUMENT", "details": [{"reason"}]}}]`` | Google |
| ``{"error": {"code", "metadata": {"raw": "{…}"}}}`` | OpenRouter, for what a provider said |
| ``{"ErrorCode", "OriginalStatusCode", "OriginalMessage"}`` | Amazon SageMaker |
| ``{"type", "title", "status", "detail"}`` | RFC 9457 |
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

import orjson

_TEXTS: Final = frozenset(
    ("message", "msg", "detail", "error", "error_description", "title", "raw", "Message", "OriginalMessage")
)
_WORDS: Final = frozenset(
    ("code", "type", "status", "reason", "error_type", "error_code", "errorCode", "ErrorCode", "object")
)
_NUMBERS: Final = frozenset(
    ("code", "status", "statusCode", "status_code", "http_status_code", "http_status", "OriginalStatusCode")
)
_INNER: Final = (
    "error",
    "errors",
    "message",
    "detail",
    "details",
    "innererror",
    "inner_error",
    "metadata",
    "raw",
    "OriginalMessage",
)
_DEEPEST: Final = 6
_MOST: Final = 16
# A sentence is no code, and may quote the request.
_IDENTIFIER: Final = re.compile(r"[\w.-]{1,64}")
_LONGEST_TEXT: Final = 8_192

# Validation errors of web frameworks go on with the input, which is the caller's prompt.
_INPUT: Final = re.compile(r"""[,{(\[]?\s*['"]?(input|input_value|body)['"]?\s*[:=].*""", re.DOTALL)
# LiteLLM puts the kind of error into the text: "litellm.RateLimitError: …".
_LITELLM: Final = re.compile(r"\blitellm\.([A-Z]\w+)")
# Errors as Python writes them, in the text of an older vLLM: "[{'type': 'extra_forbidden', 'loc': ('body', 'n'), …".
_TYPE: Final = re.compile(r"""['"]type['"]:\s*['"](\w+)['"]""")
_LOCATION: Final = re.compile(r"""['"]loc['"]:\s*[(\[]([^)\]]*)[)\]]""")


@dataclass(frozen=True, slots=True)
class ErrorSaid:
    """An error, read."""

    text: str = ""
    """In the server's words, without the input that validation errors repeat. It may still quote the request."""
    words: tuple[str, ...] = ()
    """Its codes and types, the outermost first, as ``rate_limit_exceeded`` for RateLimitExceeded."""
    number: int | None = None
    """The HTTP status that it names."""
    fields: frozenset[str] = frozenset()
    """Fields of the request that it points at."""
    is_object: bool = False
    """Whether it was an error object and not the text or the web page of something in between."""


def read_body(body: bytes) -> ErrorSaid:
    """The error in the body of a refusal. A web page says nothing; any other text is the error's."""
    try:
        answer = orjson.loads(body)
    except ValueError:
        text = body.decode(errors="replace").strip()
        return ErrorSaid() if text.startswith("<") else ErrorSaid(text=_cleaned(text))
    if isinstance(answer, list) and answer and isinstance(answer[0], dict):
        answer = answer[0]
    if not isinstance(answer, dict):
        return ErrorSaid(text=_cleaned(answer) if isinstance(answer, str) else "")
    return read_error(answer)


def read_error(error: Mapping[str, Any]) -> ErrorSaid:
    """The error in an object, in any of the shapes above."""
    texts: list[str] = []
    words: list[str] = []
    numbers: list[int] = []
    fields: set[str] = set()
    for part in _parts(error, 0):
        for key, value in part.items():
            if key in _TEXTS and isinstance(value, str) and not _object_in(value):
                texts.append(_cleaned(value))
                fields.update(_located(value))
                words += (word(kind) for kind in (*_LITELLM.findall(value), *_TYPE.findall(texts[-1])))
            if key in _NUMBERS and (number := as_number(value)) is not None:
                numbers.append(number)
            elif key in _WORDS and isinstance(value, str) and _IDENTIFIER.fullmatch(value):
                words.append(word(value))
            elif key == "param" and isinstance(value, str):
                fields.add(value)
            elif key == "loc" and isinstance(value, list | tuple):
                fields.update(name for name in value if isinstance(name, str))
    return ErrorSaid(
        text="; ".join(dict.fromkeys(filter(None, texts))),
        words=tuple(dict.fromkeys(words)),
        number=numbers[0] if numbers else None,
        fields=frozenset(fields) - {"body"},
        is_object=True,
    )


def as_number(value: object) -> int | None:
    """The HTTP status of an error that this is, as a number or in digits; None if it is none."""
    if isinstance(value, bool):
        return None
    if isinstance(value, str) and value.isascii() and value.isdigit() and len(value) == 3:
        value = int(value)
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return value if isinstance(value, int) and 400 <= value <= 599 else None


def word(value: str) -> str:
    """A code or type in one spelling: ``rate_limit_error`` for RateLimitError, RATE-LIMIT-ERROR and the like."""
    spaced = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", value)
    return re.sub(r"[^a-z0-9]+", "_", spaced.lower()).strip("_")


def _parts(part: Any, depth: int) -> Iterator[Mapping[str, Any]]:
    """The objects that make up an error, the outermost first."""
    if isinstance(part, str):
        part = _object_in(part)
    if isinstance(part, list):
        for one in part[:_MOST]:
            yield from _parts(one, depth + 1)
    elif isinstance(part, dict) and depth <= _DEEPEST:
        yield part
        for key in _INNER:
            yield from _parts(part.get(key), depth + 1)


def _object_in(text: str) -> Mapping[str, Any] | None:
    """The object that a text holds, as that of a provider behind a gateway."""
    if not text.lstrip().startswith("{"):
        return None
    try:
        held = orjson.loads(text)
    except ValueError:
        return None
    return held if isinstance(held, dict) else None


def _located(text: str) -> Iterator[str]:
    for names in _LOCATION.findall(text[:_LONGEST_TEXT]):
        yield from re.findall(r"\w+", names)


def _cleaned(text: str) -> str:
    return _INPUT.sub("", text[:_LONGEST_TEXT]).strip()
