import pytest
from hypothesis import given
from hypothesis import strategies as st

from llm_service.sse import MAX_EVENT_BYTES, EventTooLargeError, SseParser

# Data without line ends, as JSON on one line is; several make an event of several lines.
_line = st.binary(max_size=20).map(lambda data: data.replace(b"\n", b"").replace(b"\r", b""))
_event = st.lists(_line, min_size=1, max_size=3)
_noise = st.sampled_from([b"", b": a comment", b"event: message", b"id: 7", b"retry: 10", b"data", b"unknown"])


def cut(data: bytes, places: list[int]) -> list[bytes]:
    ends = sorted(place % (len(data) + 1) for place in places)
    return [data[start:end] for start, end in zip([0, *ends], [*ends, len(data)], strict=True)]


@given(
    events=st.lists(st.tuples(_event, _noise), max_size=8),
    end=st.sampled_from([b"\n", b"\r\n"]),
    space=st.sampled_from([b"", b" "]),
    places=st.lists(st.integers(min_value=0), max_size=12),
)
def test_events_come_whole_however_the_bytes_are_cut(
    events: list[tuple[list[bytes], bytes]], end: bytes, space: bytes, places: list[int]
) -> None:
    sent = b""
    for lines, noise in events:
        # A noise line of its own event, then one within this event.
        sent += noise + end + end + noise + end
        sent += b"".join(b"data:" + (space or (b" " if line.startswith(b" ") else b"")) + line + end for line in lines)
        sent += end
    parser = SseParser()
    received = [event for part in cut(sent, places) for event in parser.feed(part)]
    assert received + parser.finish() == [b"\n".join(lines) for lines, _ in events]


def test_an_event_without_its_empty_line_counts_when_the_stream_ends() -> None:
    parser = SseParser()
    assert parser.feed(b"data: one\n\ndata: two\r") == [b"one"]
    assert parser.finish() == [b"two"]


@pytest.mark.parametrize("part", [b"x" * 1000, b"data: " + b"x" * 1000 + b"\n"])
def test_a_line_or_event_that_does_not_end_is_refused_before_it_fills_the_memory(part: bytes) -> None:
    parser = SseParser()
    for _ in range(MAX_EVENT_BYTES // len(part)):
        parser.feed(part)
    with pytest.raises(EventTooLargeError):
        parser.feed(part * 20)


def test_many_small_events_are_no_large_one() -> None:
    parser = SseParser()
    event = b"data: " + b"x" * 1000 + b"\n\n"
    for _ in range(2 * MAX_EVENT_BYTES // len(event)):
        assert parser.feed(event) == [b"x" * 1000]
