"""The text of an answer in Redis while it is being written, for readers and for the worker that continues it.

Two keys hold an answer's text: a string with the text itself, and a hash that says whose it is. ``token`` is the
claim's fencing token: whoever opens with a higher one seals the text of the former holder, whose writes are refused
from then on. ``epoch`` rises when text that readers may have seen is taken back. All offsets are bytes of UTF-8, at the
end of a code point.

A text lives for ``RUNNING_SECONDS`` from its latest opening, which is longer than any generation may last, so that a
running one is never trimmed and one that everybody has forgotten goes. From its end it lives ``ENDED_SECONDS``. Its
size is bounded by the answer's token limit. Redis may lose any of it at any moment: the holder restores it.

Every function raises RedisError or OSError where Redis does not answer.
"""

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, replace
from enum import Enum, auto
from hashlib import sha1
from typing import Any, Final, Self

import orjson
from redis.asyncio import Redis
from redis.exceptions import NoScriptError

from questions.states import FinishReason

RUNNING_SECONDS: Final = 2 * 86_400
"""Twice the longest ASKMESH_MAX_GENERATION_SECONDS; an answer that waits longer than that for a claim starts anew."""
ENDED_SECONDS: Final = 3_600
"""For readers who are late; after that they read the final answer in PostgreSQL."""
# Longer than a worker goes on with what PostgreSQL has not confirmed to be its own.
_BURIED_SECONDS: Final = 60


class FencedError(Exception):
    """The answer has another holder by now, or has ended: drop the work."""


class Refusal(Enum):
    """Why Redis did not take text."""

    FENCED = auto()
    """The answer has another holder by now, or has ended: drop the work."""
    MISSING = auto()
    """Redis does not have the text that comes before: store all of it with ``put_texts``."""


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens of an answer so far, over all its attempts. None where the model server does not say.

    ``repeated_tokens`` are those beyond what an uninterrupted generation would have taken: the question and the text
    that a continuation read again, and what was read and written of text that was taken back. ``pieces`` are the parts
    in which the text came, of at least a token each.
    """

    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    cached_prompt_tokens: int | None = None
    repeated_tokens: int = 0
    pieces: int = 0

    @property
    def written_tokens(self) -> int:
        """Tokens of the text so far; at least so many where the model server does not count while it writes."""
        return self.pieces if self.completion_tokens is None else self.completion_tokens

    def and_of_call(self, prompt: int, completion: int, cached_prompt: int | None, pieces: int) -> Self:
        """The usage with that of a call which goes on from here. ``pieces``: all so far."""
        if not self.pieces:
            return replace(
                self,
                prompt_tokens=prompt,
                completion_tokens=completion,
                cached_prompt_tokens=cached_prompt,
                pieces=pieces,
            )
        return replace(
            self,
            completion_tokens=self.written_tokens + completion,
            repeated_tokens=self.repeated_tokens + prompt,
            pieces=pieces,
        )

    def of_text_taken_back(self) -> Self:
        """The usage to begin anew with."""
        return type(self)(repeated_tokens=self.repeated_tokens + (self.prompt_tokens or 0) + self.written_tokens)


@dataclass(frozen=True, slots=True)
class Opened:
    """What was there when the text was opened. ``finish``: the model had ended it, only the final write is missing."""

    text: str
    usage: Usage
    finish: FinishReason | None


@dataclass(frozen=True, slots=True)
class Append:
    """More text of one answer. ``offset``: the bytes of the answer before it. ``finish``: it is the last."""

    answer_id: int
    token: int
    offset: int
    text: bytes
    usage: Usage
    finish: FinishReason | None = None


@dataclass(frozen=True, slots=True)
class Whole:
    """All the text of one answer so far, to take the place of whatever Redis has.

    ``confirmed``: PostgreSQL has said since that the claim is current, so that a higher token in Redis is wrong. That
    can only be if PostgreSQL was restored from a backup, or Redis belongs to another database.
    """

    answer_id: int
    token: int
    epoch: int
    text: bytes
    usage: Usage
    finish: FinishReason | None = None
    confirmed: bool = False


@dataclass(frozen=True, slots=True)
class Cursor:
    """How far somebody has read an answer."""

    answer_id: int
    epoch: int
    offset: int


@dataclass(frozen=True, slots=True)
class Reading:
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
class Chunk:
    """A message on ``text_channel``: text from ``offset`` on, some of which may have been sent before."""

    epoch: int
    offset: int
    text: bytes

    @classmethod
    def parse(cls, message: bytes) -> Self:
        """The chunk in a message's data."""
        epoch, offset, text = message.split(b":", 2)
        return cls(int(epoch), int(offset), text)

    def after(self, length: int) -> bytes | None:
        """What follows for a reader who has so many bytes of this epoch; None if something between is missing."""
        return None if length < self.offset else self.text[length - self.offset :]


def text_channel(answer_id: int) -> str:
    """Carries a Chunk for each piece of text, at once when it is there."""
    return f"askmesh:text:{answer_id}"


def final_channel(answer_id: int) -> str:
    """Carries one empty message when the answer is final in PostgreSQL."""
    return f"askmesh:final:{answer_id}"


class _Script:
    """A Lua script, sent once and then named by its digest."""

    def __init__(self, source: str) -> None:
        self._source = source
        self._digest = sha1(source.encode(), usedforsecurity=False).hexdigest()

    async def run(self, redis: Redis, keys: Sequence[str], arguments: Iterable[object]) -> Any:
        call: list[Any] = [len(keys), *keys, *arguments]
        try:
            return await redis.evalsha(self._digest, *call)
        except NoScriptError:
            return await redis.eval(self._source, *call)


# A hash whose string is gone or shorter, as eviction or an old snapshot leaves it, counts as missing.
_HELPERS: Final = f"""
local function stored(meta, text)
  local held = redis.call('HMGET', meta, 'token', 'epoch', 'length', 'usage', 'finish')
  if not held[1] or tonumber(held[3]) ~= redis.call('STRLEN', text) then return nil end
  return {{token = tonumber(held[1]), epoch = tonumber(held[2]), length = tonumber(held[3]),
           usage = held[4], finish = held[5]}}
end
local function put(meta, text, token, epoch, whole, usage, finish)
  redis.call('SET', text, whole, 'EX', {RUNNING_SECONDS})
  redis.call('HSET', meta, 'token', token, 'epoch', epoch, 'length', #whole, 'usage', usage)
  if finish ~= '' then redis.call('HSET', meta, 'finish', finish) else redis.call('HDEL', meta, 'finish') end
  redis.call('EXPIRE', meta, {RUNNING_SECONDS})
end
"""
_OPEN: Final = _Script(f"""{_HELPERS}
local meta, text, token, epoch, create = KEYS[1], KEYS[2], tonumber(ARGV[1]), tonumber(ARGV[2]), ARGV[3]
local held = redis.call('HGET', meta, 'token')
if held and tonumber(held) > token then return 'fenced' end
held = stored(meta, text)
if held and held.epoch == epoch then
  redis.call('HSET', meta, 'token', ARGV[1])
  redis.call('EXPIRE', meta, {RUNNING_SECONDS})
  redis.call('EXPIRE', text, {RUNNING_SECONDS})
  return {{redis.call('GET', text), held.usage, held.finish or ''}}
end
if create == '' and not (held and held.epoch < epoch) then return 'missing' end
put(meta, text, ARGV[1], ARGV[2], '', '{{}}', '')
return {{'', '{{}}', ''}}
""")
_PUT: Final = _Script(f"""{_HELPERS}
local replies = {{}}
for i = 1, #KEYS / 3 do
  local meta, text, channel = KEYS[3 * i - 2], KEYS[3 * i - 1], KEYS[3 * i]
  local token, epoch, whole, usage, finish, confirmed = unpack(ARGV, 6 * i - 5, 6 * i)
  local held, ended = unpack(redis.call('HMGET', meta, 'token', 'finish'))
  if ended == 'buried' or (confirmed == '' and held and tonumber(held) > tonumber(token)) then replies[i] = -1
  else
    put(meta, text, token, epoch, whole, usage, finish)
    replies[i] = redis.call('PUBLISH', channel, epoch .. ':0:' .. whole)
  end
end
return replies
""")
_APPEND: Final = _Script(f"""{_HELPERS}
local replies = {{}}
for i = 1, #KEYS / 3 do
  local meta, text, channel = KEYS[3 * i - 2], KEYS[3 * i - 1], KEYS[3 * i]
  local token, offset, chunk, usage, finish = unpack(ARGV, 5 * i - 4, 5 * i)
  local held = stored(meta, text)
  if held and held.token > tonumber(token) then replies[i] = -1
  elseif not held or held.token < tonumber(token) or held.length ~= tonumber(offset) then replies[i] = -2
  else
    redis.call('APPEND', text, chunk)
    redis.call('HSET', meta, 'length', held.length + #chunk, 'usage', usage)
    if finish ~= '' then redis.call('HSET', meta, 'finish', finish) end
    replies[i] = redis.call('PUBLISH', channel, held.epoch .. ':' .. offset .. ':' .. chunk)
  end
end
return replies
""")
# No token is as high as this: whoever still writes to an answer that has ended is fenced.
_CLOSE: Final = _Script(f"""
for i = 1, #KEYS / 3 do
  if redis.call('EXISTS', KEYS[3 * i - 2]) == 1 then
    redis.call('HSET', KEYS[3 * i - 2], 'token', '{2**53}', 'finish', 'closed')
    redis.call('EXPIRE', KEYS[3 * i - 2], {ENDED_SECONDS})
    redis.call('EXPIRE', KEYS[3 * i - 1], {ENDED_SECONDS})
  end
  redis.call('PUBLISH', KEYS[3 * i], '')
end
""")
_BURY: Final = _Script(f"""
for i = 1, #KEYS / 3 do
  redis.call('DEL', KEYS[3 * i - 2], KEYS[3 * i - 1])
  redis.call('HSET', KEYS[3 * i - 2], 'token', '{2**53}', 'epoch', 0, 'length', 0, 'usage', '{{}}', 'finish', 'buried')
  redis.call('EXPIRE', KEYS[3 * i - 2], {_BURIED_SECONDS})
  redis.call('PUBLISH', KEYS[3 * i], '')
end
""")
_READ: Final = _Script(f"""{_HELPERS}
local replies = {{}}
for i = 1, #KEYS / 2 do
  local meta, text, offset = KEYS[2 * i - 1], KEYS[2 * i], tonumber(ARGV[2 * i])
  local held = stored(meta, text)
  if held then
    if held.epoch ~= tonumber(ARGV[2 * i - 1]) then offset = 0 end
    replies[i] = {{held.epoch, offset, redis.call('GETRANGE', text, offset, -1), held.length, held.finish and 1 or 0}}
  else replies[i] = false end
end
return replies
""")
_REFUSALS: Final = {-1: Refusal.FENCED, -2: Refusal.MISSING}


async def open_text(redis: Redis, answer_id: int, token: int, epoch: int, *, create: bool) -> Opened | None:
    """Take the answer's text over for the claim with this token, in one step with reading what is there.

    epoch: the answer's in PostgreSQL. What Redis holds of a lower one is taken back already and dropped.
    create: begin an empty text where there is none, because none can have been given out.

    None if the text that was given out is lost; nothing is stored then. Raises FencedError.
    """
    arguments = (token, epoch, "1" if create else "")
    reply = await _OPEN.run(redis, _keys(answer_id), arguments)
    if reply == b"fenced":
        raise FencedError
    if reply == b"missing":
        return None
    text, usage, finish = reply
    return Opened(text.decode(), Usage(**orjson.loads(usage)), FinishReason(finish.decode()) if finish else None)


async def put_texts(redis: Redis, texts: Sequence[Whole]) -> list[int | Refusal]:
    """Store whole texts: under a higher epoch what was there is taken back, under the same it is completed.

    Only for a holder whose lease PostgreSQL has confirmed since it found the text missing, because a missing key has
    no token to fence it. Returns as ``append``; none is MISSING.
    """
    arguments: list[object] = []
    for one in texts:
        confirmed = "1" if one.confirmed else ""
        arguments += (one.token, one.epoch, one.text, _packed(one.usage), one.finish or "", confirmed)
    replies = await _PUT.run(redis, [key for one in texts for key in _written(one.answer_id)], arguments)
    return [_REFUSALS.get(reply, reply) for reply in replies]


async def append(redis: Redis, appends: Sequence[Append]) -> list[int | Refusal]:
    """Append to many texts, all at once, and tell their readers.

    Returns for each how many connections listen to its ``text_channel``, or why it was refused. An append whose outcome
    was not learned may be repeated: it is then MISSING if it had succeeded.
    """
    arguments = [
        argument
        for one in appends
        for argument in (one.token, one.offset, one.text, _packed(one.usage), one.finish or "")
    ]
    replies = await _APPEND.run(redis, [key for one in appends for key in _written(one.answer_id)], arguments)
    return [_REFUSALS.get(reply, reply) for reply in replies]


async def close_texts(redis: Redis, answer_ids: Collection[int]) -> None:
    """These answers are final in PostgreSQL: refuse further text, begin the age limit, tell who waits."""
    if answer_ids:
        keys = [key for answer_id in answer_ids for key in (*_keys(answer_id), final_channel(answer_id))]
        await _CLOSE.run(redis, keys, ())


async def drop_texts(redis: Redis, answer_ids: Collection[int]) -> None:
    """Forget these texts. Who still writes one finds it missing, and asks PostgreSQL whether it is to go on."""
    await redis.delete(*(key for answer_id in answer_ids for key in _keys(answer_id)))


async def bury_texts(redis: Redis, answer_ids: Collection[int]) -> None:
    """As ``close_texts`` for answers that are no more: nothing is kept of their text, and none is taken."""
    keys = [key for answer_id in answer_ids for key in (*_keys(answer_id), final_channel(answer_id))]
    await _BURY.run(redis, keys, ())


async def read_texts(redis: Redis, cursors: Sequence[Cursor]) -> list[Reading | None]:
    """What stands behind each cursor, in one round trip; None for an answer of which Redis has no text."""
    if not cursors:
        return []
    keys = [key for cursor in cursors for key in _keys(cursor.answer_id)]
    replies = await _READ.run(redis, keys, [n for cursor in cursors for n in (cursor.epoch, cursor.offset)])
    return [reply and Reading(reply[0], reply[1], reply[2], reply[3], finished=bool(reply[4])) for reply in replies]


def _keys(answer_id: int) -> tuple[str, str]:
    return f"askmesh:answer:{answer_id}", f"askmesh:answer:{answer_id}:text"


def _written(answer_id: int) -> tuple[str, str, str]:
    return *_keys(answer_id), text_channel(answer_id)


def _packed(usage: Usage) -> bytes:
    return orjson.dumps(usage)
