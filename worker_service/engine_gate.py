"""Whether it makes sense to claim questions now, judged by what the model server did with the last ones.

An outage must neither spend every question's attempts nor hammer a server that is starting. So after several
failures in a row a worker claims nothing but one question at a time, with growing pauses, until one gets through.
"""

import logging
import random
import time
from collections.abc import Callable

logger = logging.getLogger(__name__)

CLOSES_AFTER = 5
"""Failures in a row, all slots of the process together."""
FIRST_PROBE_SECONDS = 1.0
LONGEST_PROBE_SECONDS = 30.0


class EngineGate:
    """Open while questions get through. Closed, it lets one through per pause."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._refused = 0
        self._broken = 0
        self._closed = False
        self._pause = FIRST_PROBE_SECONDS
        self._next_probe = 0.0

    @property
    def is_closed(self) -> bool:
        """Whether only probes are let through."""
        return self._closed

    def permits(self, wanted: int) -> int:
        """How many of the wanted questions may be claimed now."""
        if not self._closed:
            return wanted
        return min(wanted, 1) if self._clock() >= self._next_probe else 0

    def claimed(self) -> None:
        """Questions were claimed as permitted. Closed, that begins a pause, twice as long as the one before."""
        if self._closed:
            self._pause = min(self._pause * 2, LONGEST_PROBE_SECONDS)
            self._plan_probe()

    def refused(self, why: str) -> None:
        """A call failed before the engine had accepted it."""
        self._refused += 1
        self._close_if_due(why)

    def accepted(self) -> None:
        """The engine has accepted a question: it can be reached. Whether it can answer is another matter."""
        self._refused = 0
        self._open_if_due()

    def broke(self, why: str) -> None:
        """A call failed after the engine had accepted it, or was not understood."""
        self._broken += 1
        self._close_if_due(why)

    def answered(self) -> None:
        """The engine has written an answer to its end."""
        self._refused = self._broken = 0
        self._open_if_due()

    def _close_if_due(self, why: str) -> None:
        if not self._closed and max(self._refused, self._broken) >= CLOSES_AFTER:
            self._closed = True
            self._pause = FIRST_PROBE_SECONDS
            self._plan_probe()
            logger.warning(
                "%d generations in a row failed (last: %s): questions wait while one at a time is tried",
                CLOSES_AFTER,
                why,
            )

    def _open_if_due(self) -> None:
        if self._closed and max(self._refused, self._broken) < CLOSES_AFTER:
            self._closed = False
            logger.warning("generations succeed again")

    def _plan_probe(self) -> None:
        # Jitter, so that the workers of a fleet do not probe in step.
        self._next_probe = self._clock() + self._pause * random.uniform(0.5, 1.0)  # noqa: S311 - no secret
