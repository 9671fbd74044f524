import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace

import grpc
import pytest_asyncio
from aiohttp import ClientSession
from askmesh.llm.v1.generation_service_pb2 import ListModelsResponse
from google.rpc import error_details_pb2, status_pb2  # type: ignore[import-untyped]

from embedded.valkey import Valkey
from foundation.settings import LlmClientSettings
from tests.api_service.serving import client_of, serving, settings_for, until
from tests.askmesh_client.replica import Context, Replica, running


@pytest_asyncio.fixture
async def llm_service() -> AsyncIterator[Replica]:
    async with running("tiny") as replica:
        yield replica


@pytest_asyncio.fixture
async def api_over_llm_service(
    api_database_url: str, valkey: Valkey, llm_service: Replica
) -> AsyncIterator[ClientSession]:
    targets = LlmClientSettings(llm_targets=f"127.0.0.1:{llm_service.port}")
    settings = replace(settings_for(api_database_url, valkey), llm_client=targets)
    async with serving(settings) as url, client_of(url) as client:
        yield client


async def test_a_process_that_answers_is_alive(api_over_llm_service: ClientSession) -> None:
    response = await api_over_llm_service.get("/livez")
    assert (response.status, await response.json()) == (200, {"status": "alive"})
    assert response.headers["Cache-Control"] == "no-store"


async def test_the_model_is_missed_but_not_needed(api_over_llm_service: ClientSession, llm_service: Replica) -> None:
    async def is_degraded() -> bool:
        response = await api_over_llm_service.get("/readyz")
        assert response.status == 200
        assert response.headers["Cache-Control"] == "no-store"
        return bool((await response.json())["degraded"] == ["model"])

    async def is_whole() -> bool:
        return not await is_degraded()

    async def hangs(_context: Context) -> ListModelsResponse:
        await asyncio.Event().wait()
        raise AssertionError

    async def none(_context: Context) -> ListModelsResponse:
        return ListModelsResponse()

    await until(is_whole)
    for absence in (hangs, none):
        llm_service.on_list_models = absence
        await until(is_degraded)
        llm_service.on_list_models = llm_service.models
        await until(is_whole)
    await llm_service.stop()
    await until(is_degraded)
    await llm_service.start()
    await until(is_whole)


async def test_probes_cost_the_model_server_one_call_a_second_at_most(
    api_over_llm_service: ClientSession, llm_service: Replica
) -> None:
    async def has_looked_by_itself() -> bool:
        return llm_service.calls > 0

    await until(has_looked_by_itself)
    before = llm_service.calls
    await asyncio.gather(*(api_over_llm_service.get("/readyz") for _ in range(50)))
    assert 1 <= llm_service.calls - before <= 3  # it looks again every 2 s


async def test_why_the_model_is_absent_is_a_word_and_no_more(
    api_over_llm_service: ClientSession, llm_service: Replica
) -> None:
    async def denied(context: Context) -> ListModelsResponse:
        code, message = grpc.StatusCode.PERMISSION_DENIED, "the model server answers 401: check ASKMESH_MODEL_API_KEY"
        status = status_pb2.Status(code=code.value[0], message=message)
        info = error_details_pb2.ErrorInfo(reason="MODEL_SERVER_DENIED", domain="llm.askmesh")
        status.details.add().Pack(info)
        await context.abort(code, message, (("grpc-status-details-bin", status.SerializeToString()),))
        raise AssertionError

    llm_service.on_list_models = denied

    async def body() -> object:
        return await (await api_over_llm_service.get("/readyz")).json()

    async def says_so() -> bool:
        return await body() == {
            "status": "ready",
            "degraded": ["model"],
            "reasons": {"model": "model_server_denied"},
        }

    await until(says_so)
    llm_service.on_list_models = llm_service.models

    async def is_whole() -> bool:
        return await body() == {"status": "ready", "degraded": []}

    await until(is_whole)
