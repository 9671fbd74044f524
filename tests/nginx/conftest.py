"""nginx in front of what a test names."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.nginx.edge import VERSION, Edge

OpenEdge = Callable[..., Edge]


@pytest.fixture(scope="session")
def nginx() -> None:
    """Skips the test, saying why, where nginx is not installed."""
    if VERSION is None:
        pytest.skip("nginx is not installed: `apt-get install nginx` brings it")


@pytest.fixture
def open_edge(nginx: None, tmp_path: Path) -> Iterator[OpenEdge]:
    """Starts nginx in front of ``api=[port, …]`` and ``llm=[port, …]``; it is gone after the test."""
    tmp_path.chmod(0o755)  # nginx gives up root
    with ExitStack() as stack:
        yield lambda **replicas: stack.enter_context(Edge(tmp_path / "nginx", **replicas))
