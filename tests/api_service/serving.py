"""The API behind a real HTTP server, in the event loop of the test."""

import asyncio
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

from aiohttp import ClientHandlerType, ClientRequest, ClientResponse, ClientSession
from fastapi import FastAPI
from pydantic import SecretStr

from api_service.app import Settings, create_app
from api_service.http.server import ApiServer, create_server
from embedded.valkey import Valkey
from foundation.settings import (
    AccessSettings,
    ApiSettings,
    BrokerSettings,
    DatabaseSettings,
    GenerationSettings,
    LimitSettings,
    LlmClientSettings,
    QuestionSettings,
    RedisSettings,
)


def settings_for(
    database_url: str,
    valkey: Valkey,
    access: AccessSettings | None = None,
    limits: LimitSettings | None = None,
    **questions: Any,
) -> Settings:
    """Settings of an API on these servers; ``questions`` are those of QuestionSettings. There is no llm_service."""
    return Settings(
        database=DatabaseSettings(database_url=SecretStr(database_url)),
        redis=RedisSettings(redis_url=SecretStr(valkey.url())),
        broker=BrokerSettings(broker_url=SecretStr(valkey.broker_url)),
        access=access or AccessSettings(),
        api=ApiSettings(),
        questions=QuestionSettings(**questions),
        limits=limits or LimitSettings(),
        generation=GenerationSettings(),
        llm_client=LlmClientSettings(llm_targets="127.0.0.1:1"),
    )


@asynccontextmanager
async def serving(settings: Settings) -> AsyncIterator[str]:
    """The URL of a running API, without a slash at its end."""
    async with serving_app(create_app(settings)) as url:
        yield url


@asynccontextmanager
async def serving_app(app: FastAPI) -> AsyncIterator[str]:
    """The URL of this application, served as api_service serves it."""
    async with running(app) as (url, _):
        yield url


@asynccontextmanager
async def running(app: FastAPI, max_connections: int = 8_192) -> AsyncIterator[tuple[str, ApiServer]]:
    """As ``serving_app``, with the server."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        host, port = listening.getsockname()
        server = create_server(app, drain_seconds=10, max_connections=max_connections)
        running = asyncio.create_task(server.serve(sockets=[listening]))
        while not server.started:
            assert not running.done(), "the server did not start"
            await asyncio.sleep(0.01)
        try:
            yield f"http://{host}:{port}", server
        finally:
            server.should_exit = True
            await running


def client_of(url: str) -> ClientSession:
    """A client that has read a response by the time it hands it out, so that no test need close one."""

    async def read_whole(request: ClientRequest, handler: ClientHandlerType) -> ClientResponse:
        response = await handler(request)
        await response.read()
        return response

    return ClientSession(url, middlewares=[read_whole])


async def until(condition: Callable[[], Awaitable[object]]) -> None:
    """Return once the condition holds; fail after 60 s."""
    async with asyncio.timeout(60):
        while not await condition():
            await asyncio.sleep(0.01)
