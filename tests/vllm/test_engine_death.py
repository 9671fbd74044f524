"""A vLLM whose engine dies in the middle of answers, as one does on a broken GPU, and comes back."""

import asyncio
import signal
from pathlib import Path

import psutil
import pytest
from askmesh.llm.v1.generation_pb2 import Sampling

from embedded.ports import free_port
from tests.llm_service.conftest import Answer, Client, ask, client_of
from tests.llm_service.processes import service_process
from tests.vllm.server import started

pytestmark = [pytest.mark.vllm, pytest.mark.timeout(600)]


def engine_of(pid: int) -> psutil.Process:
    return next(child for child in psutil.Process(pid).children() if "EngineCore" in " ".join(child.cmdline()))


async def answers_of_a_dying_server(client: Client) -> list[Answer]:
    """Ask every 50 ms until nobody listens any more."""
    answers: list[Answer] = []
    async with asyncio.timeout(60):
        while not answers or answers[-1].failure is None or "cannot be reached" not in answers[-1].failure.message:
            answers.append(await client.stream(ask("hello", max_output_tokens=1), timeout=30))
            await asyncio.sleep(0.05)
    return answers


async def test_an_engine_that_dies_breaks_off_what_it_had_begun_and_nothing_else(
    tmp_path: Path, figures: list[str]
) -> None:
    port = free_port()
    async with service_process(f"http://127.0.0.1:{port}/v1") as service, client_of(service.port) as client:
        with started(tmp_path / "log", port) as vllm:
            figures.append(f"ready after {vllm.ready_seconds:.0f} s")
            poems = [ask("Write a long poem.", sampling=Sampling(temperature=1, seed=seed)) for seed in range(4)]
            begun = [asyncio.create_task(client.stream(poem, timeout=60)) for poem in poems]
            await vllm.until_running(4)
            engine_of(vllm.pid).send_signal(signal.SIGKILL)
            asked_later = await answers_of_a_dying_server(client)
            for answer in await asyncio.gather(*begun):
                assert answer.failure is not None
                assert answer.failure.reason == "GENERATION_INTERRUPTED"
                assert answer.failure.metadata["engine_started"] == "true"
            failures = [answer.failure for answer in asked_later if answer.failure and answer.started is None]
            assert {failure.reason for failure in failures} == {"MODEL_SERVER_UNAVAILABLE"}
            assert not any("engine_started" in failure.metadata for failure in failures)
        with started(tmp_path / "log again", port) as vllm:
            figures.append(f"ready after {vllm.ready_seconds:.0f} s")
            answer = await client.stream(ask("hello", max_output_tokens=4), timeout=60)
            assert answer.completed is not None
