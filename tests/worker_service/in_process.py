"""The parts of a worker process in the test's own."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import grpc
from askmesh.llm.v1 import errors_pb2
from askmesh_client import GenerationClient
from sqlalchemy.ext.asyncio import AsyncEngine

from foundation.postgresql.database import Database
from foundation.reachability import Reachability
from foundation.redis import MeshRedis
from foundation.settings import GenerationSettings, WorkerSettings
from questions.claims import Claim
from tests.worker_service.asking import answers, ask
from tests.worker_service.fake_llm_service import Context, refuse
from worker_service.answering.generation import AnswerGeneration
from worker_service.answering.runner import AnswerRunner
from worker_service.answering.text_publisher import TextPublisher
from worker_service.claiming.dispatcher import ClaimDispatcher
from worker_service.claiming.engine_gate import EngineGate
from worker_service.claiming.engine_probe import EngineProbe
from worker_service.claiming.leases import Lease
from worker_service.claiming.slots import Slots


@dataclass(kw_only=True)
class Worker:
    """The parts of a worker process, under one lease that nobody renews."""

    engine: AsyncEngine
    lease: Lease
    gate: EngineGate
    dispatcher: ClaimDispatcher
    runner: AnswerRunner
    slots: Slots
    publisher: TextPublisher
    probe: EngineProbe
    redis: MeshRedis

    async def answer(self, question: str) -> Any:
        """Ask, claim and answer one question; its answer's row."""
        await ask(self.engine, question)
        claim = await self.claim()
        await self.runner.answer(claim)
        self.dispatcher.give_back(claim)
        return (await answers(self.engine))[question]

    async def claim(self) -> Claim:
        claim = await self.dispatcher.next()
        assert claim is not None
        return claim


@asynccontextmanager
async def working(engine: AsyncEngine, llm_target: str, redis: MeshRedis) -> AsyncIterator[Worker]:
    """A worker over this llm_service."""
    settings = WorkerSettings.model_construct(lease_seconds=3_600.0, heartbeat_seconds=3_600.0)
    database = Database(engine, Reachability.of("PostgreSQL", "tests"))
    lease = Lease(database, "tests", settings)
    gate = EngineGate()
    dispatcher = ClaimDispatcher(database, lease, gate)
    async with GenerationClient(llm_target) as client:
        publisher = TextPublisher(redis, lease, Reachability.of("Redis", "tests"))
        generation = AnswerGeneration(
            client, database=database, gate=gate, publisher=publisher, settings=GenerationSettings()
        )
        runner = AnswerRunner(
            generation,
            database=database,
            lease=lease,
            gate=gate,
            publisher=publisher,
            reuse_seconds=3_600,
        )
        probe = EngineProbe(client, GenerationSettings(), gate)
        slots = Slots(8, dispatcher, runner, probe)
        parts = {asyncio.create_task(lease.keep(slots)), asyncio.create_task(publisher.run())}
        await asyncio.wait_for(lease.obtained.wait(), 10)
        yield Worker(
            engine=engine,
            lease=lease,
            gate=gate,
            dispatcher=dispatcher,
            runner=runner,
            slots=slots,
            publisher=publisher,
            probe=probe,
            redis=redis,
        )
        while parts:
            for part in parts:
                part.cancel()
            # Again and again, as worker_service.runtime does: redis-py can swallow a cancellation.
            _, parts = await asyncio.wait(parts, timeout=0.1)


def refuse_with(code: grpc.StatusCode, reason: str, *, engine_started: bool = False) -> Any:
    async def script(_question: str, context: Context) -> None:
        number = errors_pb2.ErrorReason.Value(f"ERROR_REASON_{reason}")
        await refuse(context, code, number, engine_started=engine_started)

    return script
