"""The real vLLM and the llm_service over it, each as a process, as `make vllm-test` runs them."""

import asyncio
import os
import signal
import subprocess
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from urllib.error import URLError
from urllib.request import urlopen

import aiohttp
import pytest

from embedded.ports import HOST, free_port
from tests.llm_service.conftest import Client, client_of
from tests.llm_service.processes import Service, service_process

MODEL = "SmolLM2-135M-Instruct"
CONTEXT = 2_048
AT_ONCE = 64
QUEUED = 80
"""Requests that vLLM takes up at most, generated for or waiting; beyond that it refuses."""
ENVIRONMENT = Path(__file__).parents[2] / ".venv-vllm"
_START_SECONDS = 300
_STOP_SECONDS = 60
_FIGURES = pytest.StashKey[list[str]]()


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("vllm", "llm_service over the real vLLM")
    group.addoption("--vllm-url", help="a vLLM that runs already, as http://127.0.0.1:8000; otherwise one is started")


def pytest_configure(config: pytest.Config) -> None:
    config.stash[_FIGURES] = []


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    if figures := config.stash[_FIGURES]:
        terminalreporter.section("vLLM")
        for figure in figures:
            terminalreporter.write_line(figure)


@dataclass
class Vllm:
    """A running vLLM."""

    root: str
    """Its address, without /v1."""
    pid: int = 0
    """Of its API server; its engine is a child."""

    async def requests(self) -> tuple[int, int]:
        """How many requests it generates for now, and how many wait in its queue."""
        async with aiohttp.ClientSession() as session, session.get(f"{self.root}/metrics") as response:
            lines = (await response.text()).splitlines()

        def total(name: str) -> int:
            return sum(int(float(line.split()[-1])) for line in lines if line.startswith(f"vllm:num_requests_{name}{{"))

        return total("running"), total("waiting")

    async def until_running(self, wanted: int) -> float:
        """Wait until it generates for so many, with none waiting; the seconds that it took."""
        began = time.monotonic()
        async with asyncio.timeout(60):
            while await self.requests() != (wanted, 0):
                await asyncio.sleep(0.02)
        return time.monotonic() - began


@pytest.fixture(scope="session")
def figures(pytestconfig: pytest.Config) -> list[str]:
    """Lines to print at the end."""
    return pytestconfig.stash[_FIGURES]


@pytest.fixture(scope="module")
def vllm(pytestconfig: pytest.Config, figures: list[str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Vllm]:
    """The vLLM of a module: 3.5 GB of memory."""
    url = pytestconfig.getoption("vllm_url")
    if url:
        yield Vllm(url.rstrip("/").removesuffix("/v1"))
        return
    with started(tmp_path_factory.mktemp("vllm") / "log", figures) as vllm:
        yield vllm


@contextmanager
def started(log: Path, figures: list[str], port: int = 0) -> Iterator[Vllm]:
    """A vLLM on this port, or a free one, which is gone afterwards with all its processes."""
    root = f"http://{HOST}:{(port := port or free_port())}"
    command: list[str | Path] = [ENVIRONMENT / "bin/python", "-m", "vllm.entrypoints.openai.api_server", "--host", HOST]
    command += ["--port", str(port), "--model", ENVIRONMENT / MODEL, "--served-model-name", MODEL]
    # Eager: nothing to compile, so it is ready in 40 s instead of minutes.
    command += ["--enforce-eager", "--max-model-len", str(CONTEXT), "--max-num-seqs", str(AT_ONCE)]
    command += ["--max-num-queued-reqs", str(QUEUED), "--enable-prompt-tokens-details"]
    began = time.monotonic()
    with log.open("wb") as output:
        process = subprocess.Popen(
            command,
            env=os.environ
            | {"VLLM_NO_USAGE_STATS": "1", "DO_NOT_TRACK": "1", "HF_HUB_OFFLINE": "1", "VLLM_CPU_KVCACHE_SPACE": "1"},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
        try:
            while not _answers(f"{root}/health"):
                assert process.poll() is None, f"vLLM exited with {process.returncode}:\n{log.read_text()[-4_000:]}"
                assert time.monotonic() < began + _START_SECONDS, f"vLLM is not ready:\n{log.read_text()[-4_000:]}"
                time.sleep(0.2)
            figures.append(f"ready after {time.monotonic() - began:.0f} s")
            yield Vllm(root, process.pid)
        finally:
            process.terminate()
            try:
                process.wait(_STOP_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
            with suppress(ProcessLookupError):  # its workers outlive an engine that was killed
                os.killpg(process.pid, signal.SIGKILL)


def _answers(url: str) -> bool:
    try:
        with urlopen(url, timeout=1) as response:
            return bool(response.status == 200)
    except (URLError, OSError):
        return False


@pytest.fixture
async def service(vllm: Vllm) -> AsyncIterator[Service]:
    """An llm_service over it, as a process."""
    async with service_process(f"{vllm.root}/v1") as service:
        yield service


@pytest.fixture
async def client(service: Service) -> AsyncIterator[Client]:
    """A client of the llm_service."""
    async with AsyncExitStack() as stack:
        yield await stack.enter_async_context(client_of(service.port))
