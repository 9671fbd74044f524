"""Questions, answers, keys and tokens stand in no log and in no error that a busy mesh writes, at DEBUG as at INFO.

The mesh runs with mutual TLS between its services, over a fake model server, which alone can fail in every way.
"""

import asyncio
import secrets
import signal
from collections.abc import AsyncIterator, Iterator, Sequence
from pathlib import Path
from typing import Any

import aiohttp
import orjson
import psutil
import pytest
import pytest_asyncio
from aiohttp import web

from tests.certificates import make_certificates, tls_environment
from tests.fakes.model_server import FakeModelServer
from tests.fakes.script import question_of
from tests.fakes.stream import error
from tests.mesh import Mesh

pytestmark = pytest.mark.asyncio(loop_scope="module")

MARK = secrets.token_hex(8)
"""Part of everything that is to stay unseen."""
FINAL = {"completed", "incomplete", "failed", "cancelled", "expired"}
FAULTS = (
    "[[fault=500 times=1]]",
    "[[fault=503 times=1]]",
    "[[fault=401 times=1]]",
    "[[fault=429 times=1 retry_after=0]]",
    "[[fault=context]]",
    "[[fault=garbage times=1]]",
    "[[fault=garbage-body times=1]]",
    "[[fault=not-http times=1]]",
    "[[fault=cut times=1 echo=3]]",
    "[[fault=error times=1 echo=3]]",
    "[[fault=huge times=1]]",
    "[[fault=no-finish times=1]]",
    "[[fault=close times=1]]",
)
QUOTED = (400, 404, 422, 500, 503)


def secret(name: str) -> str:
    return f"{name}-{MARK}"


class QuotingModelServer(FakeModelServer):
    """Quotes the question in its refusals, as gateways and content filters do."""

    async def _completions(self, request: web.Request) -> web.StreamResponse:
        question = question_of(orjson.loads(await request.read())["messages"][-1]["content"])
        if question.startswith("quote ") and self.of(question).requests == 0:
            self.of(question).requests += 1
            return error(int(question.split()[1]), f"the model will not answer {question!r}", "refused")
        return await super()._completions(request)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def model() -> AsyncIterator[FakeModelServer]:
    async with QuotingModelServer() as server:
        yield server


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("nothing-leaks")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def mesh(processes: None, model: FakeModelServer, folder: Path) -> AsyncIterator[Mesh]:
    settings = {
        "ASKMESH_LOG_LEVEL": "DEBUG",
        "ASKMESH_MODEL_URL": model.url,
        "ASKMESH_MODEL_API_KEY": secret("model-key"),
        "ASKMESH_SYSTEM_PROMPT": secret("system"),
        "ASKMESH_LLM_REPLICAS": "2",
    } | tls_environment(make_certificates(folder / "certificates"), "make_run")
    mesh = Mesh(folder / "data", settings)
    await asyncio.to_thread(mesh.start)
    try:
        yield mesh
    finally:
        assert await asyncio.to_thread(mesh.stop) == []


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def session(mesh: Mesh) -> AsyncIterator[aiohttp.ClientSession]:
    headers = {
        "Authorization": f"Bearer {secret('bearer')}",
        "X-API-Key": secret("api-key"),
        "Cookie": f"session={secret('cookie')}",
    }
    async with aiohttp.ClientSession(mesh.api, headers=headers) as session:
        yield session


async def ask(session: aiohttp.ClientSession, words: str) -> int:
    headers = {"Idempotency-Key": secret(f"idempotency-{secrets.token_hex(4)}")}
    async with session.post("/api/ask", json={"question_text": f"{words} {MARK}"}, headers=headers) as reply:
        assert reply.status == 202, await reply.text()
        found: int = (await reply.json())["question_id"]
        return found


async def end_of(session: aiohttp.ClientSession, question_id: int) -> dict[str, Any]:
    async with asyncio.timeout(60):
        while True:
            async with session.get(f"/api/answer/{question_id}?wait=20") as reply:
                answer: dict[str, Any] = await reply.json()
            if answer.get("status") in FINAL:
                return answer
            await asyncio.sleep(0.1)


def written(places: Sequence[Path]) -> Iterator[tuple[Path, str]]:
    for place in places:
        for file in sorted(place.rglob("*")) if place.is_dir() else [place]:
            if file.is_file():
                yield file, file.read_text(errors="replace")


async def test_questions_are_answered_and_their_ways_to_fail_are_gone_through(session: aiohttp.ClientSession) -> None:
    asked = [await ask(session, f"echoed {number} [[echo=2]]") for number in range(5)]
    asked += [await ask(session, f"number {number} {fault}") for number, fault in enumerate(FAULTS)]
    asked += [await ask(session, f"quote {status}") for status in QUOTED]
    answers = await asyncio.gather(*(end_of(session, question_id) for question_id in asked))
    assert all(MARK in answer["answer_text"] for answer in answers[:5])
    states = [answer["status"] for answer in answers]
    assert states.count("failed") >= 3
    assert states.count("completed") >= 12
    held = await ask(session, "to be cancelled [[hold=1 tokens=9]]")
    async with session.post(f"/api/answer/{held}/cancel") as reply:
        assert reply.status == 200
    async with session.get(f"/api/answer/{asked[0]}/events") as reply:
        assert MARK in await reply.text()


async def test_errors_do_not_quote_what_was_sent(session: aiohttp.ClientSession) -> None:
    json = {"Content-Type": "application/json"}
    text = secret("text")
    refused: list[tuple[str, str, dict[str, Any]]] = [
        ("POST", "/api/ask", {"data": f'{{"question_text": "{text}', "headers": json}),
        ("POST", "/api/ask", {"data": f'["{text}"]', "headers": json}),
        ("POST", "/api/ask", {"data": f"{text}", "headers": json}),
        ("POST", "/api/ask", {"json": {"question_text": [text]}}),
        ("POST", "/api/ask", {"json": {"question_text": text * 9_000}}),
        ("POST", "/api/ask", {"json": {"question_text": f"{text}\0"}}),
        ("POST", "/api/ask", {"json": {"question_text": text, "max_wait_seconds": text}}),
        ("POST", "/api/ask", {"json": {"question_text": text, "other": text}}),
        ("POST", "/api/ask", {"json": {"question_text": text}, "headers": {"Idempotency-Key": f"{text} {text}"}}),
        ("POST", "/api/ask", {"data": text.encode(), "headers": {"Content-Encoding": "gzip"} | json}),
        ("GET", f"/api/answer/1?wait={text}", {}),
        ("GET", "/api/answer/1/events", {"headers": {"Last-Event-ID": text}}),
    ]
    for method, path, how in refused:
        async with session.request(method, path, **how) as reply:
            body = await reply.text()
            assert 400 <= reply.status < 500, (path, how)
            assert MARK not in body, body
    key = secret("key-of-two")
    for words in ("first", "second"):
        async with session.post(
            "/api/ask", json={"question_text": f"{words} {MARK}"}, headers={"Idempotency-Key": key}
        ) as reply:
            status, body = reply.status, await reply.text()
    assert (status, MARK in body) == (422, False)


async def test_a_database_that_goes_away_quotes_nothing_either(session: aiohttp.ClientSession, mesh: Mesh) -> None:
    psutil.Process(mesh.processes()["postgresql"]).send_signal(signal.SIGKILL)
    statuses: list[int] = []
    async with asyncio.timeout(60):
        # For a moment after its postmaster was killed a backend can still serve.
        while 503 not in statuses or statuses[-1] != 202:
            async with session.post("/api/ask", json={"question_text": f"during an outage {MARK}"}) as reply:
                statuses.append(reply.status)
                body = await reply.text()
                assert reply.status == 202 or MARK not in body, body
            await asyncio.sleep(0.05)
    await end_of(session, orjson.loads(body)["question_id"])


async def test_nothing_of_it_was_written_anywhere_but_to_the_stores(mesh: Mesh, folder: Path) -> None:
    places = [folder / "data" / "logs", *(path for path in (folder / "data").iterdir() if path.is_file())]
    logs = dict(written(places))
    read = {file.name for file in logs}
    assert {"api_service.log", "worker_service.log", "llm_service-1.log", "postgresql.log", "valkey.log"} <= read
    assert all(logs[folder / "data" / "logs" / f"{name}.log"] for name in ("api_service", "worker_service"))
    found = [f"{file.name}: {line}" for file, text in logs.items() for line in text.splitlines() if MARK in line]
    assert found == []
    assert MARK not in "".join(mesh.output)
