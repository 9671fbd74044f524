"""schemathesis plays two tenants at once, from the OpenAPI document: all its checks, and two of ours."""

import asyncio
import json
import sys
import sysconfig
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from sqlalchemy.ext.asyncio import AsyncEngine

from embedded.valkey import Valkey
from foundation.redis import MeshRedis
from tests.fuzz.report import Report
from tests.fuzz.stage import Tenant, two_tenants

_HOOKS = Path(__file__).with_name("hooks.py")
_SCHEMATHESIS = Path(sysconfig.get_path("scripts"), "schemathesis")
_ALL, _RANDOM = "examples,coverage,fuzzing,stateful", "fuzzing,stateful"
# Cases of an operation, and chains of calls, at a time.
_QUICK, _QUICK_CHAINS = 2, 8
_THOROUGH = 50


async def test_two_tenants_send_what_the_document_allows_and_what_not(
    database_url: str,
    valkey: Valkey,
    engine: AsyncEngine,
    redis: MeshRedis,
    tmp_path: Path,
    seed: int,
    seconds: int | None,
    report: Report,
) -> None:
    async with two_tenants(database_url, valkey, engine, redis) as (url, alice, bob):
        runs = await asyncio.gather(
            _play(url, alice, bob, tmp_path, seed, seconds, _ALL),
            _play(url, bob, alice, tmp_path, seed + 1, seconds, _RANDOM if seconds is None else _ALL),
        )
    for status, output in runs:
        assert status in (0, 1), output
    for tenant in (alice, bob):
        _count(tmp_path / f"{tenant.name}.ndjson", report)
    for status, output in runs:
        assert status == 0, output
    assert report.failures == 0


async def _play(
    url: str, tenant: Tenant, stranger: Tenant, folder: Path, seed: int, seconds: int | None, phases: str
) -> tuple[int | None, str]:
    """The exit status of schemathesis, and what it printed: each failure with a command that repeats it."""
    users = [
        {"name": one.name, "fixedHeaders": [{"name": "Authorization", "value": f"Bearer {one.key}"}]}
        for one in (tenant, stranger)
    ]
    auth, config = folder / f"{tenant.name}.auth.json", folder / f"{tenant.name}.toml"
    auth.write_text(json.dumps({"auth": users}))
    config.write_text(
        "request-timeout = 20\nmax-stream-events = 50\n"
        f'[auth.wfc]\npath = "{auth}"\nuser = "{tenant.name}"\npeers = ["{tenant.name}", "{stranger.name}"]\n'
        f"[phases.stateful.generation]\nmax-examples = {_QUICK_CHAINS if seconds is None else _THOROUGH}\n"
    )
    limits = (
        ["--max-examples", str(_QUICK), "--generation-deterministic"]
        if seconds is None
        else ["--max-examples", str(_THOROUGH), "--max-time", str(seconds), "--generation-database", "none"]
    )
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, _SCHEMATHESIS, "--no-color", "--config-file", config, "run", f"{url}/openapi.json"),
        *("--checks", "all", "--phases", phases, "--seed", str(seed), *limits, "--continue-on-failure"),
        *("--report", "ndjson", "--report-ndjson-path", folder / f"{tenant.name}.ndjson"),
        cwd=folder,
        env={
            "SCHEMATHESIS_HOOKS": str(_HOOKS),
            "FUZZ_MARK": tenant.mark,
            "FUZZ_QUESTION_IDS": ",".join(map(str, tenant.question_ids)),
            "FUZZ_STRANGER_MARK": stranger.mark,
            "FUZZ_STRANGER_QUESTION_IDS": ",".join(map(str, stranger.question_ids)),
        },
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    try:
        output, _ = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    return process.returncode, output.decode()


def _count(file: Path, report: Report) -> None:
    for recorder in _recorders(file):
        for case_id, interaction in recorder.get("interactions", {}).items():
            case = recorder["cases"][case_id]["value"]
            response = interaction["response"]
            status = str(response["status_code"]) if response else "none"
            probe = case["meta"]["phase"]["data"].get("scenario") == "unspecified_http_method"
            operation = "methods that a path does not take" if probe else f"{case['method']} {case['path']}"
            report.count(operation, status)
            if any(check["status"] == "failure" for check in recorder["checks"].get(case_id, ())):
                report.fail(operation)


def _recorders(file: Path) -> Iterator[dict[str, Any]]:
    with file.open() as lines:
        for line in lines:
            ((kind, event),) = json.loads(line).items()
            if kind == "ScenarioFinished":
                yield event["recorder"]
