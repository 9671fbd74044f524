import asyncio
import re
from contextlib import suppress
from typing import Any

import aiohttp
import pytest

from api_service.http.dependencies import LONGEST_WAIT_SECONDS
from api_service.http.problems import MEDIA_TYPE, PROBLEM_TYPES, Code, Problem
from embedded.ports import free_port
from tests.nginx.conftest import OpenEdge
from tests.nginx.edge import CONFIGURATION, MAX_BODY_BYTES
from tests.nginx.upstream import Writer, answer, break_off, upstream

JSON = {"Content-Type": "application/json"}
_LENGTH = re.compile(r"^content-length: (\d+)\r$", re.IGNORECASE | re.MULTILINE)


async def request(url: str, method: str = "GET", **how: Any) -> tuple[aiohttp.ClientResponse, bytes]:
    async with aiohttp.ClientSession() as session, session.request(method, url, **how) as reply:
        return reply, await reply.read()


def problem_in(reply: aiohttp.ClientResponse, body: bytes) -> Problem:
    """The problem, checked against what api_service says of its code."""
    assert reply.content_type == MEDIA_TYPE
    assert reply.headers["Cache-Control"] == "no-store"
    problem = Problem.model_validate_json(body)
    problem_type = PROBLEM_TYPES[problem.code]
    assert (problem.type, problem.title) == (f"urn:askmesh:problem:{problem.code}", problem_type.title)
    assert problem.retryable == problem_type.retryable
    assert problem.status == reply.status
    assert problem.request_id == reply.headers["X-Request-ID"]
    assert ("Retry-After" in reply.headers) == (reply.status >= 500)
    return problem


async def raw(port: int, data: bytes) -> tuple[str, str, bytes]:
    """What comes back for these bytes: status line, headers, body."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(data)
    async with asyncio.timeout(30):
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        # Not to the end of the connection: nginx resets one on which it has waited for a body in vain.
        body = await reader.readexactly(int(length[1])) if (length := _LENGTH.search(head)) else b""
    writer.close()
    status, _, headers = head.removesuffix("\r\n\r\n").partition("\r\n")
    return status, headers, body


async def test_without_a_replica_it_is_a_problem_that_names_the_request(open_edge: OpenEdge) -> None:
    edge = open_edge(api=[free_port()])
    reply, body = await request(f"{edge.url}/api/answer/1", headers={"X-Request-ID": "mine-1"})
    problem = problem_in(reply, body)
    assert (problem.status, problem.code, problem.request_id) == (502, Code.SERVICE_UNAVAILABLE, "mine-1")
    assert reply.headers["X-Content-Type-Options"] == "nosniff"


@pytest.mark.parametrize("sent", ["", "x" * 129, "a b", 'a"b', "ä"])
async def test_a_request_id_that_is_none_is_replaced(open_edge: OpenEdge, sent: str) -> None:
    async with upstream() as replica:
        edge = open_edge(api=[replica.port])
        _, headers, _ = await raw(
            edge.port,
            f"GET /a HTTP/1.1\r\nHost: a\r\nConnection: close\r\nX-Request-ID: {sent}\r\n\r\n".encode(),
        )
        (line,) = [line for line in replica.requests[0].split(b"\r\n") if line.lower().startswith(b"x-request-id")]
    assert len(line.split(b": ")[1]) == 32
    assert "nginx" in headers


async def test_a_request_id_reaches_the_replica(open_edge: OpenEdge) -> None:
    async with upstream() as replica:
        edge = open_edge(api=[replica.port])
        await request(edge.url, headers={"X-Request-ID": "mine:2.a_b-C", "X-Forwarded-For": "6.6.6.6"})
        seen = replica.requests[0].lower()
        assert b"x-request-id: mine:2.a_b-c\r\n" in seen
        assert b"x-forwarded-for: 127.0.0.1\r\n" in seen
        assert b"6.6.6.6" not in seen
    async with asyncio.timeout(30):  # nginx writes it after the reply
        while '"request_id":"mine:2.a_b-C"' not in edge.log():
            await asyncio.sleep(0.01)


async def test_bodies_beyond_the_limit_are_refused_before_a_replica_sees_them(open_edge: OpenEdge) -> None:
    async with upstream() as replica:
        edge = open_edge(api=[replica.port])
        reply, _ = await request(f"{edge.url}/api/ask", "POST", data=b"x" * MAX_BODY_BYTES, headers=JSON)
        assert reply.status == 200
        assert len(replica.requests[0].partition(b"\r\n\r\n")[2]) == MAX_BODY_BYTES
        declared = f"POST /api/ask HTTP/1.1\r\nHost: a\r\nContent-Length: {MAX_BODY_BYTES + 1}\r\n\r\n"
        status, _, body = await raw(edge.port, declared.encode())
        assert status.startswith("HTTP/1.1 413")
        assert Problem.model_validate_json(body).code is Code.BODY_TOO_LARGE
        assert f"{MAX_BODY_BYTES} bytes" in Problem.model_validate_json(body).detail
        assert len(replica.requests) == 1


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        (b"GET / HTTP/1.1\r\n\r\n", 400),
        (b"\x16\x03\x01 hello\r\n\r\n", 400),
        (b"GET /" + b"a" * 9_000 + b" HTTP/1.1\r\nHost: a\r\n\r\n", 414),
        (b"GET / HTTP/1.1\r\nHost: a\r\nA: " + b"a" * 9_000 + b"\r\n\r\n", 431),
        (b"TRACE / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n", 405),
        (b"GET /.problem HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n", 404),
        (b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: x\r\nConnection: close\r\n\r\n", 501),
    ],
)
async def test_what_nginx_refuses_itself_is_a_problem(open_edge: OpenEdge, sent: bytes, status: int) -> None:
    edge = open_edge()
    line, headers, body = await raw(edge.port, sent)
    assert line.startswith(f"HTTP/1.1 {status} ")
    assert f"content-type: {MEDIA_TYPE}" in headers.lower()
    problem = Problem.model_validate_json(body)
    assert problem.status == status
    assert problem.title == PROBLEM_TYPES[problem.code].title
    assert f"x-request-id: {problem.request_id}" in headers.lower()


async def test_what_a_replica_refuses_passes_unchanged(open_edge: OpenEdge) -> None:
    async def refuse(writer: Writer) -> None:
        head = b"HTTP/1.1 503 Service Unavailable\r\nRetry-After: 7\r\nContent-Type: application/problem+json\r\n"
        writer.write(head + b"Content-Length: 12\r\n\r\n" + b'{"mine":"1"}')

    async with upstream(refuse) as first, upstream(refuse) as second:
        edge = open_edge(api=[first.port, second.port])
        reply, body = await request(edge.url)
        assert (reply.status, reply.headers["Retry-After"], body) == (503, "7", b'{"mine":"1"}')
        assert len(first.requests) + len(second.requests) == 1


@pytest.mark.parametrize(
    ("method", "headers", "status"),
    [
        ("GET", {}, 200),
        ("DELETE", {}, 200),
        ("POST", {"Idempotency-Key": "k"}, 200),
        ("POST", {}, 502),
        ("POST", {"Idempotency-Key": ""}, 502),
    ],
)
async def test_only_what_may_be_repeated_goes_to_another_replica(
    open_edge: OpenEdge, method: str, headers: dict[str, str], status: int
) -> None:
    async with upstream(break_off) as broken, upstream() as sound:
        edge = open_edge(api=[broken.port, sound.port])
        # Both take turns, so one of two requests begins at the broken one, which is then left alone.
        url = f"{edge.url}/api/ask?wait=60"
        replies = [await request(url, method, headers=headers, data=b"body") for _ in range(4)]
        assert len(broken.requests) == 1
        assert sorted(reply.status for reply, _ in replies) == [200, 200, 200, status]
        assert len(sound.requests) == (4 if status == 200 else 3)
        assert all(request.endswith(b"\r\n\r\nbody") for request in sound.requests)
        assert all(request.startswith(f"{method} /api/ask?wait=60 ".encode()) for request in sound.requests)
        for reply, body in replies:
            if reply.status == 502:
                assert problem_in(reply, body).code is Code.SERVICE_UNAVAILABLE


async def test_an_offer_to_change_the_protocol_is_ignored(open_edge: OpenEdge) -> None:
    # As Java's HttpClient makes it with each request.
    offer = b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABk\r\n"
    async with upstream() as replica:
        edge = open_edge(api=[replica.port])
        status, _, body = await raw(
            edge.port, b"POST /api/ask HTTP/1.1\r\nHost: a\r\n" + offer + b"Content-Length: 4\r\n\r\nbody"
        )
        assert (status.split()[1], body) == ("200", b"{}")
        (seen,) = replica.requests
        assert seen.endswith(b"\r\n\r\nbody")
        assert b"\r\nupgrade:" not in seen.lower()


def test_a_replica_may_be_silent_for_longer_than_anybody_may_wait() -> None:
    (seconds,) = re.findall(r"proxy_read_timeout (\d+)s;", (CONFIGURATION / "askmesh/proxy.conf").read_text())
    postgresql_hangs = 20  # for a connection and for a statement, before whoever has asked is told its id
    assert int(seconds) > LONGEST_WAIT_SECONDS + postgresql_hangs


@pytest.mark.parametrize(
    ("method", "headers", "status"),
    [("GET", {}, 200), ("POST", {"Idempotency-Key": "k"}, 200), ("POST", {}, 502)],
)
async def test_what_failed_at_all_replicas_begins_anew_once(
    open_edge: OpenEdge, method: str, headers: dict[str, str], status: int
) -> None:
    async def break_off_once(writer: Writer) -> None:
        replica.behave = answer
        writer.close()

    async with upstream(break_off_once) as replica:
        edge = open_edge(api=[replica.port])
        reply, body = await request(edge.url, method, headers=headers, data=b"body")
        assert reply.status == status
        assert len(replica.requests) == (2 if status == 200 else 1)
        assert all(request.endswith(b"\r\n\r\nbody") for request in replica.requests)
        if status == 502:
            assert problem_in(reply, body).code is Code.SERVICE_UNAVAILABLE


async def test_a_replica_that_is_gone_costs_no_request(open_edge: OpenEdge) -> None:
    async with upstream() as sound:
        edge = open_edge(api=[free_port(), sound.port])
        replies = [await request(edge.url, "POST", data=b"body") for _ in range(6)]
    assert [reply.status for reply, _ in replies] == [200] * 6


async def test_connections_to_replicas_are_kept(open_edge: OpenEdge) -> None:
    async with upstream() as replica:
        edge = open_edge(api=[replica.port])
        async with aiohttp.ClientSession() as session:
            for _ in range(20):
                async with session.get(edge.url) as reply:
                    await reply.read()
        assert len(replica.requests) == 20
        # Each of nginx's processes keeps its own.
        assert replica.connections < 20


async def test_an_event_arrives_before_the_stream_ends_and_uncompressed(open_edge: OpenEdge) -> None:
    go_on = asyncio.Event()

    async def stream(writer: Writer) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nConnection: close\r\n\r\n")
        writer.write(b"data: " + b"a" * 2_000 + b"\n\n")
        await writer.drain()
        await go_on.wait()
        writer.write(b"data: end\n\n")
        writer.close()

    async with upstream(stream) as replica:
        edge = open_edge(api=[replica.port])
        async with aiohttp.ClientSession() as session:
            reply = await session.get(f"{edge.url}/api/answer/1/events", headers={"Accept-Encoding": "gzip"})
            assert "Content-Encoding" not in reply.headers
            assert (await reply.content.readuntil(b"\n\n")).startswith(b"data: aaa")
            go_on.set()
            assert await reply.content.read() == b"data: end\n\n"


async def test_a_reader_who_leaves_is_noticed_by_the_replica(open_edge: OpenEdge) -> None:
    async def stream(writer: Writer) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nConnection: close\r\n\r\n")
        with suppress(ConnectionError):
            while not writer.is_closing():
                writer.write(b": still here\n\n")
                await writer.drain()
                await asyncio.sleep(0.05)

    async with upstream(stream) as replica:
        edge = open_edge(api=[replica.port])
        async with aiohttp.ClientSession() as session, session.get(edge.url) as reply:
            await reply.content.readuntil(b"\n\n")
            reply.close()
            async with asyncio.timeout(30):
                await replica.left.wait()


async def test_long_json_is_compressed(open_edge: OpenEdge) -> None:
    async def long(writer: Writer) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 5000\r\n\r\n")
        writer.write(b"1" * 5_000)

    async with upstream(long) as replica:
        edge = open_edge(api=[replica.port])
        reply, body = await request(edge.url, headers={"Accept-Encoding": "gzip"})
        assert reply.headers["Content-Encoding"] == "gzip"
        assert body == b"1" * 5_000


async def test_security_headers_come_with_every_reply_unless_a_replica_has_its_own(open_edge: OpenEdge) -> None:
    async def page(writer: Writer) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Security-Policy: default-src 'self'\r\nContent-Length: 0\r\n")
        writer.write(b"Referrer-Policy: same-origin\r\nX-Content-Type-Options: nosniff\r\n\r\n")

    async with upstream(page) as replica:
        edge = open_edge(api=[replica.port])
        reply, _ = await request(edge.url)
        assert reply.headers.getall("Content-Security-Policy") == ["default-src 'self'"]
        assert reply.headers.getall("Referrer-Policy") == ["same-origin"]
        assert reply.headers.getall("X-Content-Type-Options") == ["nosniff"]
        replica.behave = answer
        reply, _ = await request(edge.url)
        assert reply.headers["Content-Security-Policy"] == "default-src 'none'; frame-ancestors 'none'"
        assert reply.headers["X-Frame-Options"] == "DENY"
        assert reply.headers["Referrer-Policy"] == "no-referrer"
