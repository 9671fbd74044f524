"""Telling workers that there is work."""

from live.hints import Hints
from live.wakeups import Wakeups


class Waker:
    """Wakes a worker by Redis; hints, by way of the broker, are for when that is lost or Redis is away."""

    def __init__(self, wakeups: Wakeups, hints: Hints) -> None:
        self._wakeups = wakeups
        self._hints = hints

    def wake(self) -> None:
        """Say that a question was stored."""
        self._wakeups.wake()
        if self._wakeups.reachable:
            self._hints.remind()
        else:
            self._hints.wake()
