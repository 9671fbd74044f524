import pytest

from api_service.core.queue_estimate import SAMPLE_SIZE, Estimate, QueueEstimate


def test_the_next_is_first() -> None:
    queue = QueueEstimate()
    queue.take([7, 3, 9], now=100)
    assert [queue.of(answer_id) for answer_id in (7, 3, 9)] == [Estimate(place, None) for place in (1, 2, 3)]
    assert queue.of(4) is None


def test_the_pace_is_that_of_those_who_left() -> None:
    queue = QueueEstimate()
    queue.take(range(1, 101), now=100)
    queue.take(range(11, 121), now=101)  # ten went, twenty came
    assert queue.of(11) == Estimate(1, 0.1)
    assert queue.of(60) == Estimate(50, 5.0)
    queue.take(range(11, 121), now=102)  # none went
    estimate = queue.of(60)
    assert estimate is not None
    assert estimate.seconds == pytest.approx(50 / 8, abs=0.1)


def test_far_behind_is_not_counted() -> None:
    queue = QueueEstimate()
    queue.take(range(1, SAMPLE_SIZE + 1), now=100)
    queue.take(range(101, SAMPLE_SIZE + 101), now=101)
    assert queue.of(99_999) == Estimate("1000+", 10.0)
    assert queue.of(SAMPLE_SIZE + 100) == Estimate(1_000, 10.0)
    queue.take([5], now=102)
    assert queue.of(99_999) is None


def test_an_old_sample_says_nothing_of_the_pace() -> None:
    queue = QueueEstimate()
    queue.take(range(1, 101), now=100)
    queue.take(range(91, 101), now=10_000)
    assert queue.of(91) == Estimate(1, None)
