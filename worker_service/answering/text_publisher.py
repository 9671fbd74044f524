"""What this process writes into Redis: the texts of its answers, a call for all of them every few milliseconds.

Redis only speeds readers up. A generation never waits for it but once, at its end, and goes on when it is gone.
"""

import asyncio
from collections.abc import Iterator, Sequence
from typing import Final

from redis.exceptions import RedisError

from foundation.outages import Outage
from foundation.redis import MeshRedis
from live.answer_stream import (
    Append,
    FencedError,
    Opened,
    Refusal,
    Usage,
    Whole,
    append,
    close_texts,
    open_text,
    put_texts,
)
from questions.claims import Claim
from questions.states import FinishReason
from worker_service.claiming.leases import Lease

REDIS_ERRORS: Final = (RedisError, OSError)

_GATHERED_SECONDS: Final = 0.04
"""Between two chunks of one answer that somebody reads. A page that changes 25 times a second looks fluent."""
_UNREAD_GATHERED_SECONDS: Final = 0.5
"""The same while nobody listens. Who comes then reads what is there, and is heard of with the next chunk."""
_GATHERED_BYTES: Final = 4_096
_OPENING_SECONDS: Final = 0.25
"""An answer without text is stored so late, to go along with its first text where that comes within the time."""
_CALLS_AT_ONCE: Final = 8
_PAUSE_SECONDS: Final = 0.005
"""Between two calls once so many have followed one another. A call costs 0.3 ms of CPU, for however many answers."""
_RETRY_SECONDS: Final = 1.0
# Redis serves nobody else during a call: 128 texts take it about 1 ms.
_TEXTS_A_CALL: Final = 128
_BYTES_A_CALL: Final = 1 << 20
_BYTES_A_TEXT: Final = 1 << 18
"""Of one text in a call. What is longer comes in several calls, in order."""


class AnswerText:
    """The text of one answer under one claim.

    What is released never ends in white space, which is held back until something follows it: a chat template trims
    the text that a continuation begins with, so that it would not fit.
    """

    def __init__(self, claim: Claim, opened: Opened | None = None) -> None:
        opened = opened or Opened("", Usage(), None)
        self.claim = claim
        self.epoch = claim.epoch
        self.usage = opened.usage
        self.finish = opened.finish
        self.writer = opened.writer
        """The identity of the model that has written it; None: not known, or nothing is written."""
        self.writer_stored = True
        self.released = bytearray(opened.text.encode())
        self.held: list[str] = []
        """White space that waits for something to follow."""
        self.stored = len(self.released)
        """Bytes that Redis has acknowledged."""
        self.finish_stored = False
        self.whole_due = False
        """Redis is to be given all of the text."""
        self.confirmed = False
        """PostgreSQL has confirmed the claim since Redis said something else: Redis is wrong."""
        self.lost = False
        """Redis has lost or refused the text, and PostgreSQL has not confirmed the claim since."""
        self.interval = _UNREAD_GATHERED_SECONDS
        self.due_at = 0.0
        self.settled = asyncio.Event()

    def __str__(self) -> str:
        return self.released.decode() + "".join(self.held)

    @property
    def length(self) -> int:
        """Bytes that there are, also those that are held back."""
        return len(self.released) + len("".join(self.held).encode())

    @property
    def is_pending(self) -> bool:
        """Whether Redis lacks something."""
        return (
            self.whole_due or len(self.released) > self.stored or (self.finish is not None and not self.finish_stored)
        )

    def add(self, more: str) -> None:
        """Release it but for white space at its end."""
        if visible := more.rstrip():
            self.released += "".join((*self.held, visible)).encode()
            self.held.clear()
        if len(visible) < len(more):
            self.held.append(more[len(visible) :])

    def end(self, finish: FinishReason) -> None:
        """Release what is held back: nothing will follow."""
        self.released += "".join(self.held).encode()
        self.held.clear()
        self.finish = finish

    def begins_by(self, writer: str | None) -> None:
        """Who writes what follows, before any of it is added."""
        self.writer = writer
        self.writer_stored = False

    def begin_anew(self, epoch: int) -> None:
        """Take back what there is, under an epoch that PostgreSQL has just given."""
        self.epoch = epoch
        self.writer = None
        self.usage = self.usage.of_text_taken_back()
        self.finish = None
        self.released.clear()
        self.held.clear()
        self.stored = 0
        self.whole_due = self.confirmed = True
        self.lost = False


class TextPublisher:
    """All texts of the process, and the one task that brings them to Redis."""

    def __init__(self, redis: MeshRedis, lease: Lease, outage: Outage) -> None:
        """``outage``: of Redis."""
        self._redis = redis
        self._lease = lease
        self._outage = outage
        self._pending: set[AnswerText] = set()
        self._lost: set[AnswerText] = set()
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
            text.whole_due = True
            text.due_at = self._loop.time() + _OPENING_SECONDS
            self._pending.add(text)
            self._wake_at(text.due_at)
            return text
        try:
            opened = await open_text(self._redis, claim.answer_id, claim.token, claim.epoch, create=False)
        except FencedError:
            return None  # Whether Redis is right PostgreSQL will say when it is to raise the epoch.
        except REDIS_ERRORS as error:
            self._outage.begins(error)
            return None
        return AnswerText(claim, opened) if opened else None

    def begin_anew(self, text: AnswerText, epoch: int) -> None:
        """Take the text back, under an epoch that PostgreSQL has just given."""
        text.begin_anew(epoch)
        self._send_soon(text)

    def add(self, text: AnswerText, more: str, usage: Usage) -> None:
        """More of the text, to be seen by readers soon. Never waits."""
        is_first = not text.released
        text.add(more)
        text.usage = usage
        if text.lost or not (pending := len(text.released) - text.stored):
            return
        if is_first or pending >= _GATHERED_BYTES:
            self._send_soon(text)
        elif text not in self._pending:
            self._pending.add(text)
            self._wake_at(text.due_at)

    def end(self, text: AnswerText, finish: FinishReason, usage: Usage) -> None:
        """The model has written the last of it: tell Redis why and what it took. Never waits."""
        text.end(finish)
        text.usage = usage
        if text.is_pending and not text.lost:
            self._send_soon(text)

    async def settle(self, text: AnswerText) -> None:
        """Wait until Redis has all that is released, or does not answer."""
        if text.is_pending and not text.lost and not self._outage.lasts:
            text.settled.clear()
            self._send_soon(text)
            await text.settled.wait()

    def forget(self, text: AnswerText) -> None:
        """Write nothing of this text any more."""
        self._pending.discard(text)
        self._lost.discard(text)

    def close(self, answer_id: int) -> None:
        """The answer is final in PostgreSQL: tell its readers."""
        self._ended.add(answer_id)
        self._wake.set()

    def lease_renewed(self, owned: frozenset[int]) -> None:
        """PostgreSQL has confirmed that these claims are ours: what Redis lacks of them may be stored again."""
        for text in [text for text in self._lost if text.claim.token in owned]:
            self._lost.discard(text)
            text.lost = False
            text.whole_due = text.confirmed = True
            self._send_soon(text)

    async def run(self) -> None:
        """Bring to Redis what is due, for ever."""
        earliest = 0.0
        self._wake.set()  # what it broke at, if it did, is still to be sent
        while True:
            await self._wake.wait()
            now = self._loop.time()
            if earliest > now:
                await asyncio.sleep(earliest - now)
            earliest = max(earliest, now - (_CALLS_AT_ONCE - 1) * _PAUSE_SECONDS) + _PAUSE_SECONDS
            self._wake.clear()
            try:
                await self._send_due()
            except REDIS_ERRORS as error:
                self._outage.begins(error)
                self._ended.clear()  # who waits for them also looks into PostgreSQL
                for text in self._pending:
                    text.settled.set()
                await asyncio.sleep(_RETRY_SECONDS)
                self._wake.set()

    async def _send_due(self) -> None:
        if self._lease.worker_id is None:
            return  # all that is pending is about to be forgotten
        # What is due within half of the time goes along, so that the chunks of many answers share their calls.
        horizon = self._loop.time() + _GATHERED_SECONDS / 2
        due = [text for text in self._pending if text.due_at <= horizon]
        wholes = [text for text in due if text.whole_due]
        appends = [text for text in due if not text.whole_due]
        for texts in _calls(wholes):
            await self._store(texts)
        for texts in _calls(appends):
            await self._append(texts)
        if self._ended:
            ended, self._ended = self._ended, set()
            await close_texts(self._redis, ended)
            self._outage.ends()
        if self._pending:
            self._wake_at(min(text.due_at for text in self._pending))

    async def _store(self, texts: Sequence[AnswerText]) -> None:
        wholes = [
            Whole(
                text.claim.answer_id,
                text.claim.token,
                text.epoch,
                (part := _part(text.released)),
                text.usage,
                text.finish if len(part) == len(text.released) else None,
                confirmed=text.confirmed,
                writer=text.writer,
            )
            for text in texts
        ]
        for text, sent, reply in zip(texts, wholes, await put_texts(self._redis, wholes), strict=True):
            if text.epoch == sent.epoch:
                text.whole_due = False
                text.writer_stored = sent.writer == text.writer
                self._note(text, reply, len(sent.text), sent.finish)

    async def _append(self, texts: Sequence[AnswerText]) -> None:
        appends = [
            Append(
                text.claim.answer_id,
                text.claim.token,
                text.stored,
                (part := _part(text.released, text.stored)),
                text.usage,
                text.finish if text.stored + len(part) == len(text.released) else None,
                None if text.writer_stored else text.writer,
            )
            for text in texts
        ]
        epochs = [text.epoch for text in texts]
        replies = await append(self._redis, appends)
        for text, epoch, sent, reply in zip(texts, epochs, appends, replies, strict=True):
            if text.epoch == epoch:
                text.writer_stored = text.writer_stored or (not isinstance(reply, Refusal) and sent.writer is not None)
                self._note(text, reply, sent.offset + len(sent.text), sent.finish)

    def _note(self, text: AnswerText, reply: int | Refusal, stored: int, finish: FinishReason | None) -> None:
        self._outage.ends()
        if text not in self._pending:
            return  # forgotten meanwhile
        now = self._loop.time()
        if isinstance(reply, Refusal):
            text.lost = True
            self._lost.add(text)
            self._ask_for_renewal(now)
        else:
            text.confirmed = False
            text.stored = stored
            text.finish_stored = finish is not None
            text.interval = _GATHERED_SECONDS if reply else _UNREAD_GATHERED_SECONDS
            more = text.finish or len(text.released) - stored >= _GATHERED_BYTES
            text.due_at = now if more else now + text.interval
        if text.lost or not text.is_pending:
            self._pending.discard(text)
            text.settled.set()

    def _ask_for_renewal(self, now: float) -> None:
        at = max(now, self._renewal_asked_at + _RETRY_SECONDS)
        if self._renewal_asked_at < now:
            self._renewal_asked_at = at
            self._loop.call_at(at, self._lease.renew_soon)

    def _send_soon(self, text: AnswerText) -> None:
        text.due_at = 0.0
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
        sent = min(len(text.released) - (0 if text.whole_due else text.stored), _BYTES_A_TEXT)
        if call and (len(call) == _TEXTS_A_CALL or size + sent > _BYTES_A_CALL):
            yield call
            call, size = [], 0
        call.append(text)
        size += sent
    if call:
        yield call
