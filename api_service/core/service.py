"""What the endpoints do, in terms of questions."""

import asyncio
import hashlib
import logging
from collections.abc import Coroutine, Mapping
from contextlib import nullcontext, suppress
from dataclasses import dataclass, field, replace
from functools import partial

from redis.exceptions import RedisError
from starlette.types import Receive

from api_service.answers.languages import Language, detect
from api_service.answers.leaving import leaving_noticed
from api_service.answers.schemas import AskLimits, AskRequest
from api_service.authentication.principal import Principal
from api_service.core.admission.counting import Counting
from api_service.core.admission.limits import Admission, Limits
from api_service.core.admission.priorities import check_priority
from api_service.core.answering_model import AnsweringModel
from api_service.core.backlog import Backlog
from api_service.core.turns import TurnKeeper
from api_service.core.watcher import Watcher
from api_service.http.problems import ERASURE_UNAVAILABLE, QUESTION_NOT_FOUND, Code, ProblemError
from foundation.background import log_when_broken
from foundation.correlation import current_request_id
from foundation.postgresql.database import Database
from foundation.redis import MeshRedis
from foundation.settings import GenerationSettings, QuestionSettings
from live.answer_cache import AnswerCache, forget
from live.hints import Hints
from live.signals import publish_ended, publish_erased
from live.wakeups import Wakeups
from owners.concurrency_limit import NoRoomError
from owners.turns import Flow, Priority
from questions import reading
from questions.answer_key import answer_key
from questions.asking import Accepted, Ask, NothingToJoinError, Source, accept, find_replay
from questions.erasing import Erased, erase
from questions.listing import Page, Place, Wanted, list_questions
from questions.reading import Question
from questions.requests import request_for
from questions.states import State

logger = logging.getLogger(__name__)

_MOST_LIVE = 10_000
_JUST_NOW_SECONDS = 1.0
_LAST_LOOK_SECONDS = 5.0
"""For so long a question is read again that was waited for. PostgreSQL may hang, and who has asked must get the id."""
_EVERYBODY = ""  # no tenant is called so


@dataclass(frozen=True, slots=True)
class Asked:
    """An accepted question as it is now, and the language of its text."""

    accepted: Accepted
    language: Language
    question: Question
    headers: Mapping[str, str] = field(default_factory=dict)
    """What the caller has left of its limits."""


class QuestionService:
    """Asks, reads and cancels an owner's questions. Its methods raise ProblemError."""

    def __init__(
        self,
        *,
        database: Database,
        redis: MeshRedis,
        hints: Hints,
        wakeups: Wakeups,
        backlog: Backlog,
        turns: TurnKeeper,
        limits: Limits,
        answering_model: AnsweringModel,
        generation: GenerationSettings,
        settings: QuestionSettings,
        watcher: Watcher,
    ) -> None:
        self.limits = AskLimits(settings.max_question_characters, settings.max_wait_seconds)
        self._database = database
        self._redis = redis
        self._cache = AnswerCache(redis)
        self._hints = hints
        self._wakeups = wakeups
        self._backlog = backlog
        self._turns = turns
        self._limits_of_callers = limits
        self._watcher = watcher
        self._answering_model = answering_model
        self._generation = generation
        self._counting = Counting()
        # Questions that had not ended when they were last looked at here, with the time of that, in its order. Redis is
        # no help with them: it knows of one only if another process has read its end since.
        self._live: dict[int, tuple[float, Question]] = {}
        self._shares_answers = settings.share_answers
        self._reuse_seconds = settings.answer_reuse_seconds
        self._background: set[asyncio.Task[None]] = set()

    async def ask(self, caller: Principal, request: AskRequest, idempotency_key: str | None, *, fresh: bool) -> Asked:
        """Commit the question, then wake a worker. ``fresh``: generate anew, whatever was asked before.

        Raises IdempotencyKeyReusedError too.
        """
        check_priority(caller, request.priority)
        language = detect(request.question_text)
        identity = await self._database.read(self._answering_model.identity)
        ask = self._ask(caller.tenant, request, language, idempotency_key, identity, fresh=fresh)
        admission = await self._limits_of_callers.admit(caller)
        accepted = await self._accept(caller, ask, admission)
        if accepted.source is Source.NEW:
            self._wakeups.wake()
            if self._wakeups.reachable:
                self._hints.remind()
            else:
                self._hints.wake()
        question = accepted.question or await self.read(caller.tenant, accepted.question_id)
        self._note(question)
        return Asked(accepted, language, question, admission.headers)

    async def wait_for_end(self, asked: Asked, seconds: float, receive: Receive | None) -> Asked:
        """The question as soon as it has ended, or as it is after so many seconds.

        Where it cannot be read then, it is as last known: whoever has asked must get its id. With ``receive``, leaving
        cancels it.
        """
        noticing = partial(leaving_noticed, receive) if receive else nullcontext
        with self._watcher.watch(asked.question, text=False) as watch, noticing(watch):
            await watch.until(lambda: False, seconds)
            question, left = watch.question, watch.left
        if question.state.is_final:
            return replace(asked, question=question)
        if left:
            await self.leave(question.owner, question.id)
        # It may have begun since, and somebody may have been told so elsewhere.
        with suppress(ProblemError, TimeoutError):
            async with asyncio.timeout(_LAST_LOOK_SECONDS):
                question = await self.read(question.owner, question.id)
        return replace(asked, question=question)

    async def read(self, owner: str, question_id: int) -> Question:
        """The question as it is now: from Redis if it was completed, else from PostgreSQL."""
        if question_id not in self._live:
            return await self._cache.get(owner, question_id) or await self._read_from_database(owner, question_id)
        try:
            return await self._read_from_database(owner, question_id)
        except ProblemError:
            if (question := await self._cache.get(owner, question_id)) is None:
                raise
            return question

    async def wait(self, owner: str, question_id: int, seconds: float) -> Question:
        """The question as soon as it has ended, or as it is after so many seconds."""
        known = self._just_looked_at(owner, question_id) if seconds else None
        question = known or await self.read(owner, question_id)
        if question.state.is_final or not seconds:
            return question
        waited = await self._watcher.wait(question, seconds)
        if waited is None:
            raise _not_found()
        # It may have begun since, and somebody may have been told so elsewhere.
        return waited if known is None or waited.state.is_final else await self.read(owner, question_id)

    async def cancel(self, owner: str, question_id: int) -> Question:
        """End the question unless it has ended, and its generation if nobody else waits for it."""
        ended = await self._database.call(reading.cancel, self._database.engine, owner, question_id)
        self._watcher.look_at(question_id)
        if ended is not None:
            self._run_in_background(publish_ended(self._redis, [ended]))
        return await self._read_from_database(owner, question_id)

    async def list(self, owner: str, wanted: Wanted, after: Place | None, limit: int) -> Page:
        """The owner's questions behind a place, newest first."""
        return await self._database.read(list_questions, self._database.autocommit, owner, wanted, after, limit)

    async def erase(self, owner: str, question_id: int) -> Erased:
        """End the question and remove it for good; says what became of its answer."""
        try:
            erased = await self._database.call(
                erase, self._database.engine, owner, question_id, partial(forget, self._redis)
            )
        except RedisError as error:
            raise ProblemError(Code.ERASURE_UNAVAILABLE, ERASURE_UNAVAILABLE, headers={"Retry-After": "2"}) from error
        if erased is None:
            raise _not_found()
        became, ended = erased
        self._live.pop(question_id, None)
        self._watcher.look_at(question_id)
        if ended is not None:
            publish = publish_erased if became is Erased.ERASED else publish_ended
            self._run_in_background(publish(self._redis, [ended]))
        return became

    async def leave(self, owner: str, question_id: int) -> None:
        """As ``cancel``, for one who is not there any more to be told how it went."""
        try:
            await self.cancel(owner, question_id)
        except ProblemError as problem:
            logger.warning("question %d was left but not cancelled: %s", question_id, problem.code)

    async def close(self) -> None:
        """Wait for what Redis has still to be told."""
        await asyncio.gather(*self._background, return_exceptions=True)

    async def _read_from_database(self, owner: str, question_id: int) -> Question:
        question = await self._database.read(reading.read, self._database.engine, owner, question_id)
        if question is None:
            raise _not_found()
        self._note(question)
        # An operator can replay all others, which their readers should learn at once.
        if question.state is State.COMPLETED:
            self._run_in_background(self._cache.put(question))
        return question

    def _just_looked_at(self, owner: str, question_id: int) -> Question | None:
        """Who waits right after asking need not read what the question was when it was stored."""
        looked_at, question = self._live.get(question_id, (0.0, None))
        is_new = looked_at + _JUST_NOW_SECONDS > asyncio.get_running_loop().time()
        return question if is_new and question is not None and question.owner == owner else None

    def _note(self, question: Question) -> None:
        self._live.pop(question.id, None)
        if not question.state.is_final:
            self._live[question.id] = asyncio.get_running_loop().time(), question
            if len(self._live) > _MOST_LIVE:
                del self._live[next(iter(self._live))]

    def _run_in_background(self, work: Coroutine[None, None, None]) -> None:
        # The event loop holds tasks weakly.
        task = asyncio.create_task(work)
        self._background.add(task)
        task.add_done_callback(self._background.discard)
        log_when_broken(task, "telling Redis")

    async def _accept(self, caller: Principal, ask: Ask, admission: Admission) -> Accepted:
        if admission.refusal is not None:
            # A repetition costs nothing, and is answered to one who has nothing left.
            replay = await self._database.read(find_replay, self._database.engine, ask)
            if replay is None:
                raise admission.refusal
            return replay
        flow = Flow(ask.owner, ask.priority)
        turn = await self._database.read(self._turns.next, flow)
        accepted = None
        try:
            ask = replace(ask, turn=turn, room=admission.room, join_only=self._backlog.is_full)
            accepted = await self._database.call(self._store, ask)
        except NoRoomError as error:
            raise self._limits_of_callers.no_room(error) from None
        except NothingToJoinError:
            await self._limits_of_callers.give_back(caller)  # what has not been asked costs nothing
            raise self._backlog.refusal() from None
        finally:
            if accepted is None or accepted.source is not Source.NEW:
                self._turns.give_back(flow)
        if accepted.replayed:
            await self._limits_of_callers.give_back(caller)
        return accepted

    async def _store(self, ask: Ask) -> Accepted:
        async with self._counting.of(ask.owner) if ask.room else nullcontext():
            return await accept(self._database.engine, ask)

    def _ask(
        self,
        owner: str,
        request: AskRequest,
        language: Language,
        idempotency_key: str | None,
        identity: str,
        *,
        fresh: bool,
    ) -> Ask:
        # Replays are compared with the defaults filled in: to leave a field out and to send its default is the same.
        # What is None has no effect and does not count, so that a later release may add fields.
        seconds = self.limits.wait_seconds if request.max_wait_seconds is None else request.max_wait_seconds
        leaving = request.cancel_on_disconnect or None
        priority = request.priority or Priority.NORMAL
        update = {
            "max_wait_seconds": seconds,
            "cancel_on_disconnect": leaving,
            "priority": None if priority is Priority.NORMAL else priority,
        }
        request = request.model_copy(update=update)
        scope = _EVERYBODY if self._shares_answers else owner
        wanted = request_for(request.question_text, self._generation)
        return Ask(
            owner=owner,
            text=request.question_text,
            language=language,
            answer_key=answer_key(scope, wanted, identity),
            request=wanted.SerializeToString(deterministic=True),
            identity=identity,
            reuse_seconds=self._reuse_seconds,
            model=self._generation.model_name,
            max_wait_seconds=seconds,
            fresh=fresh,
            priority=priority,
            request_id=current_request_id(),
            idempotency_key_hash=_sha256(idempotency_key) if idempotency_key else None,
            request_hash=_sha256(request.model_dump_json(exclude_none=True)) if idempotency_key else None,
        )


def _not_found() -> ProblemError:
    return ProblemError(Code.QUESTION_NOT_FOUND, QUESTION_NOT_FOUND)


def _sha256(text: str) -> bytes:
    return hashlib.sha256(text.encode()).digest()
