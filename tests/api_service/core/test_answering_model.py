"""What is reused follows the model that answers, and the settings of the process that asks."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import pytest
from aiohttp import ClientSession
from askmesh.llm.v1.generation_pb2 import GenerationSpec
from askmesh.llm.v1.generation_service_pb2 import ListModelsResponse, Model
from pydantic import SecretStr
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from embedded.valkey import Valkey
from foundation.postgresql.database import create_engine
from foundation.settings import DatabaseSettings, GenerationSettings, LlmClientSettings
from models.identity import identity, remember, remembered
from questions import claims
from questions.states import FinishReason, State
from tests.api_service.serving import client_of, serving, settings_for, until
from tests.api_service.worker_actions import claim
from tests.askmesh_client.replica import Context, Replica, running


@pytest.fixture
async def llm_service() -> AsyncIterator[Replica]:
    async with running("small") as replica:
        yield replica


@pytest.fixture
async def modelless_engine(api_database_url: str) -> AsyncIterator[AsyncEngine]:
    """A pool on a database in which no model is known."""
    engine = create_engine(DatabaseSettings(database_url=SecretStr(api_database_url)), "tests")
    async with engine.begin() as connection:
        await connection.execute(text("DELETE FROM models"))
    yield engine
    await engine.dispose()


@pytest.fixture
def start(api_database_url: str, valkey: Valkey, llm_service: Replica) -> Any:
    """Starts an API over that llm_service, with settings of GenerationSettings and QuestionSettings."""

    @asynccontextmanager
    async def start(generation: dict[str, Any] | None = None, **questions: Any) -> AsyncIterator[ClientSession]:
        settings = replace(
            settings_for(api_database_url, valkey, **questions),
            llm_client=LlmClientSettings(llm_targets=f"127.0.0.1:{llm_service.port}"),
            generation=GenerationSettings(**generation or {}),
        )
        async with serving(settings) as url, client_of(url) as client:
            yield client

    return start


async def ask(api: ClientSession, words: str) -> Any:
    response = await api.post("/api/ask", json={"question_text": words})
    assert response.status in (200, 202), await response.text()
    return await response.json()


async def complete(engine: AsyncEngine, words: str, answer: str, *, by: str) -> None:
    result = claims.GenerationResult(State.COMPLETED, answer, FinishReason.STOP, written_by=by)
    assert await claims.finish(engine, await claim(engine, words), result, 3_600)


def serve_models(llm_service: Replica, *models: Model) -> None:
    async def listed(_context: Context) -> ListModelsResponse:
        return ListModelsResponse(models=models)

    llm_service.on_list_models = listed


async def knows(engine: AsyncEngine, wanted: str, name: str = "") -> None:
    """Wait until api_service has noticed which model answers."""

    async def known() -> bool:
        return await remembered(engine, name) == wanted

    await until(known)


async def test_an_answer_shows_who_wrote_it(start: Any, modelless_engine: AsyncEngine, words: str) -> None:
    async with start() as api:
        asked = await ask(api, words)
        path = f"/api/answer/{asked['question_id']}"
        assert "model" not in await (await api.get(path)).json()
        await complete(modelless_engine, words, "because", by=identity("small", "2"))
        for _ in range(2):  # from PostgreSQL, and then from Redis
            assert (await (await api.get(path)).json())["model"] == "small"


@pytest.mark.parametrize(
    "now",
    [Model(id="large", is_default=True), Model(id="small", is_default=True, revision="2")],
    ids=["another model", "other weights"],
)
async def test_after_a_change_of_the_model_its_predecessors_answers_are_not_given(
    start: Any, modelless_engine: AsyncEngine, llm_service: Replica, words: str, now: Model
) -> None:
    async with start() as api:
        await ask(api, words)
        await complete(modelless_engine, words, "small talk", by=identity("small", ""))
        assert (await ask(api, words))["answer_text"] == "small talk"

        serve_models(llm_service, now)
        await knows(modelless_engine, identity(now.id, now.revision))

        assert not (again := await ask(api, words))["cached"]
        assert not again["coalesced"]
        await complete(modelless_engine, words, "large talk", by=identity(now.id, now.revision))
        assert (await ask(api, words))["answer_text"] == "large talk"

        # And back again: what the former wrote is as good as it was.
        serve_models(llm_service, Model(id="small", is_default=True))
        await knows(modelless_engine, identity("small", ""))
        assert (await ask(api, words))["answer_text"] == "small talk"


async def test_what_another_model_wrote_than_the_one_asked_for_is_not_given_again(
    start: Any, modelless_engine: AsyncEngine, words: str
) -> None:
    """As where the model changed while the question was queued."""
    async with start() as api:
        asked = await ask(api, words)
        await complete(modelless_engine, words, "large talk", by=identity("large", ""))
        answer = await (await api.get(f"/api/answer/{asked['question_id']}")).json()
        assert (answer["answer_text"], answer["model"]) == ("large talk", "large")
        assert not (await ask(api, words))["cached"]


async def test_while_llm_service_is_away_the_model_is_the_one_that_was_seen_last(
    start: Any, modelless_engine: AsyncEngine, llm_service: Replica, words: str
) -> None:
    async with start() as api:
        await ask(api, words)
        await complete(modelless_engine, words, "because", by=identity("small", ""))
        for absence in ("no model", "no llm_service"):
            if absence == "no model":
                serve_models(llm_service)
            else:
                await llm_service.stop()
            assert (await ask(api, words))["cached"], absence
    async with start() as fresh:
        assert (await ask(fresh, words))["cached"]


async def test_what_another_process_has_learned_is_known_to_one_that_never_reaches_llm_service(
    start: Any, modelless_engine: AsyncEngine, llm_service: Replica, words: str
) -> None:
    await llm_service.stop()
    async with start() as api:
        await ask(api, words)  # nobody knows the model yet
        await remember(modelless_engine, "", identity("small", ""))

        async def joins_no_more() -> bool:
            return not (await ask(api, words))["coalesced"]

        await until(joins_no_more)  # it is a question for another model than the first


async def test_a_name_is_known_by_the_model_behind_it(
    start: Any, modelless_engine: AsyncEngine, llm_service: Replica, words: str
) -> None:
    serve_models(llm_service, Model(id="small", is_default=True), Model(id="large", revision="7"))
    async with start({"model_name": "large"}) as named, start() as default:
        await ask(named, words)
        await complete(modelless_engine, words, "large talk", by=identity("large", "7"))
        assert (await ask(named, words))["answer_text"] == "large talk"
        assert not (await ask(default, words))["cached"]
    assert await remembered(modelless_engine, "large") == identity("large", "7")


async def test_a_name_that_is_no_id_is_the_default(
    start: Any, modelless_engine: AsyncEngine, llm_service: Replica, words: str
) -> None:
    """llm_service knows that llama3.2 stands for llama3.2:latest, and calls that its default."""
    serve_models(llm_service, Model(id="nomic:latest"), Model(id="llama3.2:latest", is_default=True))
    async with start({"model_name": "llama3.2"}) as api:
        await ask(api, words)
        await complete(modelless_engine, words, "because", by=identity("llama3.2:latest", ""))
        assert (await ask(api, words))["cached"]


async def test_where_nobody_knows_the_model_answers_in_flight_are_shared_and_finished_ones_are_not(
    start: Any, modelless_engine: AsyncEngine, llm_service: Replica, words: str
) -> None:
    await llm_service.stop()
    async with start() as api:
        await ask(api, words)
        assert (await ask(api, words))["coalesced"]
        await complete(modelless_engine, words, "because", by=identity("small", ""))
        assert not (await ask(api, words))["cached"]


@pytest.mark.parametrize(
    "changed",
    [{"system_prompt": "Be brief."}, {"temperature": 0.5}, {"max_output_tokens": 7}],
    ids=lambda c: next(iter(c)),
)
async def test_processes_of_different_settings_store_what_each_wants_and_share_nothing(
    start: Any, modelless_engine: AsyncEngine, words: str, changed: dict[str, Any]
) -> None:
    async with start() as one, start(changed) as other:
        await ask(one, words)
        assert not (await ask(other, words))["coalesced"]
        async with modelless_engine.connect() as connection:
            asked = "(SELECT answer_id FROM questions WHERE text = :words)"
            statement = text(f"SELECT request FROM answers WHERE id IN {asked} ORDER BY id")
            requests = [
                GenerationSpec.FromString(row.request) for row in await connection.execute(statement, {"words": words})
            ]
    for request, settings in zip(requests, (GenerationSettings(), GenerationSettings(**changed)), strict=True):
        assert [message.content for message in request.messages] == [settings.system_prompt, words]
        assert request.sampling.temperature == settings.temperature
        assert request.max_output_tokens == settings.max_output_tokens
        assert (request.model, request.request_id, request.HasField("time_limit")) == ("", "", False)


@pytest.mark.parametrize("seconds", [0, 0.001])
async def test_a_shorter_time_of_reuse_holds_for_answers_that_are_there(
    start: Any, modelless_engine: AsyncEngine, words: str, seconds: float
) -> None:
    async with start() as api:
        await ask(api, words)
        await complete(modelless_engine, words, "because", by=identity("small", ""))
        assert (await ask(api, words))["cached"]
    async with start(answer_reuse_seconds=seconds) as restarted:
        assert not (await ask(restarted, words))["cached"]
