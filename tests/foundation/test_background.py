"""Parts of a process that break."""

import asyncio
import logging
from collections.abc import AsyncIterator, Callable

import pytest

from foundation.background import Background, log_when_broken
from foundation.logs import TRACE
from foundation.settings import SettingsError


@pytest.fixture(autouse=True)
def _hurried(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("foundation.background._PAUSE_SECONDS", 0.001)
    monkeypatch.setattr("foundation.background._LONGEST_PAUSE_SECONDS", 0.002)


@pytest.fixture
async def background() -> AsyncIterator[Background]:
    background = Background()
    yield background
    await background.close()


class Part:
    """Breaks so often, then runs."""

    def __init__(self, *defects: BaseException) -> None:
        self.defects = list(defects)
        self.starts = 0
        self.runs = asyncio.Event()

    async def run(self) -> None:
        self.starts += 1
        if self.defects:
            raise self.defects.pop(0)
        self.runs.set()
        await asyncio.Event().wait()


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(30):
        while not condition():
            await asyncio.sleep(0.001)


@pytest.mark.parametrize(
    "defect", [ValueError("secret"), RuntimeError("secret"), asyncio.CancelledError("secret"), TimeoutError("secret")]
)
async def test_a_part_that_breaks_is_started_again_and_its_defect_is_logged_without_what_it_held(
    background: Background, caplog: pytest.LogCaptureFixture, defect: BaseException
) -> None:
    part = Part(defect, defect)
    background.run("trying", part.run)
    await asyncio.wait_for(part.runs.wait(), 30)
    assert part.starts == 3
    assert background.broken == []
    assert [record.levelno for record in caplog.records] == [logging.ERROR] * 2
    assert f"trying broke: {type(defect).__name__}" in caplog.text
    assert all("raise self.defects.pop(0)" in record.__dict__[TRACE] for record in caplog.records)
    assert all("secret" not in record.__dict__[TRACE] for record in caplog.records)
    assert "secret" not in caplog.text


async def test_a_part_that_always_breaks_makes_the_process_broken_and_is_still_started() -> None:
    told: list[str] = []
    background = Background(lambda: told.append("broken"))
    sound, part = Part(), Part(*[ValueError()] * 20)
    background.run("sound", sound.run)
    background.run("broken", part.run)
    await until(lambda: background.broken)
    assert part.starts >= 5
    assert background.broken == ["broken"]
    await asyncio.wait_for(part.runs.wait(), 30)
    assert told == ["broken"]
    await background.close()


async def test_a_part_that_has_run_long_enough_is_sound_again(
    background: Background, monkeypatch: pytest.MonkeyPatch
) -> None:
    part = Part(*[ValueError()] * 6)
    background.run("trying", part.run)
    await until(lambda: background.broken == ["trying"])
    monkeypatch.setattr("foundation.background._SOUND_SECONDS", 0.01)
    await until(lambda: background.broken == [])
    assert part.starts == 7


async def test_a_part_that_returns_has_done_what_it_had_to(background: Background) -> None:
    calls = 0

    async def once() -> None:
        nonlocal calls
        calls += 1

    background.run("once", once)
    await until(lambda: not background._jobs)
    assert calls == 1
    assert background.broken == []


async def test_a_setting_that_is_wrong_is_told_at_once_and_not_tried_again(
    background: Background, caplog: pytest.LogCaptureFixture
) -> None:
    part = Part(SettingsError("ASKMESH_PORT: is in use"))
    background.run("listening", part.run)
    await until(lambda: not background._jobs)
    assert (part.starts, background.broken) == (1, ["listening"])
    assert "listening cannot run: ASKMESH_PORT: is in use" in caplog.text


async def test_closing_ends_parts_whatever_they_make_of_it_and_those_that_pause() -> None:
    background = Background()
    swallowed = asyncio.Event()

    async def swallows() -> None:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            swallowed.set()
        await asyncio.Event().wait()

    background.run("swallows", swallows)
    background.run("runs", Part().run)
    background.run("breaks", Part(*[ValueError()] * 1_000_000).run)
    await until(lambda: background.broken)
    await asyncio.wait_for(background.close(), 30)
    assert swallowed.is_set()


async def test_a_task_that_nobody_awaits_does_not_end_by_a_defect_in_silence(caplog: pytest.LogCaptureFixture) -> None:
    task = asyncio.create_task(Part(ValueError("secret")).run())
    log_when_broken(task, "one thing")
    await asyncio.wait({task})
    await until(lambda: "one thing broke: ValueError" in caplog.text)
    assert "secret" not in caplog.text
