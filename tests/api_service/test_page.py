"""How the page and its files are served. What they do is tested in tests/api_service/page."""

import gzip
import hashlib
import re
from pathlib import Path

from starlette.applications import Starlette

from api_service.page import endpoints
from api_service.page.endpoints import page_routes
from tests.api_service.asgi import Reply, call

STATIC = Path(endpoints.__file__).with_name("static")


async def get(path: str, **headers: str) -> Reply:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return await call(Starlette(routes=page_routes()), path=path, headers=named)


async def addresses() -> list[str]:
    """Of every file that the page names."""
    page = (await get("/")).body.decode()
    return [f"/{address}" for address in re.findall(r'(?:href|src)="(page/[^"]+)"', page)]


async def test_the_page_has_a_strict_policy_and_is_asked_for_again_each_time() -> None:
    page = await get("/")
    assert (page.status, page.headers["content-type"]) == (200, "text/html; charset=utf-8")
    policy = page.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    assert "http" not in policy
    assert "require-trusted-types-for 'script'" in policy
    assert page.headers["cache-control"] == "no-cache"
    again = await get("/", if_none_match=page.headers["etag"])
    assert (again.status, again.body) == (304, b"")
    assert again.headers["etag"] == page.headers["etag"]


async def test_nothing_in_the_page_is_inline_or_from_elsewhere() -> None:
    page = (await get("/")).body.decode()
    assert not re.search(r"<style|\sstyle=|\son\w+=|<script(?![^>]*\ssrc=)", page)
    assert "//" not in page.replace("<!doctype", "")
    for file in STATIC.glob("*.*"):
        assert not re.search(r"""["'(]https?://(?!www\.w3\.org/)""", file.read_text()), file


async def test_every_module_is_named_by_the_page_so_that_all_load_at_once() -> None:
    named = {address.rsplit("/", 1)[1] for address in await addresses()}
    assert {file.name for file in [*STATIC.glob("*.js"), *STATIC.glob("*.css"), *STATIC.glob("vendor/*.js")]} <= named


async def test_the_first_load_is_under_100_kb() -> None:
    size = len((await get("/")).body)
    for address in await addresses():
        reply = await get(address, accept_encoding="gzip")
        assert reply.status == 200, address
        assert reply.headers["cache-control"] == "public, max-age=31536000, immutable"
        assert reply.headers["x-content-type-options"] == "nosniff"
        if address.endswith((".js", ".css")):
            assert reply.headers["content-encoding"] == "gzip", address
            assert gzip.decompress(reply.body) == (STATIC / address.split("/", 3)[3]).read_bytes()
        size += len(reply.body)
    assert size < 100_000


async def test_files_of_another_release_are_not_kept() -> None:
    address = next(address for address in await addresses() if address.endswith("main.js"))
    other = await get(re.sub(r"page/\w+/", "page/0123456789abcdef/", address))
    assert (other.status, other.headers["cache-control"]) == (200, "no-cache")


async def test_nothing_but_the_files_is_served() -> None:
    digest = (await addresses())[0].split("/")[2]
    outside = ("../endpoints.py", "../page.html", "%2e%2e/endpoints.py", "..%2fendpoints.py")
    for path in (*outside, "index.html", "page.html", "vendor", ""):
        assert (await call_status(f"/page/{digest}/{path}")) == 404, path


async def call_status(path: str) -> int:
    reply = await call(Starlette(routes=page_routes()), path=path)
    return reply.status


def test_the_libraries_are_those_that_were_published() -> None:
    table = (STATIC / "vendor" / "README.md").read_text()
    said = dict(re.findall(r"^\| `([^`]+)`.*\| `([0-9a-f]{64})` \|$", table, re.MULTILINE))
    files = {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in STATIC.glob("vendor/*.js")}
    assert said == files
