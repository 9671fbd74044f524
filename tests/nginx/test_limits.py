"""What one address may have: connections, and requests that need no key."""

import asyncio
from pathlib import Path

import aiohttp

import api_service.page
from api_service.http.problems import Code
from tests.nginx.conftest import OpenEdge
from tests.nginx.test_public import problem_in, request
from tests.nginx.upstream import upstream

PAGE_FILES = [file for file in (Path(api_service.page.__file__).parent / "static").rglob("*") if file.is_file()]
KEYLESS = ["/", "/livez", "/readyz", "/openapi.json", "/page/0123456789abcdef/main.js", "/page/x"]
KEYED = ["/api/ask", "/api/questions", "/api/answer/1", "/api/answer/1/events", "/pages", "/livez/"]


async def statuses(url: str, path: str, count: int) -> list[int]:
    """Of so many requests, one after the other by one connection."""
    async with aiohttp.ClientSession() as session:
        seen = []
        for _ in range(count):
            async with session.get(url + path) as reply:
                await reply.read()
                seen.append(reply.status)
        return seen


async def test_an_address_may_hold_so_many_connections_and_no_more(open_edge: OpenEdge) -> None:
    async def never(_: object) -> None:
        return None

    async with upstream(never) as replica, aiohttp.ClientSession() as session:
        edge = open_edge(api=[replica.port], NGINX_CONNECTIONS_PER_ADDRESS="3")
        waiting = [asyncio.create_task(session.get(f"{edge.url}/held")) for _ in range(3)]
        async with asyncio.timeout(30):
            while len(replica.requests) < 3:
                await asyncio.sleep(0.01)
        reply, body = await request(f"{edge.url}/one-more")
        problem = problem_in(reply, body)
        assert (problem.status, problem.code) == (429, Code.HTTP_ERROR)
        assert len(replica.requests) == 3
        for task in waiting:
            task.cancel()
        await asyncio.gather(*waiting, return_exceptions=True)


async def test_an_office_behind_one_address_opens_the_page_and_nobody_is_refused(open_edge: OpenEdge) -> None:
    async with upstream() as replica:
        edge = open_edge(api=[replica.port], NGINX_KEYLESS_REQUESTS_PER_SECOND="1")  # as if all came at once
        a_visit = 1 + len(PAGE_FILES)
        seen = await asyncio.gather(*(statuses(edge.url, "/page/x/main.js", 20 * a_visit) for _ in range(4)))
        assert {status for each in seen for status in each} == {200}


async def test_a_flood_without_a_key_is_refused_and_costs_no_one_else(open_edge: OpenEdge) -> None:
    async with upstream() as replica:
        edge = open_edge(api=[replica.port], NGINX_KEYLESS_REQUESTS_PER_SECOND="1")
        flood = await asyncio.gather(*(statuses(edge.url, "/openapi.json", 600) for _ in range(4)))
        refused = sum(status == 429 for each in flood for status in each)
        assert refused > 300
        assert len(replica.requests) == 2_400 - refused
        for path in KEYLESS:
            reply, body = await request(edge.url + path)
            problem = problem_in(reply, body)
            assert (problem.status, problem.code) == (429, Code.HTTP_ERROR), path
            assert "wait a second" in problem.detail
        for path in KEYED:
            assert await statuses(edge.url, path, 5) == [200] * 5, path
