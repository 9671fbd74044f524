import asyncio
from collections.abc import Awaitable, Callable

import pytest

from api_service.health.readiness import AbsentError, Check, Helper, Readiness, Report


def check(result: bool | Exception, calls: list[object] | None = None) -> Check:
    async def run() -> bool:
        if calls is not None:
            calls.append(result)
        if isinstance(result, Exception):
            raise result
        return result

    return run


def database(problem: str | Exception) -> Callable[[], Awaitable[str]]:
    async def run() -> str:
        if isinstance(problem, Exception):
            raise problem
        return problem

    return run


async def hangs() -> bool:
    await asyncio.Event().wait()
    return True


async def hangs_too() -> str:
    await asyncio.Event().wait()
    return ""


@pytest.mark.parametrize(
    ("look", "model", "report"),
    [
        (database(""), check(True), Report(problem="", degraded=[])),
        (database(""), check(False), Report(problem="", degraded=[Helper.MODEL])),
        (database(""), check(OSError()), Report(problem="", degraded=[Helper.MODEL])),
        (
            database(""),
            check(AbsentError("model_server_denied", "check ASKMESH_MODEL_API_KEY")),
            Report(problem="", degraded=[Helper.MODEL], reasons={Helper.MODEL: "model_server_denied"}),
        ),
        (database("it is read-only"), check(True), Report(problem="it is read-only", degraded=[])),
        (database(KeyError()), check(False), Report(problem="KeyError", degraded=[Helper.MODEL])),
        (database(""), hangs, Report(problem="", degraded=[Helper.MODEL])),
        (hangs_too, hangs, Report(problem="it does not answer within 1 s", degraded=[Helper.MODEL])),
    ],
)
async def test_only_the_database_decides(look: Callable[[], Awaitable[str]], model: Check, report: Report) -> None:
    checks = {Helper.BROKER: check(True), Helper.MODEL: model}
    assert await Readiness(look, checks).report() == report


async def test_many_probes_cost_one_round_of_checks() -> None:
    calls: list[object] = []
    probe = Readiness(database(""), {Helper.MODEL: check(True, calls)})
    await asyncio.gather(*(probe.report() for _ in range(50)))
    await probe.report()
    assert len(calls) == 1


async def test_a_report_does_not_grow_old(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 1_000.0
    clock: Callable[[], float] = lambda: now  # noqa: E731
    monkeypatch.setattr("api_service.health.readiness.time.monotonic", clock)
    calls: list[object] = []
    probe = Readiness(database(""), {Helper.MODEL: check(True, calls)})
    await probe.report()
    now += 1.1
    await probe.report()
    assert len(calls) == 2


async def test_why_something_is_absent_is_logged_when_it_changes(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    now = 1_000.0
    monkeypatch.setattr("api_service.health.readiness.time.monotonic", lambda: now)
    whys = iter(["check the key"] * 3 + ["lists no model"] * 2 + [""])

    async def model() -> bool:
        if why := next(whys):
            raise AbsentError("absent", why)
        return True

    probe = Readiness(database(""), {Helper.MODEL: model})
    for _ in range(6):
        await probe.report()
        now += 2
    assert caplog.messages == [
        "model is degraded: check the key",
        "model is degraded: lists no model",
        "model is not degraded any more for that reason",
    ]
