"""What owners have spent, as the ledger says it, late or not at all."""

import asyncio
import time
from collections.abc import Collection
from types import SimpleNamespace

import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from api_service.core.admission import spending
from api_service.core.admission.spending import Spending, SpendingReader
from api_service.http.rate_limit_headers import duration
from owners.ledger import Budget
from tests.api_service.serving import until

pytestmark = pytest.mark.asyncio(loop_scope="module")


class Ledger:
    """Says what was spent, as slowly as it is told to."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.readings: list[set[str]] = []
        self.at_a_time = self.most_at_a_time = 0
        self.day = 0
        self.may_end = asyncio.Event()
        self.may_end.set()
        self.error: Exception | None = None
        monkeypatch.setattr(spending, "read_budgets", self.read)

    async def read(self, _engine: object, owners: Collection[str]) -> dict[str, Budget]:
        self.readings.append(set(owners))
        self.at_a_time += 1
        self.most_at_a_time = max(self.most_at_a_time, self.at_a_time)
        try:
            await self.may_end.wait()
        finally:
            self.at_a_time -= 1
        if self.error:
            raise self.error
        return {owner: Budget(day=self.day) for owner in owners}


class Clock:
    """The time by which what was read is old."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.ahead = 0.0
        stand_in = SimpleNamespace(monotonic=lambda: time.monotonic() + self.ahead)  # the event loop's stays as it is
        monkeypatch.setattr(spending, "time", stand_in)


async def test_a_ledger_that_answers_slowly_is_read_once_for_all_who_wait(
    api_engine: AsyncEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    ledger, clock, reader = Ledger(monkeypatch), Clock(monkeypatch), SpendingReader(api_engine)
    ledger.may_end.clear()
    waiting = [asyncio.create_task(reader.of(owner)) for owner in ("a", "a", "b")]
    await asyncio.sleep(0)
    late = [asyncio.create_task(reader.of(owner)) for owner in ("c", "a")]
    await asyncio.sleep(0)
    clock.ahead += 5
    ledger.may_end.set()
    await asyncio.gather(*waiting, *late)
    assert ledger.readings == [{"a", "b"}, {"c"}], "who comes while it is read for them takes that"
    assert ledger.most_at_a_time == 1


@pytest.mark.parametrize("outcome", ["slow", "away"])
async def test_what_was_known_serves_where_the_ledger_is_slow_or_away(
    api_engine: AsyncEngine, monkeypatch: pytest.MonkeyPatch, outcome: str
) -> None:
    monkeypatch.setattr(spending, "_PATIENCE_SECONDS", 0.05)
    ledger, clock, reader = Ledger(monkeypatch), Clock(monkeypatch), SpendingReader(api_engine)
    ledger.day = 1
    assert (await reader.of("a")).budget.day == 1
    ledger.day = 2
    assert (await reader.of("a")).budget.day == 1, "a second has not passed"
    clock.ahead += 1.5
    if outcome == "slow":
        ledger.may_end.clear()
    else:
        ledger.error = OSError("away")
    known = await asyncio.gather(*(reader.of("a") for _ in range(20)))
    assert {one.budget.day for one in known} == {1}
    assert len(ledger.readings) == 2
    ledger.may_end.set()
    ledger.error = None

    async def is_new() -> bool:
        return (await reader.of("a")).budget.day == 2

    await until(is_new)
    clock.ahead += 61
    ledger.error = OSError("away")
    with pytest.raises(OSError, match="away"):
        await reader.of("a")  # what is older than a minute may be another day's


async def test_a_minute_says_when_there_is_room_again() -> None:
    now = asyncio.get_running_loop().time()  # the monotonic clock
    minute = Spending(Budget(lately=((10, 50), (40, 30), (59, 20))), now).minute(60)
    assert minute.used == 100
    assert 19 < minute.retry_after <= 20  # when those of 59 and of 40 s ago are gone
    assert 49 < minute.reset <= 50
    assert [duration(s) for s in (0.017, 1.5, 360)] == ["17ms", "1.5s", "6m0s"]
