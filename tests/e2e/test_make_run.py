"""One question through every service, answered by a real language model."""

import asyncio
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from askmesh.llm.v1 import generation_pb2
from askmesh_client import GenerationClient

from tests.e2e.locked import FOLDER
from tests.mesh import Mesh

pytestmark = pytest.mark.e2e

ROOT = Path(__file__).parents[2]
CAPITALS = {
    "Australia": "Canberra",
    "Austria": "Vienna",
    "Canada": "Ottawa",
    "China": "Beijing",
    "Egypt": "Cairo",
    "France": "Paris",
    "Germany": "Berlin",
    "Greece": "Athens",
    "Italy": "Rome",
    "Japan": "Tokyo",
    "Norway": "Oslo",
    "Poland": "Warsaw",
    "Portugal": "Lisbon",
    "Russia": "Moscow",
    "Spain": "Madrid",
    "Sweden": "Stockholm",
}


@pytest.fixture(scope="module")
def mesh(processes: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mesh]:
    """Each service finds only what its own lock installs, as in its container."""
    with Mesh(tmp_path_factory.mktemp("mesh"), {"PYTHONPATH": str(FOLDER)}) as mesh:
        yield mesh


async def asked(session: aiohttp.ClientSession, mesh: Mesh, words: str) -> str:
    """Ask as a user would; the path of the answer."""
    async with session.post(f"{mesh.api}/api/ask", json={"question_text": words}) as reply:
        assert reply.status == 202, await reply.text()
        return reply.headers["Location"]


async def answer_at(session: aiohttp.ClientSession, mesh: Mesh, location: str) -> dict[str, Any]:
    """Poll until the answer is there."""
    async with asyncio.timeout(60):
        while True:
            async with session.get(f"{mesh.api}{location}") as reply:
                answer: dict[str, Any] = await reply.json()
            if answer["status"] not in ("queued", "in_progress"):
                return answer
            await asyncio.sleep(0.1)


async def answered(session: aiohttp.ClientSession, mesh: Mesh, words: str) -> dict[str, Any]:
    return await answer_at(session, mesh, await asked(session, mesh, words))


async def test_a_real_model_names_most_capitals(mesh: Mesh) -> None:
    """10 of 16 is what a model of 135 million parameters can be relied upon for; 14 were seen."""
    async with aiohttp.ClientSession() as session:
        answers = await asyncio.gather(
            *(answered(session, mesh, f"What is the capital of {country}?") for country in CAPITALS)
        )
    named = {c: a for (c, capital), a in zip(CAPITALS.items(), answers, strict=True) if capital in a["answer_text"]}
    assert len(named) >= 10, answers
    for answer in answers:
        assert answer["status"] == "completed", answer
        assert answer["finish_reason"] == "stop"
        assert answer["usage"]["prompt_tokens"] > 0
        assert answer["usage"]["completion_tokens"] > 0


async def test_the_same_question_again_gets_the_answer_that_is_there(mesh: Mesh) -> None:
    """What was asked first, of a mesh that has just started, is reused as well."""
    words = {"question_text": "What is the capital of France?"}
    async with aiohttp.ClientSession() as session:
        async with session.post(f"{mesh.api}/api/ask", json=words) as reply:
            first = await answer_at(session, mesh, reply.headers["Location"])
        async with session.post(f"{mesh.api}/api/ask", json=words) as reply:
            again = await reply.json()
    assert (again["cached"], again["answer_text"]) == (True, first["answer_text"])
    assert first["model"]


async def test_everything_is_ready_and_nothing_is_degraded(mesh: Mesh) -> None:
    async with aiohttp.ClientSession() as session, session.get(f"{mesh.api}/readyz") as reply:
        assert (reply.status, await reply.json()) == (200, {"status": "ready", "degraded": []})


async def test_a_question_longer_than_the_models_context_fails_with_a_reason(mesh: Mesh) -> None:
    async with aiohttp.ClientSession() as session:
        answer = await answered(session, mesh, "\u5b78" * 8_000)
    assert answer["status"] == "failed", answer
    assert answer["error"]["reason"] == "context_too_long"


def test_the_operators_command_finds_the_database(mesh: Mesh) -> None:
    listed = subprocess.run(
        [sys.executable, "-m", "operations", "questions", "list", "all"],
        env=os.environ | {"ASKMESH_DATA_DIR": str(mesh.data_dir)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (listed.returncode, "completed" in listed.stdout) == (0, True), listed.stderr


async def test_the_readmes_generation_names_the_capital(mesh: Mesh) -> None:
    spec = generation_pb2.GenerationSpec(
        messages=[generation_pb2.Message(role=generation_pb2.ROLE_USER, content="What is the capital of Japan?")],
        sampling=generation_pb2.Sampling(temperature=0),
        max_output_tokens=24,
    )
    async with GenerationClient(mesh.grpc.replace("localhost", "127.0.0.1")) as client:
        answer = await client.generate(spec, timeout=60)
    assert "Tokyo" in answer.text
    assert answer.finish_reason == generation_pb2.FINISH_REASON_STOP


def test_the_clients_readme_example_works(mesh: Mesh) -> None:
    readme = (ROOT / "protos" / "python" / "README.md").read_text()
    example = readme.partition("```python\n")[2].partition("```")[0].replace("127.0.0.1:50051", mesh.grpc)
    ran = subprocess.run([sys.executable, "-c", example], capture_output=True, text=True, check=False)
    assert (ran.returncode, "Paris" in ran.stdout) == (0, True), ran.stderr


async def test_a_question_asked_before_everything_was_killed_is_answered_after_the_next_start(mesh: Mesh) -> None:
    """Comes last: the mesh has other addresses afterwards."""
    async with aiohttp.ClientSession() as session:
        location = await asked(session, mesh, "What is the capital of Hungary, and which river does it lie on?")
        mesh.kill_everything()
        mesh.start()
        answer = await answer_at(session, mesh, location)
    assert answer["status"] == "completed", answer
    assert answer["usage"]["completion_tokens"] > 0
