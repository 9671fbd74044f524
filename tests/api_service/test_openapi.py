import json
import re
from typing import Any

import pytest
from fastapi import FastAPI
from pydantic import BaseModel, SecretStr

from api_service.answers.schemas import (
    AnswerResponse,
    AskResponse,
    DeltaEvent,
    StatusEvent,
)
from api_service.answers.server_sent_events import MEDIA_TYPE as EVENT_STREAM
from api_service.app import Settings, create_app
from api_service.core.stream_cursor import StreamCursor
from api_service.health.schemas import Alive, Ready
from api_service.history.schemas import Erasure, QuestionList
from api_service.http.problems import MEDIA_TYPE, Problem
from api_service.usage.schemas import UsageResponse
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
from tests.api_service.asgi import call

EVENTS = ("/api/answer/{question_id}/events", "get")
RESULTS: dict[tuple[str, str], type[BaseModel]] = {
    ("/api/ask", "post"): AskResponse,
    ("/api/answer/{question_id}", "get"): AnswerResponse,
    EVENTS: AnswerResponse,
    ("/api/answer/{question_id}/cancel", "post"): AnswerResponse,
    ("/api/answer/{question_id}", "delete"): Erasure,
    ("/api/questions", "get"): QuestionList,
    ("/api/usage", "get"): UsageResponse,
    ("/livez", "get"): Alive,
    ("/readyz", "get"): Ready,
}


SETTINGS = Settings(
    database=DatabaseSettings(database_url=SecretStr("postgresql://nowhere")),
    redis=RedisSettings(redis_url=SecretStr("redis://nowhere")),
    broker=BrokerSettings(broker_url=SecretStr("redis://nowhere")),
    access=AccessSettings(),
    api=ApiSettings(),
    questions=QuestionSettings(),
    limits=LimitSettings(),
    generation=GenerationSettings(),
    llm_client=LlmClientSettings(),
)
"""Of an application that is never run."""


@pytest.fixture(scope="module")
def app() -> FastAPI:
    return create_app(SETTINGS)


@pytest.fixture(scope="module")
def document(app: FastAPI) -> dict[str, Any]:
    return app.openapi()


def operations(document: dict[str, Any]) -> dict[tuple[str, str], dict[str, Any]]:
    return {
        (path, method): operation
        for path, methods in document["paths"].items()
        for method, operation in methods.items()
    }


async def test_it_is_served(app: FastAPI, document: dict[str, Any]) -> None:
    reply = await call(app, path="/openapi.json")
    assert (reply.status, reply.json()) == (200, document)


def test_it_describes_every_endpoint(document: dict[str, Any]) -> None:
    assert operations(document).keys() == RESULTS.keys()


def test_every_reference_leads_somewhere(document: dict[str, Any]) -> None:
    references = set(re.findall(r"'\$ref': '#/components/schemas/(\w+)'", str(document)))
    assert {"Problem", "AskRequest"} <= references <= document["components"]["schemas"].keys()


@pytest.mark.parametrize("operation", RESULTS)
def test_every_response_has_examples_that_are_true_to_it(document: dict[str, Any], operation: tuple[str, str]) -> None:
    responses = operations(document)[operation]["responses"]
    assert "422" not in responses or MEDIA_TYPE in responses["422"]["content"]
    for status, response in responses.items():
        problem = status == "default" or int(status) >= 400
        media_type, model = (MEDIA_TYPE, Problem) if problem else ("application/json", RESULTS[operation])
        if operation == EVENTS and not problem:
            assert response.get("content", {}).keys() == ({EVENT_STREAM} if status == "200" else set())
            continue
        streams = {EVENT_STREAM} if operation == ("/api/ask", "post") and status == "200" else set()
        assert response["content"].keys() == {media_type} | streams
        assert response["content"][media_type]["schema"]["$ref"].endswith(f"/{model.__name__}")
        examples = response["content"][media_type].get("examples", {})
        assert examples or RESULTS[operation] in (Alive, Ready)
        for example in examples.values():
            value = example["value"]
            assert model.model_validate(value).model_dump(mode="json", by_alias=True, exclude_unset=True) == value
            if problem and status != "default":
                assert value["status"] == int(status)


def test_the_examples_of_events_are_true(document: dict[str, Any]) -> None:
    examples = operations(document)[EVENTS]["responses"]["200"]["content"][EVENT_STREAM]["examples"]
    assert examples.keys() >= {"status", "delta", "restarted", "completed"}
    models: dict[str, type[BaseModel]] = {"status": StatusEvent, "delta": DeltaEvent}
    for name, example in examples.items():
        fields = dict(line.split(": ", 1) for line in example["value"].removesuffix("\n\n").split("\n"))
        data = json.loads(fields["data"])
        assert fields["event"] == name
        assert ("id" in fields) == (name in ("delta", "completed"))
        assert "id" not in fields or StreamCursor.parse(fields["id"])
        if name != "restarted":
            assert (
                models.get(name, AnswerResponse).model_validate(data).model_dump(mode="json", exclude_unset=True)
                == data
            )


def test_operations_have_names_that_make_good_functions(document: dict[str, Any]) -> None:
    names = [operation["operationId"] for operation in operations(document).values()]
    assert names == ["ask", "answer", "erase", "events", "cancel", "list_questions", "usage", "livez", "readyz"]


def test_the_request_is_described(document: dict[str, Any]) -> None:
    ask = operations(document)["/api/ask", "post"]
    schema = document["components"]["schemas"]["AskRequest"]
    assert ask["requestBody"]["content"].keys() == {"application/json"}
    assert schema["required"] == ["question_text"]
    assert schema["additionalProperties"] is False
    assert [parameter["name"] for parameter in ask["parameters"]] == [
        "wait",
        "Idempotency-Key",
        "Cache-Control",
        "Accept-Language",
        "X-Request-ID",
    ]
    (parameter, *_) = operations(document)["/api/answer/{question_id}", "get"]["parameters"]
    assert parameter["schema"]["type"] == "integer"


@pytest.mark.parametrize("status", ["200", "202"])
def test_links_lead_from_a_question_to_all_that_can_be_done_with_it(document: dict[str, Any], status: str) -> None:
    links = operations(document)["/api/ask", "post"]["responses"][status]["links"]
    taking_an_id = {
        operation["operationId"] for (path, _), operation in operations(document).items() if "{question_id}" in path
    }
    assert {link["operationId"] for link in links.values()} == taking_an_id
    assert all(link["parameters"] == {"question_id": "$response.body#/question_id"} for link in links.values())


def test_no_page_loads_anything_from_elsewhere(document: dict[str, Any]) -> None:
    assert not re.search("https?://", str(document))
