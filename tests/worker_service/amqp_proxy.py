"""A proxy before RabbitMQ that cuts a connection at the step of connecting that a test names."""

import asyncio
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

Method = tuple[int, int]
"""Class and method of AMQP 0-9-1, as in its specification."""

CONSUME: Method = (60, 20)
"""basic.consume, the last step of becoming a consumer."""

_FRAME = struct.Struct(">BHI")  # type, channel, bytes of the payload, which one more byte follows
_METHOD_FRAME = 1
_METHOD = struct.Struct(">HH")
_PROTOCOL_HEADER_BYTES = 8
_BLOCK = 1 << 16


class AmqpProxy:
    """Carries what clients and a broker say. ``port`` is where it listens."""

    def __init__(self, broker_port: int) -> None:
        self._broker_port = broker_port
        self._connections: dict[asyncio.Task[None], tuple[asyncio.StreamWriter, asyncio.StreamWriter]] = {}
        self.port = 0
        self.said: list[Method] = []
        """What clients have said, in this order, in the latest connection."""
        self.cut_at: Method | None = None
        """The next connection in which a client says this is cut when the broker has been told; then it is None."""

    def cut(self) -> None:
        """Cut the connections that there are."""
        for sides in self._connections.values():
            for side in sides:
                side.transport.abort()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Carry one connection."""
        broker_reader, broker_writer = await asyncio.open_connection("127.0.0.1", self._broker_port)
        task = asyncio.current_task()
        assert task is not None
        self._connections[task] = writer, broker_writer
        self.said = []
        down = asyncio.create_task(_carry(broker_reader, writer))
        try:
            await self._carry_up(reader, broker_writer)
        except (OSError, asyncio.IncompleteReadError):
            pass
        finally:
            for side in (writer, broker_writer):
                side.transport.abort()
            down.cancel()
            await asyncio.gather(down, return_exceptions=True)
            del self._connections[task]

    async def _carry_up(self, client: asyncio.StreamReader, broker: asyncio.StreamWriter) -> None:
        broker.write(await client.readexactly(_PROTOCOL_HEADER_BYTES))
        while True:
            head = await client.readexactly(_FRAME.size)
            kind, _, size = _FRAME.unpack(head)
            payload = await client.readexactly(size + 1)
            broker.write(head + payload)
            await broker.drain()
            if kind == _METHOD_FRAME:
                method = _METHOD.unpack_from(payload)
                self.said.append(method)
                if method == self.cut_at:
                    self.cut_at = None
                    return


async def _carry(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
    while block := await source.read(_BLOCK):
        sink.write(block)
        await sink.drain()
    sink.close()


@asynccontextmanager
async def amqp_proxy(broker_port: int) -> AsyncIterator[AmqpProxy]:
    """A proxy before the broker at this port of 127.0.0.1."""
    proxy = AmqpProxy(broker_port)
    server = await asyncio.start_server(proxy.serve, "127.0.0.1", 0)
    proxy.port = server.sockets[0].getsockname()[1]
    try:
        yield proxy
    finally:
        server.close()
        running = tuple(proxy._connections)
        for connection in running:
            connection.cancel()
        await asyncio.gather(*running, return_exceptions=True)
