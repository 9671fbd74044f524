"""Whether this process can serve, and what it has to do without."""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum

logger = logging.getLogger(__name__)

Check = Callable[[], Awaitable[bool]]

_CHECK_SECONDS = 1.0
_KEPT_SECONDS = 1.0


class Helper(StrEnum):
    """What this service gets on without."""

    BROKER = "broker"
    REDIS = "redis"
    MODEL = "model"


@dataclass(frozen=True, slots=True)
class Report:
    """``ready``: questions can be asked and answers read. ``degraded``: what is absent meanwhile."""

    ready: bool
    degraded: list[Helper]


class Readiness:
    """Runs the checks, all at once, when somebody asks; whoever asks within a second gets the same report."""

    def __init__(self, database: Check, helpers: Mapping[Helper, Check]) -> None:
        """``database`` decides about readiness. A check has a second; it fails by False as by an exception."""
        self._checks = (database, *helpers.values())
        self._helpers = tuple(helpers)
        self._report = Report(ready=False, degraded=[])
        self._old_at = 0.0
        self._turn = asyncio.Lock()

    async def report(self) -> Report:
        """The state now, or up to a second ago."""
        async with self._turn:
            if time.monotonic() >= self._old_at:
                ready, *passed = await asyncio.gather(*map(_passes, self._checks))
                self._report = Report(ready, [name for name, ok in zip(self._helpers, passed, strict=True) if not ok])
                self._old_at = time.monotonic() + _KEPT_SECONDS
            return self._report


async def _passes(check: Check) -> bool:
    try:
        async with asyncio.timeout(_CHECK_SECONDS):
            return await check()
    except Exception as error:  # noqa: BLE001 - whatever goes wrong with it, it is not there
        logger.debug("a readiness check failed: %r", error)
        return False
