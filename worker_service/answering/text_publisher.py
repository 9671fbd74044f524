"""What this process writes into Redis: the texts of its answers, a call for all of them every few milliseconds.

Redis only speeds readers up. A generation never waits for it but once, at its end, and goes on when it is gone.

A fast path: text is gathered, because a call to Redis costs the worker 0.3 ms of CPU, for however many answers, and a
token comes every few milliseconds. ``Gathering`` says how long text waits for more. With ``GATHER_NOTHING`` each piece
is sent at once, and Redis comes to hold the same.
"""

import asyncio
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from redis.exceptions import RedisError

from foundation.reachability import Reachability
from foundation.redis import MeshRedis
from live.answer_stream import (
    FencedError,
    Refusal,
    RunningUsage,
    TextAppend,
    TextSnapshot,
    append,
    close_texts,
    open_text,
    put_texts,
)
from questions.claims import Claim
from questions.states import FinishReason
from worker_service.answering.answer_text import AnswerText, CopyState
from worker_service.claiming.leases import Lease

REDIS_ERRORS: Final = (RedisError, OSError)

_GATHERED_BYTES: Final = 4_096
_CALLS_AT_ONCE: Final = 8
_RETRY_SECONDS: Final = 1.0
# Redis serves nobody else during a call: 128 texts take it about 1 ms.
_TEXTS_A_CALL: Final = 128
_BYTES_A_CALL: Final = 1 << 20
_BYTES_A_TEXT: Final = 1 << 18
"""Of one text in a call. What is longer comes in several calls, in order."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Gathering:
    """How long text waits for more, in seconds, so that fewer and larger calls bring it to Redis."""

    read: float = 0.04
    """Between two chunks of one answer that somebody reads. A page that changes 25 times a second looks fluent."""
    unread: float = 0.5
    """The same while nobody listens. Who comes then reads what is there, and is heard of with the next chunk."""
    opening: float = 0.25
    """An answer without text is stored so late, to go along with its first text where that comes within the time."""
    pause: float = 0.005
    """Between two calls, once ``_CALLS_AT_ONCE`` have followed one another."""


GATHER_NOTHING: Final = Gathering(read=0.0, unread=0.0, opening=0.0, pause=0.0)


class TextPublisher:
    """All texts of the process, and the one task that brings them to Redis."""

    def __init__(
        self, redis: MeshRedis, lease: Lease, reachability: Reachability, gathering: Gathering = Gathering()
    ) -> None:
        """``reachability``: of Redis."""
        self._gathering = gathering
        self._redis = redis
        self._lease = lease
        self._reachability = reachability
        self._pending: set[AnswerText] = set()
        self._refused: set[AnswerText] = set()
        self._ended: set[int] = set()
        self._wake = asyncio.Event()
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at = 0.0
        self._renewal_asked_at = 0.0
        self._loop = asyncio.get_running_loop()

    async def open(self, claim: Claim) -> AnswerText | None:
        """The claim's text, with what attempts before it have given out; None if that is lost."""
        if claim.attempt == 1:
            text = AnswerText(claim)
            text.copy.state = CopyState.NEW
            text.copy.due_at = self._loop.time() + self._gathering.opening
            self._pending.add(text)
            self._wake_at(text.copy.due_at)
            return text
        try:
            opened = await open_text(self._redis, claim.answer_id, claim.token, claim.epoch, create=False)
        except FencedError:
            return None  # Whether Redis is right PostgreSQL will say when it is to raise the epoch.
        except REDIS_ERRORS as error:
            self._reachability.failed(error)
            return None
        return AnswerText(claim, opened) if opened else None

    def begin_anew(self, text: AnswerText, epoch: int) -> None:
        """Take the text back, under an epoch that PostgreSQL has just given."""
        text.begin_anew(epoch)
        self._refused.discard(text)
        self._send_soon(text)

    def add(self, text: AnswerText, more: str, usage: RunningUsage) -> None:
        """More of the text, to be seen by readers soon. Never waits."""
        is_first = not text.released
        text.add(more)
        text.usage = usage
        copy = text.copy
        if copy.state is CopyState.REFUSED or not (pending := len(text.released) - copy.length):
            return
        if is_first or pending >= _GATHERED_BYTES:
            self._send_soon(text)
        elif text not in self._pending:
            self._pending.add(text)
            self._wake_at(copy.due_at)

    def end(self, text: AnswerText, finish: FinishReason, usage: RunningUsage) -> None:
        """The model has written the last of it: tell Redis why and what it took. Never waits."""
        text.end(finish)
        text.usage = usage
        if text.is_pending:
            self._send_soon(text)

    async def settle(self, text: AnswerText) -> None:
        """Wait until Redis has all that is released, or does not answer."""
        if text.is_pending and self._reachability.reachable:
            text.copy.settled.clear()
            self._send_soon(text)
            await text.copy.settled.wait()

    def forget(self, text: AnswerText) -> None:
        """Write nothing of this text any more."""
        self._pending.discard(text)
        self._refused.discard(text)

    def close(self, answer_id: int) -> None:
        """The answer is final in PostgreSQL: tell its readers."""
        self._ended.add(answer_id)
        self._wake.set()

    def lease_renewed(self, owned: frozenset[int]) -> None:
        """PostgreSQL has confirmed that these claims are ours: what Redis lacks of them may be stored again."""
        for text in [text for text in self._refused if text.claim.token in owned]:
            self._refused.discard(text)
            text.copy.state = CopyState.REPLACING
            self._send_soon(text)

    async def run(self) -> None:
        """Bring to Redis what is due, for ever."""
        earliest, pause = 0.0, self._gathering.pause
        self._wake.set()  # what it broke at, if it did, is still to be sent
        while True:
            await self._wake.wait()
            now = self._loop.time()
            if earliest > now:
                await asyncio.sleep(earliest - now)
            earliest = max(earliest, now - (_CALLS_AT_ONCE - 1) * pause) + pause
            self._wake.clear()
            try:
                await self._send_due()
            except REDIS_ERRORS as error:
                self._reachability.failed(error)
                self._ended.clear()  # who waits for them also looks into PostgreSQL
                for text in self._pending:
                    text.copy.settled.set()
                await asyncio.sleep(_RETRY_SECONDS)
                self._wake.set()

    async def _send_due(self) -> None:
        if self._lease.worker_id is None:
            return  # all that is pending is about to be forgotten
        # What is due within half of the time goes along, so that the chunks of many answers share their calls.
        horizon = self._loop.time() + self._gathering.read / 2
        due = [text for text in self._pending if text.copy.due_at <= horizon]
        wholes = [text for text in due if text.copy.wants_whole]
        appends = [text for text in due if not text.copy.wants_whole]
        for texts in _calls(wholes):
            await self._store(texts)
        for texts in _calls(appends):
            await self._append(texts)
        if self._ended:
            ended, self._ended = self._ended, set()
            await close_texts(self._redis, ended)
            self._reachability.succeeded()
        if self._pending:
            self._wake_at(min(text.copy.due_at for text in self._pending))

    async def _store(self, texts: Sequence[AnswerText]) -> None:
        wholes = [
            TextSnapshot(
                text.claim.answer_id,
                text.claim.token,
                text.epoch,
                (part := _part(text.released)),
                text.usage,
                text.finish if len(part) == len(text.released) else None,
                confirmed=text.copy.state is CopyState.REPLACING,
                writer=text.writer,
            )
            for text in texts
        ]
        for text, sent, reply in zip(texts, wholes, await put_texts(self._redis, wholes), strict=True):
            if text.epoch == sent.epoch:
                text.copy.has_writer = sent.writer == text.writer
                self._note(text, reply, len(sent.text), sent.finish)

    async def _append(self, texts: Sequence[AnswerText]) -> None:
        appends = [
            TextAppend(
                text.claim.answer_id,
                text.claim.token,
                text.copy.length,
                (part := _part(text.released, text.copy.length)),
                text.usage,
                text.finish if text.copy.length + len(part) == len(text.released) else None,
                None if text.copy.has_writer else text.writer,
            )
            for text in texts
        ]
        epochs = [text.epoch for text in texts]
        replies = await append(self._redis, appends)
        for text, epoch, sent, reply in zip(texts, epochs, appends, replies, strict=True):
            if text.epoch == epoch:
                if sent.writer is not None and not isinstance(reply, Refusal):
                    text.copy.has_writer = True
                self._note(text, reply, sent.offset + len(sent.text), sent.finish)

    def _note(self, text: AnswerText, reply: int | Refusal, stored: int, finish: FinishReason | None) -> None:
        self._reachability.succeeded()
        if text not in self._pending:
            return  # forgotten meanwhile
        copy, now = text.copy, self._loop.time()
        if isinstance(reply, Refusal):
            copy.state = CopyState.REFUSED
            self._refused.add(text)
            self._ask_for_renewal(now)
        else:
            copy.state = CopyState.FOLLOWING
            copy.length = stored
            copy.has_finish = finish is not None
            more = text.finish or len(text.released) - stored >= _GATHERED_BYTES
            copy.due_at = now if more else now + (self._gathering.read if reply else self._gathering.unread)
        if not text.is_pending:
            self._pending.discard(text)
            copy.settled.set()

    def _ask_for_renewal(self, now: float) -> None:
        at = max(now, self._renewal_asked_at + _RETRY_SECONDS)
        if self._renewal_asked_at < now:
            self._renewal_asked_at = at
            self._loop.call_at(at, self._lease.renew_soon)

    def _send_soon(self, text: AnswerText) -> None:
        text.copy.due_at = 0.0
        self._pending.add(text)
        self._wake.set()

    def _wake_at(self, when: float) -> None:
        if self._timer is not None:
            if self._timer_at <= when:
                return
            self._timer.cancel()
        self._timer = self._loop.call_at(when, self._tick)
        self._timer_at = when  # uvloop's handle for a time that has passed does not know it

    def _tick(self) -> None:
        self._timer = None
        self._wake.set()


def _part(released: bytearray, start: int = 0) -> bytes:
    """As much of the text from there on as one call takes, up to the end of a code point."""
    end = start + _BYTES_A_TEXT
    if end < len(released):
        while released[end] & 0xC0 == 0x80:
            end -= 1
    return bytes(released[start:end])


def _calls(texts: Sequence[AnswerText]) -> Iterator[list[AnswerText]]:
    """The texts, as many together as one call takes."""
    call: list[AnswerText] = []
    size = 0
    for text in texts:
        sent = min(len(text.released) - (0 if text.copy.wants_whole else text.copy.length), _BYTES_A_TEXT)
        if call and (len(call) == _TEXTS_A_CALL or size + sent > _BYTES_A_CALL):
            yield call
            call, size = [], 0
        call.append(text)
        size += sent
    if call:
        yield call
