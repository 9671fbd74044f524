"""The process: ``python -m api_service``."""

import asyncio
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from api_service.__main__ import main
from embedded.valkey import Valkey
from tests.api_service.serving import client_of

SECONDS = 60


@pytest.fixture
def environment(api_database_url: str, valkey: Valkey) -> dict[str, str]:
    return os.environ | {
        "ASKMESH_DATABASE_URL": api_database_url,
        "ASKMESH_REDIS_URL": valkey.url(),
        "ASKMESH_BROKER_URL": valkey.broker_url,
        "ASKMESH_DRAIN_SECONDS": "20",
        "ASKMESH_LLM_TARGETS": "127.0.0.1:1",
    }


@contextmanager
def started(environment: dict[str, str], tmp_path: Path, listening: socket.socket) -> Iterator[subprocess.Popen[bytes]]:
    """The service on a socket that it inherits, once it has said that it is ready."""
    address = tmp_path / "ready"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as ready, (tmp_path / "log").open("wb") as log:
        ready.bind(str(address))
        ready.settimeout(SECONDS)
        process = subprocess.Popen(
            [sys.executable, "-m", "api_service"],
            env=environment | {"NOTIFY_SOCKET": str(address), "ASKMESH_API_LISTEN_FD": str(listening.fileno())},
            pass_fds=[listening.fileno()],
            stderr=log,
        )
        try:
            assert ready.recv(100) == b"READY=1"
            yield process
        finally:
            process.kill()
            process.wait()


def url_of(listening: socket.socket) -> str:
    host, port = listening.getsockname()
    return f"http://{host}:{port}"


async def test_it_serves_once_it_says_so_and_stops_clean(environment: dict[str, str], tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening, started(environment, tmp_path, listening) as process:
        async with client_of(url_of(listening)) as client:
            response = await client.get("/readyz")
            assert (response.status, await response.json()) == (200, {"status": "ready", "degraded": ["model"]})
            assert (await client.post("/api/ask", json={"question_text": "why?"})).status == 202
        process.terminate()
        assert process.wait(SECONDS) == 0
    log = (tmp_path / "log").read_text()
    assert "Traceback" not in log
    assert "why?" not in log


async def test_a_request_that_is_being_sent_is_answered_before_it_stops(
    environment: dict[str, str], tmp_path: Path
) -> None:
    body = b'{"question_text": "why not?"}'
    head = (
        b"POST /api/ask HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        b"Content-Length: %d\r\nExpect: 100-continue\r\n\r\n" % len(body)
    )
    with socket.create_server(("127.0.0.1", 0)) as listening, started(environment, tmp_path, listening) as process:
        reader, writer = await asyncio.open_connection(*listening.getsockname())
        writer.write(head)
        assert await reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
        idle_reader, idle_writer = await asyncio.open_connection(*listening.getsockname())
        idle_writer.write(b"GET /livez HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert await idle_reader.readuntil(b"}")
        process.send_signal(signal.SIGTERM)
        assert await idle_reader.read() == b""  # it has begun to stop
        writer.write(body)
        answer = await asyncio.wait_for(reader.read(), SECONDS)
        assert answer.startswith(b"HTTP/1.1 202 ")
        assert b"connection: close" in answer
        assert await asyncio.to_thread(process.wait, SECONDS) == 0
        writer.close()
        idle_writer.close()


async def test_connections_wait_in_the_socket_while_it_restarts(environment: dict[str, str], tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        async with client_of(url_of(listening)) as client:
            early = asyncio.create_task(client.get("/livez"))
            with started(environment, tmp_path, listening) as process:
                assert (await early).status == 200
                process.terminate()
                assert await asyncio.to_thread(process.wait, SECONDS) == 0
            (tmp_path / "ready").unlink()
            late = asyncio.create_task(client.get("/livez"))
            with started(environment, tmp_path, listening):
                assert (await late).status == 200


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"ASKMESH_DATABASE_URL": ""}, "ASKMESH_DATABASE_URL: is required"),
        ({"ASKMESH_API_PORT": "70000"}, "ASKMESH_API_PORT: "),
        ({"ASKMESH_LLM_TARGETS": "llm"}, "ASKMESH_LLM_TARGETS: 'llm' must be host:port"),
        ({"ASKMESH_JWT_ISSUER": "https://login.example.com"}, "ASKMESH_JWT_ISSUER, ASKMESH_JWT_AUDIENCE and"),
        ({"ASKMESH_ALLOWED_ORIGINS": "*"}, "ASKMESH_ALLOWED_ORIGINS: * is none"),
        ({"ASKMESH_MAX_BODY_BITES": "1"}, "unknown setting ASKMESH_MAX_BODY_BITES"),
    ],
)
def test_a_wrong_setting_is_one_clear_line(
    environment: dict[str, str],
    settings: dict[str, str],
    words: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert_refused(environment | settings, 2, words, monkeypatch, capsys)


def test_a_port_in_use_is_one_clear_line(
    environment: dict[str, str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        words = f"cannot listen on 127.0.0.1:{port}: "
        assert_refused(environment | {"ASKMESH_API_PORT": str(port)}, 1, words, monkeypatch, capsys)


def test_a_network_is_not_served_without_authentication(
    environment: dict[str, str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = environment | {"ASKMESH_API_PORT": "0", "ASKMESH_API_HOST": "0.0.0.0"}
    words = "ASKMESH_API_HOST: on 0.0.0.0 anyone in the network could ask"
    assert_refused(settings, 2, words, monkeypatch, capsys)


def test_a_socket_that_was_inherited_is_looked_at_too(
    environment: dict[str, str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    inherited = socket.create_server(("0.0.0.0", 0))
    settings = environment | {"ASKMESH_API_LISTEN_FD": str(inherited.detach())}
    assert_refused(settings, 2, "ASKMESH_API_HOST: on 0.0.0.0 anyone", monkeypatch, capsys)


def assert_refused(
    environment: dict[str, str],
    status: int,
    words: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """The service does not start with these settings, and says so in one line that begins with these words."""
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr("api_service.__main__.configure_logging", lambda *_: None)  # pytest's own stays
    assert main() == status
    said = capsys.readouterr().err
    assert said.startswith(f"api_service: {words}")
    assert said.count("\n") == 1
