"""Whether this process can serve, and what it has to do without."""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
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


class AbsentError(Exception):
    """A check fails for a reason that is known: a word that everybody may read, and a text for the log."""

    def __init__(self, word: str, text: str) -> None:
        super().__init__(text)
        self.word = word


@dataclass(frozen=True, slots=True)
class Report:
    """``problem``: why no question can be asked, or empty. ``degraded``: what is absent meanwhile, and why if known."""

    problem: str
    degraded: list[Helper]
    reasons: Mapping[Helper, str] = field(default_factory=dict)


class Readiness:
    """Runs the checks, all at once, when somebody asks; whoever asks within a second gets the same report."""

    def __init__(self, database: Callable[[], Awaitable[str]], helpers: Mapping[Helper, Check]) -> None:
        """``database`` decides about readiness: it says what is wrong with it, and nothing where all is well.

        A check has a second; it fails by False as by an exception. Why it fails, if an AbsentError says so, is logged
        when it changes.
        """
        self._database = database
        self._helpers = dict(helpers)
        self._report = Report(problem="", degraded=[])
        self._told: dict[Helper, str] = {}
        self._old_at = 0.0
        self._turn = asyncio.Lock()

    async def report(self) -> Report:
        """The state now, or up to a second ago."""
        async with self._turn:
            if time.monotonic() >= self._old_at:
                problem, passed = await asyncio.gather(
                    _problem(self._database), asyncio.gather(*map(_passes, self._helpers.values()))
                )
                results = dict(zip(self._helpers, passed, strict=True))
                self._tell({name: why for name, why in results.items() if isinstance(why, AbsentError)})
                self._report = Report(
                    problem,
                    [name for name, result in results.items() if result is not True],
                    {name: why.word for name, why in results.items() if isinstance(why, AbsentError)},
                )
                self._old_at = time.monotonic() + _KEPT_SECONDS
            return self._report

    def _tell(self, absent: Mapping[Helper, AbsentError]) -> None:
        told = {name: str(why) for name, why in absent.items()}
        for name, why in told.items():
            if self._told.get(name) != why:
                logger.warning("%s is degraded: %s", name, why)
        for name in self._told.keys() - told.keys():
            logger.warning("%s is not degraded any more for that reason", name)
        self._told = told


async def _problem(check: Callable[[], Awaitable[str]]) -> str:
    try:
        async with asyncio.timeout(_CHECK_SECONDS):
            return await check()
    except TimeoutError:
        return f"it does not answer within {_CHECK_SECONDS:g} s"
    except Exception as error:
        logger.exception("the readiness check of PostgreSQL has a defect")
        return type(error).__name__


async def _passes(check: Check) -> bool | AbsentError:
    try:
        async with asyncio.timeout(_CHECK_SECONDS):
            return await check()
    except AbsentError as why:
        return why
    except Exception as error:  # noqa: BLE001 - whatever goes wrong with it, it is not there
        logger.debug("a readiness check failed: %r", error)
        return False
