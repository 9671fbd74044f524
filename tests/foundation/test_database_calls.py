"""What is done about PostgreSQL's errors: once more, again and again, or nothing."""

import logging
from collections.abc import Callable

import asyncpg
import pytest
from pydantic import SecretStr
from sqlalchemy.exc import DBAPIError

from foundation.postgresql import database as module
from foundation.postgresql.database import Database, DatabaseUnavailableError, create_engine
from foundation.reachability import Reachability
from foundation.settings import DatabaseSettings


def lost(cause: Exception | None = None) -> DBAPIError:
    """The connection of a statement is lost."""
    error = cause or asyncpg.ConnectionDoesNotExistError()
    return DBAPIError("SELECT", {}, error, connection_invalidated=True)


REFUSED = ConnectionRefusedError
DEFECT = asyncpg.SyntaxOrAccessError


class Operation:
    """Fails so often, then returns what it was given."""

    def __init__(self, *errors: Exception) -> None:
        self.errors = list(errors)
        self.runs = 0

    async def run(self, value: int = 7) -> int:
        self.runs += 1
        if self.errors:
            raise self.errors.pop(0)
        return value


@pytest.fixture
def database() -> Database:
    engine = create_engine(DatabaseSettings(database_url=SecretStr("postgresql://nowhere/none")), "tests")
    return Database(engine, Reachability.of("PostgreSQL", "tests wait"))


async def test_arguments_are_handed_on(database: Database) -> None:
    assert await database.call(Operation().run, 8) == 8
    assert await database.read(Operation().run, value=9) == 9


@pytest.mark.parametrize(
    "error",
    [REFUSED(), lost(), asyncpg.InvalidPasswordError(), asyncpg.CannotConnectNowError(), asyncpg.UndefinedTableError()],
)
async def test_an_outage_is_one_error_whatever_it_came_by(database: Database, error: Exception) -> None:
    operation = Operation(error, error)
    with pytest.raises(DatabaseUnavailableError) as unavailable:
        await database.call(operation.run)
    assert unavailable.value.__cause__ is error
    assert operation.runs == 1


async def test_the_error_is_what_the_service_wants(database: Database) -> None:
    class OursError(Exception):
        pass

    ours = Database(database.engine, database.reachability, unavailable=OursError)
    with pytest.raises(OursError):
        await ours.call(Operation(REFUSED()).run)


async def test_what_may_be_done_twice_is_when_its_connection_is_lost(database: Database) -> None:
    operation = Operation(lost())
    assert await database.read(operation.run) == 7
    twice = Operation(lost(), lost())
    with pytest.raises(DatabaseUnavailableError):
        await database.read(twice.run)
    assert (operation.runs, twice.runs) == (2, 2)


async def test_what_a_read_only_server_refused_is_done_once_more(database: Database) -> None:
    operation = Operation(lost(asyncpg.ReadOnlySQLTransactionError()))
    assert await database.call(operation.run) == 7


@pytest.mark.parametrize("how", ["call", "read", "retry"])
async def test_a_defect_is_raised_as_it_is(database: Database, how: str) -> None:
    operation = Operation(DEFECT())
    run: Callable[..., object] = getattr(database, how)
    with pytest.raises(DEFECT):
        await run(operation.run)  # type: ignore[misc] # each is awaited
    assert operation.runs == 1


async def test_what_has_to_be_written_is_tried_until_it_is(
    database: Database, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    monkeypatch.setattr(module, "_RETRY_SECONDS", 0.0)
    operation = Operation(REFUSED(), lost(), TimeoutError())
    assert await database.retry(operation.run) == 7
    assert [record.getMessage() for record in caplog.records] == [
        "PostgreSQL does not answer (nobody listens there (ConnectionRefusedError)): tests wait",
        "PostgreSQL answers again",
    ]


async def test_who_does_not_want_it_any_more_waits_no_longer(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_RETRY_SECONDS", 0.0)
    operation = Operation(REFUSED(), REFUSED(), REFUSED())
    assert await database.retry(operation.run, while_true=lambda: operation.runs < 2) is None
    assert operation.runs == 2


async def test_an_attempt_notes_failures_and_goes_on(database: Database) -> None:
    for error in (REFUSED(), DEFECT()):
        with database.attempt() as attempt:
            raise error
        assert attempt.failed
        assert not database.reachability.reachable
    with database.attempt() as attempt:
        pass
    assert not attempt.failed
    assert database.reachability.reachable
    with pytest.raises(ZeroDivisionError), database.attempt():
        raise ZeroDivisionError
