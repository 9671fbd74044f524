"""A name that leads to one server and then to another, while the connections that were made before stay."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from embedded.ports import port_of


class Switchboard:
    """``leads_to`` is the port that new connections reach; ``port`` is its own."""

    def __init__(self, leads_to: int) -> None:
        self.leads_to = leads_to
        self.port = 0
        self._pumps: set[asyncio.Task[None]] = set()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            inner_reader, inner_writer = await asyncio.open_connection("127.0.0.1", self.leads_to)
        except OSError:
            writer.close()
            return
        for source, sink in ((reader, inner_writer), (inner_reader, writer)):
            pump = asyncio.create_task(_pump(source, sink))
            self._pumps.add(pump)
            pump.add_done_callback(self._pumps.discard)

    async def close(self) -> None:
        for pump in (pumps := tuple(self._pumps)):
            pump.cancel()
        await asyncio.gather(*pumps, return_exceptions=True)


@asynccontextmanager
async def switchboard(leads_to: int) -> AsyncIterator[Switchboard]:
    """Listens while the block lasts."""
    board = Switchboard(leads_to)
    server = await asyncio.start_server(board.serve, "127.0.0.1", 0)
    board.port = port_of(server.sockets[0])
    try:
        yield board
    finally:
        server.close()
        await board.close()


async def _pump(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
    try:
        while data := await source.read(65_536):
            sink.write(data)
            await sink.drain()
    except OSError:
        pass
    finally:
        sink.close()
