"""A fake model server that costs next to nothing: it stands for a GPU, which this machine lacks.

Each answer is the same: ``tokens`` words, the first after ``first`` seconds, each further one ``delay`` seconds later,
at most ``batch`` answers at a time; further requests wait, as in vLLM's queue. All events are made beforehand, with
usage in each, as vLLM sends them for ``continuous_usage_stats``. What a token costs is the row ``model_server``.

``POST /profile {"first": s, "tokens": n, "delay": s, "batch": n}`` sets it up and clears the counts; ``GET /stats``
counts requests, ended answers and tokens written.
"""

import argparse
import asyncio
from collections import deque
from dataclasses import asdict, dataclass

import orjson
import uvloop

from benchmarks.http_server import STREAM_END, STREAM_HEAD, Connection, chunk, response

MODEL = "fake-model"
_PROMPT_TOKENS = 20


@dataclass(frozen=True)
class Profile:
    """How fast the model is. Times in seconds."""

    first: float = 0.1
    tokens: int = 32
    delay: float = 0.02
    batch: int = 256


@dataclass
class Stats:
    """Counts since the profile was set."""

    requests: int = 0
    completed: int = 0
    tokens: int = 0


def answer_text(tokens: int) -> str:
    """What every answer says."""
    return " ".join(f"word{number}" for number in range(tokens))


class _Answer:
    """One answer that is being written."""

    def __init__(self, server: "ModelServer", connection: Connection) -> None:
        self.server = server
        self.connection = connection
        self.written = 0
        self.next_at = 0.0
        self.timer: asyncio.TimerHandle | None = None

    def begin(self) -> None:
        self.connection.send(STREAM_HEAD)
        self.next_at = self.server.loop.time() + self.server.profile.first
        self.timer = self.server.loop.call_at(self.next_at, self._write)

    def _write(self) -> None:
        events = self.server.events
        self.connection.send(events[self.written])
        self.written += 1
        self.server.stats.tokens += 1
        if self.written == len(events) - 1:
            self.connection.send(events[-1])
            self.server.ended(self, completed=True)
        else:
            self.next_at += self.server.profile.delay
            self.timer = self.server.loop.call_at(self.next_at, self._write)


class ModelServer:
    """The server in this process."""

    def __init__(self) -> None:
        self.loop = asyncio.get_running_loop()
        self.set_up(Profile())

    def set_up(self, profile: Profile) -> None:
        """Take another profile, and clear the counts."""
        self.profile = profile
        self.stats = Stats()
        self.events = _events(profile.tokens)
        self._running: dict[Connection, _Answer] = {}
        self._queued: deque[Connection] = deque()

    def connection(self) -> Connection:
        """The protocol of a new connection."""
        return Connection(self._handle, self._closed)

    def ended(self, answer: _Answer, *, completed: bool) -> None:
        """The answer's place is free."""
        if self._running.pop(answer.connection, None) is not answer:
            return
        self.stats.completed += completed
        while self._queued and len(self._running) < self.profile.batch:
            self._begin(self._queued.popleft())

    def _handle(self, connection: Connection) -> None:
        match connection.path:
            case "/v1/chat/completions":
                self.stats.requests += 1
                if len(self._running) < self.profile.batch:
                    self._begin(connection)
                else:
                    self._queued.append(connection)
            case "/v1/models":
                model = {"id": MODEL, "object": "model", "owned_by": "vllm", "max_model_len": 32_768}
                connection.send(response(orjson.dumps({"object": "list", "data": [model]})))
            case "/tokenize":
                words = " ".join(str(one["content"]) for one in orjson.loads(connection.body)["messages"]).split()
                connection.send(response(orjson.dumps({"tokens": words, "count": len(words)})))
            case "/profile":
                self.set_up(Profile(**orjson.loads(connection.body)))
                connection.send(response(b"{}"))
            case "/stats":
                connection.send(response(orjson.dumps(asdict(self.stats))))
            case _:
                connection.send(b"HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n")

    def _begin(self, connection: Connection) -> None:
        answer = self._running[connection] = _Answer(self, connection)
        answer.begin()

    def _closed(self, connection: Connection) -> None:
        if connection in self._queued:
            self._queued.remove(connection)
        if answer := self._running.get(connection):
            if answer.timer:
                answer.timer.cancel()
            self.ended(answer, completed=False)


def _events(tokens: int) -> list[bytes]:
    """What is written for each token, and at the end."""
    made = []
    for number, word in enumerate(answer_text(tokens).split(), start=1):
        text = word if number == 1 else f" {word}"
        made.append(chunk(_event([_choice({"content": text})], number)))
    end = _event([_choice({}, "stop")], tokens) + _event([], tokens) + b"data: [DONE]\n\n"
    return [*made, chunk(end) + STREAM_END]


def _choice(delta: dict[str, str], finish_reason: str | None = None) -> dict[str, object]:
    return {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish_reason}


def _event(choices: list[dict[str, object]], written: int) -> bytes:
    event = {
        "id": "chatcmpl-0",
        "object": "chat.completion.chunk",
        "created": 0,
        "model": MODEL,
        "choices": choices,
        "usage": {
            "prompt_tokens": _PROMPT_TOKENS,
            "total_tokens": _PROMPT_TOKENS + written,
            "completion_tokens": written,
        },
    }
    return b"data: " + orjson.dumps(event) + b"\n\n"


async def _serve(port: int) -> None:
    server = ModelServer()
    listening = await server.loop.create_server(server.connection, "127.0.0.1", port, backlog=4096)
    print(f"http://127.0.0.1:{listening.sockets[0].getsockname()[1]}/v1", flush=True)  # noqa: T201 - told to the starter
    await listening.serve_forever()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--port", type=int, default=0, help="0 takes a free one")
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(_serve(parser.parse_args().port))
