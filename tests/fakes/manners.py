"""How servers that all call themselves OpenAI-compatible write one and the same stream. See model_server.py."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import orjson

Event = Mapping[str, Any]


def data(event: Event) -> bytes:
    """An event as most servers write it."""
    return b"data: " + orjson.dumps(event) + b"\n\n"


@dataclass(frozen=True)
class Manner:
    """One way to write a stream. ``ends``: what comes instead of ``data: [DONE]``; ``stays``: it never closes."""

    write: Callable[[Event], bytes] = data
    begins: bytes = b""
    ends: bytes = b"data: [DONE]\n\n"
    stays: bool = False


def _ending_lines_with(end: bytes) -> Manner:
    return Manner(lambda event: data(event).replace(b"\n", end), ends=b"data: [DONE]" + end * 2)


def _between_keepalives(event: Event) -> bytes:
    return b": OPENROUTER PROCESSING\n\ndata:\n\nevent: ping\ndata: {}\n\n" + data(event) + b"data: null\n\n"


def _changed(change: Callable[[dict[str, Any]], None]) -> Callable[[Event], bytes]:
    """A writer of events whose first choice is changed before."""

    def write(event: Event) -> bytes:
        changed = {**event, "choices": [dict(choice) for choice in event["choices"]]}
        for choice in changed["choices"]:
            change(choice)
        return data(changed)

    return write


def _without_delta_at_the_end(choice: dict[str, Any]) -> None:
    if choice["finish_reason"]:
        choice["delta"] = None


def _with_message(choice: dict[str, Any]) -> None:
    choice["message"] = choice.pop("delta")


def _in_parts(choice: dict[str, Any]) -> None:
    if text := choice["delta"].get("content"):
        choice["delta"] = {"content": [{"type": "text", "text": text}]}


def _finishing_with(reason: str) -> Callable[[Event], bytes]:
    def change(choice: dict[str, Any]) -> None:
        if choice["finish_reason"] == "stop":
            choice["finish_reason"] = reason

    return _changed(change)


def _without_counts(event: Event) -> bytes:
    return data({name: value for name, value in event.items() if name != "usage"} | {"usage": None})


_PLAIN = Manner()
MANNERS: Mapping[str, Manner] = {
    "": _PLAIN,
    "bom": replace(_PLAIN, begins=b"\xef\xbb\xbf"),
    "cr": _ending_lines_with(b"\r"),
    "crlf": _ending_lines_with(b"\r\n"),
    "end-turn": Manner(_finishing_with("end_turn")),
    "eos-token": Manner(_finishing_with("eos_token")),
    "keepalives": Manner(_between_keepalives),
    "late-garbage": replace(_PLAIN, ends=b"data: {this is not JSON\n\n\xff\xfe\n\n"),
    "message": Manner(_changed(_with_message)),
    "no-counts": Manner(_without_counts),
    "no-delta": Manner(_changed(_without_delta_at_the_end)),
    "no-space": Manner(lambda event: b"data:" + orjson.dumps(event) + b"\n\n", ends=b"data:[DONE]\n\n"),
    "open-end": replace(_PLAIN, ends=b"", stays=True),
    "parts": Manner(_changed(_in_parts)),
}
"""By name. Every one of them says the same text, and that the answer is whole."""
