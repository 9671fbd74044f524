"""What owners with a limit on tokens have spent, as the ledger had it at most a second ago."""

import asyncio
import math
import time
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final

from sqlalchemy.ext.asyncio import AsyncEngine

from questions.ledger import ENTRY_SECONDS, Budget, read_budgets

_FRESH_SECONDS: Final = 1.0
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
    """Reads the ledger for all who ask at a time in one statement, and for each at most once a second."""

    def __init__(self, engine: AsyncEngine) -> None:
        self._engine = engine
        self._known: dict[str, Spending] = {}
        self._wanted: set[str] = set()
        self._reading: asyncio.Task[None] | None = None

    async def of(self, owner: str) -> Spending:
        """What the owner has spent. Raises what PostgreSQL's absence raises."""
        while (known := self._known.get(owner)) is None or time.monotonic() - known.read_at >= _FRESH_SECONDS:
            self._wanted.add(owner)
            if self._reading is None or self._reading.done():
                self._reading = asyncio.create_task(self._read())
            await asyncio.shield(self._reading)  # whoever leaves takes nothing from the others
        return known

    async def _read(self) -> None:
        owners, self._wanted = self._wanted, set()
        now = time.monotonic()
        budgets = await read_budgets(self._engine, owners)
        self._known = {owner: known for owner, known in self._known.items() if now - known.read_at < _FORGET_SECONDS}
        self._known.update({owner: Spending(budget, now) for owner, budget in budgets.items()})


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
