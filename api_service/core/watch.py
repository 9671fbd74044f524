"""Those who wait for an answer, and what they see of it."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field

from api_service.core.live_text import LiveText
from api_service.core.queue_estimate import Estimate, QueueEstimate
from questions.reading import Question


@dataclass(slots=True)
class WatcherState:
    """What everybody who waits in a process has to know. ``ending``: the process stops."""

    queue: QueueEstimate = field(default_factory=QueueEstimate)
    ending: bool = False


class WatchedAnswer:
    """An answer that somebody waits for. ``text`` is there while somebody reads along."""

    def __init__(self, answer_id: int) -> None:
        self.id = answer_id
        self.questions: dict[int, WatchedQuestion] = {}
        self.text: LiveText | None = None
        self.text_readers = 0
        self.text_was_read = False


class WatchedQuestion:
    """A question that somebody waits for."""

    def __init__(self, question: Question, answer: WatchedAnswer) -> None:
        self.now = question
        self.answer = answer
        self.gone = False
        self.watches: set[Watch] = set()
        self.encoded_endings: dict[object, bytes] = {}
        """Its last event, by encoder and by what else it depends on; one copy for all who are sent it."""
        self._final_text: LiveText | None = None

    @property
    def final_text(self) -> LiveText | None:
        """The whole text once there is one; one copy for all who wait."""
        if self._final_text is None and self.now.text is not None:
            self._final_text = LiveText(self.now.epoch, self.now.text.encode())
        return self._final_text

    def wake(self) -> None:
        """Tell all who wait that there is something new."""
        for watch in self.watches:
            watch.wake()


class Watch:
    """One who waits for a question."""

    def __init__(self, question: WatchedQuestion, state: WatcherState, *, text: bool) -> None:
        self._question = question
        self._state = state
        self._news = False
        self._waiter: asyncio.Future[None] | None = None
        self.reads_text = text
        self.left = False
        """Whether nobody waits any more."""

    @property
    def question(self) -> Question:
        """The question as it is now."""
        return self._question.now

    @property
    def text(self) -> LiveText | None:
        """The text of its answer so far; None where it is not read along."""
        return self._question.answer.text

    @property
    def final_text(self) -> LiveText | None:
        """The whole text once there is one."""
        return self._question.final_text

    @property
    def encoded_endings(self) -> dict[object, bytes]:
        """What encoders have made of the end of the question."""
        return self._question.encoded_endings

    @property
    def text_was_read(self) -> bool:
        """Whether Redis has said what there is of the text, or has failed to."""
        return self._question.answer.text_was_read

    @property
    def estimate(self) -> Estimate | None:
        """When it is the question's turn, if that is known."""
        return self._state.queue.of(self._question.answer.id)

    @property
    def over(self) -> bool:
        """Whether there is nothing to wait for: it has ended, is no more, nobody waits, or the process stops."""
        return self.question.state.is_final or self.interrupted

    @property
    def gone(self) -> bool:
        """Whether the question is no more."""
        return self._question.gone

    @property
    def interrupted(self) -> bool:
        """Whether there is nothing to wait for although the question has not ended."""
        return self.left or self.gone or self._state.ending

    def wake(self) -> None:
        """Say that there is something new."""
        self._news = True
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def leave(self) -> None:
        """Say that nobody waits any more."""
        self.left = True
        self.wake()

    async def news(self, timeout: float) -> bool:
        """Wait until there is something new since the last call; False after ``timeout`` seconds without."""
        if not self._news:
            loop = asyncio.get_running_loop()
            self._waiter = loop.create_future()
            handle = loop.call_later(timeout, self._give_up, self._waiter)
            try:
                await self._waiter
            finally:
                handle.cancel()
                self._waiter = None
        news, self._news = self._news, False
        return news

    async def until(self, condition: Callable[[], bool], seconds: float) -> None:
        """Wait until the condition holds or there is nothing to wait for, but no longer than so many seconds."""
        loop = asyncio.get_running_loop()
        end = loop.time() + seconds
        while not condition() and not self.over and (rest := end - loop.time()) > 0:
            await self.news(rest)

    @staticmethod
    def _give_up(waiter: asyncio.Future[None]) -> None:
        if not waiter.done():
            waiter.set_result(None)
