"""Every route, as each kind of caller. A new route fails here until it is written down."""

from dataclasses import dataclass
from typing import Any

import pytest
from aiohttp import ClientResponse
from starlette.routing import BaseRoute

from tests.api_service.authentication.conftest import Caller, Callers
from tests.api_service.test_openapi import operations

pytestmark = pytest.mark.asyncio(loop_scope="module")

UNKNOWN = 2**53 - 1
OPEN = {"/livez", "/readyz"}
"""What supervisors and load balancers ask, who have no key."""
OUTSIDE = {"/", "/page/{digest}/{path:path}", "/openapi.json"}
"""What is no operation: the page has to come before its key, and the document holds no secret."""


@dataclass(frozen=True)
class Route:
    """What a caller gets for the own question; whether it names one, so that another's gets 404."""

    own: int
    of_a_question: bool = False
    body: Any = None


ROUTES = {
    ("/api/ask", "post"): Route(202, body={"question_text": "who am I?"}),
    ("/api/answer/{question_id}", "get"): Route(200, of_a_question=True),
    ("/api/answer/{question_id}/events", "get"): Route(200, of_a_question=True),
    ("/api/answer/{question_id}/cancel", "post"): Route(200, of_a_question=True),
    ("/api/answer/{question_id}", "delete"): Route(200, of_a_question=True),
    ("/api/questions", "get"): Route(200),
    ("/api/usage", "get"): Route(200),
    ("/livez", "get"): Route(200),
    ("/readyz", "get"): Route(200),
}


def path_of(route: BaseRoute) -> str:
    return str(getattr(route, "path", route))


async def call(
    caller: Caller, path: str, method: str, question_id: int = UNKNOWN, key: str | None = None
) -> ClientResponse:
    headers = {"X-Request-ID": "the-same"}
    if key is not None:
        headers["Authorization"] = f"Bearer {key}"
    target = path.format(question_id=question_id)
    return await caller.send(method.upper(), target, headers=headers, json=ROUTES[path, method].body)


async def test_every_route_is_written_down_here(callers: Callers) -> None:
    document = callers.app.openapi()
    assert operations(document).keys() == ROUTES.keys()
    documented = {path for path, _ in ROUTES}
    outside = {path for path in map(path_of, callers.app.routes) if path not in documented}
    assert {path for path in outside if not path.startswith(("/api", "_"))} <= OUTSIDE | {""}, outside


async def test_every_route_says_whether_it_wants_a_key(callers: Callers) -> None:
    document = callers.app.openapi()
    assert document["components"]["securitySchemes"].keys() == {"bearer", "key"}
    for (path, _), operation in operations(document).items():
        if path in OPEN:
            assert "security" not in operation
        else:
            assert operation["security"] == [{"bearer": []}, {"key": []}]
            assert {"401", "403"} <= operation["responses"].keys()


@pytest.mark.parametrize("route", ROUTES)
async def test_without_a_good_key_nothing_is_said(callers: Callers, route: tuple[str, str]) -> None:
    path, method = route
    (mine := await callers.alice.ask(f"of {route}"))["question_id"]
    for key in (None, "askmesh_", "rubbish", f"{callers.alice.key}0", "a.b.c", ""):
        reply = await call(callers.anonymous, path, method, mine["question_id"], key)
        if path in OPEN:
            assert reply.status == 200
            continue
        problem = await reply.json()
        assert (reply.status, problem["code"], problem["retryable"]) == (401, "unauthenticated", False)
        assert reply.headers["WWW-Authenticate"].startswith('Bearer realm="askmesh"')
        assert reply.headers["Content-Type"] == "application/problem+json"
        assert not key or key not in await reply.text()


@pytest.mark.parametrize("route", [route for route, about in ROUTES.items() if about.of_a_question])
async def test_a_question_of_somebody_else_does_not_exist(callers: Callers, route: tuple[str, str]) -> None:
    path, method = route
    mine = (await callers.alice.ask(f"mine: {route}"))["question_id"]
    for other in (callers.bob, callers.operator):
        refused, unknown = await call(other, path, method, mine), await call(other, path, method, UNKNOWN)
        assert refused.status == unknown.status == 404
        assert await refused.read() == await unknown.read()
        assert without_date(refused) == without_date(unknown)
    still = await callers.alice.send("GET", f"/api/answer/{mine}")
    assert (await still.json())["status"] == "queued"
    if "events" in path:
        async with callers.alice.client.get("/livez"):  # the stream itself is another test's
            return
    assert (await call(callers.alice, path, method, mine)).status == ROUTES[route].own


def without_date(reply: ClientResponse) -> dict[str, str]:
    return {name.lower(): value for name, value in reply.headers.items() if name.lower() != "date"}


@pytest.mark.parametrize("route", [route for route, about in ROUTES.items() if not about.of_a_question])
async def test_everybody_with_a_key_has_their_own(callers: Callers, route: tuple[str, str]) -> None:
    path, method = route
    for caller in (callers.alice, callers.bob, callers.operator):
        reply = await call(caller, path, method)
        assert reply.status == ROUTES[route].own, await reply.text()


async def test_lists_hold_what_the_caller_asked(callers: Callers) -> None:
    ids = {}
    for name, caller in (("alice", callers.alice), ("bob", callers.bob), ("operator", callers.operator)):
        ids[name] = (await caller.ask(f"a question of {name}"))["question_id"]
    for name, caller in (("alice", callers.alice), ("bob", callers.bob), ("operator", callers.operator)):
        page = await (await caller.send("GET", "/api/questions?limit=100")).json()
        listed = {entry["question_id"] for entry in page["questions"]}
        assert ids[name] in listed
        assert not listed & (set(ids.values()) - {ids[name]})
