"""What servers that call themselves OpenAI-compatible send: each shape with what has to come of it.

Whatever the shape is, its text is "Paris it is." unless it says otherwise.
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

from llm_service.upstream.stream.finish_reasons import CONTENT_FILTER, LENGTH, STOP
from llm_service.upstream.stream.shapes import CallUsage

TEXT: Final = "Paris it is."
EMOJI: Final = "\N{GRINNING FACE}"


@dataclass(frozen=True)
class Shape:
    """Bytes, and what they mean."""

    sent: bytes
    text: str = TEXT
    finish: str = STOP
    counts: CallUsage | None = None


def data(payload: object) -> bytes:
    """An event that holds JSON."""
    return b"data: " + json.dumps(payload).encode() + b"\n\n"


def chunk(content: object = None, finish: object = None, **fields: object) -> dict[str, Any]:
    delta = {} if content is None else {"content": content}
    return {
        "id": "c",
        "object": "chat.completion.chunk",
        "choices": [{"index": 0, "delta": delta, "finish_reason": finish}],
        **fields,
    }


def choices(*given: Mapping[str, object], **fields: object) -> dict[str, Any]:
    return {"object": "chat.completion.chunk", "choices": list(given), **fields}


P: Final = data(chunk("Paris"))
I: Final = data(chunk(" it is."))  # noqa: E741 - beside P and F it is plain
F: Final = data(chunk(finish="stop"))
DONE: Final = b"data: [DONE]\n\n"
PLAIN: Final = P + I + F + DONE
USAGE: Final = {"prompt_tokens": 5, "completion_tokens": 4, "total_tokens": 9}
COUNTED: Final = CallUsage(5, 4)
BODY: Final = {
    "object": "chat.completion",
    "choices": [{"index": 0, "message": {"role": "assistant", "content": TEXT}, "finish_reason": "stop"}],
    "usage": USAGE,
}

# Between two pieces of text, each of these says nothing.
QUIET_BYTES: Final[Mapping[str, bytes]] = {
    "comment": b": ping\n\n",
    "comment without a space": b":\n\n",
    "comment of OpenRouter": b": OPENROUTER PROCESSING\n\n",
    "comment within no event": b": keep-alive\n",
    "empty line": b"\n\n\n",
    "data without a colon": b"data\n\n",
    "empty data": b"data:\n\n",
    "empty data with a space": b"data: \n\n",
    "empty data with CRLF": b"data:\r\n\r\n",
    "two empty data lines": b"data:\ndata:\n\n",
    "event without data": b"event: ping\n\n",
    "ping": b"event: ping\ndata: {}\n\n",
    "ping of Anthropic": b'event: ping\ndata: {"type": "ping"}\n\n',
    "ping with a time": b"event: ping\ndata: 2026-11-30 22:00:00\n\n",
    "word": b"data: ping\n\n",
    "words": b"data: keep alive\n\n",
    "word in brackets": b"data: [HEARTBEAT]\n\n",
    "null": b"data: null\n\n",
    "number": b"data: 7\n\n",
    "true": b"data: true\n\n",
    "string": b'data: "ping"\n\n',
    "list": b"data: []\n\n",
    "list of words": b'data: ["a", 1, null]\n\n',
    "id and retry": b"id: 7\nretry: 1000\n\n",
    "unknown field": b"server: nginx\n\n",
    "line that is no field": b"keep-alive\n\n",
    "line of a log": b"[2026-11-30 22:00] INFO still here\n\n",
    "broken UTF-8": b"data: \xff\xfe\n\n",
    "NUL": b": \0\n\n",
}
QUIET: Final[Mapping[str, object]] = {
    "empty object": {},
    "unknown object": {"object": "thing", "value": 7},
    "no choices": {"object": "chat.completion.chunk"},
    "choices null": {"choices": None},
    "choices empty": {"choices": []},
    "choices of nulls": {"choices": [None]},
    "choices a text": {"choices": "none"},
    "choices a number": {"choices": 3},
    "choice empty": choices({}),
    "choice with an index only": choices({"index": 0}),
    "filter results of Azure": {
        "choices": [],
        "created": 0,
        "id": "",
        "model": "",
        "object": "",
        "prompt_filter_results": [{"prompt_index": 0, "content_filter_results": {}}],
    },
    "choice of Azure's filter": choices({"index": 0, "finish_reason": None, "content_filter_results": {}}),
    "delta null": choices({"index": 0, "delta": None, "finish_reason": None}),
    "delta missing": choices({"index": 0, "finish_reason": None}),
    "delta empty": choices({"index": 0, "delta": {}, "finish_reason": None}),
    "delta a list": choices({"index": 0, "delta": [], "finish_reason": None}),
    "delta a number": choices({"index": 0, "delta": 7}),
    "role only": choices({"index": 0, "delta": {"role": "assistant"}}),
    "role and empty content": choices({"index": 0, "delta": {"role": "assistant", "content": ""}}),
    "content null": choices({"index": 0, "delta": {"content": None}}),
    "content false": choices({"index": 0, "delta": {"content": False}}),
    "content an empty list": choices({"index": 0, "delta": {"content": []}}),
    "content a list of nulls": choices({"index": 0, "delta": {"content": [None, 7, {}]}}),
    "content an image": choices({"index": 0, "delta": {"content": [{"type": "image_url", "image_url": {"url": "x"}}]}}),
    "part without a text": choices({"index": 0, "delta": {"content": [{"type": "text"}]}}),
    "message null": choices({"index": 0, "message": None}),
    "reasoning_content": choices({"index": 0, "delta": {"content": None, "reasoning_content": "Hmm."}}),
    "reasoning": choices({"index": 0, "delta": {"reasoning": "Hmm.", "reasoning_details": [{"text": "Hmm."}]}}),
    "thinking of Mistral": choices(
        {"index": 0, "delta": {"content": [{"type": "thinking", "thinking": [{"type": "text", "text": "Hmm."}]}]}}
    ),
    "tool calls": choices({"index": 0, "delta": {"tool_calls": [{"index": 0, "function": {"name": "f"}}]}}),
    "finish reason empty": choices({"index": 0, "delta": {}, "finish_reason": ""}),
    "finish reason null as a text": choices({"index": 0, "delta": {}, "finish_reason": "null"}),
    "finish reason false": choices({"index": 0, "delta": {}, "finish_reason": False}),
    "finish reason zero": choices({"index": 0, "delta": {}, "finish_reason": 0}),
    "finish reason of an enum": choices({"index": 0, "delta": {}, "finish_reason": "FINISH_REASON_UNSPECIFIED"}),
    "not finished": choices({"index": 0, "delta": {}, "finish_reason": "not_finished"}),
    "error null": {"error": None, "choices": []},
    "error false": {"error": False},
    "error empty": {"error": {}},
    "error an empty text": {"error": ""},
    "error an empty list": {"error": []},
    "message with a code of success": {"code": 0, "message": "ok"},
    "message alone": {"message": "queued"},
    "message of a queue": {"status": "processing", "message": "place 3"},
    "status of a queue": {"status": "processing", "queue_position": 3},
    "usage null": {"choices": [], "usage": None},
    "usage empty": {"choices": [], "usage": {}},
    "timings null": choices({"index": 0, "delta": {"content": ""}}, timings=None),
    "another choice": choices({"index": 1, "delta": {"content": "London"}}),
    "another choice's end": choices({"index": 7, "delta": {}, "finish_reason": "length"}),
    "type of the Responses API": {"type": "response.in_progress", "response": {"id": "r", "error": None}},
}
# The second piece of text.
TEXTS: Final[Mapping[str, object]] = {
    "parts": choices({"index": 0, "delta": {"content": [{"type": "text", "text": " it"}, {"text": " is."}]}}),
    "part alone": choices({"index": 0, "delta": {"content": {"type": "text", "text": " it is."}}}),
    "parts and thoughts": choices(
        {"index": 0, "delta": {"content": [{"type": "thinking", "thinking": "x"}, {"type": "text", "text": " it is."}]}}
    ),
    "part with a value": choices(
        {"index": 0, "delta": {"content": [{"type": "text", "text": {"value": " it is.", "annotations": []}}]}}
    ),
    "part whose type is a list": choices({"index": 0, "delta": {"content": [{"type": ["text"], "text": " it is."}]}}),
    "parts that are texts": choices({"index": 0, "delta": {"content": [" it", " is."]}}),
    "output_text": choices({"index": 0, "delta": {"content": [{"type": "output_text", "text": " it is."}]}}),
    "refusal": choices({"index": 0, "delta": {"content": None, "refusal": " it is."}}),
    "refusal null": choices({"index": 0, "delta": {"content": " it is.", "refusal": None}}),
    "message": choices({"index": 0, "message": {"role": "assistant", "content": " it is."}, "finish_reason": None}),
    "message beside an empty delta": choices({"index": 0, "delta": {}, "message": {"content": " it is."}}),
    "message beside delta null": choices({"index": 0, "delta": None, "message": {"content": " it is."}}),
    "message that says the same": choices(
        {"index": 0, "delta": {"content": " it is."}, "message": {"content": " it is."}}
    ),
    "text": choices({"index": 0, "text": " it is.", "finish_reason": None}),
    "text beside an empty delta": choices({"index": 0, "delta": {}, "text": " it is."}),
    "delta a text": choices({"index": 0, "delta": " it is."}),
    "no index": choices({"delta": {"content": " it is."}}),
    "index null": choices({"index": None, "delta": {"content": " it is."}}),
    "index a text": choices({"index": "0", "delta": {"content": " it is."}}),
    "several choices": choices(
        {"index": 0, "delta": {"content": " it is."}}, {"index": 1, "delta": {"content": " no."}}
    ),
    "several choices, the other first": choices(
        {"index": 1, "delta": {"content": " no."}}, {"index": 0, "delta": {"content": " it is."}}
    ),
    "choices an object": {"choices": {"index": 0, "delta": {"content": " it is."}}},
    "no choices": {"delta": {"content": " it is."}},
    "message of Ollama": {"model": "m", "message": {"role": "assistant", "content": " it is."}, "done": False},
    "in a list": [chunk(" it is.")],
    "content and thoughts": choices({"index": 0, "delta": {"content": " it is.", "reasoning_content": "x"}}),
    "content and an odd usage": choices({"index": 0, "delta": {"content": " it is."}}, usage="none"),
    "content and timings that are none": choices({"index": 0, "delta": {"content": " it is."}}, timings=[1]),
}
# The last chunk.
ENDS: Final[Mapping[str, object]] = {
    "delta null": choices({"index": 0, "delta": None, "finish_reason": "stop"}),
    "delta missing": choices({"index": 0, "finish_reason": "stop"}),
    "message instead": choices({"index": 0, "message": {"role": "assistant", "content": ""}, "finish_reason": "stop"}),
    "message that repeats all": choices({"index": 0, "message": {"content": TEXT}, "finish_reason": "stop"}),
    "message that repeats all beside an empty delta": choices(
        {"index": 0, "delta": {"content": ""}, "message": {"content": TEXT}, "finish_reason": "stop"}
    ),
    "no index": choices({"delta": {}, "finish_reason": "stop"}),
    "finishReason of Gemini": choices({"index": 0, "delta": {"content": ""}, "finishReason": "STOP"}),
    "usage in it": choices({"index": 0, "delta": {}, "finish_reason": "stop"}, usage=None),
    "a whole answer that repeats all": BODY | {"usage": None},
    "done of Ollama": {"message": {"content": ""}, "done": True, "done_reason": "stop"},
}
FINISH_REASONS: Final[Mapping[str, tuple[object, ...]]] = {
    STOP: (
        *("stop", "eos", "eos_token", "stop_sequence", "end_turn", "STOP", "Stop", "COMPLETE", "tool_calls", "load"),
        *("function_call", "repetition", "pause_turn", "eosFound", "FINISH_REASON_STOP", "boredom", "конец", "-1"),
        *(7, 1.5, True, ["stop"], {"type": "stop", "matched": 2}, {"x": 1}, {"type": "eos"}, {"type": 7}),
    ),
    LENGTH: (
        *("length", "max_tokens", "MAX_TOKENS", "model_length", "maxPredictedTokensReached", "limit", "token_limit"),
        *("FINISH_REASON_MAX_TOKENS", "model_context_window_exceeded", "max_output_tokens", "contextLengthReached"),
        *({"type": "length", "length": 16}, {"reason": "max_tokens"}, ["length"]),
    ),
    CONTENT_FILTER: (
        *("content_filter", "SAFETY", "content_filtered", "RECITATION", "sensitive", "guardrail_intervened"),
        *("refusal", "ERROR_TOXIC", "PROHIBITED_CONTENT", {"type": "content_filter"}),
    ),
}
BROKEN_OFF: Final = (
    *("abort", "error", "ERROR", "cancelled", "canceled", "failed", "insufficient_system_resource", "network_error"),
    *({"type": "abort", "message": "queue wait"}, "modelUnloaded", "USER_CANCEL"),
)
# What a chunk without choices counts, after a chunk has counted 5 and 2.
USAGES: Final[Mapping[str, tuple[object, CallUsage]]] = {
    "plain": (USAGE, COUNTED),
    "null": (None, CallUsage(5, 2)),
    "a text": ("none", CallUsage(5, 2)),
    "a list": ([1], CallUsage(5, 2)),
    "a number": (7, CallUsage(5, 2)),
    "zeros": ({"prompt_tokens": 0, "completion_tokens": 0}, CallUsage(5, 2)),
    "texts": ({"prompt_tokens": "5", "completion_tokens": "4"}, CallUsage(5, 2)),
    "booleans": ({"prompt_tokens": True, "completion_tokens": True}, CallUsage(5, 2)),
    "negative": ({"prompt_tokens": -1, "completion_tokens": -1}, CallUsage(5, 2)),
    "fractions": ({"prompt_tokens": 5.5, "completion_tokens": 4.1}, CallUsage(5, 2)),
    "whole floats": ({"prompt_tokens": 5.0, "completion_tokens": 4.0}, COUNTED),
    "NaN": ({"prompt_tokens": float("nan"), "completion_tokens": float("inf")}, CallUsage(5, 2)),
    "no prompt": ({"completion_tokens": 4}, COUNTED),
    "no completion": ({"prompt_tokens": 5}, CallUsage(5, 2)),
    "prompt null": ({"prompt_tokens": None, "completion_tokens": 4}, COUNTED),
    "3,000,000,000": ({"prompt_tokens": 3_000_000_000, "completion_tokens": 4}, COUNTED),
    "2^31": ({"prompt_tokens": 2**31, "completion_tokens": 2**31}, CallUsage(5, 2)),
    "2^31 - 1": ({"prompt_tokens": 2**31 - 1, "completion_tokens": 4}, CallUsage(2**31 - 1, 4)),
    "10^40": ({"prompt_tokens": 10**40, "completion_tokens": 4}, COUNTED),
    "cached": (USAGE | {"prompt_tokens_details": {"cached_tokens": 3}}, CallUsage(5, 4, 3)),
    "cached null": (USAGE | {"prompt_tokens_details": None}, COUNTED),
    "cached odd": (USAGE | {"prompt_tokens_details": {"cached_tokens": -3}}, COUNTED),
    "details odd": (USAGE | {"prompt_tokens_details": [3]}, COUNTED),
    "names of Anthropic": ({"input_tokens": 5, "output_tokens": 4}, COUNTED),
    "more fields": (USAGE | {"cost": 0.1, "queue_time": None}, COUNTED),
}
_TIMINGS: Final = {"prompt_n": 5, "prompt_ms": 1.0, "predicted_n": 4, "predicted_ms": 1.0}
TIMINGS: Final[Mapping[str, tuple[object, CallUsage | None]]] = {
    "now": (_TIMINGS | {"cache_n": 28}, CallUsage(33, 4, 28)),
    "before September 2025": (_TIMINGS, COUNTED),
    "cache_n null": (_TIMINGS | {"cache_n": None}, COUNTED),
    "null": (None, None),
    "empty": ({}, None),
    "a text": ("fast", None),
    "odd": ({"prompt_n": "5", "predicted_n": -1}, None),
    "no prompt": ({"predicted_n": 4}, CallUsage(0, 4)),
}
# After the finish reason everything is forgiven.
AFTERWARDS: Final[Mapping[str, bytes]] = {
    "nothing": b"",
    "garbage": b"data: {this is not JSON\n\n",
    "half an event": b'data: {"choices": [{"ind',
    "bytes": bytes(range(256)),
    "an error": data({"error": {"message": "engine died", "code": 500}}),
    "a line that says an error": b"error: {}\n\n",
    "an error's event": b"event: error\ndata: gone\n\n",
    "a web page": b"<html>502 Bad Gateway</html>",
    "a finish reason that broke off": data(chunk(finish="abort")),
    "an unknown object": data({"object": "metrics", "latency": 1.5}),
    "done twice": DONE + DONE,
}


def shapes() -> Iterator[tuple[str, Shape]]:
    """Every shape whose text is whole, by name."""
    yield from _frames()
    yield from _bodies()
    for name, sent in QUIET_BYTES.items():
        yield f"quiet: {name}", Shape(sent + P + sent + I + sent + F + sent + DONE)
    for name, payload in QUIET.items():
        yield f"quiet: {name}", Shape(P + data(payload) + I + data(payload) + F + DONE)
        if "another choice" not in name:
            yield f"quiet first: {name}", Shape(data(payload) + PLAIN)
    for name, payload in TEXTS.items():
        yield f"text: {name}", Shape(P + data(payload) + F + DONE)
    for name, payload in ENDS.items():
        yield f"end: {name}", Shape(P + I + data(payload) + DONE)
    for finish, reasons in FINISH_REASONS.items():
        for reason in reasons:
            yield f"finish reason: {reason}", Shape(P + I + data(chunk(finish=reason)) + DONE, finish=finish)
            yield f"finish reason with text: {reason}", Shape(P + data(chunk(" it is.", reason)) + DONE, finish=finish)
    for name, (usage, counts) in USAGES.items():
        begun = data(chunk("Paris", usage={"prompt_tokens": 5, "completion_tokens": 2}))
        last = data({"choices": [], "usage": usage})
        yield f"usage: {name}", Shape(begun + I + F + last + DONE, counts=counts)
        yield (
            f"usage with the end: {name}",
            Shape(begun + I + data(chunk(finish="stop", usage=usage)) + DONE, counts=counts),
        )
    for name, (timings, expected) in TIMINGS.items():
        yield f"timings: {name}", Shape(P + data(chunk(" it is.", timings=timings)) + F + DONE, counts=expected)
    for name, sent in AFTERWARDS.items():
        yield f"after the end: {name}", Shape(P + I + F + sent)
    yield from _repeats()
    yield from _early_ends()
    yield from _characters()
    yield from _indexes()


def _frames() -> Iterator[tuple[str, Shape]]:
    bom = b"\xef\xbb\xbf"
    frames = {
        "plain": PLAIN,
        "BOM": bom + PLAIN,
        "BOM and CR": bom + PLAIN.replace(b"\n", b"\r"),
        "CR": PLAIN.replace(b"\n", b"\r"),
        "CRLF": PLAIN.replace(b"\n", b"\r\n"),
        "LF and CRLF": PLAIN.replace(b"\n\n", b"\r\n\n"),
        "CRLF and LF": PLAIN.replace(b"\n\n", b"\n\r\n"),
        "CR and LF": P + I.replace(b"\n", b"\r") + F.replace(b"\n", b"\r\n") + DONE,
        "no space": PLAIN.replace(b"data: ", b"data:"),
        "two spaces": PLAIN.replace(b"data: ", b"data:  "),
        "named events": PLAIN.replace(b"data: ", b"event: message\ndata: "),
        "ids": PLAIN.replace(b"data: ", b"id: 7\nretry: 10\n: comment\ndata: "),
        "data twice": PLAIN.replace(b"data: ", b"data: data: "),
        "no empty lines": PLAIN.replace(b"\n\n", b"\n"),
        "no empty lines, CRLF": PLAIN.replace(b"\n\n", b"\r\n"),
        "no last empty line": PLAIN[:-1],
        "no last line end": PLAIN[:-2],
        "no end": P + I + F,
        "no end and no line end": (P + I + F)[:-2],
        "no finish reason": P + I + DONE,
        "no finish reason and usage last": P + I + data({"choices": [], "usage": None}) + DONE,
        "small done": P + I + F + b"data: [done]\n\n",
        "done as JSON": P + I + b'data: "[DONE]"\n\n',
        "done without brackets": P + I + b"data: DONE\n\n",
        "done without data": P + I + b"[DONE]\n",
        "JSON on several lines": P + data(chunk(" it is.")).replace(b', "', b',\ndata: "') + F + DONE,
        "indented JSON": b"".join(
            b"".join(b"data: " + line + b"\n" for line in json.dumps(payload, indent=2).encode().split(b"\n")) + b"\n"
            for payload in (chunk("Paris"), chunk(" it is."), chunk(finish="stop"))
        ),
    }
    yield from ((f"frame: {name}", Shape(sent)) for name, sent in frames.items())
    usage = data({"choices": [], "usage": USAGE})
    yield "frame: usage at the end and nothing else", Shape(P + I + usage, counts=COUNTED)


def _bodies() -> Iterator[tuple[str, Shape]]:
    compact = json.dumps(BODY).encode()
    bodies = {
        "compact": compact,
        "with a line end": compact + b"\n",
        "with CRLF": compact + b"\r\n",
        "after blanks": b"  \n\n" + compact,
        "BOM": b"\xef\xbb\xbf" + compact,
        "indented": json.dumps(BODY, indent=2).encode(),
        "indented with CRLF": json.dumps(BODY, indent="\t").replace("\n", "\r\n").encode() + b"\r\n",
        "as an event": data(BODY),
        "in a list": json.dumps([BODY]).encode(),
        "no finish reason": json.dumps(
            BODY | {"choices": [{"index": 0, "message": {"role": "assistant", "content": TEXT}}]}
        ).encode(),
        "parts": json.dumps(
            BODY | {"choices": [{"message": {"content": [{"type": "text", "text": TEXT}]}, "finish_reason": "stop"}]}
        ).encode(),
        "legacy": json.dumps(
            {"object": "text_completion", "choices": [{"text": TEXT, "finish_reason": "stop"}], "usage": USAGE}
        ).encode(),
        "a chunk a line": b"".join(
            json.dumps(payload).encode() + b"\n"
            for payload in (chunk("Paris"), chunk(" it is."), chunk(finish="stop", usage=USAGE))
        ),
    }
    yield from ((f"body: {name}", Shape(sent, counts=COUNTED)) for name, sent in bodies.items())


def _characters() -> Iterator[tuple[str, Shape]]:
    def halves(*contents: str) -> bytes:
        events = (b'data: {"choices":[{"index":0,"delta":{"content":"%s"}}]}\n\n' % one.encode() for one in contents)
        return b"".join(events)

    end = F + DONE
    lost = "\N{REPLACEMENT CHARACTER}"
    sent = {
        "a pair": (halves(r"Hi \ud83d\ude00!"), f"Hi {EMOJI}!"),
        "a pair apart": (halves("Hi ", r"\ud83d", r"\ude00", "!"), f"Hi {EMOJI}!"),
        "a pair apart with text": (halves(r"Hi \ud83d", r"\ude00!"), f"Hi {EMOJI}!"),
        "a pair apart and quiet events between": (
            halves(r"Hi \ud83d") + b": ping\n\n" + halves("", r"\ude00"),
            f"Hi {EMOJI}",
        ),
        "two pairs apart": (halves(r"\ud83d", r"\ude00\ud83d", r"\ude00"), EMOJI * 2),
        "a high half alone": (halves(r"Hi \ud83d", "!"), f"Hi {lost}!"),
        "a low half alone": (halves("Hi ", r"\ude00", "!"), f"Hi {lost}!"),
        "a high half at the end": (halves("Hi", r"\ud83d"), f"Hi{lost}"),
        "two high halves": (halves(r"\ud83d", r"\ud83d", r"\ude00"), f"{lost}{EMOJI}"),
        "halves in bytes": (
            halves("Hi ").replace(b"Hi ", b"\xed\xa0\xbd") + halves("Hi ").replace(b"Hi ", b"\xed\xb8\x80"),
            EMOJI,
        ),
        "broken UTF-8": (halves("Hi!").replace(b"!", b"\xff!"), f"Hi{lost}!"),
        "NUL": (halves(r"a\u0000b"), "a\0b"),
        "a line end in a text": (halves("a\tb"), "a\tb"),
        "line separators": (halves("a\u2028b\u0085c"), "a\u2028b\u0085c"),
        "NaN beside it": (halves("Hi!").replace(b'"index":0', b'"index":0,"logprobs":NaN'), "Hi!"),
        "a number": (data(chunk(4)) + data(chunk(2.5)) + data(chunk(0)), "42.50"),
        "a combining mark apart": (halves("e", "\u0301"), "e\u0301"),
        "scripts": (halves("שלום ", "你好 ", "слово"), "שלום 你好 слово"),
    }
    for name, (events, text) in sent.items():
        yield f"characters: {name}", Shape(events + end, text=text)
    yield (
        "characters: a half at the finish reason",
        Shape(halves("Hi") + data(chunk("\ud83d", "stop")), text=f"Hi{lost}"),
    )


def _repeats() -> Iterator[tuple[str, Shape]]:
    """Servers whose every chunk repeats the text so far, and texts that only look so."""

    def of(*contents: str) -> bytes:
        return b"".join(data(chunk(content)) for content in contents)

    rises = [TEXT[:end] for end in (2, 5, 8, 11, 12)]
    by_message = b"".join(data(choices({"index": 0, "message": {"content": content}})) for content in rises)
    sent = {
        "every chunk": (of(*rises) + F, TEXT),
        "every chunk, and the last twice": (of(*rises, TEXT) + F, TEXT),
        "every chunk and quiet ones": (of("", *rises[:2], "", *rises[2:]) + F, TEXT),
        "every message": (by_message + F, TEXT),
        "with the end": (of(*rises[:3]) + data(chunk(TEXT, "stop")), TEXT),
        "two chunks": (of("Paris", TEXT) + F, TEXT),
        "two chunks, the end in one": (of("Paris") + data(chunk(TEXT, "stop")), TEXT),
        "of emoji": (of("Hi", f"Hi {EMOJI}", f"Hi {EMOJI}!", f"Hi {EMOJI}!!") + F, f"Hi {EMOJI}!!"),
        "only twice the same": (of("ha", "ha", "!") + F, "haha!"),
        "only twice one that grows": (of("1", "10", " is ten") + F, "110 is ten"),
        "only a line that grows": (of("=", "==", "====", "========", "\n") + F, "=" * 15 + "\n"),
        "only blanks": (of("\n", "\n\n", "Paris") + F, "\n\n\nParis"),
        "two short ones": (of("1", "10") + F, "110"),
    }
    yield from ((f"repeats: {name}", Shape(events + DONE, text=text)) for name, (events, text) in sent.items())


def _early_ends() -> Iterator[tuple[str, Shape]]:
    """Finish reasons that were none."""
    thoughts = choices({"index": 0, "delta": {"reasoning_content": "Hmm."}, "finish_reason": "stop"})
    length = data(chunk(finish="length"))
    sent = {
        "with the role": (
            data(choices({"index": 0, "delta": {"role": "assistant"}, "finish_reason": "stop"})) + PLAIN,
            STOP,
        ),
        "with thoughts": (data(thoughts) + data(thoughts) + P + I + length + DONE, LENGTH),
        "in every chunk": (data(chunk("Paris", "stop")) + data(chunk(" it is.", "stop")) + length + DONE, LENGTH),
        "in every chunk but the last": (data(chunk("Paris", "stop")) + I + DONE, STOP),
        "before tools of a gateway": (P + data(chunk(finish="tool_calls")) + I + length + DONE, LENGTH),
        "only before the text": (data(chunk(finish="stop")) + P + I + DONE, STOP),
    }
    yield from ((f"early end: {name}", Shape(events, finish=finish)) for name, (events, finish) in sent.items())


def _indexes() -> Iterator[tuple[str, Shape]]:
    def one(index: object, content: str, finish: str | None = None) -> bytes:
        return data(choices({"index": index, "delta": {"content": content}, "finish_reason": finish}))

    words = ["Paris", " it", " is", "."]
    rising = [one(index, word) for index, word in enumerate(words)]
    others = {
        "counts chunks": b"".join(rising) + one(4, "", "stop"),
        "counts chunks from one": b"".join(one(index, word) for index, word in enumerate(words, 1))
        + one(5, "", "stop"),
        "counts chunks after the role": one(0, "") + b"".join(rising) + one(4, "", "stop"),
        "counts chunks that repeat the role": one(0, "")
        + one(1, "Paris")
        + one(2, " it")
        + one(3, " is.")
        + one(4, "", "stop"),
        "another choice after the text": one(0, "Paris") + one(0, " it is.") + one(1, "no") + one(0, "", "stop"),
        "counts two chunks": one(0, "Paris") + one(1, " it is.", "stop"),
        "always one": b"".join(one(1, word) for word in words) + one(1, "", "stop"),
        "two choices in turn": one(0, "Paris")
        + one(1, "London")
        + one(0, " it is.")
        + one(1, " no.")
        + one(0, "", "stop"),
        "two choices with roles": one(0, "") + one(1, "") + one(0, "Paris") + one(1, "no") + one(0, " it is.", "stop"),
    }
    yield from ((f"index: {name}", Shape(sent + DONE)) for name, sent in others.items())
