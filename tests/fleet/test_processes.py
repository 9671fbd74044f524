"""Processes that look at one another."""

import logging

import pytest
from pydantic import SecretStr
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from fleet.processes import ProcessRecord, running, shown_settings
from foundation.settings import GenerationSettings, QuestionSettings, RedisSettings


@pytest.fixture(autouse=True)
async def _none(engine: AsyncEngine) -> None:
    async with engine.begin() as connection:
        await connection.execute(text("TRUNCATE processes"))


def record(engine: AsyncEngine, service: str, **settings: str) -> ProcessRecord:
    return ProcessRecord(engine, service, "1.0", settings, lambda: {"slots": 512})


async def test_a_process_is_seen_while_it_runs(engine: AsyncEngine) -> None:
    worker = record(engine, "worker_service", A="1")
    await worker.beat()
    await worker.beat()
    (seen,) = await running(engine)
    assert (seen.service, seen.version, seen.settings, seen.state) == (
        "worker_service",
        "1.0",
        {"A": "1"},
        {"slots": 512},
    )
    await worker.end()
    assert await running(engine) == []


async def test_one_that_is_silent_for_a_minute_does_not_count(engine: AsyncEngine) -> None:
    await record(engine, "worker_service").beat()
    async with engine.begin() as connection:
        await connection.execute(text("UPDATE processes SET seen_at = seen_at - interval '2 minutes'"))
    assert await running(engine) == []


async def test_who_has_another_setting_is_named_once_by_both(
    engine: AsyncEngine, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    api = record(engine, "api_service", LIMIT="512", ONLY_HERE="x")
    worker = record(engine, "worker_service", LIMIT="4")
    for _ in range(3):
        await api.beat()
        await worker.beat()
    told = [record.getMessage() for record in caplog.records]
    assert len(told) == 2
    assert told[0].startswith("LIMIT is '4' here and '512' in api_service ")
    assert told[1].startswith("LIMIT is '512' here and '4' in worker_service ")


async def test_a_difference_that_is_gone_may_come_back(engine: AsyncEngine, caplog: pytest.LogCaptureFixture) -> None:
    api = record(engine, "api_service", LIMIT="512")
    for _ in range(2):
        worker = record(engine, "worker_service", LIMIT="4")
        await worker.beat()
        await api.beat()
        await worker.end()
        await api.beat()
    assert sum("LIMIT is '512' here" in record.getMessage() for record in caplog.records) == 2


async def test_a_process_whose_row_is_gone_makes_another(engine: AsyncEngine) -> None:
    api = record(engine, "api_service")
    await api.beat()
    async with engine.begin() as connection:
        await connection.execute(text("TRUNCATE processes"))
    await api.beat()
    assert len(await running(engine)) == 1


def test_no_secret_and_no_long_text_is_shown() -> None:
    shown = shown_settings(
        [
            RedisSettings(redis_url=SecretStr("redis://me:hidden-password@cache:6379/3")),
            GenerationSettings(system_prompt="hidden " * 20, temperature=0.5),
            QuestionSettings(retention_days=3),
        ],
        exclude=["backlog_limit"],
    )
    assert shown["ASKMESH_REDIS_URL"] == "redis://cache:6379/3"
    assert shown["ASKMESH_TEMPERATURE"] == "0.5"
    assert shown["ASKMESH_SYSTEM_PROMPT"].startswith("sha256:")
    assert "ASKMESH_BACKLOG_LIMIT" not in shown
    assert "hidden" not in str(shown)


@pytest.mark.parametrize(
    "url", ["unix:///run/valkey.sock?db=0", "unix://:hidden@/run/valkey.sock", "redis://[::1]:6379"]
)
def test_any_url_can_be_shown(url: str) -> None:
    shown = shown_settings([RedisSettings(redis_url=SecretStr(url))])["ASKMESH_REDIS_URL"]
    assert "hidden" not in shown
    assert "valkey.sock" in shown or "6379" in shown


async def test_what_another_release_says_of_itself_is_read(
    engine: AsyncEngine, caplog: pytest.LogCaptureFixture
) -> None:
    api = record(engine, "api_service", LIMIT="512")
    await record(engine, "worker_service", LIMIT="512").beat()
    later = """UPDATE processes SET settings = '{"LIMIT": "512", "MODELS": ["small", "large"], "NEW": null}',
        state = '{"slots": {"used": 3, "of": 512}}'"""
    async with engine.begin() as connection:
        await connection.execute(text(later.replace(":", "\\:")))
    await api.beat()
    assert [process.state for process in await running(engine)] == [{"slots": 512}, {"slots": {"used": 3, "of": 512}}]
    assert caplog.records == []
