"""A question's way over the same libraries with next to nothing in them: what no design over them goes below.

``python -m benchmarks.parts edge DATABASE_URL GRPC_ADDRESS`` takes a question over HTTP, writes it into PostgreSQL,
asks by gRPC, writes the answer and replies. ``python -m benchmarks.parts llm MODEL_URL`` is whom it asks: it reads the
model server's stream when it has ended, and sends as few messages as the contract allows. There is no queue, no Redis,
no worker that claims, no validation and no text while it is written, and what breaks is lost.
"""

import argparse
import asyncio
import os
import socket
import sys
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from subprocess import PIPE, Popen
from typing import Any

os.environ.setdefault("GRPC_EXPERIMENTS", "-event_engine_client")  # as worker_service has it

import aiohttp
import asyncpg
import grpc
import orjson
import uvicorn
import uvloop

from benchmarks.model_server import MODEL

Receive = Callable[[], Awaitable[Any]]
Send = Callable[[Any], Awaitable[None]]

_METHOD = "/bare/Stream"


async def _edge(database_url: str, address: str) -> None:
    pool = await asyncpg.create_pool(database_url, min_size=8, max_size=8)
    await pool.execute("CREATE TABLE IF NOT EXISTS bare (id bigserial PRIMARY KEY, question text, answer text)")
    async with grpc.aio.insecure_channel(address) as channel:
        ask: Any = channel.unary_stream(_METHOD)

        async def app(
            scope: Any, receive: Callable[[], Awaitable[Any]], send: Callable[[Any], Awaitable[None]]
        ) -> None:
            assert scope["type"] == "http"
            question = orjson.loads((await receive())["body"])["question_text"]
            number = await pool.fetchval("INSERT INTO bare (question) VALUES ($1) RETURNING id", question)
            _, text, _ = [message async for message in ask(question.encode())]
            await pool.execute("UPDATE bare SET answer = $2 WHERE id = $1", number, text.decode())
            reply = orjson.dumps({"question_id": number, "status": "completed", "answer_text": text.decode()})
            headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(reply))]
            await send({"type": "http.response.start", "status": 200, "headers": headers})
            await send({"type": "http.response.body", "body": reply})

        with socket.create_server(("127.0.0.1", 0), backlog=2048) as listening:
            _tell(f"http://127.0.0.1:{listening.getsockname()[1]}")
            config = uvicorn.Config(app, lifespan="off", log_level="error", access_log=False)
            await uvicorn.Server(config).serve([listening])


async def _llm(model_url: str) -> None:
    connector = aiohttp.TCPConnector(limit=0, force_close=True, socket_factory=_socket)
    timeout = aiohttp.ClientTimeout(total=None)
    async with aiohttp.ClientSession(connector=connector, timeout=timeout) as session:

        async def stream(question: bytes, context: Any) -> None:
            body = {"model": MODEL, "stream": True, "messages": [{"role": "user", "content": question.decode()}]}
            async with session.post(f"{model_url}/chat/completions", data=orjson.dumps(body)) as response:
                await context.write(b"started")
                received = b"".join([part async for part in response.content.iter_any()])
            await context.write(_text(received))
            await context.write(b"completed")

        server = grpc.aio.server()
        handler: Any = grpc.unary_stream_rpc_method_handler(stream)
        service, method = _METHOD[1:].split("/")
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service, {method: handler}),))
        port = server.add_insecure_port("127.0.0.1:0")
        await server.start()
        _tell(f"127.0.0.1:{port}")
        await server.wait_for_termination()


def _socket(address: tuple[Any, ...]) -> socket.socket:
    """One that wakes nobody for single tokens: only for as much as its buffer holds, and at the end."""
    made = socket.socket(*address[:3])
    made.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, 1 << 20)
    return made


def _text(received: bytes) -> bytes:
    events = [orjson.loads(line[6:]) for line in received.split(b"\n") if line.startswith(b"data: {")]
    return "".join(choice["delta"].get("content") or "" for event in events for choice in event["choices"]).encode()


@contextmanager
def parts(database_url: str, model_url: str) -> Iterator[tuple[str, list[int]]]:
    """Both processes; the edge's URL, and their ids."""
    with _process("llm", model_url) as (address, llm), _process("edge", database_url, address) as (url, edge):
        yield url, [llm, edge]


@contextmanager
def _process(*arguments: str) -> Iterator[tuple[str, int]]:
    with Popen([sys.executable, "-m", "benchmarks.parts", *arguments], stdout=PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            yield process.stdout.readline().strip(), process.pid
        finally:
            process.kill()


def _tell(address: str) -> None:
    print(address, flush=True)  # noqa: T201 - read by the starter


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(required=True)
    for name, main, wanted in (("edge", _edge, ("database_url", "address")), ("llm", _llm, ("model_url",))):
        command = commands.add_parser(name)
        command.set_defaults(main=main)
        for what in wanted:
            command.add_argument(what)
    asked = vars(parser.parse_args())
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(asked.pop("main")(**asked))
