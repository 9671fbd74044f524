"""Whether it makes sense to claim questions now, judged by what the model server did with the last ones.

An outage must neither spend every question's attempts nor hammer a server that is starting. So after several
failures in a row a worker claims nothing, and asks control questions with short pauses until one is answered.
"""

import asyncio
import logging
import random
import time
from collections.abc import Callable

logger = logging.getLogger(__name__)

CLOSES_AFTER = 5
"""Failures in a row, all slots of the process together."""
FIRST_PROBE_SECONDS = 1.0
LONGEST_PROBE_SECONDS = 4.0
"""Between two control questions, unless an overloaded server asks for more."""
LONGEST_RETRY_AFTER_SECONDS = 60.0
"""What a server asks for is believed up to here, so that a wrong figure parks no question."""


class EngineGate:
    """Open while questions get through. Closed, it lets none through.

    A control question opens it, on trial: the next answer that breaks off closes it again, until one has gone on for
    long enough. After such a relapse it lets a few through at a time: the server may answer control questions only.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._refused = 0
        self._broken = 0
        self._closed = asyncio.Event()
        self._on_trial = False
        self._relapsed = False
        self._closing_logged = False
        self._allowed = 0
        self._allowed_again_at = 0.0
        self._pause = FIRST_PROBE_SECONDS
        self._probe_at = 0.0

    @property
    def is_closed(self) -> bool:
        """Whether nothing is let through."""
        return self._closed.is_set()

    async def until_closed(self) -> None:
        """Wait until nothing is let through."""
        await self._closed.wait()

    @property
    def seconds_to_probe(self) -> float:
        """How long the next control question has to wait."""
        return max(self._probe_at - self._clock(), 0.0)

    def permits(self, wanted: int) -> int:
        """How many of the wanted questions may be claimed now."""
        if self.is_closed:
            return 0
        if not self._relapsed:
            return wanted
        if self._clock() >= self._allowed_again_at:
            self._allowed = CLOSES_AFTER
            self._allowed_again_at = self._clock() + LONGEST_PROBE_SECONDS
        return min(wanted, self._allowed)

    def claimed(self, count: int) -> None:
        """So many questions were claimed, as permitted."""
        self._allowed = max(self._allowed - count, 0)

    def refused(self, why: str, retry_after: float | None = None) -> None:
        """A call failed before the engine had accepted it. ``retry_after``: seconds, if the server asks for time."""
        self._refused += 1
        self._close_if_due(why)
        if retry_after is not None:
            until = self._clock() + min(retry_after, LONGEST_RETRY_AFTER_SECONDS)
            self._probe_at = max(self._probe_at, until)

    def accepted(self) -> None:
        """The engine has accepted a question: it can be reached. Whether it can answer is another matter."""
        self._refused = 0

    def broke(self, why: str) -> None:
        """A call failed after the engine had accepted it, or was not understood."""
        self._broken += 1
        self._close_if_due(why)

    def answered(self) -> None:
        """The engine has written an answer to its end, or has gone on with one for long enough."""
        self._on_trial = self._relapsed = False
        self._open()
        self._log_end()

    def probed(self) -> None:
        """A control question is asked now. Each pause is twice as long as the one before."""
        self._plan_probe()
        self._pause = min(self._pause * 2, LONGEST_PROBE_SECONDS)

    def probe_succeeded(self) -> None:
        """A control question was answered while nothing was let through."""
        if self.is_closed:
            self._on_trial = True
            self._open()
            if not self._relapsed:
                self._log_end()

    def _close_if_due(self, why: str) -> None:
        if self.is_closed:
            return
        relapses = self._on_trial and self._broken > 0
        if not relapses and max(self._refused, self._broken) < CLOSES_AFTER:
            return
        self._relapsed = relapses
        if not relapses:
            self._pause = FIRST_PROBE_SECONDS
        if not self._closing_logged:
            self._closing_logged = True
            logger.warning(
                "generations fail one after the other (last: %s): questions wait until a control question is answered",
                why,
            )
        self._closed.set()
        self._probe_at = 0.0
        self._plan_probe()

    def _open(self) -> None:
        self._refused = self._broken = 0
        if self.is_closed:
            self._closed.clear()
            self._allowed_again_at = 0.0

    def _log_end(self) -> None:
        if self._closing_logged:
            self._closing_logged = False
            logger.warning("generations succeed again")

    def _plan_probe(self) -> None:
        # Jitter, so that the workers of a fleet do not probe in step.
        pause = self._pause * random.uniform(0.5, 1.0)  # noqa: S311 - no secret
        self._probe_at = max(self._probe_at, self._clock() + pause)
