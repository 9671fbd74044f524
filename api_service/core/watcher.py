"""Waiting for answers: one for the whole process, however many wait in it.

Redis says at once what is new. Besides, and without Redis alone, one statement every other second finds every question
whose state has changed, so that losing a notice costs time and nothing else.
"""

import asyncio
import logging
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from weakref import WeakValueDictionary

from redis.exceptions import RedisError
from sqlalchemy.ext.asyncio import AsyncEngine

from api_service.core.live_text import LiveText
from api_service.core.queue_estimate import SAMPLE_SIZE
from api_service.core.watch import Watch, WatchedAnswer, WatchedQuestion, WatcherState
from foundation.background import Background
from foundation.postgresql.errors import is_outage
from foundation.redis import MeshRedis
from live import answer_stream
from live.answer_stream import FINAL_CHANNEL, TextChunk, parse_ids, text_channel
from live.signals import Subscriber
from questions.reading import Question, read_changed, read_queue
from questions.states import State

logger = logging.getLogger(__name__)

_LOOK_SECONDS = 2.0
_LOOK_WITHOUT_REDIS_SECONDS = 1.0
_SAMPLE_SECONDS = 1.0
# Between reading a question and waiting for it, its end may be told. Far more answers do not end in that time.
_MOST_ENDED = 10_000
_MOST_GATHERING_SECONDS = 0.01
# At most so many answers come with their text at a time.
_CHANGED_AT_ONCE = 100
_TEXTS_AT_ONCE = 100


class Watcher:
    """Follows every question that somebody in this process waits for."""

    def __init__(self, engine: AsyncEngine, redis: MeshRedis) -> None:
        self._engine = engine
        self._redis = redis
        self._subscriber = Subscriber(redis, self, FINAL_CHANNEL)
        self._listens = False
        self._questions: dict[int, WatchedQuestion] = {}
        self._answers: dict[int, WatchedAnswer] = {}
        self._finished: WeakValueDictionary[int, WatchedQuestion] = WeakValueDictionary()
        self._changed: set[int] = set()
        self._ended: dict[int, None] = {}
        self._look = asyncio.Event()
        self._unread: set[WatchedAnswer] = set()
        self._read = asyncio.Event()
        self._queued = asyncio.Event()
        self._state = WatcherState()

    @contextmanager
    def watch(self, question: Question, *, text: bool) -> Iterator[Watch]:
        """Wait for what becomes of this question, read a moment ago; ``text``: of the text being written too."""
        if question.state.is_final:
            watch = Watch(self._finished_question(question), self._state, text=False)
            del question  # its text is there in the copy that is shared
            yield watch
            return
        followed = self._questions.get(question.id) or self._follow(question)
        watch = Watch(followed, self._state, text=text)
        followed.watches.add(watch)
        if text:
            self._read_along(followed.answer, question.epoch)
        try:
            yield watch
        finally:
            followed.watches.discard(watch)
            if text:
                self._stop_reading(followed.answer)
            if not followed.watches:
                self._forget(followed)

    async def wait(self, question: Question, seconds: float) -> Question | None:
        """The question once it has ended, or as it is after so many seconds; None if it is no more."""
        with self.watch(question, text=False) as watch:
            await watch.until(lambda: False, seconds)
            return None if watch.gone else watch.question

    def look_at(self, question_id: int) -> None:
        """Say that the question may have changed."""
        if question_id in self._questions:
            self._changed.add(question_id)
            self._look.set()

    def end(self) -> None:
        """Say that the process stops: everybody may go and wait elsewhere."""
        self._state.ending = True
        for question in self._questions.values():
            question.wake()

    def listening(self, channel: str) -> None:
        """Look at what was said on this channel before anybody here listened."""
        self._listens = True
        if channel == FINAL_CHANNEL:
            self._changed.update(self._questions)
            self._look.set()
        elif (answer := self._answers.get(_answer_id(channel))) is not None:
            self._read_again(answer)

    def heard(self, channel: str, data: bytes) -> None:
        """Take in what Redis says. Raises ValueError for what cannot be read, having taken in the rest."""
        if channel == FINAL_CHANNEL:
            ids, unreadable = parse_ids(data)
            for answer_id in ids:
                self._note_end(answer_id)
            if unreadable:
                raise ValueError
        elif (answer := self._answers.get(_answer_id(channel))) is not None:
            chunk = TextChunk.parse(data)
            if answer.text is not None and chunk.epoch > answer.text.epoch:
                # That text is taken back is seldom, and too much to believe a message alone.
                self._read_again(answer)
            else:
                self._take(answer, chunk.epoch, chunk.offset, chunk.text)

    def lost(self, error: BaseException) -> None:
        """Look more often from now on."""
        self._listens = False
        logger.debug("Redis says nothing: %r", error)

    def run(self, background: Background) -> None:
        """Follow in the background, whatever becomes of PostgreSQL and Redis."""
        background.run("listening to Redis", self._subscriber.run)
        background.run("following the states of questions", self._follow_states)
        background.run("following texts", self._follow_texts)
        background.run("following the queue", self._follow_queue)

    def _finished_question(self, question: Question) -> WatchedQuestion:
        """The copy that others read already, of which each reader would else hold one as long as it takes."""
        finished = self._finished.get(question.id)
        if finished is None or finished.now != question:
            finished = self._finished[question.id] = WatchedQuestion(question, WatchedAnswer(question.answer_id))
        return finished

    def _follow(self, question: Question) -> WatchedQuestion:
        answer = self._answers.get(question.answer_id)
        if answer is None:
            answer = self._answers[question.answer_id] = WatchedAnswer(question.answer_id)
        followed = self._questions[question.id] = answer.questions[question.id] = WatchedQuestion(question, answer)
        if answer.id in self._ended:
            self.look_at(question.id)
        if question.state is State.QUEUED:
            self._queued.set()
        return followed

    def _forget(self, question: WatchedQuestion) -> None:
        question_id, answer = question.now.id, question.answer
        if self._questions.get(question_id) is question:
            del self._questions[question_id]
            del answer.questions[question_id]
            if not answer.questions:
                del self._answers[answer.id]
                self._subscriber.remove(text_channel(answer.id))

    def _read_along(self, answer: WatchedAnswer, epoch: int) -> None:
        answer.text_readers += 1
        if answer.text is None:
            answer.text, answer.text_was_read = LiveText(epoch), False
            self._subscriber.add(text_channel(answer.id))
            self._read_again(answer)

    def _stop_reading(self, answer: WatchedAnswer) -> None:
        answer.text_readers -= 1
        if not answer.text_readers:
            answer.text = None
            if self._answers.get(answer.id) is answer:
                self._subscriber.remove(text_channel(answer.id))

    def _read_again(self, answer: WatchedAnswer) -> None:
        self._unread.add(answer)
        self._read.set()

    def _note_end(self, answer_id: int) -> None:
        self._ended[answer_id] = None
        if len(self._ended) > _MOST_ENDED:
            del self._ended[next(iter(self._ended))]
        if (answer := self._answers.get(answer_id)) is not None:
            for question_id in answer.questions:
                self.look_at(question_id)

    def _take(self, answer: WatchedAnswer, epoch: int, offset: int, text: bytes) -> None:
        if answer.text is None:
            return
        had = answer.text.epoch, len(answer.text.data)
        if not answer.text.take(epoch, offset, text):
            self._read_again(answer)
            return
        if had == (answer.text.epoch, len(answer.text.data)):
            return
        for question in answer.questions.values():
            if text and question.now.state is State.QUEUED:
                question.now = replace(question.now, state=State.IN_PROGRESS)
            for watch in question.watches:
                if watch.reads_text:
                    watch.wake()

    async def _follow_states(self) -> None:
        loop = asyncio.get_running_loop()
        look_at_all_at = loop.time() + _LOOK_SECONDS
        while True:
            with suppress(TimeoutError):
                async with asyncio.timeout_at(look_at_all_at):
                    await self._look.wait()
            self._look.clear()
            began = loop.time()
            if began >= look_at_all_at:
                self._changed.update(self._questions)
                for answer in self._answers.values():
                    if answer.text is not None:
                        self._read_again(answer)
                look_at_all_at = loop.time() + (_LOOK_SECONDS if self._listens else _LOOK_WITHOUT_REDIS_SECONDS)
            changed, self._changed = self._changed, set()
            await self._update(changed)
            await _gather(loop.time() - began)

    async def _update(self, question_ids: Iterable[int]) -> None:
        known = {number: self._questions[number].now.state for number in question_ids if number in self._questions}
        if not known:
            return
        try:
            changed = await read_changed(self._engine, known, _CHANGED_AT_ONCE)
        except Exception as error:
            if not is_outage(error):
                logger.exception("could not look whether answers are there")
            return
        if len(changed) >= _CHANGED_AT_ONCE:
            self._changed.update(known.keys() - changed.keys())
            self._look.set()
        for question_id, now in changed.items():
            if (followed := self._questions.get(question_id)) is None:
                continue
            if now is None:
                followed.gone = True
            else:
                followed.now = now
                if now.state is State.QUEUED:
                    self._queued.set()
            if followed.gone or followed.now.state.is_final:
                self._forget(followed)
            followed.wake()

    async def _follow_texts(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            await self._read.wait()
            began = loop.time()
            batch = [self._unread.pop() for _ in range(min(len(self._unread), _TEXTS_AT_ONCE))]
            if not self._unread:
                self._read.clear()
            await self._read_texts([answer for answer in batch if answer.text is not None])
            await _gather(loop.time() - began)

    async def _read_texts(self, batch: list[WatchedAnswer]) -> None:
        cursors = [
            answer_stream.ReadPosition(answer.id, answer.text.epoch, len(answer.text.data))
            for answer in batch
            if answer.text
        ]
        readings: list[answer_stream.TextSlice | None]
        try:
            readings = await answer_stream.read_texts(self._redis, cursors)
        except (RedisError, OSError) as error:
            # They are read again with the next look at all.
            self._redis.mesh.note(error)
            readings = [None] * len(batch)
        for answer, reading in zip(batch, readings, strict=True):
            if not answer.text_was_read:
                answer.text_was_read = True
                for question in answer.questions.values():
                    question.wake()
            if reading is not None:
                self._take(answer, reading.epoch, reading.offset, reading.text)

    async def _follow_queue(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            await self._queued.wait()
            queued = [
                question
                for question in self._questions.values()
                if question.now.state is State.QUEUED and question.answer.text is not None
            ]
            if queued:
                try:
                    self._state.queue.take(await read_queue(self._engine, SAMPLE_SIZE), loop.time())
                except Exception as error:
                    if not is_outage(error):
                        logger.exception("could not look at the queue")
                for question in queued:
                    question.wake()
            else:
                self._queued.clear()
            await asyncio.sleep(_SAMPLE_SECONDS)


async def _gather(took: float) -> None:
    """Wait as long as the last statement or read took, so that what comes up meanwhile shares the next."""
    await asyncio.sleep(min(took, _MOST_GATHERING_SECONDS))


def _answer_id(channel: str) -> int:
    return int(channel.rpartition(":")[2])
