from http import HTTPStatus

import pytest
from fastapi import FastAPI
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.types import Receive, Scope, Send

from api_service.http.documentation import EXAMPLES
from api_service.http.middleware import RequestIds
from api_service.http.problems import (
    MEDIA_TYPE,
    PROBLEM_TYPES,
    Code,
    FieldError,
    Problem,
    ProblemError,
    install_problem_handlers,
)
from foundation.logs import SafeFormatter
from questions.asking import IdempotencyKeyReusedError
from tests.api_service.asgi import Reply, call


async def raised(error: Exception) -> Reply:
    """The response of an endpoint that raises this."""
    app = FastAPI()
    install_problem_handlers(app)
    app.add_middleware(RequestIds)

    @app.get("/")
    async def endpoint() -> None:
        raise error

    return await call(app, headers={"X-Request-ID": "r-1"})


def test_every_code_has_a_type_and_an_example() -> None:
    assert set(PROBLEM_TYPES) == set(EXAMPLES) == set(Code)


@pytest.mark.parametrize("code", Code)
async def test_each_code_makes_a_whole_problem(code: Code) -> None:
    field = FieldError(field="f", detail="is wrong", remedy="mend it")
    reply = await raised(ProblemError.of_fields(code, [field], {"Retry-After": "3"}))
    problem_type = PROBLEM_TYPES[code]
    assert reply.status == problem_type.status
    assert reply.headers["content-type"] == MEDIA_TYPE
    assert reply.headers["cache-control"] == "no-store"
    assert reply.headers["retry-after"] == "3"
    assert reply.json() == {
        "type": f"urn:askmesh:problem:{code}",
        "title": problem_type.title,
        "status": problem_type.status,
        "detail": "f is wrong: mend it.",
        "code": str(code),
        "retryable": problem_type.retryable,
        "request_id": "r-1",
        "errors": [{"field": "f", "detail": "is wrong", "remedy": "mend it"}],
    }


@pytest.mark.parametrize("code", Code)
def test_what_may_pass_by_itself_is_retryable_and_nothing_else(code: Code) -> None:
    problem_type = PROBLEM_TYPES[code]
    passing = {HTTPStatus.REQUEST_TIMEOUT, HTTPStatus.TOO_MANY_REQUESTS}
    assert problem_type.retryable == (problem_type.status >= 500 or problem_type.status in passing)


@pytest.mark.parametrize("status", [status for status in HTTPStatus if status >= 400])
async def test_every_status_that_a_library_raises_becomes_a_problem(status: HTTPStatus) -> None:
    reply = await raised(HTTPException(status, "why", headers={"Allow": "GET"}))
    problem = Problem.model_validate_json(reply.body)
    assert reply.status == problem.status == status
    assert reply.headers["content-type"] == MEDIA_TYPE
    assert reply.headers["allow"] == ("GET, HEAD" if status == HTTPStatus.METHOD_NOT_ALLOWED else "GET")


async def test_a_reused_idempotency_key_is_named() -> None:
    problem = Problem.model_validate_json((await raised(IdempotencyKeyReusedError())).body)
    assert (problem.status, problem.errors[0].field) == (422, "Idempotency-Key")


async def test_a_defect_tells_the_client_nothing_but_its_request_id_and_the_log_no_words(
    caplog: pytest.LogCaptureFixture,
) -> None:
    reply = await raised(RuntimeError("secret of the house"))
    problem = Problem.model_validate_json(reply.body)
    assert (reply.status, problem.code, problem.request_id) == (500, Code.INTERNAL_ERROR, "r-1")
    assert b"secret" not in reply.body
    assert reply.headers["x-request-id"] == "r-1"
    (record,) = caplog.records
    assert "r-1, GET /, met a defect" in record.getMessage()
    assert record.getMessage().endswith("RuntimeError")
    assert "secret" not in caplog.text


async def test_a_path_cannot_forge_a_line_of_the_log(caplog: pytest.LogCaptureFixture) -> None:
    async def broken(_scope: Scope, _receive: Receive, _send: Send) -> None:
        raise RuntimeError

    assert (await call(RequestIds(broken), "GET", "/a\n2026-01-01 forged\x1b[31m")).status == 500
    (record,) = caplog.records
    first, *trace = SafeFormatter("%(message)s").format(record).split("\n")
    assert r"GET /a\n2026-01-01 forged\x1b[31m, met a defect: RuntimeError" in first
    assert trace
    assert all(line.startswith("    ") for line in trace)


async def test_a_client_that_left_is_no_defect(caplog: pytest.LogCaptureFixture) -> None:
    await raised(ClientDisconnect())
    assert not caplog.records
