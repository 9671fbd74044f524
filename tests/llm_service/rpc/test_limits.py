"""What a caller of gRPC may not do, with a real server; some of it as raw HTTP/2, which no library would send."""

import asyncio
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import grpc
import pytest
from askmesh.llm.v1.generation_service_pb2 import GenerateRequest
from askmesh_client.channel import MAX_REQUEST_BYTES, SERVICE

from foundation.settings import GenerationSettings, LlmServiceSettings
from llm_service.server import LlmServer
from tests.fakes.model_server import FakeModelServer, expected_answer
from tests.llm_service.conftest import Client, ask, client_of, failure_of

pytestmark = pytest.mark.loopback

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
SETTINGS, PING, GOAWAY = 4, 6, 7
MAX_CONCURRENT_STREAMS, MAX_HEADER_LIST_SIZE = 3, 6
ENHANCE_YOUR_CALM = 11


def frame(kind: int, payload: bytes = b"", flags: int = 0) -> bytes:
    return struct.pack(">I", len(payload))[1:] + bytes([kind, flags]) + b"\0\0\0\0" + payload


async def next_frame(reader: asyncio.StreamReader) -> tuple[int, bytes]:
    head = await reader.readexactly(9)
    return head[3], await reader.readexactly(int.from_bytes(head[:3], "big"))


async def find(reader: asyncio.StreamReader, wanted: int) -> bytes:
    async with asyncio.timeout(30):
        while True:
            kind, payload = await next_frame(reader)
            if kind == wanted:
                return payload


@asynccontextmanager
async def server_of(**settings: Any) -> AsyncIterator[LlmServer]:
    async with (
        FakeModelServer() as fake,
        LlmServer(LlmServiceSettings(llm_port=0, model_url=fake.url, **settings), GenerationSettings()) as server,
    ):
        yield server


@asynccontextmanager
async def raw(server: LlmServer) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    try:
        yield reader, writer
    finally:
        writer.close()


async def still_serves(client: Client) -> bool:
    return (await client.generate(ask("hello"))).text == expected_answer("hello")


async def test_messages_and_metadata_have_limits(client: Client) -> None:
    too_large = GenerateRequest(spec=ask("a" * MAX_REQUEST_BYTES))
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await client.stub.Generate(too_large, timeout=30)
    assert refused.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    metadata = tuple((f"x-{number}", "a" * 1_000) for number in range(200))
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await client.stub.Generate(GenerateRequest(spec=ask("hello")), metadata=metadata, timeout=30)
    assert refused.value.code() in (grpc.StatusCode.RESOURCE_EXHAUSTED, grpc.StatusCode.UNAVAILABLE)
    assert await still_serves(client)


@pytest.mark.parametrize("content", [b"\0", b"\xff" * 99, b"\x0a\x03\x12\x01\xff"])
@pytest.mark.parametrize("method", ["Generate", "GenerateStream", "ListModels"])
async def test_bytes_that_are_no_message_are_the_callers_fault(
    client: Client, method: str, content: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    if method == "ListModels":
        content = b"\0"  # the others are fields that it does not know
    channel: Any = client.channel
    call = channel.unary_stream(f"/{SERVICE}/{method}")(content, timeout=30)
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await call.read()
    failure = failure_of(refused.value)
    assert (failure.code, failure.reason) == (grpc.StatusCode.INVALID_ARGUMENT, "INVALID_FIELD")
    assert failure.fields == ["request"]
    assert caplog.records == []
    assert await still_serves(client)


async def test_probes_log_nothing_either(caplog: pytest.LogCaptureFixture) -> None:
    async with server_of(llm_health_port=0) as server:
        assert server.health_port is not None
        async with client_of(server.health_port) as prober:
            channel: Any = prober.channel
            with pytest.raises(grpc.aio.AioRpcError) as refused:
                await channel.unary_unary("/grpc.health.v1.Health/Check")(b"\0", timeout=30)
    assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert caplog.records == []


async def test_a_connection_is_told_how_many_streams_and_headers_it_may_send() -> None:
    async with server_of(max_generations=7) as server, raw(server) as (reader, writer):
        writer.write(PREFACE + frame(SETTINGS))
        payload = await find(reader, SETTINGS)
        told = dict(struct.unpack(">HI", payload[start : start + 6]) for start in range(0, len(payload), 6))
        assert told[MAX_CONCURRENT_STREAMS] == 7 + 1_000
        assert 64 * 1_024 <= told[MAX_HEADER_LIST_SIZE] <= 128 * 1_024


async def test_who_pings_without_end_is_cut_off() -> None:
    async with server_of() as server, client_of(server.port) as client, raw(server) as (reader, writer):
        writer.write(PREFACE + frame(SETTINGS) + frame(PING, b"12345678") * 50)
        payload = await find(reader, GOAWAY)
        assert int.from_bytes(payload[4:8], "big") == ENHANCE_YOUR_CALM
        async with asyncio.timeout(30):
            await reader.read()
        assert await still_serves(client)


@pytest.mark.parametrize(
    "sent", [b"", PREFACE[:10], b"GET / HTTP/1.1\r\nHost: a\r\n\r\n", b"\x16\x03\x01\x00\xff" * 99]
)
async def test_a_connection_that_does_not_become_http_2_is_closed(sent: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("llm_service.server._HANDSHAKE_SECONDS", 1)
    async with server_of() as server, raw(server) as (reader, writer):
        writer.write(sent)
        async with asyncio.timeout(30):
            await reader.read()


async def test_connections_have_a_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("llm_service.server._MAX_CONNECTIONS", 3)
    async with server_of() as server, client_of(server.port) as client:
        assert await still_serves(client)
        idle = [await asyncio.open_connection("127.0.0.1", server.port) for _ in range(2)]
        for reader, writer in idle:
            writer.write(PREFACE + frame(SETTINGS))
            await find(reader, SETTINGS)
        async with raw(server) as (reader, writer):
            writer.write(PREFACE + frame(SETTINGS))
            async with asyncio.timeout(30):
                assert await reader.read() == b""
        assert await still_serves(client)
        for _, writer in idle:
            writer.close()
