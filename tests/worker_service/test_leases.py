"""The lease's arithmetic, on a clock and a PostgreSQL that the tests control."""

import asyncio
from collections.abc import Awaitable, Callable, Collection

import pytest
from sqlalchemy.exc import OperationalError
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

from foundation.postgresql.database import Database
from foundation.reachability import Reachability
from foundation.settings import WorkerSettings
from tests.worker_service.waiting import eventually
from worker_service.claiming.leases import FENCE_SECONDS, Lease


class Clock:
    def __init__(self) -> None:
        self.now = 1_000.0

    def __call__(self) -> float:
        return self.now


class LeaseTable:
    """Stands for questions.worker_leases: notes what the lease asks of it."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.registered = 0
        self.renewed = 0
        self.handed_back: list[int] = []
        self.retired: list[int] = []
        self.owned: frozenset[int] | None = frozenset()
        self.before_register: Callable[[], Awaitable[None]] | None = None
        self.before_renew: Callable[[], Awaitable[None]] | None = None
        for name in ("register_worker", "renew_lease", "hand_back_all_but", "retire_worker"):
            monkeypatch.setattr(f"questions.worker_leases.{name}", getattr(self, name))

    async def register_worker(self, _engine: AsyncEngine, _name: str, _seconds: float) -> int:
        if self.before_register:
            await self.before_register()
        self.registered += 1
        return self.registered

    async def renew_lease(self, _engine: AsyncEngine, _worker_id: int, _seconds: float) -> frozenset[int] | None:
        self.renewed += 1
        if self.before_renew:
            await self.before_renew()
        return self.owned

    async def hand_back_all_but(self, _engine: AsyncEngine, worker_id: int, tokens: Collection[int]) -> None:
        assert not tokens
        self.handed_back.append(worker_id)

    async def retire_worker(self, _engine: AsyncEngine, worker_id: int) -> None:
        self.retired.append(worker_id)


class Work:
    """Notes what the lease tells its holder."""

    def __init__(self) -> None:
        self.held: frozenset[int] = frozenset({7})
        self.lost = 0
        self.renewals: list[tuple[frozenset[int], frozenset[int]]] = []

    def lease_renewed(self, asked: frozenset[int], owned: frozenset[int]) -> None:
        self.renewals.append((asked, owned))

    def lease_lost(self) -> None:
        self.lost += 1


@pytest.fixture
def database(monkeypatch: pytest.MonkeyPatch) -> LeaseTable:
    return LeaseTable(monkeypatch)


def make_lease(clock: Clock | None = None, *, seconds: float = 15, heartbeat: float = 0.02) -> Lease:
    settings = WorkerSettings.model_construct(lease_seconds=seconds, heartbeat_seconds=heartbeat)
    engine = create_async_engine("postgresql+asyncpg://")  # nobody connects
    database = Database(engine, Reachability.of("PostgreSQL", "tests"))
    return Lease(database, "tests", settings, clock) if clock else Lease(database, "tests", settings)


async def obtain(lease: Lease) -> asyncio.Task[None]:
    keeping = asyncio.create_task(lease.keep(Work()))
    await asyncio.wait_for(lease.obtained.wait(), 10)
    return keeping


def current_id(lease: Lease) -> int | None:
    """The property, which a type checker would take for constant."""
    return lease.worker_id


async def end(keeping: asyncio.Task[None]) -> None:
    keeping.cancel()
    await asyncio.wait({keeping})


async def test_a_lease_is_good_until_shortly_before_it_can_have_expired(database: LeaseTable) -> None:
    clock = Clock()
    lease = make_lease(clock, heartbeat=1_000)
    keeping = await obtain(lease)

    clock.now += 15 - FENCE_SECONDS - 0.01
    assert current_id(lease) == 1
    clock.now += 0.02
    assert current_id(lease) is None
    await end(keeping)


async def test_it_is_counted_from_when_it_was_asked_for_and_not_from_when_the_reply_came(database: LeaseTable) -> None:
    clock = Clock()

    async def take_long() -> None:
        clock.now += 10

    database.before_register = take_long
    lease = make_lease(clock, heartbeat=1_000)
    keeping = await obtain(lease)

    assert current_id(lease) == 1
    clock.now += 5 - FENCE_SECONDS
    assert current_id(lease) is None
    await end(keeping)


async def test_a_reply_that_took_longer_than_the_lease_gives_none(database: LeaseTable) -> None:
    clock = Clock()

    async def take_too_long_once() -> None:
        if not database.registered:
            clock.now += 100

    database.before_register = take_too_long_once
    lease = make_lease(clock, heartbeat=1_000)
    keeping = await obtain(lease)

    assert database.registered == 2
    assert lease.worker_id == 2
    await end(keeping)


async def test_heartbeats_renew_it_and_say_what_is_owned(database: LeaseTable) -> None:
    clock = Clock()
    lease = make_lease(clock)
    database.owned = frozenset({7, 8})
    work = Work()
    keeping = asyncio.create_task(lease.keep(work))

    for _ in range(5):
        renewed = database.renewed
        await eventually(lambda before=renewed: database.renewed > before + 1, "a heartbeat")  # type: ignore[misc]
        clock.now += 10

    assert current_id(lease) == 1
    assert work.lost == 0
    assert work.renewals[0] == (frozenset({7}), frozenset({7, 8}))
    await end(keeping)


async def test_a_lease_that_postgresql_says_has_run_out_is_lost_at_once_and_replaced(database: LeaseTable) -> None:
    lease = make_lease()
    work = Work()
    keeping = asyncio.create_task(lease.keep(work))
    await eventually(lambda: database.renewed > 0, "a heartbeat")

    async def run_out_once() -> None:
        database.owned = frozenset() if work.lost else None

    database.before_renew = run_out_once
    await eventually(lambda: lease.worker_id == 2, "there is a new lease")
    assert work.lost == 1

    assert database.handed_back == [1]
    assert database.retired == [1]
    await end(keeping)


@pytest.mark.parametrize("failure", ["hangs", "fails"])
async def test_a_renewal_that_does_not_succeed_loses_the_lease_in_time(database: LeaseTable, failure: str) -> None:
    async def fail() -> None:
        if failure == "hangs":
            await asyncio.Event().wait()
        raise OperationalError("statement", {}, ConnectionError())

    async def stay_away() -> None:
        if database.registered:
            raise OperationalError("statement", {}, ConnectionError())

    lease = make_lease(seconds=FENCE_SECONDS + 0.3)
    work = Work()
    database.before_register = stay_away
    keeping = asyncio.create_task(lease.keep(work))
    await asyncio.wait_for(lease.obtained.wait(), 10)

    database.before_renew = fail
    await eventually(lambda: work.lost == 1, "the lease is lost")
    assert current_id(lease) is None
    database.before_register = database.before_renew = None
    await eventually(lambda: lease.worker_id == 2, "there is a new lease")
    assert work.lost == 1
    await end(keeping)


async def test_retiring_hands_back_and_ends_the_lease(database: LeaseTable) -> None:
    lease = make_lease()
    await end(await obtain(lease))

    await lease.retire()

    assert current_id(lease) is None
    assert database.handed_back == [1]
    assert database.retired == [1]


async def test_a_defect_is_not_taken_for_an_outage(database: LeaseTable) -> None:
    async def break_down() -> None:
        raise LookupError("a defect")

    lease = make_lease()
    database.before_renew = break_down

    with pytest.raises(LookupError):
        await asyncio.wait_for(lease.keep(Work()), 10)
