"""A fake model server that costs next to nothing: it stands for a GPU, which this machine lacks.

Each answer is the same: ``tokens`` words, the first after ``first`` seconds, each further one ``delay`` seconds later,
at most ``batch`` answers at a time; further requests wait, as in vLLM's queue. All events are made beforehand, with
usage in each, as vLLM sends them for ``continuous_usage_stats``. One timer serves all streams: what is due in the same
millisecond is written in one go, straight to the sockets. What a token costs is the row ``model_server``.

``POST /profile {"first": s, "tokens": n, "delay": s, "batch": n}`` sets it up and clears the counts; what was being
written is written out at once. ``GET /stats`` counts requests, ended answers and tokens written.
"""

import argparse
import asyncio
import time
from collections import deque
from dataclasses import asdict, dataclass

import orjson
import uvloop

from benchmarks.http_server import STREAM_END, STREAM_HEAD, ServerConnection, chunk, response

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

    __slots__ = ("connection", "due", "written")

    def __init__(self, connection: ServerConnection, due: float) -> None:
        self.connection = connection
        self.due = due
        self.written = 0


class CheapModelServer:
    """The server in this process."""

    def __init__(self) -> None:
        self.loop = asyncio.get_running_loop()
        self._running: dict[ServerConnection, _Answer] = {}
        self._queued: deque[ServerConnection] = deque()
        self._due: dict[int, list[_Answer]] = {}
        """By the millisecond of their next token."""
        self._timer: asyncio.Handle | None = None
        self._timer_of = 0
        """The millisecond that the timer is for. uvloop's handle of a time that has come cannot tell."""
        self.events: list[bytes] = []
        self.set_up(Profile())

    def set_up(self, profile: Profile) -> None:
        """Take another profile, and clear the counts."""
        for answer in self._running.values():
            answer.connection.write(b"".join(self.events[answer.written :]))
            answer.connection.end()
        self._running.clear()
        self._due.clear()
        self.profile = profile
        self.stats = Stats()
        self.events = _events(profile.tokens)
        self._admit()

    def connection(self) -> ServerConnection:
        """The protocol of a new connection."""
        return ServerConnection(self._handle, self._closed)

    def _admit(self) -> None:
        while self._queued and len(self._running) < self.profile.batch:
            connection = self._queued.popleft()
            connection.write(STREAM_HEAD)
            # The loop's own time is that of the millisecond that has begun: the first token would come too early by it.
            answer = self._running[connection] = _Answer(connection, time.monotonic() + self.profile.first)
            self._plan(answer)

    def _plan(self, answer: _Answer) -> None:
        millisecond = int(answer.due * 1_000)
        if (others := self._due.get(millisecond)) is not None:
            others.append(answer)
            return
        self._due[millisecond] = [answer]
        if self._timer is None or millisecond < self._timer_of:
            self._set_timer(millisecond)

    def _set_timer(self, millisecond: int) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self.loop.call_at((millisecond + 1) / 1_000, self._write_due)
        self._timer_of = millisecond

    def _write_due(self) -> None:
        now = int(self.loop.time() * 1_000)
        for millisecond in sorted(one for one in self._due if one < now):
            for answer in self._due.pop(millisecond):
                if self._running.get(answer.connection) is answer:
                    self._write(answer)
        self._admit()
        self._timer = None
        if self._due:
            self._set_timer(min(self._due))

    def _write(self, answer: _Answer) -> None:
        """The next token, and all that follow without a delay."""
        first, profile = answer.written, self.profile
        last = first + 1 if profile.delay else profile.tokens
        self.stats.tokens += last - first
        if last == profile.tokens:
            answer.connection.write(b"".join(self.events[first:]))
            answer.connection.end()
            del self._running[answer.connection]
            self.stats.completed += 1
        else:
            answer.connection.write(self.events[first])
            answer.written = last
            answer.due += profile.delay
            self._plan(answer)

    def _handle(self, connection: ServerConnection) -> None:
        match connection.path:
            case "/v1/chat/completions":
                self.stats.requests += 1
                self._queued.append(connection)
                self._admit()
            case "/v1/models":
                model = {"id": MODEL, "object": "model", "owned_by": "vllm", "max_model_len": 32_768}
                connection.write(response(orjson.dumps({"object": "list", "data": [model]})))
            case "/tokenize":
                words = " ".join(str(one["content"]) for one in orjson.loads(connection.body)["messages"]).split()
                connection.write(response(orjson.dumps({"tokens": words, "count": len(words)})))
            case "/profile":
                self.set_up(Profile(**orjson.loads(connection.body)))
                connection.write(response(b"{}"))
            case "/stats":
                connection.write(response(orjson.dumps(asdict(self.stats))))
            case _:
                connection.write(b"HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n")

    def _closed(self, connection: ServerConnection) -> None:
        if connection in self._queued:
            self._queued.remove(connection)
        if self._running.pop(connection, None):
            self._admit()


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
    server = CheapModelServer()
    listening = await server.loop.create_server(server.connection, "127.0.0.1", port, backlog=4096)
    print(f"http://127.0.0.1:{listening.sockets[0].getsockname()[1]}/v1", flush=True)  # noqa: T201 - told to the starter
    await listening.serve_forever()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--port", type=int, default=0, help="0 takes a free one")
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(_serve(parser.parse_args().port))
