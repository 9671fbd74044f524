"""Text that grows, cut anywhere."""

import json
import tracemalloc

import pytest
from hypothesis import given
from hypothesis import strategies as st

from api_service.answers.server_sent_events import encode_delta, sse_event
from api_service.core.live_text import LiveText, is_within_code_point
from api_service.core.stream_cursor import StreamCursor

TEXTS = st.lists(st.text(min_size=1), min_size=1, max_size=20)


def read_on(text: LiveText, cursor: StreamCursor) -> tuple[list[bytes], StreamCursor]:
    events = []
    while (delta := text.delta(cursor)) is not None:
        cursor = delta.cursor
        events.append(encode_delta(delta))
    return events, cursor


def text_in(events: list[bytes]) -> str:
    """Read as a client does whose lines end wherever Python's do."""
    text = ""
    for event in events:
        identity, name, data, *rest = event.decode().splitlines()
        assert (identity[:4], name, data[:6], rest) == ("id: ", "event: delta", "data: ", [""])
        text += json.loads(data[6:])["text"]
    return text


@given(TEXTS, st.data())
def test_deltas_add_up_however_readers_and_writer_take_turns(pieces: list[str], data: st.DataObject) -> None:
    text, offset = LiveText(0), 0
    readers = [(StreamCursor(0, 0), "") for _ in range(3)]
    for piece in pieces:
        assert text.take(0, offset, piece.encode())
        offset += len(piece.encode())
        for number in data.draw(st.sets(st.sampled_from([0, 1, 2]))):
            cursor, seen = readers[number]
            events, cursor = read_on(text, cursor)
            readers[number] = cursor, seen + text_in(events)
    for cursor, seen in readers:
        events, end = read_on(text, cursor)
        assert seen + text_in(events) == "".join(pieces)
        assert end == StreamCursor(0, len("".join(pieces).encode()))


@given(TEXTS, st.data())
def test_notices_that_are_doubled_or_late_change_nothing_and_a_hole_is_noticed(
    pieces: list[str], data: st.DataObject
) -> None:
    whole = "".join(pieces).encode()
    starts = [len("".join(pieces[:number]).encode()) for number in range(len(pieces))]
    text = LiveText(0)
    for number in data.draw(st.lists(st.sampled_from(range(len(pieces))), max_size=40)):
        known = len(text.data)
        assert text.take(0, starts[number], pieces[number].encode()) == (starts[number] <= known)
        assert whole.startswith(text.data)
    assert text.take(0, 0, whole)
    assert text.data == whole


@pytest.mark.parametrize("shift", range(4))
@pytest.mark.parametrize("character", ["é", "字", "🙂"])
def test_a_piece_is_bounded_and_ends_with_a_code_point(shift: int, character: str) -> None:
    whole = "a" * shift + character * 40_000
    text = LiveText(0, whole.encode())
    events, cursor = read_on(text, StreamCursor(0, 0))
    assert text_in(events) == whole
    assert cursor.offset == len(whole.encode())
    assert len(events) > 1
    assert max(map(len, events)) < 66_000


def test_readers_at_the_same_place_share_an_event() -> None:
    text = LiveText(0, b"one")
    first, second = text.delta(StreamCursor(0, 0)), text.delta(StreamCursor(0, 0))
    assert first is not None
    assert second is not None
    assert first is second
    assert encode_delta(first) is encode_delta(second)
    text.take(0, 3, b" two")
    after = text.delta(StreamCursor(0, 0))
    assert after is not None
    assert after.cursor == StreamCursor(0, 7)
    assert encode_delta(after) == sse_event("delta", {"text": "one two"}, StreamCursor(0, 7))


def test_a_higher_epoch_takes_the_text_back_and_a_lower_one_is_ignored() -> None:
    text = LiveText(1, b"one")
    assert text.take(0, 3, b"!")
    assert (text.epoch, bytes(text.data)) == (1, b"one")
    assert text.take(2, 0, b"two")
    assert (text.epoch, bytes(text.data)) == (2, b"two")
    assert not text.take(3, 4, b"!")
    assert (text.epoch, bytes(text.data)) == (3, b"")


@given(st.text(max_size=20))
def test_a_place_within_a_code_point_is_recognised(text: str) -> None:
    data = text.encode()
    ends = {len(text[:number].encode()) for number in range(len(text) + 1)}
    for offset in range(len(data) + 5):
        assert is_within_code_point(data, offset) == (offset < len(data) and offset not in ends)


def test_readers_that_begin_anywhere_in_a_text_that_does_not_grow_cost_no_memory() -> None:
    text = LiveText(0, b"word " * 20_000)
    tracemalloc.start()
    try:
        before, _ = tracemalloc.get_traced_memory()
        for offset in range(4_000):
            delta = text.delta(StreamCursor(0, offset))
            assert delta is not None
            encode_delta(delta)
        after, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert after - before < 3_000_000, "4,000 events of 64 KiB each would be 256 MiB"
    again = text.delta(StreamCursor(0, 3_999))
    assert again is not None
    assert text.delta(StreamCursor(0, 3_999)) is again, "readers at one place share the event"
