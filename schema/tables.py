"""The tables. docs/architecture.md draws them; migrations/ makes them.

Many questions point at one answer: identical questions share one generation, and a finished answer is a
cache that survives Redis. Times are PostgreSQL's clock_timestamp(), the one clock that all processes share.
"""

from sqlalchemy import (
    BigInteger,
    Boolean,
    CheckConstraint,
    Column,
    Date,
    DateTime,
    ForeignKey,
    Identity,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    Sequence,
    SmallInteger,
    Table,
    Text,
    Uuid,
    text,
)
from sqlalchemy.dialects.postgresql import JSONB

from owners.priority import Priority
from owners.token_counts import TOKEN_COLUMNS
from questions.states import ENDED, LIVE, State

metadata = MetaData(
    naming_convention={
        "ix": "%(table_name)s_%(column_0_N_name)s",
        "uq": "%(table_name)s_%(column_0_N_name)s_key",
        "ck": "%(table_name)s_%(constraint_name)s",
        "fk": "%(table_name)s_%(column_0_N_name)s_fkey",
        "pk": "%(table_name)s_pkey",
    }
)
NOW = text("clock_timestamp()")


def _among(column: str, values: frozenset[State] | frozenset[Priority]) -> str:
    return f"{column} IN ({', '.join(sorted(repr(str(value)) for value in values))})"


tokens = Sequence("claim_tokens", metadata=metadata)
"""Fencing tokens: each claim draws a new one, and what a claim writes is refused once a later claim drew another."""

claimed_turns = Sequence("claimed_turns", start=0, minvalue=0, metadata=metadata)
"""Its last value is the latest turn that was claimed: the time by which turns are given, see ``owners.turns``."""

mesh = Table(
    "mesh",
    metadata,
    Column("only_one", Boolean, primary_key=True, server_default=text("true")),
    Column("id", Uuid, nullable=False, server_default=text("gen_random_uuid()")),
    CheckConstraint("only_one", name="only_one"),
    comment="Whose keys and channels in Redis are: one row.",
)

workers = Table(
    "workers",
    metadata,
    Column("id", BigInteger, Identity(always=True), primary_key=True),
    Column("name", Text, nullable=False, comment="Host and process id, for operators."),
    Column("lease_until", DateTime(timezone=True), nullable=False, comment="Alive until then; renewed by heartbeat."),
    Column("started_at", DateTime(timezone=True), nullable=False, server_default=NOW),
    comment="One lease a worker process.",
)

answers = Table(
    "answers",
    metadata,
    Column("id", BigInteger, Identity(always=True), primary_key=True),
    Column("answer_key", LargeBinary, nullable=False, comment="SHA-256 of all that decides the answer."),
    Column("reusable", Boolean, nullable=False, comment="New questions with the same key join this answer."),
    Column("reuse_until", DateTime(timezone=True), comment="When a finished answer stops being reusable."),
    Column("state", Text, nullable=False, server_default=State.QUEUED),
    Column("model", Text, nullable=False, comment="Model asked for; empty for the model server's first."),
    Column(
        "request",
        LargeBinary,
        comment="GenerationSpec to send, serialised. NULL: whoever claims it makes it of the question's text.",
    ),
    Column("text", Text, comment="The answer, once completed or incomplete."),
    Column("written_by", Text, comment="Identity of the model that wrote it. NULL: not known."),
    Column("finish_reason", Text),
    Column("error_reason", Text, comment="Why it failed."),
    Column("prompt_tokens", Integer),
    Column("completion_tokens", Integer),
    Column("cached_prompt_tokens", Integer),
    Column(
        "repeated_tokens",
        Integer,
        nullable=False,
        server_default="0",
        comment="Read or written again because an attempt broke off.",
    ),
    Column("owner", Text, comment="Owner who asked for it first."),
    Column("request_id", Text, comment="X-Request-ID of the question that it was made for."),
    Column("priority", Text, nullable=False, server_default=Priority.NORMAL),
    Column("turn", BigInteger, nullable=False, server_default="0", comment="Order of claims, given at insert."),
    Column("due_at", DateTime(timezone=True), comment="Queued, but not to be claimed before."),
    Column(
        "next_deadline",
        DateTime(timezone=True),
        nullable=False,
        comment="Earliest deadline of its questions that wait.",
    ),
    Column("holder", BigInteger, comment="workers.id that generates it."),
    Column("token", BigInteger, comment="Fencing token of the latest claim."),
    Column("attempt", Integer, nullable=False, server_default="0", comment="How often it was claimed."),
    Column("epoch", Integer, nullable=False, server_default="0", comment="Rises when text already read is taken back."),
    Column("losses", SmallInteger, nullable=False, server_default="0", comment="Claims whose worker died."),
    Column("interruptions", SmallInteger, nullable=False, server_default="0", comment="Claims that the engine broke."),
    Column("waits", Integer, nullable=False, server_default="0", comment="Waits in a row for a model server."),
    Column(
        "trial_until",
        DateTime(timezone=True),
        comment="While it is in progress as a suspect: until then no other one is claimed.",
    ),
    Column("created_at", DateTime(timezone=True), nullable=False, server_default=NOW),
    Column("started_at", DateTime(timezone=True), comment="First claim."),
    Column("finished_at", DateTime(timezone=True)),
    CheckConstraint(_among("state", frozenset(State)), name="state"),
    CheckConstraint("(state = 'in_progress') = (holder IS NOT NULL)", name="holder"),
    CheckConstraint("holder IS NULL OR token IS NOT NULL", name="token"),
    CheckConstraint(f"({_among('state', LIVE)}) = (finished_at IS NULL)", name="finished"),
    CheckConstraint("(state IN ('completed', 'incomplete')) = (text IS NOT NULL)", name="text"),
    CheckConstraint("(state = 'failed') = (error_reason IS NOT NULL)", name="error_reason"),
    CheckConstraint("NOT reusable OR state IN ('queued', 'in_progress', 'completed', 'incomplete')", name="reusable"),
    CheckConstraint(_among("priority", frozenset(Priority)), name="priority"),
    Index("answers_owner", "owner", "priority", "turn", postgresql_where=text(_among("state", LIVE))),
    Index("answers_reusable_key", "answer_key", unique=True, postgresql_where=text("reusable")),
    Index("answers_claim", "turn", "id", postgresql_where=text("state = 'queued' AND due_at IS NULL")),
    Index("answers_suspects", "id", postgresql_where=text("state = 'queued' AND (losses >= 3 OR interruptions >= 3)")),
    Index("answers_due", "due_at", postgresql_where=text("state = 'queued' AND due_at IS NOT NULL")),
    Index("answers_holder", "holder", postgresql_where=text("holder IS NOT NULL")),
    Index("answers_deadline", "next_deadline", postgresql_where=text(_among("state", LIVE))),
    Index("answers_failed", "error_reason", "id", postgresql_where=text("state = 'failed'")),
    Index("answers_reuse", "reuse_until", postgresql_where=text("reusable AND reuse_until IS NOT NULL")),
    comment="One generation, shared by every question that asked for it.",
)

questions = Table(
    "questions",
    metadata,
    Column("id", BigInteger, Identity(always=True), primary_key=True),
    Column("owner", Text, nullable=False, comment="Tenant that asked; only it reads the answer."),
    Column("text", Text, nullable=False, comment="As it came in."),
    Column("language", Text, nullable=False, comment="Language of the text, for sentences to people."),
    Column("idempotency_key_hash", LargeBinary, comment="SHA-256 of the Idempotency-Key."),
    Column("request_hash", LargeBinary, comment="SHA-256 of the validated body, to compare replays with."),
    Column("answer_id", BigInteger, ForeignKey("answers.id"), nullable=False),
    Column("ended", Text, comment="cancelled or expired, whatever the answer does."),
    Column("deadline", DateTime(timezone=True), nullable=False, comment="Expires then if not answered."),
    Column("created_at", DateTime(timezone=True), nullable=False, server_default=NOW),
    Column("ended_at", DateTime(timezone=True)),
    Column("request_id", Text, comment="X-Request-ID by which it was asked."),
    Column("replayed_as", BigInteger, comment="The question by which an operator asked this one again."),
    CheckConstraint(f"ended IS NULL OR {_among('ended', ENDED)}", name="ended"),
    CheckConstraint("(ended IS NULL) = (ended_at IS NULL)", name="ended_at"),
    CheckConstraint("(idempotency_key_hash IS NULL) = (request_hash IS NULL)", name="request_hash"),
    Index("questions_answer", "answer_id"),
    Index(
        "questions_idempotency",
        "owner",
        "idempotency_key_hash",
        unique=True,
        postgresql_where=text("idempotency_key_hash IS NOT NULL"),
    ),
    Index("questions_owner", "owner", text("created_at DESC"), text("id DESC")),
    comment="What somebody asked.",
)

models = Table(
    "models",
    metadata,
    Column("name", Text, primary_key=True, comment="As asked for; empty for the model server's first."),
    Column("identity", Text, nullable=False, comment="Id and revision, as id@revision."),
    Column(
        "seen_at",
        DateTime(timezone=True),
        nullable=False,
        server_default=NOW,
        comment="When this identity was first seen in place of another.",
    ),
    comment="Which model answered behind a name when somebody last looked.",
)

processes = Table(
    "processes",
    metadata,
    Column("id", BigInteger, Identity(always=True), primary_key=True),
    Column("service", Text, nullable=False),
    Column("name", Text, nullable=False, comment="Host and process id, as in workers."),
    Column("version", Text, nullable=False),
    Column("settings", JSONB, nullable=False, comment="What others may have to agree with."),
    Column("state", JSONB, nullable=False, comment="What it says of itself, for operators."),
    Column("started_at", DateTime(timezone=True), nullable=False, server_default=NOW),
    Column("seen_at", DateTime(timezone=True), nullable=False, server_default=NOW),
    comment="Which processes of the mesh run.",
)

ledger_entries = Table(
    "ledger_entries",
    metadata,
    Column("owner", Text, nullable=False),
    Column("at", DateTime(timezone=True), nullable=False, server_default=NOW),
    Column("requests", Integer, nullable=False, server_default="0"),
    *(Column(name, Integer, nullable=False, server_default="0") for name in TOKEN_COLUMNS),
    comment="What was spent of late, a row each time; workers fold it into ledger_days.",
)

ledger_days = Table(
    "ledger_days",
    metadata,
    Column("owner", Text, primary_key=True),
    Column("day", Date, primary_key=True, comment="In UTC."),
    Column("requests", BigInteger, nullable=False),
    *(Column(name, BigInteger, nullable=False) for name in TOKEN_COLUMNS),
    comment="What an owner has spent on a day, but for what ledger_entries has.",
)

api_keys = Table(
    "api_keys",
    metadata,
    Column("id", BigInteger, Identity(always=True), primary_key=True),
    Column("hash", LargeBinary, nullable=False, unique=True, comment="SHA-256 of the key, which is nowhere."),
    Column("prefix", Text, nullable=False, comment="How the key begins, so that people recognise it."),
    Column("tenant", Text, nullable=False, comment="Owner of what is asked with it."),
    Column("role", Text, nullable=False),
    Column("limits", JSONB, comment="Limits that replace those of the settings."),
    Column("created_at", DateTime(timezone=True), nullable=False, server_default=NOW),
    Column("expires_at", DateTime(timezone=True), comment="Not valid from then on."),
    Column("revoked_at", DateTime(timezone=True)),
    CheckConstraint("role IN ('operator', 'user')", name="role"),
    comment="Who may ask.",
)
