import asyncio
from collections.abc import Callable

import pytest

from api_service.readiness import AbsentError, Check, Helper, Readiness, Report


def check(result: bool | Exception, calls: list[object] | None = None) -> Check:
    async def run() -> bool:
        if calls is not None:
            calls.append(result)
        if isinstance(result, Exception):
            raise result
        return result

    return run


async def hangs() -> bool:
    await asyncio.Event().wait()
    return True


@pytest.mark.parametrize(
    ("database", "model", "report"),
    [
        (check(True), check(True), Report(ready=True, degraded=[])),
        (check(True), check(False), Report(ready=True, degraded=[Helper.MODEL])),
        (check(True), check(OSError()), Report(ready=True, degraded=[Helper.MODEL])),
        (
            check(True),
            check(AbsentError("model_server_denied", "check ASKMESH_MODEL_API_KEY")),
            Report(ready=True, degraded=[Helper.MODEL], reasons={Helper.MODEL: "model_server_denied"}),
        ),
        (check(AbsentError("no", "no")), check(True), Report(ready=False, degraded=[])),
        (check(False), check(True), Report(ready=False, degraded=[])),
        (check(OSError()), check(False), Report(ready=False, degraded=[Helper.MODEL])),
        (check(True), hangs, Report(ready=True, degraded=[Helper.MODEL])),
        (hangs, hangs, Report(ready=False, degraded=[Helper.MODEL])),
    ],
)
async def test_only_the_database_decides(database: Check, model: Check, report: Report) -> None:
    checks = {Helper.BROKER: check(True), Helper.MODEL: model}
    assert await Readiness(database, checks).report() == report


async def test_many_probes_cost_one_round_of_checks() -> None:
    calls: list[object] = []
    probe = Readiness(check(True, calls), {})
    await asyncio.gather(*(probe.report() for _ in range(50)))
    await probe.report()
    assert len(calls) == 1


async def test_a_report_does_not_grow_old(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 1_000.0
    clock: Callable[[], float] = lambda: now  # noqa: E731
    monkeypatch.setattr("api_service.readiness.time.monotonic", clock)
    calls: list[object] = []
    probe = Readiness(check(True, calls), {})
    await probe.report()
    now += 1.1
    await probe.report()
    assert len(calls) == 2


async def test_why_something_is_absent_is_logged_when_it_changes(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    now = 1_000.0
    monkeypatch.setattr("api_service.readiness.time.monotonic", lambda: now)
    whys = iter(["check the key"] * 3 + ["lists no model"] * 2 + [""])

    async def model() -> bool:
        if why := next(whys):
            raise AbsentError("absent", why)
        return True

    probe = Readiness(check(True), {Helper.MODEL: model})
    for _ in range(6):
        await probe.report()
        now += 2
    assert caplog.messages == [
        "model is degraded: check the key",
        "model is degraded: lists no model",
        "model is not degraded any more for that reason",
    ]
