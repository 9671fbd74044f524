"""The real vLLM and the llm_service over it, each as a process, as `make vllm-test` runs them."""

from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack

import pytest

from tests.llm_service.conftest import Client, client_of
from tests.llm_service.processes import Service, service_process
from tests.vllm.server import Vllm, started

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
    with started(tmp_path_factory.mktemp("vllm") / "log") as vllm:
        figures.append(f"ready after {vllm.ready_seconds:.0f} s")
        yield vllm


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
