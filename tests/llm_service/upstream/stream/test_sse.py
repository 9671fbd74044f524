import pytest
from hypothesis import given
from hypothesis import strategies as st

from llm_service.upstream.stream.sse import MAX_BODY_BYTES, MAX_EVENT_BYTES, ErrorData, EventTooLargeError, SseParser

# Data without line ends, as JSON on one line is; several make an event of several lines.
# What ends objects and streams is left out: it makes events of its own, without an empty line.
_line = st.binary(max_size=20).map(lambda data: data.translate(None, b"\n\r}]"))
_event = st.lists(_line, min_size=1, max_size=3)
_noise = st.sampled_from([b"", b": a comment", b"event: message", b"id: 7", b"retry: 10", b"unknown", b"x: y"])


def cut(data: bytes, places: list[int]) -> list[bytes]:
    ends = sorted(place % (len(data) + 1) for place in places)
    return [data[start:end] for start, end in zip([0, *ends], [*ends, len(data)], strict=True)]


@given(
    events=st.lists(st.tuples(_event, _noise), max_size=8),
    end=st.sampled_from([b"\n", b"\r\n", b"\r"]),
    bom=st.sampled_from([b"", b"\xef\xbb\xbf"]),
    space=st.sampled_from([b"", b" "]),
    places=st.lists(st.integers(min_value=0), max_size=12),
)
def test_events_come_whole_however_the_bytes_are_cut(
    events: list[tuple[list[bytes], bytes]], end: bytes, bom: bytes, space: bytes, places: list[int]
) -> None:
    sent = bom
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


@pytest.mark.parametrize(
    ("part", "limit"),
    [
        (b"x" * 1000, MAX_EVENT_BYTES),
        (b"data: " + b"x" * 1000 + b"\n", MAX_EVENT_BYTES),
        (b'{"a": ' + b"[" * 1000, MAX_BODY_BYTES),
        (b"{" + b"x" * 1000 + b"\n", MAX_BODY_BYTES),
    ],
)
def test_what_does_not_end_is_refused_before_it_fills_the_memory(part: bytes, limit: int) -> None:
    parser = SseParser()
    for _ in range(limit // (len(part) + 64)):
        parser.feed(part)
    with pytest.raises(EventTooLargeError):
        parser.feed(part * (100 + limit // 10_000))


@pytest.mark.parametrize("line", [b"data\n", b"data:\n", b"data\r", b"{\n"])
def test_lines_without_bytes_are_few_too(line: bytes) -> None:
    parser = SseParser()
    with pytest.raises(EventTooLargeError):
        feed_often(parser, line * 1_000)


def feed_often(parser: SseParser, part: bytes) -> None:
    for _ in range(1_000):
        parser.feed(part)


def test_an_event_may_call_itself_an_error() -> None:
    parser = SseParser()
    sent = b"event: error\ndata: one\n\nevent: other\ndata: two\n\ndata: three\nevent: ERROR\n\nerror: four\n"
    sent += b"data: five\n\n"
    assert parser.feed(b": x\n\n") == []
    events = parser.feed(sent)
    assert events == [b"one", b"two", b"three", b"four", b"five"]
    assert [isinstance(event, ErrorData) for event in events] == [True, False, True, True, False]


def test_an_events_name_ends_with_it_also_without_data() -> None:
    parser = SseParser()
    (event,) = parser.feed(b"event: error\n\ndata: x\n\n")
    assert not isinstance(event, ErrorData)


def test_many_small_events_are_no_large_one() -> None:
    parser = SseParser()
    event = b"data: " + b"x" * 1000 + b"\n\n"
    for _ in range(2 * MAX_EVENT_BYTES // len(event)):
        assert parser.feed(event) == [b"x" * 1000]
