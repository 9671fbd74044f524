"""Every shape of a stream, cut at every byte where it is read, and over real connections."""

from collections.abc import Sequence

import pytest

from llm_service.errors import Reason
from llm_service.upstream.stream.completions import CallUsage, CompletionReader, Piece
from tests.llm_service.shapes import BROKEN_OFF, DONE, USAGE, F, I, P, Shape, chunk, data, shapes

SHAPES = dict(shapes())


def read(parts: Sequence[bytes]) -> tuple[str, str | None, CallUsage | None, Piece]:
    """Text, finish reason, counts and the last piece of a stream that comes in these parts."""
    reader = CompletionReader()
    text, finish, counts, piece = "", None, None, Piece()
    for part in [*parts, b""]:
        piece = reader.feed(part) if part else reader.finish()
        text += piece.text
        finish = piece.finish_reason or finish
        counts = piece.counts or counts
        if piece.is_last:
            break
    if finish is None and piece.error is None and piece.failure is None:
        piece = reader.ending(is_done=piece.done, is_cut=False)
        finish = piece.finish_reason
    return text, finish, counts, piece


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_a_shape_is_read_however_it_is_cut(shape: Shape) -> None:
    wanted = (shape.text, shape.finish, shape.counts)
    sent = shape.sent
    assert read([sent])[:3] == wanted
    assert read([sent[place : place + 1] for place in range(len(sent))])[:3] == wanted
    for place in range(1, len(sent)):
        assert read([sent[:place], sent[place:]])[:3] == wanted, sent[:place]


@pytest.mark.parametrize("reason", BROKEN_OFF, ids=str)
def test_a_finish_reason_may_say_that_the_answer_is_not_whole(reason: object) -> None:
    text, finish, _, piece = read([P + data(chunk(" it", reason)) + I + F])
    assert (text, finish) == ("Paris it", None)
    assert piece.error is not None


def test_a_server_that_ran_out_of_time_ends_a_text_but_has_none_to_end_without_one() -> None:
    assert read([P + data(chunk(finish="timeout"))])[:2] == ("Paris", "time_limit")
    assert read([data(chunk("")) + data(chunk(finish="timeout"))])[3].error is not None


ERRORS = {
    "error": (data({"error": {"message": "no", "code": 500}}), {"message": "no", "code": 500}),
    "error beside a choice": (data(chunk("", error={"message": "no", "code": 502})), {"message": "no", "code": 502}),
    "error in the choice, as of OpenRouter": (
        data(
            {"choices": [{"index": 0, "delta": {}, "finish_reason": "error", "error": {"code": 502, "message": "no"}}]}
        ),
        {"code": 502, "message": "no"},
    ),
    "error a text": (data({"error": "no"}), {"message": "no"}),
    "error of text-generation-inference": (
        data({"error": "Model is overloaded", "error_type": "overloaded"}),
        {"message": "Model is overloaded", "error_type": "overloaded"},
    ),
    "status beside the error": (data({"error": "no", "status": 503}), {"message": "no", "status": 503}),
    "errors in a list": (data({"error": [{"message": "no"}]}), {"message": "no"}),
    "error of Google": (
        data([{"error": {"code": 503, "status": "UNAVAILABLE"}}]),
        {"code": 503, "status": "UNAVAILABLE"},
    ),
    "error of older vLLM": (
        data({"object": "error", "message": "no", "type": "BadRequestError", "param": None, "code": 400}),
        {"message": "no", "type": "BadRequestError", "param": None, "code": 400},
    ),
    "error of Anthropic": (
        data({"type": "error", "error": {"type": "overloaded_error", "message": "no"}}),
        {"type": "overloaded_error", "message": "no"},
    ),
    "detail": (data({"detail": "no"}), {"detail": "no"}),
    "details": (data({"detail": [{"loc": ["body"], "msg": "no"}]}), {"detail": [{"loc": ["body"], "msg": "no"}]}),
    "message and code": (data({"message": "no", "code": "busy"}), {"message": "no", "code": "busy"}),
    "msg and code": (data({"msg": "no", "code": 1302}), {"msg": "no", "code": 1302}),
    "status a word": (data({"status": "error", "message": "no"}), {"status": "error", "message": "no"}),
    "line of llama.cpp": (b'error: {"code":400,"message":"no"}\n\n', {"code": 400, "message": "no"}),
    "line of llama.cpp without a blank": (b'error:{"code":400,"message":"no"}\n', {"code": 400, "message": "no"}),
    "line of words": (b"error: no\n", {"message": "no"}),
    "event": (b'event: error\ndata: {"message": "no"}\n\n', {"message": "no"}),
    "event, data first": (b'data: {"message": "no"}\nevent: error\n\n', {"message": "no"}),
    "event of words": (b"event: error\ndata: no\n\n", {"message": "no"}),
    "event without data": (b"event: error\ndata:\n\n", {"message": ""}),
    "event with an error": (b'event: error\ndata: {"error": {"message": "no"}}\n\n', {"message": "no"}),
    "event of a number": (b"event: error\ndata: 503\n\n", {"message": "503"}),
    "body": (b'{"error": {"message": "no", "code": 429}}', {"message": "no", "code": 429}),
    "indented body": (b'{\n  "error": {\n    "message": "no"\n  }\n}\n', {"message": "no"}),
    "after a finish reason that says nothing": (data(chunk(finish="")) + data({"error": "no"}), {"message": "no"}),
}


@pytest.mark.parametrize(("sent", "told"), ERRORS.values(), ids=ERRORS)
def test_an_error_is_found_wherever_it_stands(sent: bytes, told: dict[str, object]) -> None:
    for sent_first in (b"", P, b": ping\n\n", b"\xef\xbb\xbf" if sent[:1] == b"{" else b""):
        whole = sent_first + sent
        for place in range(len(whole)):
            text, finish, _, piece = read([whole[:place], whole[place:]] if place else [whole])
            assert (text, finish) == ("Paris" if sent_first is P else "", None)
            assert piece.error == told


def test_text_beside_an_error_is_kept() -> None:
    text, _, _, piece = read([data(chunk("Paris", error={"message": "no"}))])
    assert text == "Paris"
    assert piece.error == {"message": "no"}


@pytest.mark.parametrize(
    ("parts", "is_cut", "reason"),
    [
        ([P + I], False, Reason.GENERATION_INTERRUPTED),
        ([P + I], True, Reason.GENERATION_INTERRUPTED),
        ([P + data({"choices": [], "usage": USAGE})], True, Reason.GENERATION_INTERRUPTED),
        ([b": ping\n\n"], True, Reason.GENERATION_INTERRUPTED),
        ([data(chunk(""))], False, Reason.GENERATION_INTERRUPTED),
        ([b'{"object": "chat.completion", "choi'], False, Reason.GENERATION_INTERRUPTED),
        ([b": ping\n\n"], False, Reason.MODEL_SERVER_INVALID),
        ([b"<html>Log in</html>"], False, Reason.MODEL_SERVER_UNAVAILABLE),
        ([b"\n \n<", b"!DOCTYPE html>\n<p>data: x", b"\n"], True, Reason.MODEL_SERVER_UNAVAILABLE),
        ([P + b"<html>502</html>"], False, Reason.GENERATION_INTERRUPTED),
        ([b"Not a stream"], False, Reason.MODEL_SERVER_INVALID),
        ([], False, Reason.MODEL_SERVER_INVALID),
        ([DONE], False, Reason.MODEL_SERVER_INVALID),
        ([data(chunk("")) + DONE], False, Reason.MODEL_SERVER_INVALID),
        ([P + b"data: {this is not JSON\n\n" + I + F + DONE], False, Reason.MODEL_SERVER_INVALID),
    ],
)
def test_what_is_no_whole_answer_says_why(parts: list[bytes], is_cut: bool, reason: Reason) -> None:
    reader = CompletionReader()
    pieces = [reader.feed(part) for part in parts]
    pieces.append(reader.finish())
    failed = next((piece for piece in pieces if piece.failure), None)
    if failed is None:
        failed = reader.ending(is_done=any(piece.done for piece in pieces), is_cut=is_cut)
    assert failed.failure is not None
    assert failed.failure.reason is reason
