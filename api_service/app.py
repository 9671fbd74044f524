"""The application: the one place that builds and connects its parts."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from datetime import date
from functools import partial
from importlib.metadata import version
from typing import Self

from askmesh.llm.v1.errors_pb2 import ERROR_REASON_UNSPECIFIED, ErrorReason
from askmesh_client import CertificatesError, GenerationClient, GenerationError, TlsFiles
from askmesh_client.channel import check_connection
from fastapi import APIRouter, FastAPI
from fastapi.routing import APIRoute
from redis.exceptions import RedisError
from starlette.middleware.cors import CORSMiddleware

from api_service.answers import endpoints as answers
from api_service.answers.dependencies import AnswersState
from api_service.answers.documentation import UNDECLARED_SCHEMAS
from api_service.answers.schemas import AskLimits
from api_service.authentication.api_keys import ApiKeys
from api_service.authentication.authenticator import Authenticator
from api_service.authentication.dependencies import AuthenticationState
from api_service.authentication.local_guard import LocalGuard
from api_service.core.admission.limits import Limits
from api_service.core.answering_model import AnsweringModel
from api_service.core.asking import QuestionAsker
from api_service.core.backlog import Backlog
from api_service.core.database import DatabaseWatch, open_database
from api_service.core.pending_tasks import PendingTasks
from api_service.core.reading import QuestionReader
from api_service.core.sampling import MeshIdentity, every, every_second
from api_service.core.turns import TurnKeeper
from api_service.core.waker import Waker
from api_service.core.watcher import Watcher
from api_service.health import endpoints as health
from api_service.health.dependencies import HealthState
from api_service.health.readiness import AbsentError, Helper, Readiness
from api_service.history import endpoints as history
from api_service.history.dependencies import HistoryState
from api_service.history.service import QuestionHistory
from api_service.http.dependencies import CoreState
from api_service.http.direct_routes import DirectRoutes
from api_service.http.documentation import ANY_PROBLEM
from api_service.http.middleware import BodyLimit, HeadRequests, RequestIds
from api_service.http.openapi import DocumentedApi
from api_service.http.problems import install_problem_handlers
from api_service.page.endpoints import page_routes
from api_service.usage import endpoints as usage
from api_service.usage.dependencies import UsageState
from fleet.processes import ProcessRecord, shown_settings
from foundation.background import Background
from foundation.postgresql.database import Database
from foundation.redis import MeshRedis, RedisState, create_redis
from foundation.settings import (
    PREFIX,
    AccessSettings,
    ApiSettings,
    BrokerSettings,
    DatabaseSettings,
    GenerationSettings,
    GrpcTlsSettings,
    LimitSettings,
    LlmClientSettings,
    QuestionSettings,
    RedisSettings,
    SettingsError,
    load,
)
from live.hints import Hints, celery_app
from live.wakeups import Wakeups
from owners.ledger import UsageTotals, fold_by_itself, read_days
from schema.migrations import needed_revision

_FOLD_SECONDS = 10
_WITHOUT_REDIS = "answers come from PostgreSQL, text is not seen before its end, each process counts requests by itself"
_CROSS_ORIGIN_HEADERS = (
    "Authorization",
    "Cache-Control",
    "Content-Type",
    "Idempotency-Key",
    "Last-Event-ID",
    "X-API-Key",
    "X-Request-ID",
)
_EXPOSED_HEADERS = ("Idempotency-Replayed", "Location", "Retry-After", "WWW-Authenticate", "X-Request-ID")


class AppState(AuthenticationState, CoreState, AnswersState, HistoryState, UsageState, HealthState):
    """What the application holds while it runs, for the endpoints of each feature."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """The groups that the application is built from."""

    database: DatabaseSettings
    redis: RedisSettings
    broker: BrokerSettings
    access: AccessSettings
    api: ApiSettings
    questions: QuestionSettings
    limits: LimitSettings
    generation: GenerationSettings
    llm_client: LlmClientSettings
    grpc_tls: GrpcTlsSettings = field(default_factory=GrpcTlsSettings)

    @classmethod
    def from_environment(cls) -> Self:
        """Raises SettingsError."""
        llm_client, grpc_tls = load(LlmClientSettings), load(GrpcTlsSettings)
        try:
            check_connection(llm_client.llm_targets, _files(grpc_tls), llm_client.llm_server_name)
        except CertificatesError as error:
            raise SettingsError(f"{PREFIX}GRPC_*_FILE: {error}") from None
        except ValueError as error:
            raise SettingsError(f"{PREFIX}LLM_TARGETS: {error}") from None
        return cls(
            database=load(DatabaseSettings),
            redis=load(RedisSettings),
            broker=load(BrokerSettings),
            access=load(AccessSettings),
            api=load(ApiSettings),
            questions=load(QuestionSettings),
            limits=load(LimitSettings),
            generation=load(GenerationSettings),
            llm_client=llm_client,
            grpc_tls=grpc_tls,
        )


def create_app(settings: Settings) -> FastAPI:
    """Build the application. It connects when its lifespan begins, and starts whether or not anything is there."""

    @asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncIterator[AppState]:
        async with AsyncExitStack() as stack:
            yield await _connect(settings, stack)

    app = DocumentedApi(
        undeclared_schemas=UNDECLARED_SCHEMAS,
        title="askmesh",
        summary="Accepts a question at once, never loses it, and delivers a language model's answer once.",
        version=version("askmesh"),
        license_info={"name": "MIT", "identifier": "MIT"},
        lifespan=lifespan,
        responses=ANY_PROBLEM,
        generate_unique_id_function=lambda route: route.name,
        redirect_slashes=False,
        openapi_url=None,
        # These pages load their programs from other people's servers.
        docs_url=None,
        redoc_url=None,
    )
    for feature in (answers, history, usage, health):
        app.include_router(feature.router)
    app.router.routes.extend([app.document_route(), *page_routes()])
    direct = [*_api_routes(answers.router), *_api_routes(health.router)]
    app.router.middleware_stack = DirectRoutes(app.router.middleware_stack, direct)
    install_problem_handlers(app)
    app.add_middleware(HeadRequests)
    app.add_middleware(BodyLimit, max_bytes=settings.api.max_body_bytes)
    access = settings.access
    if not access.require_auth:
        app.add_middleware(LocalGuard, hosts=access.hosts, origins=access.origins)
    app.add_middleware(RequestIds)
    if access.origins:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=access.origins,
            allow_methods=("GET", "HEAD", "POST", "DELETE"),
            allow_headers=_CROSS_ORIGIN_HEADERS,
            expose_headers=_EXPOSED_HEADERS,
        )  # added last, it is the outermost: pages of these sites may read refusals too
    return app


def _api_routes(router: APIRouter) -> list[APIRoute]:
    return [route for route in router.routes if isinstance(route, APIRoute)]


async def _connect(settings: Settings, stack: AsyncExitStack) -> AppState:
    """What the stack closes is closed in reverse."""
    database = open_database(settings.database)
    stack.push_async_callback(database.close)
    mesh = RedisState(_WITHOUT_REDIS)
    redis = create_redis(settings.redis, mesh)
    stack.push_async_callback(redis.aclose)
    llm = settings.llm_client
    model = await stack.enter_async_context(
        GenerationClient(llm.llm_targets, tls=_files(settings.grpc_tls), server_name=llm.llm_server_name)
    )
    hints = Hints(celery_app("api_service", settings.broker))
    stack.push_async_callback(asyncio.to_thread, hints.close)
    turns = TurnKeeper(database.autocommit)
    limits = Limits(settings.limits, database, redis, turns)
    backlog = Backlog(database.engine, settings.questions.backlog_limit, turns)
    answering_model = AnsweringModel(model, database.autocommit, settings.generation.model_name)
    wakeups = Wakeups(redis)
    watcher = Watcher(database.engine, redis)
    background = Background()
    stack.push_async_callback(background.close)
    identity = MeshIdentity(database.autocommit, mesh)
    await identity.look()  # where PostgreSQL is there, Redis is used from the first request on
    background.run("following the mesh's id", identity.follow)
    background.run("sending hints", hints.watch)
    background.run("sampling turns", turns.watch)
    background.run("counting what waits", backlog.watch)
    # As workers do: while all of them are away, questions go on being asked, and what is not folded is read each time.
    fold = partial(fold_by_itself, database.engine)
    background.run("folding the ledger", partial(every, _FOLD_SECONDS, fold, "the ledger"))
    background.run("asking which model answers", answering_model.watch)
    record = ProcessRecord(database.engine, "api_service", version("askmesh"), _shared_settings(settings))
    stack.push_async_callback(record.end)
    background.run("saying that this process runs", record.keep)
    background.run("sending wake-ups", wakeups.run)
    watcher.run(background)
    pending = PendingTasks()
    stack.push_async_callback(pending.close)
    reader = QuestionReader(database, redis, watcher, pending)
    asker = QuestionAsker(
        database=database,
        reader=reader,
        waker=Waker(wakeups, hints),
        backlog=backlog,
        turns=turns,
        limits=limits,
        answering_model=answering_model,
        generation=settings.generation,
        settings=settings.questions,
    )
    database_watch = DatabaseWatch(database, needed_revision())
    background.run("looking at PostgreSQL", partial(every_second, database_watch.look, "PostgreSQL"))

    async def read_ledger(owner: str, first: date, last: date) -> dict[date, UsageTotals]:
        return await database.read(read_days, database.autocommit, owner, first, last)

    return AppState(
        authenticator=await _authenticator(settings.access, database, stack, background),
        ask_limits=AskLimits(settings.questions.max_question_characters, settings.questions.max_wait_seconds),
        asker=asker,
        reader=reader,
        watcher=watcher,
        history=QuestionHistory(database, redis, reader, pending),
        readiness=_readiness(database_watch, hints, redis, model),
        limits=limits,
        ledger=read_ledger,
        background=background,
    )


def _readiness(watch: DatabaseWatch, hints: Hints, redis: MeshRedis, model: GenerationClient) -> Readiness:
    async def broker_takes_hints() -> bool:
        return hints.reachable

    async def redis_takes_writes() -> bool:
        try:
            await redis.probe()
        except (RedisError, OSError) as error:
            redis.mesh.note(error)
            return False
        redis.mesh.outage.succeeded()
        return True

    async def model_is_loaded() -> bool:
        try:
            return bool(await model.list_models(timeout=1))
        except GenerationError as error:
            if error.reason == ERROR_REASON_UNSPECIFIED:  # llm_service itself is not there
                return False
            word = ErrorReason.Name(error.reason).removeprefix("ERROR_REASON_").lower()
            raise AbsentError(word, error.message) from None

    return Readiness(
        watch.problem,
        {Helper.BROKER: broker_takes_hints, Helper.REDIS: redis_takes_writes, Helper.MODEL: model_is_loaded},
    )


def _shared_settings(settings: Settings) -> dict[str, str]:
    """What other processes may have to agree with."""
    groups = (
        settings.redis,
        settings.broker,
        settings.generation,
        settings.questions,
        settings.limits,
        settings.access,
    )
    return shown_settings(groups)


async def _authenticator(
    access: AccessSettings, database: Database, stack: AsyncExitStack, background: Background
) -> Authenticator | None:
    if not access.require_auth:
        return None
    keys = ApiKeys(database)
    stack.push_async_callback(keys.close)
    tokens = None
    if access.takes_tokens:
        # 18 MB of libraries, which who takes no tokens does without.
        from api_service.authentication.issuer_keys import IssuerKeys  # noqa: PLC0415
        from api_service.authentication.tokens import TokenVerifier  # noqa: PLC0415

        issuer_keys = IssuerKeys(access.jwt_jwks_url)
        background.run("fetching the issuer's keys", issuer_keys.refresh)
        tokens = TokenVerifier(access, issuer_keys)
    return Authenticator(keys, tokens)


def _files(settings: GrpcTlsSettings) -> TlsFiles | None:
    return TlsFiles(*settings.files) if settings.files else None
