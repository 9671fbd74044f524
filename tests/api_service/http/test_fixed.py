"""What is the same for everybody is made once, and sent as it is."""

import gzip
import re
from types import SimpleNamespace

import pytest
from starlette.types import Receive, Scope, Send

from api_service.app import create_app
from api_service.health.endpoints import router
from api_service.http import fixed
from api_service.http.openapi import DocumentedApi
from tests.api_service.asgi import Reply, call
from tests.api_service.test_openapi import SETTINGS

HOST = {"host": "127.0.0.1"}


async def paths(app: DocumentedApi) -> list[str]:
    page = (await call(app, path="/", headers=HOST)).body.decode()
    return ["/", "/openapi.json", *(f"/{name}" for name in re.findall(r'(?:href|src)="(page/[^"]+)"', page))]


async def test_nothing_is_made_or_compressed_again(monkeypatch: pytest.MonkeyPatch) -> None:
    app = create_app(SETTINGS)
    assert isinstance(app, DocumentedApi)

    async def get(path: str, **headers: str) -> Reply:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        return await call(app, path=path, headers=HOST | named)

    found = await paths(app)
    assert len(found) > 5
    first = {path: (await get(path), await get(path, accept_encoding="gzip, br")) for path in found}
    for made in ("gzip.compress", "hashlib.sha256"):
        monkeypatch.delattr(f"{fixed.__name__}.{made}")
    monkeypatch.setattr(DocumentedApi, "openapi", None)
    monkeypatch.setattr("pathlib.Path.open", None)
    for path, (plain, compressed) in first.items():
        assert (plain.status, compressed.status) == (200, 200), path
        again = await get(path), await get(path, accept_encoding="gzip")
        assert (again[0].body, again[1].body) == (plain.body, compressed.body), path
        assert {reply.headers["vary"] for reply in again} == {"Accept-Encoding"}, path
        if compressed.headers.get("content-encoding") == "gzip":
            assert gzip.decompress(compressed.body) == plain.body, path
            assert len(compressed.body) < len(plain.body), path
            assert compressed.headers["etag"] != plain.headers["etag"], path
        else:
            assert len(plain.body) < 2_000, path
        for one in (plain, compressed):
            known = await get(path, if_none_match=one.headers["etag"])
            assert (known.status, known.body) == (304, b""), path
            assert (await get(path, if_none_match='"something else"')).status == 200
        head = await call(app, "HEAD", path, headers=HOST)
        assert (head.status, head.body, head.headers["content-length"]) == (200, b"", str(len(plain.body))), path


async def test_the_question_whether_it_lives_needs_no_machinery(monkeypatch: pytest.MonkeyPatch) -> None:
    app = create_app(SETTINGS)
    monkeypatch.setattr("fastapi.routing.APIRoute.matches", None)
    monkeypatch.setattr("fastapi.routing.APIRoute.handle", None)

    async def running(scope: Scope, receive: Receive, send: Send) -> None:
        await app({**scope, "state": {"background": SimpleNamespace(broken=())}}, receive, send)

    reply = await call(running, path="/livez", headers=HOST)
    assert (reply.status, reply.json(), reply.headers["cache-control"]) == (200, {"status": "alive"}, "no-store")
    assert {route.path for route in router.routes if hasattr(route, "path")} >= {"/livez", "/readyz"}
