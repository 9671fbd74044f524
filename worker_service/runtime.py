"""What a worker process holds while it runs: made once, on the event loop that uses it, and closed in order."""

import asyncio
import logging
import os
import socket
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from importlib.metadata import version
from typing import Final

from askmesh_client import GenerationClient, TlsFiles

from fleet.mesh import read_mesh_id
from fleet.processes import ProcessRecord, shown_settings
from foundation import garbage
from foundation.background import Background
from foundation.postgresql.database import Database, create_engine
from foundation.postgresql.errors import DATABASE_ERRORS
from foundation.reachability import Reachability
from foundation.readiness import notify_ready
from foundation.redis import RedisState, create_redis
from foundation.settings import (
    LEASE_CONNECTIONS,
    DatabaseSettings,
    GenerationSettings,
    GrpcTlsSettings,
    LlmClientSettings,
    ProcessSettings,
    QuestionSettings,
    RedisSettings,
    WorkerSettings,
)
from live.signals import ENDED_CHANNEL, Subscriber
from live.wakeups import WAIT_SECONDS
from schema.migrations import engine_is_up_to_date, needed_revision
from worker_service.answering.forgotten_texts import end_forgotten_texts
from worker_service.answering.generation import AnswerGeneration
from worker_service.answering.runner import AnswerRunner
from worker_service.answering.text_publisher import TextPublisher
from worker_service.claiming.dispatcher import ClaimDispatcher
from worker_service.claiming.engine_gate import EngineGate
from worker_service.claiming.engine_probe import EngineProbe, ProbeLoop
from worker_service.claiming.fair_share import FairShare
from worker_service.claiming.leases import Lease
from worker_service.claiming.slots import Slots
from worker_service.health import HealthServer
from worker_service.sweeping.retention import keep_retention
from worker_service.sweeping.sweeper import Sweeper
from worker_service.waking.wakeups import take_wakeups

logger = logging.getLogger(__name__)

_RETRY_SECONDS: Final = 1.0
_FOLLOW_SECONDS: Final = 10.0
# How much later a worker is ready where the broker is away, or refuses it.
_BROKER_SECONDS: Final = 5.0
# PostgreSQL gets this long to take back what a stopping worker holds; after that the lease runs out by itself.
_RETIRE_SECONDS: Final = 5.0


@dataclass(frozen=True, kw_only=True)
class RuntimeSettings:
    """The groups of settings that a worker reads."""

    database: DatabaseSettings
    redis: RedisSettings
    llm: LlmClientSettings
    generation: GenerationSettings
    questions: QuestionSettings
    worker: WorkerSettings
    process: ProcessSettings
    grpc_tls: GrpcTlsSettings = field(default_factory=GrpcTlsSettings)


class Runtime:
    """Connections, lease, slots and sweeper of one process. Make it on the event loop that will run it."""

    def __init__(self, settings: RuntimeSettings, on_defect: Callable[[], None]) -> None:
        """``on_defect`` is called if a part that must always run cannot: the process is of no use any more."""
        self._grace = settings.process.drain_seconds
        self._background = Background(on_defect)
        self._database = Database(
            create_engine(settings.database, "worker_service"),
            Reachability.of("PostgreSQL", "questions wait until it does"),
        )
        # The heartbeat must not queue behind the outcomes of hundreds of answers that end at once. Two, because a
        # renewal that hangs is not waited for.
        few = settings.database.model_copy(update={"database_pool_size": LEASE_CONNECTIONS})
        self._lease_database = Database(
            create_engine(few, "worker_service lease"), Reachability.of("PostgreSQL", "the lease cannot be renewed")
        )
        # One state for all that Redis does here, so that its going and coming is one log line each.
        self._mesh = RedisState("answers are not seen while they are written, cancels wait for a heartbeat")
        self._redis = create_redis(settings.redis, self._mesh)
        self._blocking_redis = create_redis(settings.redis, self._mesh, blocks=WAIT_SECONDS)
        tls = TlsFiles(*settings.grpc_tls.files) if settings.grpc_tls.files else None
        self._client = GenerationClient(settings.llm.llm_targets, tls=tls, server_name=settings.llm.llm_server_name)
        self._lease = Lease(self._lease_database, f"{socket.gethostname()} {os.getpid()}", settings.worker)
        gate = EngineGate()
        fair_share = FairShare(settings.worker.worker_slots, settings.worker.reserved_slots)
        dispatcher = ClaimDispatcher(self._database, self._lease, gate, fair_share)
        self._publisher = TextPublisher(self._redis, self._lease, self._mesh.outage)
        generation = AnswerGeneration(
            self._client,
            database=self._database,
            gate=gate,
            publisher=self._publisher,
            settings=settings.generation,
        )
        runner = AnswerRunner(
            generation,
            database=self._database,
            lease=self._lease,
            gate=gate,
            publisher=self._publisher,
            reuse_seconds=settings.questions.answer_reuse_seconds,
        )
        self._retention_days = settings.questions.retention_days
        probe = EngineProbe(self._client, settings.generation, gate)
        self.slots = Slots(settings.worker.worker_slots, dispatcher, runner, probe)
        self._record = ProcessRecord(
            self._database.engine,
            "worker_service",
            version("askmesh"),
            _shared_settings(settings),
            partial(self._state, gate),
        )
        self._sweeper = Sweeper(self._database, self._redis, self.slots, settings.worker, fair_share=fair_share)
        self._probe_loop = ProbeLoop(probe, gate, self._sweeper.hurry)
        self._health = HealthServer(settings.worker)
        self._consuming = asyncio.Event()
        self._hurry = asyncio.Event()
        self._closing: asyncio.Task[None] | None = None
        self._schema_wait_logged = False

    def start(self) -> None:
        """Begin to answer, as soon as PostgreSQL is there and migrated."""
        self._background.run("answering probes", self._health.run)
        self._background.run("beginning", self._begin)

    def consuming(self) -> None:
        """The broker delivers hints now. With a lease besides, the process is ready at once."""
        self._consuming.set()

    def hurry(self) -> None:
        """Hand back now instead of finishing."""
        self._hurry.set()

    async def close(self) -> None:
        """Finish what the grace time allows, hand back the rest, end the lease, close connections; once."""
        if self._closing is None:
            self._closing = asyncio.create_task(self._close())
        await self._closing

    async def _begin(self) -> None:
        needed = await asyncio.to_thread(needed_revision)
        while self._mesh.id is None:
            await self._look_for_schema(needed)
        run = self._background.run
        run("keeping the lease", partial(self._lease.keep, self.slots))
        run("writing texts to Redis", self._publisher.run)
        run("saying that this process runs", self._record.keep)
        run("sweeping", self._sweeper.run)
        run("probing the engine", self._probe_loop.run)
        run("ending forgotten texts", partial(end_forgotten_texts, self._database, self._redis))
        run("taking wake-ups", partial(take_wakeups, self._blocking_redis, self.slots, self._mesh.outage))
        run("listening to Redis", Subscriber(self._redis, _EndedAnswers(self.slots), ENDED_CHANNEL).run)
        run("following the mesh's id", self._follow_mesh_id)
        run("telling that it is ready", self._announce_ready)
        if self._retention_days:
            run("removing old questions", partial(keep_retention, self._database, self._retention_days))

    async def _look_for_schema(self, needed: str) -> None:
        with self._database.attempt():
            if await engine_is_up_to_date(self._database.engine, needed):
                self._mesh.id = await read_mesh_id(self._database.engine)
            if self._mesh.id is None and not self._schema_wait_logged:
                self._schema_wait_logged = True
                logger.warning("waiting for the database to have revision %s", needed)
        if self._mesh.id is None:
            await asyncio.sleep(_RETRY_SECONDS)

    async def _follow_mesh_id(self) -> None:
        """At a restore it changes."""
        while True:
            await asyncio.sleep(_FOLLOW_SECONDS)
            with self._database.attempt():
                self._mesh.id = await read_mesh_id(self._database.engine)

    def _state(self, gate: EngineGate) -> dict[str, str]:
        """What operators see of this process."""
        return {
            "slots": f"{len(self.slots.held)} of {self.slots.capacity}",
            "model server": "does not answer, probed" if gate.is_closed else "answers",
        }

    async def _announce_ready(self) -> None:
        await self._lease.obtained.wait()
        # Without the broker it answers all the same, a little later.
        with suppress(TimeoutError):
            async with asyncio.timeout(_BROKER_SECONDS):
                await self._consuming.wait()
        garbage.settle()
        await self._health.set_ready(ready=True)
        notify_ready()
        logger.info("ready")

    async def _close(self) -> None:
        logger.info("stopping: %d answers have %g s to end", len(self.slots.held), self._grace)
        await self._health.set_ready(ready=False)
        await self.slots.close(self._grace, self._hurry)
        await self._background.close()
        await self._record.end()
        try:
            async with asyncio.timeout(_RETIRE_SECONDS):
                await self._lease.retire()
        except DATABASE_ERRORS:
            logger.warning("PostgreSQL took nothing back: what is held is free when the lease has run out")
        await self._client.close()
        await self._redis.aclose()
        await self._blocking_redis.aclose()
        await self._database.close()
        await self._lease_database.close()


def _shared_settings(settings: RuntimeSettings) -> dict[str, str]:
    """What other processes may have to agree with."""
    own = ("worker_slots", "reserved_slots", "worker_health_host", "worker_health_port")
    groups = (settings.redis, settings.generation, settings.questions, settings.worker)
    return shown_settings(groups, exclude=own)


class _EndedAnswers:
    """Stops with answers that nobody waits for any more, as Redis says so; heartbeats say so, too, but later."""

    def __init__(self, slots: Slots) -> None:
        self._slots = slots

    def listening(self, channel: str) -> None:
        """Heartbeats tell what was missed."""

    def heard(self, _channel: str, data: bytes) -> None:
        self._slots.stop_answer(int(data))

    def lost(self, error: BaseException) -> None:
        """Heartbeats go on telling."""
