"""What owners with a limit on tokens have spent, as the ledger had it a second ago, or when it last answered."""

import asyncio
import math
import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final

from sqlalchemy.ext.asyncio import AsyncEngine

from owners.ledger import ENTRY_SECONDS, Budget, read_budgets

_FRESH_SECONDS: Final = 1.0
_PATIENCE_SECONDS: Final = 1.0
_FORGET_SECONDS: Final = 60.0


@dataclass(frozen=True, slots=True)
class Minute:
    """Tokens of the last minute. ``retry_after``: seconds until they are below the limit; ``reset``: until none."""

    used: int
    retry_after: float
    reset: float


@dataclass(frozen=True, slots=True)
class Spending:
    """``budget`` as it was read at a time of the monotonic clock."""

    budget: Budget
    read_at: float

    def minute(self, limit: int) -> Minute:
        """The last minute, against a limit."""
        passed = time.monotonic() - self.read_at
        # Oldest first; each leaves when it is as old as a minute.
        leaving = sorted(
            ((ENTRY_SECONDS - age - passed, tokens) for age, tokens in self.budget.lately if tokens),
        )
        leaving = [(seconds, tokens) for seconds, tokens in leaving if seconds > 0]
        used = rest = sum(tokens for _, tokens in leaving)
        retry_after = 0.0
        for seconds, tokens in leaving:
            if rest < limit:
                break
            rest -= tokens
            retry_after = seconds
        return Minute(used, retry_after, leaving[-1][0] if leaving else 0.0)


class SpendingReader:
    """Reads the ledger for all who ask at a time in one statement, one statement at a time, each at most once a second.

    Whoever waited for a statement takes what it says, however long it took. Who has been read for in the last minute
    waits for a second at most, and then takes what was known: a slow ledger keeps nobody from asking.
    """

    def __init__(self, engine: AsyncEngine) -> None:
        self._engine = engine
        self._known: dict[str, Spending] = {}
        self._wanted: dict[str, asyncio.Future[Spending]] = {}
        self._being_read: dict[str, asyncio.Future[Spending]] = {}
        self._reading: asyncio.Task[None] | None = None

    async def of(self, owner: str) -> Spending:
        """What the owner has spent. Raises what PostgreSQL's absence raises, unless something is known."""
        known, now = self._known.get(owner), time.monotonic()
        if known is not None and now - known.read_at < _FRESH_SECONDS:
            return known
        reading = asyncio.shield(self._want(owner))  # whoever leaves takes nothing from the others
        if known is None or now - known.read_at >= _FORGET_SECONDS:
            return await reading
        try:
            return await asyncio.wait_for(reading, _PATIENCE_SECONDS)
        except Exception:  # noqa: BLE001 - if PostgreSQL is away, asking will say so
            return known

    def _want(self, owner: str) -> asyncio.Future[Spending]:
        wanted = self._being_read.get(owner) or self._wanted.get(owner)
        if wanted is None:
            wanted = self._wanted[owner] = asyncio.get_running_loop().create_future()
            if self._reading is None or self._reading.done():
                self._reading = asyncio.create_task(self._read())
        return wanted

    async def _read(self) -> None:
        while self._wanted:
            self._being_read, self._wanted = self._wanted, {}
            now = time.monotonic()
            try:
                budgets = await read_budgets(self._engine, self._being_read)
            except Exception as error:  # noqa: BLE001 - it is raised where it is waited for
                for future in self._being_read.values():
                    future.set_exception(error)
                    future.exception()  # nobody may wait any more
            else:
                self._remember(budgets, now)
            self._being_read = {}

    def _remember(self, budgets: Mapping[str, Budget], read_at: float) -> None:
        kept = time.monotonic() - _FORGET_SECONDS
        self._known = {owner: known for owner, known in self._known.items() if known.read_at >= kept}
        for owner, future in self._being_read.items():
            self._known[owner] = Spending(budgets[owner], read_at)
            future.set_result(self._known[owner])


def seconds_until_tomorrow(now: datetime | None = None) -> int:
    """Whole seconds until the next day begins in UTC."""
    now = now or datetime.now(UTC)
    tomorrow = (now + timedelta(days=1)).replace(hour=0, minute=0, second=0, microsecond=0)
    return math.ceil((tomorrow - now).total_seconds())


def seconds_until_next_month(now: datetime | None = None) -> int:
    """Whole seconds until the next month begins in UTC."""
    now = now or datetime.now(UTC)
    first = (now.replace(day=1) + timedelta(days=32)).replace(day=1, hour=0, minute=0, second=0, microsecond=0)
    return math.ceil((first - now).total_seconds())
