"""How many questions are before a queued one, and how long that takes: from a sample, and so an estimate."""

from collections.abc import Sequence
from typing import Literal, NamedTuple

Position = int | Literal["1000+"]

SAMPLE_SIZE = 1_000
_FAR: Literal["1000+"] = "1000+"
# Of the newest sample in the average; the rate follows a change within about ten samples.
_WEIGHT = 0.2


class Estimate(NamedTuple):
    """``position``: 1 is next. ``seconds`` until it is its turn; None where nothing is known of the pace."""

    position: Position
    seconds: float | None


class QueueEstimate:
    """Where answers stand among the next thousand to be claimed, and how fast these go."""

    def __init__(self) -> None:
        self._positions: dict[int, int] = {}
        self._far = False
        self._sampled_at = 0.0
        self._rate: float | None = None

    def take(self, queue: Sequence[int], now: float) -> None:
        """Learn the queue as it is now: ids in the order of their turns, and at most ``SAMPLE_SIZE`` of them."""
        positions = {answer_id: position for position, answer_id in enumerate(queue, 1)}
        seconds = now - self._sampled_at
        # A sample much older than the last says nothing about the pace between.
        if self._positions and 0 < seconds < 10:
            rate = len(self._positions.keys() - positions.keys()) / seconds
            self._rate = rate if self._rate is None else self._rate + _WEIGHT * (rate - self._rate)
        self._positions, self._far, self._sampled_at = positions, len(queue) >= SAMPLE_SIZE, now

    def of(self, answer_id: int) -> Estimate | None:
        """The answer's place; None where it waits for another reason than its turn, or is new."""
        position = self._positions.get(answer_id)
        if position is None and not self._far:
            return None
        ahead = SAMPLE_SIZE if position is None else position
        seconds = round(ahead / self._rate, 1) if self._rate and self._rate > 0.01 else None
        return Estimate(_FAR if position is None else position, seconds)
