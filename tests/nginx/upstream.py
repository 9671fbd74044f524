"""A stand-in for a replica of api_service that behaves as a test says, down to single bytes."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import TypeAlias

Writer: TypeAlias = asyncio.StreamWriter
Behaviour = Callable[[Writer], Awaitable[None]]

OK = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n{}"


async def answer(writer: Writer) -> None:
    """200, on a connection that stays."""
    writer.write(OK)


async def break_off(writer: Writer) -> None:
    """Take the request and close, as a replica does that is killed."""
    writer.close()


class Upstream:
    """Counts connections and the requests that arrived whole, then does as ``behave`` says."""

    def __init__(self, behave: Behaviour) -> None:
        self.behave = behave
        self.port = 0
        self.connections = 0
        self.requests: list[bytes] = []
        self.left = asyncio.Event()
        """Set when a connection has ended."""

    async def serve(self, reader: asyncio.StreamReader, writer: Writer) -> None:
        self.connections += 1
        try:
            while not writer.is_closing():
                head = await reader.readuntil(b"\r\n\r\n")
                length = next((int(h[15:]) for h in head.lower().split(b"\r\n") if h.startswith(b"content-length:")), 0)
                self.requests.append(head + await reader.readexactly(length))
                await self.behave(writer)
                await writer.drain()
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            self.left.set()
            writer.close()


@asynccontextmanager
async def upstream(behave: Behaviour = answer) -> AsyncIterator[Upstream]:
    replica = Upstream(behave)
    connections: set[asyncio.Task[None]] = set()
    server = await asyncio.start_server(
        lambda reader, writer: connections.add(asyncio.create_task(replica.serve(reader, writer))), "127.0.0.1", 0
    )
    replica.port = server.sockets[0].getsockname()[1]
    try:
        yield replica
    finally:
        server.close()
        for connection in connections:
            connection.cancel()
        await asyncio.gather(*connections, return_exceptions=True)
        await asyncio.sleep(0)  # transports close in the loop's next turn
