"""Two whole meshes on one Redis server: each reads, wakes and ends what is its own."""

import asyncio
import uuid
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from aiohttp import ClientSession
from pydantic import SecretStr

from embedded.valkey import Valkey
from foundation.settings import BrokerSettings, RedisSettings
from live.answer_stream import FINAL_CHANNEL, ReadPosition, read_texts, text_channel
from live.signals import ENDED_CHANNEL
from tests.api_service.serving import serving, settings_for
from tests.api_service.sse import ask, text_of, watch, watching
from tests.fakes.model_server import FakeModelServer, Options, expected_answer
from tests.llm_service.processes import service_process
from tests.servers import Databases, execute, redis_at
from tests.worker_service.processes import WorkerProcess
from tests.worker_service.waiting import eventually


@dataclass
class Mesh:
    id: str
    api: ClientSession
    redis_url: str
    worker: WorkerProcess


@pytest.fixture
async def meshes(databases: Databases, valkey: Valkey, tmp_path: Path) -> AsyncIterator[list[Mesh]]:
    """Two, with a database number each for the cache and a broker each, as docs/scaling.md says."""
    meshes = []
    async with AsyncExitStack() as stack:
        fake = await stack.enter_async_context(FakeModelServer(Options()))
        service = await stack.enter_async_context(service_process(fake.url))
        for number in range(2):
            database_url = stack.enter_context(databases.create())
            mesh_id = str(uuid.uuid4())
            await asyncio.to_thread(execute, database_url, f"UPDATE mesh SET id = '{mesh_id}'")
            redis_url, broker_url = valkey.url(2 + number), valkey.broker_url.replace("=1", f"={4 + number}")
            settings = {
                "ASKMESH_DATABASE_URL": database_url,
                "ASKMESH_REDIS_URL": redis_url,
                "ASKMESH_BROKER_URL": broker_url,
                "ASKMESH_LLM_TARGETS": f"127.0.0.1:{service.port}",
            }
            worker = stack.enter_context(WorkerProcess(settings, tmp_path / f"{number}.log"))
            served = replace(
                settings_for(database_url, valkey),
                redis=RedisSettings(redis_url=SecretStr(redis_url)),
                broker=BrokerSettings(broker_url=SecretStr(broker_url)),
            )
            url = await stack.enter_async_context(serving(served))
            meshes.append(Mesh(mesh_id, await stack.enter_async_context(ClientSession(url)), redis_url, worker))
        await asyncio.gather(*(mesh.worker.ready() for mesh in meshes))
        yield meshes


async def test_answers_with_the_same_ids_do_not_mix(meshes: list[Mesh]) -> None:
    questions = [
        [f"Mesh {number}, question {n}. [[tokens=30 words=mixed delay=0.02]]" for n in range(4)] for number in range(2)
    ]

    async def read_along(mesh: Mesh, question: str) -> tuple[int, str, str]:
        question_id = await ask(mesh.api, question)
        events = await watch(mesh.api, question_id)
        return question_id, text_of(events), events[-1].data["answer_text"]

    read = await asyncio.gather(
        *(read_along(mesh, words) for mesh, asked in zip(meshes, questions, strict=True) for words in asked)
    )
    assert {number for number, _, _ in read[:4]} == {number for number, _, _ in read[4:]}
    for words, (_, deltas, answer) in zip([*questions[0], *questions[1]], read, strict=True):
        assert deltas == answer == expected_answer(words)


async def test_what_another_mesh_publishes_is_not_heard(meshes: list[Mesh]) -> None:
    mine, other = meshes
    words = "Mine. [[tokens=60 words=mixed delay=0.05]]"
    question_id = await ask(mine.api, words)
    redis = redis_at(mine.redis_url, mesh_id=mine.id)
    foreign = redis_at(other.redis_url, mesh_id=other.id)
    async with redis, foreign, watching(mine.api, question_id) as stream:
        seen = await stream.text(10)
        (reading,) = await read_texts(redis, [ReadPosition(1, 0, 0)])
        assert reading is not None
        secret = b"0:%d:SECRET" % (reading.length - 5)
        for name in (foreign.name, lambda *parts: ":".join(map(str, ("askmesh", *parts)))):
            await foreign.publish(name(text_channel(1)), secret)
            await foreign.publish(name(ENDED_CHANNEL), "1")
            await foreign.publish(name(FINAL_CHANNEL), "1")
        events = await stream.rest()
    assert seen + text_of(events) == events[-1].data["answer_text"] == expected_answer(words)
    assert "SECRET" not in seen


async def test_a_worker_takes_no_wake_up_of_another_mesh(meshes: list[Mesh]) -> None:
    """Without: every other question of a busy mesh would wait for its hint."""
    mine, _ = meshes
    async with redis_at(mine.redis_url, mesh_id=str(uuid.uuid4())) as foreign:
        await foreign.rpush(foreign.name("wakeups"), 1)
        assert text_of(await watch(mine.api, await ask(mine.api, "Mine."))) == expected_answer("Mine.")
        assert await foreign.llen(foreign.name("wakeups")) == 1
        await foreign.delete(foreign.name("wakeups"))


async def test_rubbish_ends_no_worker(meshes: list[Mesh]) -> None:
    mine, _ = meshes
    async with redis_at(mine.redis_url, mesh_id=mine.id) as redis:
        for rubbish in (b"", b"hello", b"1:2", b"\xff", b"9" * 5_000, b'{"id": 1}'):
            await redis.publish(redis.name(ENDED_CHANNEL), rubbish)
            await redis.rpush(redis.name("wakeups"), rubbish)

        def both_skipped() -> bool:
            log = mine.worker.log_text()
            return "skipped a message on ended" in log and "skipped a wake-up" in log

        await eventually(both_skipped, "the worker has skipped both kinds")
        await redis.delete(redis.name("wakeups"))
        await redis.set(redis.name("wakeups"), "hello")
        words = "Still there? [[tokens=5]]"
        assert text_of(await watch(mine.api, await ask(mine.api, words))) == expected_answer(words)
    assert mine.worker.exit_status is None
    assert "does not answer" not in mine.worker.log_text()
