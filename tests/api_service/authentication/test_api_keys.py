"""What is remembered of keys, and for how long."""

import asyncio
from collections.abc import AsyncIterator
from datetime import timedelta
from typing import cast

import pytest
import pytest_asyncio
from pydantic import SecretStr
from sqlalchemy import event
from sqlalchemy.ext.asyncio import AsyncEngine

from api_service.authentication import api_keys
from api_service.authentication.api_keys import ApiKeys
from api_service.core.database import unavailable
from api_service.core.errors import ErrorCode, ServiceError
from api_service.core.principal import Principal
from foundation.postgresql.database import Database, create_engine
from foundation.postgresql.fair_pool import FairPool
from foundation.reachability import Reachability
from foundation.settings import DatabaseSettings
from owners.api_keys import ValidKey, create, find, hash_of, new_key, revoke
from owners.roles import Role
from tests.questions.actors import rows

pytestmark = pytest.mark.asyncio(loop_scope="module")


class Statements:
    """Counts what is asked of PostgreSQL."""

    def __init__(self, engine: AsyncEngine) -> None:
        self.count = 0
        event.listen(engine.sync_engine, "before_cursor_execute", self._note)

    def _note(self, *_: object) -> None:
        self.count += 1


class Clock:
    """The event loop's time, put forward at will."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.ahead = 0.0
        loop = asyncio.get_running_loop()
        real = loop.time
        monkeypatch.setattr(loop, "time", lambda: real() + self.ahead)


@pytest_asyncio.fixture(loop_scope="module")
async def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return Clock(monkeypatch)


def database_of(engine: AsyncEngine) -> Database:
    return Database(engine, Reachability.of("PostgreSQL", "tests wait"), unavailable=unavailable)


@pytest_asyncio.fixture(loop_scope="module")
async def keys(api_engine: AsyncEngine) -> AsyncIterator[ApiKeys]:
    keys = ApiKeys(database_of(api_engine))
    yield keys
    await keys.close()


async def test_a_key_is_looked_up_once_and_again_before_it_counts_as_old(
    api_engine: AsyncEngine, keys: ApiKeys, clock: Clock
) -> None:
    key, made = await create(api_engine, "acme", Role.OPERATOR)
    statements = Statements(api_engine)
    for _ in range(100):
        assert await keys.principal(key) == Principal("acme", Role.OPERATOR, made.id)
    assert statements.count == 1
    clock.ahead += 2.5
    assert await keys.principal(key) is not None
    assert statements.count == 1  # it did not wait for the second
    await keys.close()
    assert statements.count == 2
    clock.ahead += 3
    assert await keys.principal(key) is not None  # of the second
    await keys.close()


async def test_a_revoked_key_is_refused_within_five_seconds(
    api_engine: AsyncEngine, keys: ApiKeys, clock: Clock
) -> None:
    key, made = await create(api_engine, "acme", Role.USER)
    assert await keys.principal(key) is not None
    await revoke(api_engine, made.id)
    clock.ahead += 4.0
    assert await keys.principal(key) is None


async def test_it_is_refused_as_soon_as_it_expires(api_engine: AsyncEngine, keys: ApiKeys, clock: Clock) -> None:
    key, made = await create(api_engine, "acme", Role.USER, timedelta(seconds=3.5))
    assert await keys.principal(key) is not None
    # Both clocks 3.5 s on, which is less than an answer is believed for: PostgreSQL's is nobody's to put forward.
    await rows(api_engine, "UPDATE api_keys SET expires_at = clock_timestamp() WHERE id = :id RETURNING id", id=made.id)
    clock.ahead += 3.5
    assert await keys.principal(key) is None


async def test_a_new_key_works_although_it_was_tried_before(
    api_engine: AsyncEngine, keys: ApiKeys, clock: Clock
) -> None:
    key = new_key()
    assert await keys.principal(key) is None
    keys._unknown.clear()
    await asyncio.sleep(0)
    assert await keys.principal(key) is None
    clock.ahead += 4.1
    statements = Statements(api_engine)
    assert await keys.principal(key) is None
    assert statements.count == 1


async def test_nothing_is_believed_for_longer_while_postgresql_is_away(keys: ApiKeys, clock: Clock) -> None:
    gone = create_engine(DatabaseSettings(database_url=SecretStr("postgresql://me@127.0.0.1:1/none")), "tests")
    key = new_key()
    away = ApiKeys(database_of(gone))
    away._known[hash_of(key)] = api_keys._Known(
        Principal("acme", Role.USER), asyncio.get_running_loop().time(), asyncio.get_running_loop().time() + 4
    )
    assert await away.principal(key) is not None
    await away.close()
    clock.ahead += 4
    for _ in range(2):
        with pytest.raises(ServiceError) as refused:
            await away.principal(key)
        assert refused.value.code is ErrorCode.DATABASE_UNAVAILABLE
    await gone.dispose()


async def test_guessing_takes_one_connection_and_bounded_memory(
    api_engine: AsyncEngine, keys: ApiKeys, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(api_keys, "_MOST_UNKNOWN", 50)
    valid, _ = await create(api_engine, "acme", Role.USER)
    assert await keys.principal(valid) is not None
    statements = Statements(api_engine)
    checked_out: list[int] = []
    pool = cast(FairPool, api_engine.sync_engine.pool)
    event.listen(pool, "checkout", lambda *_: checked_out.append(pool.checkedout()))
    guesses = [new_key() for _ in range(900)]
    assert await asyncio.gather(*map(keys.principal, guesses)) == [None] * 900
    assert statements.count <= 2
    assert set(checked_out) == {1}
    assert len(keys._unknown) == 50
    assert await keys.principal(guesses[-1]) is None
    assert await keys.principal(valid) is not None
    assert statements.count <= 2
    assert await keys.principal("askmesh_guess") is None
    assert statements.count <= 2
    with pytest.raises(ServiceError):
        await asyncio.gather(*(keys.principal(new_key()) for _ in range(api_keys._MOST_WAITING + 1)))


async def test_whoever_leaves_takes_nobody_along(api_engine: AsyncEngine, keys: ApiKeys) -> None:
    key, _ = await create(api_engine, "acme", Role.USER)
    leaving, staying = (asyncio.create_task(keys.principal(key)) for _ in range(2))
    await asyncio.sleep(0)
    leaving.cancel()
    assert await staying is not None
    assert leaving.cancelled()


@pytest.mark.parametrize("ahead", [2.5, 4.5], ids=["still valid", "to be looked up again"])
async def test_however_many_guess_a_known_key_is_let_in(
    api_engine: AsyncEngine, keys: ApiKeys, clock: Clock, monkeypatch: pytest.MonkeyPatch, ahead: float
) -> None:
    valid, made = await create(api_engine, "acme", Role.USER)
    known = await keys.principal(valid)
    assert known is not None
    clock.ahead += ahead
    may_go_on, is_looking = asyncio.Event(), asyncio.Event()

    async def slow(api_engine: AsyncEngine, hashes: list[bytes]) -> dict[bytes, ValidKey]:
        is_looking.set()
        await may_go_on.wait()
        return await find(api_engine, hashes)

    monkeypatch.setattr(api_keys, "find", slow)
    guesses = [asyncio.create_task(keys.principal(new_key()))]
    await is_looking.wait()
    guesses += [asyncio.create_task(keys.principal(new_key())) for _ in range(1_001)]
    while len(keys._wanted) < api_keys._MOST_WAITING:
        await asyncio.sleep(0)
    asked = asyncio.create_task(keys.principal(valid))
    try:
        if ahead < api_keys._VALID_SECONDS:
            assert await asked == known, "before any look-up ends"
    finally:
        may_go_on.set()
    assert await asked == known
    outcomes = await asyncio.gather(*guesses, return_exceptions=True)
    assert any(isinstance(outcome, ServiceError) for outcome in outcomes), "whoever guesses too fast waits for nothing"
    assert known.key_id == made.id
