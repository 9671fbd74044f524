"""A client of event streams that keeps to the standard, and notes what it gets."""

import codecs
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import orjson
from aiohttp import ClientResponse, ClientSession, ClientTimeout

FINAL = {"completed", "incomplete", "failed", "cancelled", "expired"}
_PATIENT = ClientTimeout(total=None, sock_read=30)


@dataclass(frozen=True)
class Event:
    name: str
    data: Any
    id: str | None = None


class Stream:
    """The events of one response. ``comments`` counts lines that are none."""

    def __init__(self, response: ClientResponse) -> None:
        self.response = response
        self.comments = 0
        self.events = self._events()
        """Each event when it has come, until the stream ends."""

    async def _events(self) -> AsyncGenerator[Event]:
        fields: dict[str, str] = {}
        decoder = codecs.getincrementaldecoder("utf-8")()
        rest = ""
        async for part in self.response.content.iter_any():
            *lines, rest = (rest + decoder.decode(part)).split("\n")
            for line in lines:
                name, _, value = line.partition(": ")
                if line.startswith(":"):
                    self.comments += 1
                elif line:
                    assert name not in fields, "this service sends each field once"
                    fields[name] = value
                elif fields.keys() <= {"retry"}:
                    fields = {}
                else:
                    yield Event(fields["event"], orjson.loads(fields["data"]), fields.get("id"))
                    fields = {}
        assert (rest, fields) == ("", {}), "the stream broke off within an event"

    async def next(self) -> Event:
        """The next event alone."""
        return await anext(self.events)

    async def text(self, length: int) -> str:
        """Deltas until there are so many characters of text."""
        text = ""
        while len(text) < length:
            event = await self.next()
            if event.name == "delta":
                text += event.data["text"]
        return text

    async def rest(self) -> list[Event]:
        """All events to the end of the stream."""
        return [event async for event in self.events]


@asynccontextmanager
async def watching(
    api: ClientSession, question_id: int, last_id: str | None = None, **options: Any
) -> AsyncIterator[Stream]:
    """The stream of a question, after the event with this id."""
    headers = {} if last_id is None else {"Last-Event-ID": last_id}
    url = f"/api/answer/{question_id}/events"
    async with api.get(url, headers=headers, timeout=_PATIENT, **options) as response:
        assert response.status == 200, await response.text()
        assert response.headers["Content-Type"].startswith("text/event-stream")
        yield Stream(response)


async def ask(api: ClientSession, words: str, **fields: Any) -> int:
    """Ask; the question's id."""
    async with api.post("/api/ask", json={"question_text": words, **fields}) as response:
        assert response.status in (200, 202), await response.text()
        question_id: int = (await response.json())["question_id"]
        return question_id


async def read(api: ClientSession, question_id: int) -> Any:
    """The question as it is now."""
    async with api.get(f"/api/answer/{question_id}") as response:
        assert response.status == 200
        return await response.json()


async def watch(api: ClientSession, question_id: int, last_id: str | None = None) -> list[Event]:
    """All events after the one with this id, to the end of the stream."""
    async with watching(api, question_id, last_id) as stream:
        return await stream.rest()


def text_of(events: list[Event]) -> str:
    """The deltas together, from the last restart on."""
    text = ""
    for event in events:
        if event.name == "restarted":
            text = ""
        elif event.name == "delta":
            text += event.data["text"]
    return text
