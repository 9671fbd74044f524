"""The load generator: a closed loop of users, bounded in count: ``python -m benchmarks.load``.

It runs as a process of its own, so that its CPU time is known. It reads a ``Load`` as JSON and prints a ``LoadResult``.
"""

import asyncio
import json
import sys
import time
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import asdict, dataclass, field
from typing import Any

import orjson
import uvloop

from benchmarks.http_client import HttpClient
from benchmarks.model_server import MODEL, answer_text

_WRITTEN = ("completed", "incomplete")
_FINAL = (*_WRITTEN, "failed", "cancelled", "expired")


@dataclass(frozen=True)
class Load:
    """``count`` requests of a kind, ``at_once`` in flight; or ``rate`` a second, whatever is in flight.

    ``direct``: the model server's stream. ``wait``: ask and wait in one request (``?wait=60``). ``stream``: ask and
    read the events. ``submit``: ask only. ``poll``, ``cancel``: one of ``question_ids`` in turn. ``hold``: wait for
    the first.
    """

    kind: str
    url: str
    count: int
    at_once: int = 1
    rate: float = 0
    texts: int = 0
    """So many different questions, in turn; 0: each another one."""
    tokens: int = 32
    """Of the answer that is expected; 0: any text is right, because a real model writes it."""
    question_ids: list[int] = field(default_factory=list)
    headers: str = ""
    """Of ``submit``, each ended by CRLF; ``{number}`` stands for the question's."""
    name: str = "load"
    """Begins each question, so that no two loads ask the same."""
    task: str = ""
    """Ends each question."""
    fields: dict[str, Any] = field(default_factory=lambda: {"model": MODEL, "messages": []})
    """Of ``direct``'s body: what the mesh sends too. The question is added to the messages."""


@dataclass
class LoadResult:
    """Times in seconds. ``wrong``: what was not as it should be, and how often."""

    began: float = 0
    ended: float = 0
    latencies: list[float] = field(default_factory=list)
    first_tokens: list[float] = field(default_factory=list)
    wrong: dict[str, int] = field(default_factory=dict)
    cpu_seconds: float = 0


class _Users:
    def __init__(self, load: Load, client: HttpClient) -> None:
        self._load = load
        self._client = client
        self._expected = answer_text(load.tokens)
        self.seen = LoadResult()

    async def run(self) -> LoadResult:
        act: Callable[[int], Awaitable[None]] = getattr(self, f"_{self._load.kind}")
        self.seen.began = time.perf_counter()
        if self._load.rate:
            await self._at_rate(act)
        else:
            numbers = iter(range(self._load.count))
            async with asyncio.TaskGroup() as users:
                for _ in range(self._load.at_once):
                    users.create_task(self._one_after_another(act, numbers))
        self.seen.ended = time.perf_counter()
        self.seen.cpu_seconds = time.process_time()
        return self.seen

    async def _one_after_another(self, act: Callable[[int], Awaitable[None]], numbers: Iterator[int]) -> None:
        for number in numbers:
            await self._timed(act, number)

    async def _at_rate(self, act: Callable[[int], Awaitable[None]]) -> None:
        async with asyncio.TaskGroup() as users:
            for number in range(self._load.count):
                left = self.seen.began + number / self._load.rate - time.perf_counter()
                if left > 0:
                    await asyncio.sleep(left)
                users.create_task(self._timed(act, number, began=self.seen.began + number / self._load.rate))

    async def _timed(self, act: Callable[[int], Awaitable[None]], number: int, began: float = 0) -> None:
        """``began``: when it should have begun, so that a late load generator hides no slow reply."""
        began = began or time.perf_counter()
        await act(number)
        self.seen.latencies.append(time.perf_counter() - began)

    def _text(self, number: int) -> str:
        which = number % self._load.texts if self._load.texts else number
        return f"{self._load.name} {which}{self._load.task}"

    def _question(self, number: int) -> bytes:
        return orjson.dumps({"question_text": self._text(number)})

    def _check(self, right: bool, what: str) -> None:
        if not right:
            self.seen.wrong[what] = self.seen.wrong.get(what, 0) + 1

    async def _direct(self, number: int) -> None:
        began = time.perf_counter()
        parts: list[bytes] = []

        def take(part: bytes) -> None:
            if not parts:
                self.seen.first_tokens.append(time.perf_counter() - began)
            parts.append(part)

        messages = [*self._load.fields["messages"], {"role": "user", "content": self._text(number)}]
        options = {"stream": True, "stream_options": {"include_usage": True, "continuous_usage_stats": True}}
        body = orjson.dumps(self._load.fields | options | {"messages": messages})
        response = await self._client.post("/chat/completions", body, on_part=take)
        self._check(response.status == 200 and parts[-1].endswith(b"[DONE]\n\n"), f"direct: {response.status}")

    async def _submit(self, number: int) -> None:
        headers = self._load.headers.format(number=number)
        response = await self._client.post("/api/ask", self._question(number), headers)
        self._check(response.status in (200, 202), f"asked: {response.status}")

    async def _wait(self, number: int) -> None:
        response = await self._client.post("/api/ask?wait=60", self._question(number))
        answer = orjson.loads(response.body)
        while response.status in (200, 202) and answer["status"] not in _FINAL:
            response = await self._client.get(f"/api/answer/{answer['question_id']}?wait=60")
            answer = orjson.loads(response.body)
        right = answer.get("answer_text") == self._expected if self._load.tokens else answer.get("status") in _WRITTEN
        self._check(right, f"waited: {response.status} {answer.get('status')}")

    async def _stream(self, number: int) -> None:
        began = time.perf_counter()
        text: list[str] = []
        events = Events()

        def take(part: bytes) -> None:
            for event, data in events.feed(part):
                if event == b"delta":
                    if not text:
                        self.seen.first_tokens.append(time.perf_counter() - began)
                    text.append(orjson.loads(data)["text"])

        accept = "Accept: text/event-stream\r\n"
        response = await self._client.post("/api/ask", self._question(number), accept, on_part=take)
        right = "".join(text) == self._expected and events.last == b"completed"
        self._check(right, f"streamed: {response.status} {events.last!r}")

    async def _poll(self, number: int) -> None:
        asked = self._load.question_ids
        response = await self._client.get(f"/api/answer/{asked[number % len(asked)]}")
        self._check(response.status == 200, f"polled: {response.status}")

    async def _cancel(self, number: int) -> None:
        asked = self._load.question_ids
        response = await self._client.post(f"/api/answer/{asked[number % len(asked)]}/cancel", b"")
        self._check(response.status == 200, f"cancelled: {response.status}")

    async def _hold(self, _: int) -> None:
        response = await self._client.get(f"/api/answer/{self._load.question_ids[0]}?wait=60")
        answer = orjson.loads(response.body)
        self._check(answer.get("answer_text") == self._expected, f"held: {response.status} {answer.get('status')}")


class Events:
    """Reads server-sent events cut anywhere; ``last`` is the name of the latest."""

    def __init__(self) -> None:
        self._rest = b""
        self.last = b""

    def feed(self, part: bytes) -> list[tuple[bytes, bytes]]:
        """Name and data of each event that is complete now."""
        *blocks, self._rest = (self._rest + part).split(b"\n\n")
        found = []
        for block in blocks:
            fields = dict(line.split(b": ", 1) for line in block.split(b"\n") if b": " in line and line[:1] != b":")
            if b"event" in fields:
                self.last = fields[b"event"]
                found.append((self.last, fields.get(b"data", b"")))
        return found


async def _main(load: Load) -> None:
    async with HttpClient(load.url) as client:
        print(json.dumps(asdict(await _Users(load, client).run())))  # noqa: T201 - read by the starter


if __name__ == "__main__":
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(_main(Load(**json.load(sys.stdin))))
