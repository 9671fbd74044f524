"""Asking a question: whether it is admitted, what it is stored as, and who is woken to answer it."""

import hashlib
from contextlib import nullcontext
from dataclasses import dataclass, replace

from api_service.core.admission.limits import AdmissionDecision, Limits
from api_service.core.admission.owner_locks import OwnerLocks
from api_service.core.admission.priorities import check_priority
from api_service.core.answering_model import AnsweringModel
from api_service.core.backlog import Backlog
from api_service.core.errors import UNLIMITED, RateLimits
from api_service.core.languages import Language
from api_service.core.principal import Principal
from api_service.core.reading import QuestionReader
from api_service.core.turns import TurnKeeper
from api_service.core.waker import Waker
from foundation.correlation import current_request_id
from foundation.postgresql.database import Database
from foundation.settings import GenerationSettings, QuestionSettings
from owners.concurrency_limit import ConcurrencyLimitError
from owners.priority import Priority
from owners.turns import OwnerQueue
from questions.answer_key import answer_key
from questions.asking import Accepted, Ask, NothingToJoinError, Source, accept, find_replay
from questions.reading import Question
from questions.requests import request_for

_EVERYBODY = ""  # no tenant is called so


@dataclass(frozen=True, slots=True, kw_only=True)
class NewQuestion:
    """A question as a door took it in, checked and with defaults filled in.

    ``fingerprint``: what everything that counts was, in one form; compared where an ``idempotency_key`` comes again.
    ``fresh``: generate anew, whatever was asked before.
    """

    text: str
    language: Language
    max_wait_seconds: float
    priority: Priority = Priority.NORMAL
    idempotency_key: str | None = None
    fingerprint: str = ""
    fresh: bool = False


@dataclass(frozen=True, slots=True)
class Asked:
    """An accepted question as it is now."""

    accepted: Accepted
    question: Question
    rate_limits: RateLimits = UNLIMITED


class QuestionAsker:
    """Takes questions. Its methods raise ServiceError."""

    def __init__(
        self,
        *,
        database: Database,
        reader: QuestionReader,
        waker: Waker,
        backlog: Backlog,
        turns: TurnKeeper,
        limits: Limits,
        answering_model: AnsweringModel,
        generation: GenerationSettings,
        settings: QuestionSettings,
    ) -> None:
        self._database = database
        self._reader = reader
        self._waker = waker
        self._backlog = backlog
        self._turns = turns
        self._limits = limits
        self._answering_model = answering_model
        self._generation = generation
        self._owner_locks = OwnerLocks()
        self._shares_answers = settings.share_answers
        self._reuse_seconds = settings.answer_reuse_seconds

    async def ask(self, caller: Principal, new: NewQuestion) -> Asked:
        """Commit the question, then wake a worker.

        Raises IdempotencyKeyReusedError too.
        """
        check_priority(caller, new.priority)
        identity = await self._database.read(self._answering_model.identity)
        ask = self._ask(caller.tenant, new, identity)
        admission = await self._limits.admit(caller)
        accepted = await self._accept(caller, ask, admission)
        if accepted.source is Source.NEW:
            self._waker.wake()
        question = accepted.question or await self._reader.read(caller.tenant, accepted.question_id)
        self._reader.note(question)
        return Asked(accepted, question, admission.rate_limits)

    async def _accept(self, caller: Principal, ask: Ask, admission: AdmissionDecision) -> Accepted:
        if admission.refusal is not None:
            # A repetition costs nothing, and is answered to one who has nothing left.
            replay = await self._database.read(find_replay, self._database.engine, ask)
            if replay is None:
                raise admission.refusal
            return replay
        queue = OwnerQueue(ask.owner, ask.priority)
        turn = await self._database.read(self._turns.next, queue)
        accepted = None
        try:
            ask = replace(
                ask, turn=turn, concurrency_limit=admission.concurrency_limit, join_only=self._backlog.is_full
            )
            accepted = await self._database.call(self._store, ask)
        except ConcurrencyLimitError as error:
            raise self._limits.over_concurrency_limit(error) from None
        except NothingToJoinError:
            await self._limits.give_back(caller)  # what has not been asked costs nothing
            raise self._backlog.refusal() from None
        finally:
            if accepted is None or accepted.source is not Source.NEW:
                self._turns.give_back(queue)
        if accepted.replayed:
            await self._limits.give_back(caller)
        return accepted

    async def _store(self, ask: Ask) -> Accepted:
        async with self._owner_locks.hold(ask.owner) if ask.concurrency_limit else nullcontext():
            return await accept(self._database.engine, ask)

    def _ask(self, owner: str, new: NewQuestion, identity: str) -> Ask:
        scope = _EVERYBODY if self._shares_answers else owner
        wanted = request_for(new.text, self._generation)
        return Ask(
            owner=owner,
            text=new.text,
            language=new.language,
            answer_key=answer_key(scope, wanted, identity),
            request=wanted.SerializeToString(deterministic=True),
            identity=identity,
            reuse_seconds=self._reuse_seconds,
            model=self._generation.model_name,
            max_wait_seconds=new.max_wait_seconds,
            fresh=new.fresh,
            priority=new.priority,
            request_id=current_request_id(),
            idempotency_key_hash=_sha256(new.idempotency_key) if new.idempotency_key else None,
            request_hash=_sha256(new.fingerprint) if new.idempotency_key else None,
        )


def _sha256(text: str) -> bytes:
    return hashlib.sha256(text.encode()).digest()
