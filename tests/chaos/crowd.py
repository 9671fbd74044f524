"""Users, many at once: each asks a question, asks again where it got no reply, and polls until there is an answer.

Every fourth reads along instead, as the answer is written, and comes back where a stream breaks off. Where more ask at
once than there are connections, all poll.
"""

import asyncio
import random
import time
import uuid
from collections import Counter, deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

import aiohttp

from tests.api_service.sse import FINAL, Stream

LIVE = ("queued", "in_progress")
# A user who is told to wait longer than this gets impatient.
_LONGEST_PAUSE_SECONDS = 3.0
_REQUEST_SECONDS = 20.0
_CONNECTIONS = 128
# The service says something every 8 s.
_READING = aiohttp.ClientTimeout(total=None, sock_read=20)


@dataclass(eq=False)
class Question:
    """One user's question and all that the user saw of it. Times are seconds since 1970."""

    text: str
    key: str = field(default_factory=lambda: uuid.uuid4().hex)
    asked_at: float = 0.0
    id: int | None = None
    final: dict[str, Any] | None = None
    """The first final answer that the user read."""
    missing: bool = False
    """The id was acknowledged, and later nobody knew it."""


class Crowd:
    """``at_once`` users of the API at the URL that ``api`` returns, which may change while they ask."""

    def __init__(
        self,
        api: Callable[[], str],
        texts: Iterable[str],
        at_once: int,
        pace: float,
        rng: random.Random,
        key: str | None = None,
    ) -> None:
        """``pace``: seconds between two looks of a user, where the API does not ask for more. ``key``: all have it."""
        self.questions = [Question(text) for text in texts]
        self.surprises: Counter[str] = Counter()
        """Replies that the API should never give, whatever breaks."""
        self.retries: Counter[str] = Counter()
        """Why users had to send a request again."""
        self._headers = {} if key is None else {"X-API-Key": key}
        self._api = api
        self._at_once = at_once
        self._pace = pace
        self._rng = rng
        self._waiting = deque(enumerate(self.questions))
        # Whoever reads along keeps a connection.
        self._read_along_each = 4 if at_once <= _CONNECTIONS else len(self.questions) + 1
        self._changed = asyncio.Condition()
        self.accepted = 0
        self.answered = 0

    @property
    def in_flight(self) -> int:
        """Questions that were accepted and have no answer yet, as users know."""
        return self.accepted - self.answered

    async def ask_all(self) -> None:
        """Return when each question has a final answer, or is missing."""
        async with self._session() as session, asyncio.TaskGroup() as users:
            for _ in range(self._at_once):
                users.create_task(self._use(session))

    async def read_all(self) -> dict[int, dict[str, Any]]:
        """Each acknowledged question as it is read now, by id."""
        read: dict[int, dict[str, Any]] = {}
        left = deque(question.id for question in self.questions if question.id is not None)

        async def reader(session: aiohttp.ClientSession) -> None:
            while left:
                question_id = left.popleft()
                status, body, _ = await self._request(session, "GET", f"/api/answer/{question_id}")
                read[question_id] = body if status == 200 else {"status": f"HTTP {status}"}

        async with self._session() as session, asyncio.TaskGroup() as readers:
            for _ in range(16):
                readers.create_task(reader(session))
        return read

    async def until_accepted(self, count: int) -> None:
        """Wait until so many questions are accepted."""
        async with self._changed:
            await self._changed.wait_for(lambda: self.accepted >= count)

    def _session(self) -> aiohttp.ClientSession:
        return aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=_CONNECTIONS),
            timeout=aiohttp.ClientTimeout(total=_REQUEST_SECONDS),
            headers=self._headers,
        )

    async def _use(self, session: aiohttp.ClientSession) -> None:
        while self._waiting:
            number, question = self._waiting.popleft()
            await self._ask(session, question)
            if (number + 1) % self._read_along_each:
                await self._poll(session, question)
            else:
                await self._read_along(session, question)

    async def _ask(self, session: aiohttp.ClientSession, question: Question) -> None:
        question.asked_at = time.time()
        headers = {"Idempotency-Key": question.key}
        while question.id is None:
            status, body, pause = await self._request(
                session, "POST", "/api/ask", json={"question_text": question.text}, headers=headers
            )
            if status in (200, 202):
                question.id = body["question_id"]
            else:
                self.surprises[f"POST {status}"] += 1
                await asyncio.sleep(pause)
        await self._note("accepted")

    async def _poll(self, session: aiohttp.ClientSession, question: Question) -> None:
        while question.final is None and not question.missing:
            status, body, pause = await self._request(session, "GET", f"/api/answer/{question.id}")
            if status == 404:
                question.missing = True
            elif status != 200:
                self.surprises[f"GET {status}"] += 1
            elif body["status"] not in LIVE:
                question.final = body
                break
            await asyncio.sleep(pause)
        await self._note("answered")

    async def _read_along(self, session: aiohttp.ClientSession, question: Question) -> None:
        reader = _Reader()
        while question.final is None and not question.missing:
            url = f"{self._api()}/api/answer/{question.id}/events"
            try:
                async with session.get(url, headers=reader.headers, timeout=_READING) as reply:
                    pause = self._pause(reply.headers.get("Retry-After"))
                    if reply.status == 200:
                        question.final = await reader.read(reply)
                    elif reply.status == 404:
                        question.missing = True
                    elif reply.status == 503:
                        self.retries["503"] += 1
                    else:
                        self.surprises[f"GET events {reply.status}"] += 1
            except (aiohttp.ClientError, TimeoutError) as error:
                self.retries[type(error).__name__] += 1
                pause = self._pause(None)
            if question.final is None and not question.missing:
                await asyncio.sleep(pause)
        if question.final and question.final["status"] == "completed" and reader.text != question.final["answer_text"]:
            self.surprises["a stream whose text is not the answer's"] += 1
        await self._note("answered")

    async def _request(
        self, session: aiohttp.ClientSession, method: str, path: str, **how: Any
    ) -> tuple[int, dict[str, Any], float]:
        """Status, body, and seconds to wait before the next request; sent again as long as nobody could serve it."""
        while True:
            try:
                async with session.request(method, self._api() + path, **how) as reply:
                    body = await reply.json(content_type=None)
                    pause = self._pause(reply.headers.get("Retry-After"))
                    if reply.status != 503:
                        return reply.status, body, pause
                    self.retries["503"] += 1
            except (aiohttp.ClientError, TimeoutError) as error:
                self.retries[type(error).__name__] += 1
                pause = self._pause(None)
            await asyncio.sleep(pause)

    def _pause(self, retry_after: str | None) -> float:
        seconds = max(min(float(retry_after or 0), _LONGEST_PAUSE_SECONDS), self._pace)
        return seconds * self._rng.uniform(0.5, 1.0)

    async def _note(self, counter: str) -> None:
        async with self._changed:
            setattr(self, counter, getattr(self, counter) + 1)
            self._changed.notify_all()


class _Reader:
    """What one user has read of an answer, over all streams of it."""

    def __init__(self) -> None:
        self.text = ""
        self.headers: dict[str, str] = {}

    async def read(self, reply: aiohttp.ClientResponse) -> dict[str, Any] | None:
        """Read on; the question at its end, None where the stream broke off before."""
        async for event in Stream(reply).events:
            if event.id is not None:
                self.headers["Last-Event-ID"] = event.id
            if event.name == "delta":
                self.text += event.data["text"]
            elif event.name == "restarted":
                self.text = ""
            elif event.name in FINAL:
                final: dict[str, Any] = event.data
                return final
        return None
