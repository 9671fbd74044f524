"""Connecting on llm_service's event loop."""

import asyncio
import socket
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager

import pytest
import uvloop

from llm_service.event_loop import new_event_loop

pytestmark = pytest.mark.loopback

LoopFactory = Callable[[], asyncio.AbstractEventLoop]


@contextmanager
def listening(backlog: int) -> Iterator[socket.socket]:
    with closing(socket.socket()) as server:
        server.bind(("127.0.0.1", 0))
        server.listen(backlog)
        yield server


async def connect(address: tuple[str, int]) -> None:
    with closing(socket.socket()) as client:
        client.setblocking(False)
        await asyncio.get_running_loop().sock_connect(client, address)
        assert client.getpeername() == address


@pytest.fixture(params=[new_event_loop, uvloop.new_event_loop], ids=["fast", "plain"])
def loop_factory(request: pytest.FixtureRequest) -> LoopFactory:
    made: LoopFactory = request.param
    return made


def run(loop_factory: LoopFactory, address: tuple[str, int], at_once: int = 1, seconds: float = 20) -> None:
    async def connect_all() -> None:
        async with asyncio.timeout(seconds):
            await asyncio.gather(*(connect(address) for _ in range(at_once)))

    with asyncio.Runner(loop_factory=loop_factory) as runner:
        runner.run(connect_all())


def test_many_connect_at_once(loop_factory: LoopFactory) -> None:
    with listening(256) as server:
        run(loop_factory, server.getsockname(), at_once=200)


def test_a_port_where_nobody_listens_refuses(loop_factory: LoopFactory) -> None:
    with listening(1) as server:
        address = server.getsockname()
    with pytest.raises(ConnectionRefusedError):
        run(loop_factory, address)


def test_a_server_that_accepts_nobody_is_waited_for_until_the_time_is_up(loop_factory: LoopFactory) -> None:
    """The kernel takes a few connections on its own; the others get no reply."""
    with listening(0) as server, pytest.raises(TimeoutError):
        run(loop_factory, server.getsockname(), at_once=8, seconds=0.5)
