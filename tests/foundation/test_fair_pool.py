"""Waiting for a connection to PostgreSQL, in the order of arrival."""

import asyncio
from collections.abc import AsyncIterator

import pytest
from pydantic import SecretStr
from sqlalchemy import event
from sqlalchemy.exc import TimeoutError as PoolTimeoutError
from sqlalchemy.ext.asyncio import AsyncEngine

from foundation.postgresql.database import create_engine
from foundation.settings import DatabaseSettings


@pytest.fixture
async def small_engine(database_url: str) -> AsyncIterator[AsyncEngine]:
    """With one connection."""
    settings = DatabaseSettings(database_url=SecretStr(database_url)).model_copy(update={"database_pool_size": 1})
    engine = create_engine(settings, "tests")
    yield engine
    await engine.dispose()


class Users:
    """They use the one connection in turn, and note when they have it."""

    def __init__(self, engine: AsyncEngine) -> None:
        self._engine = engine
        self.order: list[str] = []

    async def use(self, name: str) -> None:
        async with self._engine.connect():
            self.order.append(name)


async def _until_waiting() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


async def test_a_newcomer_does_not_overtake(small_engine: AsyncEngine) -> None:
    users = Users(small_engine)
    async with small_engine.connect():
        waiting = [asyncio.create_task(users.use(f"waiting {number}")) for number in range(3)]
        await _until_waiting()
        assert users.order == []
    # Nothing has run since the connection came back: the first who waits for it has not seen it yet.
    await users.use("newcomer")
    await asyncio.gather(*waiting)

    assert users.order == ["waiting 0", "waiting 1", "waiting 2", "newcomer"]


async def test_who_gives_up_waiting_leaves_the_connection_to_the_next(small_engine: AsyncEngine) -> None:
    users = Users(small_engine)
    async with small_engine.connect():
        gone = asyncio.create_task(users.use("gone before"))
        gone_at_once = asyncio.create_task(users.use("gone when it was handed over"))
        patient = asyncio.create_task(users.use("patient"))
        await _until_waiting()
        gone.cancel()
        await _until_waiting()
        # It comes back a moment after this, and the cancelling is seen a moment after that.
        loop = asyncio.get_running_loop()
        event.listen(small_engine.sync_engine, "checkin", lambda *_: loop.call_soon(gone_at_once.cancel), once=True)
    await asyncio.gather(gone, gone_at_once, patient, return_exceptions=True)
    await users.use("later")

    assert users.order == ["patient", "later"]


async def test_waiting_for_too_long_is_an_error(small_engine: AsyncEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(small_engine.pool, "_timeout", 0.05)
    users = Users(small_engine)
    async with small_engine.connect():
        with pytest.raises(PoolTimeoutError):
            await users.use("late")
    await users.use("next")

    assert users.order == ["next"]
