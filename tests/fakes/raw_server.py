"""A model server whose every byte the test decides: for shapes that no server of a library would send."""

import asyncio
import socket
import struct
from collections.abc import Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import Final, Literal, Self

import orjson

Ending = Literal["end", "cut", "reset", "open", "close"]
# So that what was written is nearly what was read.
_BUFFERED_BYTES: Final = 1 << 16


@dataclass(frozen=True)
class Reply:
    """An answer to ``/chat/completions``."""

    parts: Sequence[bytes]
    """Written one by one; where ``forever`` is set the last one is, as fast as the other side reads."""
    ending: Ending = "end"
    """``end``: in good order. ``cut``: the connection ends before the answer. ``reset``: the connection breaks.
    ``open``: nothing more comes. ``close``: the answer, without a length, ends where the connection does."""
    status: int = 200
    content_type: str = "text/event-stream"
    forever: bool = False
    pause: float = 0.0
    """Seconds between two parts."""


@dataclass
class RawModelServer:
    """Lists the model ``raw``, and answers every request for a completion with ``reply``."""

    reply: Reply = field(default_factory=lambda: Reply(()))
    owned_by: str = "somebody"
    asked: int = 0
    """Requests for completions so far."""
    open: int = 0
    """Answers on their way."""
    written: int = 0
    """Bytes of answers."""
    url: str = ""
    _server: asyncio.Server | None = None

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.url = f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}/v1"
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._server is not None
        self._server.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _BUFFERED_BYTES)
        try:
            head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").lower()
            length = next((line.split(":")[1] for line in head.split("\r\n") if line.startswith("content-length")), "0")
            await reader.readexactly(int(length))
            if "/models" in head.split("\r\n", 1)[0]:
                listed = {"object": "list", "data": [{"id": "raw", "object": "model", "owned_by": self.owned_by}]}
                await self._write(Reply((orjson.dumps(listed),), content_type="application/json"), reader, writer)
            else:
                self.asked += 1
                self.open += 1
                try:
                    await self._write(self.reply, reader, writer)
                finally:
                    self.open -= 1
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()

    async def _write(self, reply: Reply, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        chunked = reply.ending != "close"
        length = "Transfer-Encoding: chunked\r\n" if chunked else ""
        head = f"HTTP/1.1 {reply.status} X\r\nContent-Type: {reply.content_type}\r\n{length}Connection: close\r\n\r\n"
        writer.write(head.encode())
        for index, part in enumerate(reply.parts):
            if index and reply.pause:
                await asyncio.sleep(reply.pause)
            await self._send(part, writer, chunked=chunked)
        while reply.forever:
            await self._send(reply.parts[-1], writer, chunked=chunked)
        match reply.ending:
            case "reset":
                connection = writer.get_extra_info("socket")
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                writer.transport.abort()
            case "open":
                await reader.read()
            case "end":
                writer.write(b"0\r\n\r\n")
                await writer.drain()

    async def _send(self, part: bytes, writer: asyncio.StreamWriter, *, chunked: bool) -> None:
        self.written += len(part)
        writer.write(b"%x\r\n%s\r\n" % (len(part), part) if chunked else part)
        await writer.drain()
        await asyncio.sleep(0)
