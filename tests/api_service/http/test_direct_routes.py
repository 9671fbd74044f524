"""What DirectRoutes serves is what FastAPI would, from the same description."""

import re
from typing import Annotated, Any

import pytest
from fastapi import APIRouter, BackgroundTasks, Depends, FastAPI, Header, Query, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.routing import APIRoute
from fastapi.security import HTTPBearer
from pydantic import BaseModel

from api_service.http.dependencies import QuestionId
from api_service.http.direct_routes import DirectRoutes, UnsuitableRouteError
from tests.api_service.asgi import Reply, call


class Seen(BaseModel):
    """What an endpoint was called with."""

    number: int
    agent: str
    language: str | None = None


class RefusedError(Exception):
    """Raised by a dependency."""


async def _agent(request: Request) -> str:
    request.state.asked = getattr(request.state, "asked", 0) + 1
    if (agent := request.headers.get("user-agent", "")) == "evil":
        raise RefusedError
    return agent


Agent = Annotated[str, Depends(_agent)]


async def _loud_agent(agent: Agent) -> str:
    return agent.upper()


router = APIRouter(prefix="/things")


@router.get("/{number}", response_model_exclude_none=True)
async def read(number: QuestionId, agent: Agent, response: Response) -> Seen:
    response.headers["X-Agent"] = agent
    return Seen(number=number, agent=agent)


@router.post("", status_code=202)
async def make(loud: Annotated[str, Depends(_loud_agent)], agent: Agent, request: Request, response: Response) -> Seen:
    if agent == "known":
        response.status_code = 200
    return Seen(number=request.state.asked, agent=loud, language=request.query_params.get("language"))


@router.get("/{number}/raw")
async def raw(number: QuestionId) -> Response:
    return Response(str(number), 203, {"X-Raw": "yes"}, "text/plain")


def application(*, direct: bool) -> FastAPI:
    app = FastAPI()
    app.include_router(router)

    @app.exception_handler(RequestValidationError)
    @app.exception_handler(RefusedError)
    async def refuse(_request: Request, error: Exception) -> Response:
        return Response(type(error).__name__, 400)

    if direct:
        routes = [route for route in router.routes if isinstance(route, APIRoute)]
        app.router.middleware_stack = DirectRoutes(app.router.middleware_stack, routes)
    return app


@pytest.mark.parametrize(
    ("method", "path", "agent", "status"),
    [
        ("GET", "/things/7", "me", 200),
        ("GET", "/things/07", "me", 400),
        ("GET", "/things/7", "evil", 400),
        ("POST", "/things", "me", 202),
        ("POST", "/things", "known", 200),
        ("GET", "/things/7/raw", "me", 203),
        ("GET", "/things/7/", "me", 307),
        ("GET", "/nothing", "me", 404),
        ("PUT", "/things/7", "me", 405),
    ],
)
async def test_a_reply_is_the_one_that_fastapi_gives(method: str, path: str, agent: str, status: int) -> None:
    def asked(*, direct: bool) -> Any:
        return call(application(direct=direct), method, path, headers={"User-Agent": agent, "Host": "test"})

    usual: Reply = await asked(direct=False)
    assert usual.status == status
    assert await asked(direct=True) == usual


async def test_a_dependency_that_two_share_is_called_once() -> None:
    reply = await call(application(direct=True), "POST", "/things")
    assert reply.json()["number"] == 1


# Of these only the signatures are looked at: a route that is refused is never called.


async def with_query(limit: Annotated[int, Query()] = 1) -> Seen:
    raise NotImplementedError(limit)


async def with_body(body: Seen) -> Seen:
    raise NotImplementedError(body)


def in_a_thread() -> Seen:
    raise NotImplementedError


async def of_anything() -> list[int]:
    raise NotImplementedError


async def with_dependency_that_closes(agent: Annotated[str, Depends(lambda: "")]) -> Seen:
    raise NotImplementedError(agent)


async def page_from_the_query(page: int = 1) -> int:
    raise NotImplementedError(page)


async def with_query_of_a_dependency(page: Annotated[int, Depends(page_from_the_query)]) -> Seen:
    raise NotImplementedError(page)


async def with_header(agent: Annotated[str, Header()] = "") -> Seen:
    raise NotImplementedError(agent)


async def with_background_tasks(tasks: BackgroundTasks) -> Seen:
    raise NotImplementedError(tasks)


async def with_uncached(agent: Annotated[str, Depends(_agent, use_cache=False)]) -> Seen:
    raise NotImplementedError(agent)


@pytest.mark.parametrize(
    ("endpoint", "reason"),
    [
        (with_query, "with_query takes limit from the query"),
        (with_query_of_a_dependency, "page_from_the_query takes page from the query"),
        (with_header, "with_header takes agent from the headers"),
        (with_background_tasks, "with_background_tasks takes tasks, which only FastAPI provides"),
        (with_uncached, "_agent is to be called anew"),
        (with_body, "FastAPI would read its body"),
        (in_a_thread, "in_a_thread is no async function"),
        (of_anything, "it returns list[int], which is no model"),
        (with_dependency_that_closes, "<lambda> is no async function"),
    ],
)
def test_a_route_that_needs_more_is_refused_at_the_start_with_the_reason(endpoint: Any, reason: str) -> None:
    with pytest.raises(UnsuitableRouteError, match=re.escape(f"/things cannot be served without FastAPI: {reason}")):
        DirectRoutes(FastAPI(), [APIRoute("/things", endpoint)])


async def test_a_scheme_of_fastapi_is_a_dependency_as_any_other() -> None:
    async def endpoint(token: Annotated[Any, Depends(HTTPBearer())]) -> Response:
        return Response(token.credentials)

    direct = DirectRoutes(FastAPI(), [APIRoute("/", endpoint)])
    assert (await call(direct, headers={"Authorization": "Bearer secret"})).body == b"secret"
