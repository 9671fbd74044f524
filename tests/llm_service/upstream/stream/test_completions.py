import json

from hypothesis import assume, given
from hypothesis import strategies as st

from llm_service.upstream.stream.completions import CallUsage, CompletionReader, Piece


def event(payload: object) -> bytes:
    return b"data: " + json.dumps(payload).encode() + b"\n\n"


def chunk(content: str | None, finish: str | None = None, **fields: object) -> bytes:
    choice = {"index": 0, "delta": {"content": content}, "finish_reason": finish}
    return event({"choices": [choice], **fields})


def usage(prompt: int, completion: int, **fields: object) -> dict[str, object]:
    return {"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion, **fields}


@given(
    texts=st.lists(st.text(st.characters(exclude_categories=["Cs"])), max_size=6),
    places=st.lists(st.integers(min_value=0), max_size=10),
)
def test_text_and_counts_are_the_same_however_the_bytes_are_cut(texts: list[str], places: list[int]) -> None:
    assume(len(texts) < 2 or not texts[1].startswith(texts[0]))  # which may be a text that grows
    sent = b"".join(chunk(text, usage=usage(5, index)) for index, text in enumerate(texts, 1))
    sent += chunk(None, "stop") + event({"choices": [], "usage": usage(5, 99)}) + b"data: [DONE]\n\n"
    ends = sorted(place % (len(sent) + 1) for place in places)
    reader = CompletionReader()
    pieces = [reader.feed(sent[start:end]) for start, end in zip([0, *ends], [*ends, len(sent)], strict=True)]
    assert "".join(piece.text for piece in pieces) == "".join(texts)
    assert [piece.counts for piece in pieces if piece.counts][-1] == CallUsage(5, 99)
    finishes = [piece.finish_reason for piece in [*pieces, reader.ending(is_done=True, is_cut=False)]]
    assert next(filter(None, finishes)) == "stop"
    assert any(piece.done for piece in pieces)


def test_events_of_one_read_make_one_piece() -> None:
    reader = CompletionReader()
    read = chunk("a", usage=usage(3, 1)) + b": ping\n\n" + chunk("b", usage=usage(3, 2)) + chunk("c")[:-9]
    assert reader.feed(read) == Piece(text="ab", counts=CallUsage(3, 2))


def test_counts_of_vllm_with_its_prefix_cache() -> None:
    counted = usage(30, 4, prompt_tokens_details={"cached_tokens": 16})
    assert CompletionReader().feed(event({"choices": [], "usage": counted})).counts == CallUsage(30, 4, 16)


def test_counts_of_llama_cpp_while_it_writes() -> None:
    timings = {"cache_n": 28, "prompt_n": 10, "predicted_n": 2, "predicted_ms": 7.5}
    assert CompletionReader().feed(chunk(" is", timings=timings)).counts == CallUsage(38, 2, 28)


def test_an_error_object_ends_the_piece_that_it_comes_in() -> None:
    error = {"message": "engine died", "type": "InternalServerError", "code": 500}
    piece = CompletionReader().feed(chunk("a") + event({"error": error}) + chunk("b"))
    assert (piece.text, piece.error) == ("a", error)


def test_the_end_of_a_stream_may_lack_the_empty_line_but_not_half_an_event() -> None:
    reader = CompletionReader()
    reader.feed(chunk("a", "stop").rstrip())
    assert reader.finish() == Piece(text="a", finish_reason="stop")
    reader = CompletionReader()
    reader.feed(chunk("a")[:20])
    assert reader.finish() == Piece()


def test_events_that_say_nothing_are_counted() -> None:
    reader = CompletionReader()
    reader.feed(event({"choices": [], "prompt_filter_results": []}) + event({"usage": {"prompt_tokens": 1}}))
    assert reader.skipped == 0
    reader.feed(chunk("a") + event({"type": "ping"}) + b": ping\n\ndata:\n\n" + chunk("b"))
    assert reader.skipped == 1
