"""The text of an answer in Redis while it is being written, for readers and for the worker that continues it.

Two keys hold an answer's text: a string with the text itself, and a hash that says whose it is. ``token`` is the
claim's fencing token: whoever opens with a higher one seals the text of the former holder, whose writes are refused
from then on. ``epoch`` rises when text that readers may have seen is taken back. All offsets are bytes of UTF-8, at the
end of a code point.

A text has no age while it is written, so that no ``volatile-*`` policy evicts it. From its end it lives
an hour; the end of a text that nobody closed comes from the sweeper, by ``running_texts``. Its size is bounded
by the answer's token limit. Redis may lose any of it at any moment: the holder restores it.

``writer`` is the identity of the model that has written the text, as ``models.identity`` has it.

Every function raises RedisError or OSError where Redis does not answer. A message or key of another shape, as another
release may write it, is passed over: a chunk raises ValueError, a text counts as missing, unknown counts are left out.
A shape that old releases would misread gets another name.
"""

from collections.abc import AsyncIterator, Collection, Iterable, Sequence
from dataclasses import dataclass, replace
from enum import Enum, auto
from typing import Final, Self

import orjson

from foundation.redis import MeshRedis
from live import text_scripts
from owners.token_counts import TokenCounts
from questions.states import FinishReason


class FencedError(Exception):
    """The answer has another holder by now, or has ended: drop the work."""


class Refusal(Enum):
    """Why Redis did not take text."""

    FENCED = auto()
    """The answer has another holder by now, or has ended: drop the work."""
    MISSING = auto()
    """Redis does not have the text that comes before: store all of it with ``put_texts``."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RunningUsage(TokenCounts):
    """What an answer has taken so far. ``pieces``: the parts in which its text came, of at least a token each."""

    pieces: int = 0

    @classmethod
    def read(cls, stored: bytes) -> Self:
        """The usage that a release has stored, as ``parse``. What is no usage at all counts as none."""
        try:
            return cls.parse(orjson.loads(stored))
        except ValueError:
            return cls()

    @property
    def written_tokens(self) -> int:
        """Tokens of the text so far; at least so many where the model server does not count while it writes."""
        return self.pieces if self.completion_tokens is None else self.completion_tokens

    def and_of_call(self, call: Self) -> Self:
        """The usage with that of a call which goes on from here. The call's ``pieces`` are all so far."""
        if self.pieces:
            return self.continued_by(call)
        return replace(call, repeated_tokens=self.repeated_tokens) if self.repeated_tokens else call

    def not_below(self, spent: TokenCounts) -> Self:
        """The usage, with what was spent beyond it as repeated: Redis lacks some of what an attempt had written."""
        missing = max(spent.total_tokens - self.total_tokens, 0)
        return replace(self, repeated_tokens=self.repeated_tokens + missing)

    def of_text_taken_back(self) -> Self:
        """The usage to begin anew with."""
        return type(self)(repeated_tokens=self.total_tokens)


@dataclass(frozen=True, slots=True)
class StoredText:
    """What was there when the text was opened. ``finish``: the model had ended it, only the final write is missing.

    ``writer``: the identity of the model that has written it; None: not known, or nothing is written.
    """

    text: str
    usage: RunningUsage
    finish: FinishReason | None
    writer: str | None = None


@dataclass(frozen=True, slots=True)
class TextAppend:
    """More text of one answer. ``offset``: the bytes of the answer before it. ``finish``: it is the last.

    ``writer``: the identity of the model that has written it; None: as stored before.
    """

    answer_id: int
    token: int
    offset: int
    text: bytes
    usage: RunningUsage
    finish: FinishReason | None = None
    writer: str | None = None


@dataclass(frozen=True, slots=True)
class TextSnapshot:
    """All the text of one answer so far, to take the place of whatever Redis has.

    ``confirmed``: PostgreSQL has said since that the claim is current, so that a higher token in Redis is wrong. That
    can only be if PostgreSQL was restored from a backup, or Redis belongs to another database. ``writer``: the identity
    of the model that has written it; None: not known, or nothing is written.
    """

    answer_id: int
    token: int
    epoch: int
    text: bytes
    usage: RunningUsage
    finish: FinishReason | None = None
    confirmed: bool = False
    writer: str | None = None


@dataclass(frozen=True, slots=True)
class ReadPosition:
    """How far somebody has read an answer."""

    answer_id: int
    epoch: int
    offset: int


@dataclass(frozen=True, slots=True)
class TextSlice:
    """What stands behind a cursor.

    If ``epoch`` is not the cursor's, the text that was read before is taken back and ``text`` begins at 0; an answer
    of which nothing was read loses nothing by that. Else ``text`` begins at the cursor; it is empty for a cursor at or
    beyond ``length``, the bytes that are there. ``finished``: no text will follow.
    """

    epoch: int
    offset: int
    text: bytes
    length: int
    finished: bool

    @property
    def is_torn(self) -> bool:
        """Whether the cursor was within a code point."""
        return self.text[:1] != b"" and self.text[0] & 0xC0 == 0x80


@dataclass(frozen=True, slots=True)
class TextChunk:
    """A message on ``text_channel``: text from ``offset`` on, some of which may have been sent before."""

    epoch: int
    offset: int
    text: bytes

    @classmethod
    def parse(cls, message: bytes) -> Self:
        """The chunk in a message's data. Raises ValueError."""
        epoch, offset, text = message.split(b":", 2)
        if not (epoch.isdigit() and offset.isdigit()):
            raise ValueError("a chunk of another shape")
        text.decode()  # what is no text would break each reader's stream
        return cls(int(epoch), int(offset), text)

    def after(self, length: int) -> bytes | None:
        """What follows for a reader who has so many bytes of this epoch; None if something between is missing."""
        return None if length < self.offset else self.text[length - self.offset :]


FINAL_CHANNEL: Final = "final"
"""Carries the ids of answers that have become final in PostgreSQL, with commas between; ``parse_ids`` reads them.

One channel for all: to subscribe for each answer, and to end it, cost a reader's process more than to hear of others.
"""


def text_channel(answer_id: int) -> str:
    """Carries a TextChunk for each piece of text, at once. ``MeshRedis.name`` puts the mesh before it."""
    return f"text:{answer_id}"


def parse_ids(message: bytes) -> tuple[list[int], int]:
    """The answer ids in a message, and how many of its parts are none."""
    parts = message.split(b",")
    ids = [int(part) for part in parts if part.isdigit() and len(part) < _ID_DIGITS]
    return ids, len(parts) - len(ids)


_ID_DIGITS: Final = 20
_NO_AGE: Final = -1  # as TTL says it
_REFUSALS: Final = {-1: Refusal.FENCED, -2: Refusal.MISSING}


async def open_text(redis: MeshRedis, answer_id: int, token: int, epoch: int, *, create: bool) -> StoredText | None:
    """Take the answer's text over for the claim with this token, in one step with reading what is there.

    epoch: the answer's in PostgreSQL. What Redis holds of a lower one is taken back already and dropped.
    create: begin an empty text where there is none, because none can have been given out.

    None if the text that was given out is lost, or is none that this release can go on with. Raises FencedError.
    """
    arguments = (token, epoch, "1" if create else "")
    reply = await text_scripts.OPEN.run(redis, _names(redis, [answer_id]), arguments)
    if reply == b"fenced":
        raise FencedError
    if reply == b"missing":
        return None
    text, usage, finish, writer = reply
    try:
        return StoredText(
            text.decode(),
            RunningUsage.read(usage),
            FinishReason(finish.decode()) if finish else None,
            writer.decode() or None,
        )
    except ValueError as error:  # no text, or an end that only a later release knows
        redis.mesh.unreadable.skip("a stored text", error)
        return None


async def put_texts(redis: MeshRedis, texts: Sequence[TextSnapshot]) -> list[int | Refusal]:
    """Store whole texts: under a higher epoch what was there is taken back, under the same it is completed.

    Only for a holder whose lease PostgreSQL has confirmed since it found the text missing, because a missing key has
    no token to fence it. Returns as ``append``; none is MISSING.
    """
    arguments: list[object] = []
    for one in texts:
        confirmed = "1" if one.confirmed else ""
        arguments += (one.token, one.epoch, one.text, _packed(one.usage), one.finish or "", confirmed, one.writer or "")
    keys = _written(redis, (one.answer_id for one in texts))
    replies = await text_scripts.PUT.run(redis, keys, arguments)
    return [_REFUSALS.get(reply, reply) for reply in replies]


async def append(redis: MeshRedis, appends: Sequence[TextAppend]) -> list[int | Refusal]:
    """Append to many texts, all at once, and tell their readers.

    Returns for each how many connections listen to its ``text_channel``, or why it was refused. An append whose outcome
    was not learned may be repeated: it is then MISSING if it had succeeded.
    """
    arguments = [
        argument
        for one in appends
        for argument in (one.token, one.offset, one.text, _packed(one.usage), one.finish or "", one.writer or "")
    ]
    keys = _written(redis, (one.answer_id for one in appends))
    replies = await text_scripts.APPEND.run(redis, keys, arguments)
    return [_REFUSALS.get(reply, reply) for reply in replies]


async def close_texts(redis: MeshRedis, answer_ids: Collection[int]) -> None:
    """These answers are final in PostgreSQL: refuse further text, begin the age limit, tell who waits."""
    if answer_ids:
        await text_scripts.CLOSE.run(
            redis, [redis.name(FINAL_CHANNEL), *_names(redis, answer_ids)], [",".join(map(str, answer_ids))]
        )


async def drop_texts(redis: MeshRedis, answer_ids: Collection[int]) -> None:
    """Forget these texts. Who still writes one finds it missing, and asks PostgreSQL whether it is to go on."""
    await redis.delete(*_names(redis, answer_ids))


async def bury_texts(redis: MeshRedis, answer_ids: Collection[int]) -> None:
    """As ``close_texts`` for answers that are no more: nothing is kept of their text, and none is taken."""
    await text_scripts.BURY.run(
        redis, [redis.name(FINAL_CHANNEL), *_names(redis, answer_ids)], [",".join(map(str, answer_ids))]
    )


async def running_texts(redis: MeshRedis) -> AsyncIterator[list[int]]:
    """The answers whose text has no age, a batch at a time; some may come twice."""
    prefix = redis.name("answer", "")
    cursor = 0
    while True:
        cursor, keys = await redis.scan(cursor, match=f"{prefix}*", count=1_000)
        async with redis.pipeline(transaction=False) as pipeline:
            for key in keys:
                pipeline.ttl(key)
            ages = await pipeline.execute()
        ageless = {key for key, age in zip(keys, ages, strict=True) if age == _NO_AGE}
        names = [key if isinstance(key, str) else key.decode(errors="replace") for key in ageless]
        numbers = {name.removeprefix(prefix).removesuffix(":text") for name in names}
        if batch := [int(number) for number in numbers if number.isdecimal() and len(number) < _ID_DIGITS]:
            yield batch
        if not cursor:
            return


async def read_texts(redis: MeshRedis, cursors: Sequence[ReadPosition]) -> list[TextSlice | None]:
    """What stands behind each cursor, in one round trip; None for an answer of which Redis has no text."""
    if not cursors:
        return []
    keys = _names(redis, (cursor.answer_id for cursor in cursors))
    replies = await text_scripts.READ.run(redis, keys, [n for cursor in cursors for n in (cursor.epoch, cursor.offset)])
    return [reply and TextSlice(reply[0], reply[1], reply[2], reply[3], finished=bool(reply[4])) for reply in replies]


def _keys(prefix: str, answer_id: int) -> tuple[str, str]:
    return f"{prefix}answer:{answer_id}", f"{prefix}answer:{answer_id}:text"


def _written(redis: MeshRedis, answer_ids: Iterable[int]) -> list[str]:
    prefix = redis.name("")
    return [name for number in answer_ids for name in (*_keys(prefix, number), prefix + text_channel(number))]


def _names(redis: MeshRedis, answer_ids: Iterable[int]) -> list[str]:
    prefix = redis.name("")
    return [key for number in answer_ids for key in _keys(prefix, number)]


def _packed(usage: RunningUsage) -> bytes:
    return orjson.dumps(usage)
