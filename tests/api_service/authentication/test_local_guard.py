"""Without authentication: pages of other web sites get nothing."""

import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Route

from api_service.authentication.local_guard import LocalGuard
from api_service.http.middleware import RequestIds
from tests.api_service.asgi import Reply, call


async def served(_request: Request) -> PlainTextResponse:
    return PlainTextResponse("served")


APP = RequestIds(
    LocalGuard(
        Starlette(routes=[Route("/", served, methods=["GET", "POST"])]),
        hosts=frozenset({"mesh.local", "[fd00::1]"}),
        origins=frozenset({"https://app.example.com"}),
    )
)


async def asked(**headers: str) -> Reply:
    return await call(APP, "POST", headers=headers)


@pytest.mark.parametrize(
    "host",
    [
        "localhost",
        "localhost:8080",
        "LOCALHOST:1",
        "127.0.0.1:8080",
        "[::1]:8080",
        "[::1]",
        "mesh.local",
        "[fd00::1]:80",
    ],
)
async def test_own_names_are_served(host: str) -> None:
    assert (await asked(host=host)).status == 200
    assert (await asked(host=host, origin=f"http://{host}")).status == 200
    assert (await asked(host=host, origin=f"https://{host}")).status == 200


@pytest.mark.parametrize(
    "host",
    [
        "evil.example",
        "localhost.evil.example:8080",
        "127.0.0.1.evil.example",
        "evil.example:localhost",
        "127.0.0.2",
        "192.168.1.7:8080",
        "[::2]:80",
        "localhost:8080:80",
        "localhost ",
        "",
    ],
)
async def test_a_foreign_name_that_leads_here_is_refused(host: str) -> None:
    reply = await asked(host=host)
    assert (reply.status, reply.json()["code"]) == (403, "forbidden")
    (field,) = reply.json()["errors"]
    assert field["field"] == "Host"
    assert f"is {host or 'empty'}, which" in field["detail"]
    assert "ASKMESH_ALLOWED_HOSTS" in field["remedy"]


@pytest.mark.parametrize(
    "origin",
    [
        "https://evil.example",
        "null",
        "http://localhost:3000",
        "http://localhost:8080.evil.example",
        "https://app.example.com.evil.example",
        "http://app.example.com",
        "",
    ],
)
async def test_pages_of_other_sites_are_refused(origin: str) -> None:
    reply = await asked(host="localhost:8080", origin=origin)
    assert (reply.status, reply.json()["errors"][0]["field"]) == (403, "Origin")


async def test_sites_that_are_allowed_are_served() -> None:
    assert (await asked(host="localhost:8080", origin="https://app.example.com")).status == 200


async def test_who_is_no_browser_needs_neither() -> None:
    assert (await call(APP)).status == 200
