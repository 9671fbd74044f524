"""Requests that must not get through: each is refused with a problem that says what to do, and changes nothing."""

import json
from collections.abc import AsyncIterator
from io import BytesIO
from typing import Any

import pytest
import pytest_asyncio
from aiohttp import ClientResponse, ClientSession
from sqlalchemy.ext.asyncio import AsyncEngine
from yarl import URL

from api_service.http.problems import MEDIA_TYPE, PROBLEM_TYPES, Problem
from questions.asking import MAX_ID
from tests.api_service import worker_actions

pytestmark = pytest.mark.asyncio(loop_scope="module")

JSON = {"Content-Type": "application/json"}
GOOD = b'{"question_text": "why?"}'


@pytest_asyncio.fixture(autouse=True, loop_scope="module")
async def _nothing_changes(api_engine: AsyncEngine) -> AsyncIterator[None]:
    before = await worker_actions.rows(api_engine)
    yield
    assert await worker_actions.rows(api_engine) == before


async def problem_of(response: ClientResponse) -> Problem:
    problem = Problem.model_validate_json(await response.read())
    assert response.content_type == MEDIA_TYPE
    assert response.status == problem.status == PROBLEM_TYPES[problem.code].status
    assert response.headers["X-Request-ID"] == problem.request_id
    assert problem.detail
    return problem


def body(**fields: Any) -> bytes:
    return json.dumps(fields).encode()


@pytest.mark.parametrize(
    ("sent", "code", "field"),
    [
        (body(question_text=""), "invalid_field", "question_text"),
        (body(question_text=" \n\u3000"), "invalid_field", "question_text"),
        (body(question_text="x" * 8_001), "invalid_field", "question_text"),
        (body(question_text="a\0b"), "invalid_field", "question_text"),
        (body(question_text="\ud800"), "invalid_field", "question_text"),
        (body(question_text=7), "invalid_field", "question_text"),
        (body(), "invalid_field", "question_text"),
        (body(question_text="why?", model="other"), "invalid_field", "model"),
        (body(question_text="why?", priority=1), "invalid_field", "priority"),
        (body(question_text="why?", max_wait_seconds=601), "invalid_field", "max_wait_seconds"),
        (body(question_text="why?", max_wait_seconds=True), "invalid_field", "max_wait_seconds"),
        (b"[]", "invalid_field", "body"),
        (b"", "invalid_json", "body"),
        (b'{"question_text": "why?"', "invalid_json", "body"),
        (b'{"question_text": "\xff"}', "invalid_json", "body"),
        (b'{"question_text": "a", "question_text": "b"}', "invalid_json", "question_text"),
        (b"[" * 60_000, "invalid_json", "body"),
    ],
)
async def test_a_bad_body(api: ClientSession, sent: bytes, code: str, field: str) -> None:
    problem = await problem_of(await api.post("/api/ask", data=sent, headers=JSON))
    assert (problem.code, problem.errors[0].field) == (code, field)
    assert problem.errors[0].remedy


@pytest.mark.parametrize("chunked", [False, True])
@pytest.mark.parametrize("size", [65_537, 5_000_000])
async def test_a_body_that_is_too_large(api: ClientSession, size: int, chunked: bool) -> None:
    response = await api.post("/api/ask", data=BytesIO(b" " * size), headers=JSON, chunked=True if chunked else None)
    assert (await problem_of(response)).code == "body_too_large"


async def test_a_body_of_the_largest_size_is_read(api: ClientSession) -> None:
    response = await api.post("/api/ask", data=b" " * 65_536, headers=JSON)
    assert (await problem_of(response)).code == "invalid_json"


@pytest.mark.parametrize(
    "media_type",
    ["", "text/plain", "application/x-www-form-urlencoded", "multipart/form-data", "application/jsonx", "application"],
)
async def test_a_media_type_other_than_json(api: ClientSession, media_type: str) -> None:
    response = await api.post("/api/ask", data=GOOD, headers={"Content-Type": media_type})
    problem = await problem_of(response)
    assert (problem.code, problem.errors[0].field) == ("unsupported_media_type", "Content-Type")
    assert problem.errors[0].remedy == "send application/json"


async def test_a_compressed_body(api: ClientSession) -> None:
    response = await api.post("/api/ask", data=GOOD, headers=JSON | {"Content-Encoding": "gzip"})
    problem = await problem_of(response)
    assert (problem.code, problem.errors[0].field) == ("unsupported_media_type", "Content-Encoding")
    assert response.headers["Accept-Encoding"] == "identity"


@pytest.mark.parametrize("key", ["", "a b", "ключ", "x" * 256, "a\tb"])
async def test_a_bad_idempotency_key(api: ClientSession, key: str) -> None:
    response = await api.post("/api/ask", data=GOOD, headers=JSON | {"Idempotency-Key": key})
    problem = await problem_of(response)
    assert (problem.code, problem.errors[0].field) == ("invalid_header", "Idempotency-Key")


async def test_two_idempotency_keys(api: ClientSession) -> None:
    headers = [*JSON.items(), ("Idempotency-Key", "a"), ("Idempotency-Key", "b")]
    problem = await problem_of(await api.post("/api/ask", data=GOOD, headers=headers))
    assert problem.code == "invalid_header"


@pytest.mark.parametrize(
    "question_id",
    [
        *("0", "-1", "+1", "01", "1.0", "1e3", "1_0", "abc", "%201", "1%0A", "1%00", "%EF%BC%91", "%D9%A1"),
        *(str(MAX_ID), str(MAX_ID + 1), "9" * 20, "9" * 5_000),
    ],
)
@pytest.mark.parametrize("cancel", [False, True])
async def test_an_unknown_or_absurd_id(api: ClientSession, question_id: str, cancel: bool) -> None:
    url = URL(f"/api/answer/{question_id}{'/cancel' if cancel else ''}", encoded=True)
    response = await (api.post(url) if cancel else api.get(url))
    assert (await problem_of(response)).code == "question_not_found"


@pytest.mark.parametrize("path", ["/api", "/api/answer", "/api/answer/", "/api/ask/", "/docs", "/redoc", "/API/ask"])
async def test_an_unknown_path(api: ClientSession, path: str) -> None:
    response = await api.get(path, allow_redirects=False)
    assert (await problem_of(response)).code == "path_not_found"


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [
        ("GET", "/api/ask", "POST"),
        ("PUT", "/api/ask", "POST"),
        ("OPTIONS", "/api/ask", "POST"),
        ("PUT", "/api/answer/1", "DELETE, GET, HEAD"),
        ("POST", "/api/answer/1", "DELETE, GET, HEAD"),
        ("DELETE", "/api/questions", "GET, HEAD"),
        ("GET", "/api/answer/1/cancel", "POST"),
        ("POST", "/readyz", "GET, HEAD"),
        ("POST", "/", "GET, HEAD"),
        ("POST", "/page/any/page.css", "GET, HEAD"),
    ],
)
async def test_a_wrong_method(api: ClientSession, method: str, path: str, allowed: str) -> None:
    response = await api.request(method, path)
    assert (await problem_of(response)).code == "method_not_allowed"
    assert response.headers["Allow"] == allowed
