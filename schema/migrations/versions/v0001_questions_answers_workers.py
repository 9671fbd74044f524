"""Questions, the answers they share, and the workers that generate them."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.execute(sa.schema.CreateSequence(sa.Sequence("claim_tokens")))
    op.create_table(
        "answers",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=True), nullable=False),
        sa.Column("answer_key", sa.LargeBinary(), nullable=False, comment="SHA-256 of all that decides the answer."),
        sa.Column(
            "reusable", sa.Boolean(), nullable=False, comment="New questions with the same key join this answer."
        ),
        sa.Column(
            "reuse_until",
            sa.DateTime(timezone=True),
            nullable=True,
            comment="When a finished answer stops being reusable.",
        ),
        sa.Column("state", sa.Text(), server_default="queued", nullable=False),
        sa.Column("model", sa.Text(), nullable=False, comment="Model asked for; empty for the model server's first."),
        sa.Column("text", sa.Text(), nullable=True, comment="The answer, once completed or incomplete."),
        sa.Column("finish_reason", sa.Text(), nullable=True),
        sa.Column("error_reason", sa.Text(), nullable=True, comment="Why it failed."),
        sa.Column("prompt_tokens", sa.Integer(), nullable=True),
        sa.Column("completion_tokens", sa.Integer(), nullable=True),
        sa.Column("cached_prompt_tokens", sa.Integer(), nullable=True),
        sa.Column(
            "turn", sa.BigInteger(), server_default="0", nullable=False, comment="Order of claims, given at insert."
        ),
        sa.Column("due_at", sa.DateTime(timezone=True), nullable=True, comment="Queued, but not to be claimed before."),
        sa.Column(
            "next_deadline",
            sa.DateTime(timezone=True),
            nullable=False,
            comment="Earliest deadline of its questions that wait.",
        ),
        sa.Column("holder", sa.BigInteger(), nullable=True, comment="workers.id that generates it."),
        sa.Column("token", sa.BigInteger(), nullable=True, comment="Fencing token of the latest claim."),
        sa.Column("attempt", sa.Integer(), server_default="0", nullable=False, comment="How often it was claimed."),
        sa.Column(
            "epoch",
            sa.Integer(),
            server_default="0",
            nullable=False,
            comment="Rises when text already read is taken back.",
        ),
        sa.Column("losses", sa.SmallInteger(), server_default="0", nullable=False, comment="Claims whose worker died."),
        sa.Column(
            "interruptions",
            sa.SmallInteger(),
            server_default="0",
            nullable=False,
            comment="Claims that the engine broke.",
        ),
        sa.Column(
            "waits", sa.Integer(), server_default="0", nullable=False, comment="Waits in a row for a model server."
        ),
        sa.Column(
            "created_at", sa.DateTime(timezone=True), server_default=sa.text("clock_timestamp()"), nullable=False
        ),
        sa.Column("started_at", sa.DateTime(timezone=True), nullable=True, comment="First claim."),
        sa.Column("finished_at", sa.DateTime(timezone=True), nullable=True),
        sa.CheckConstraint("(state = 'failed') = (error_reason IS NOT NULL)", name=op.f("answers_error_reason")),
        sa.CheckConstraint("(state = 'in_progress') = (holder IS NOT NULL)", name=op.f("answers_holder")),
        sa.CheckConstraint("(state IN ('completed', 'incomplete')) = (text IS NOT NULL)", name=op.f("answers_text")),
        sa.CheckConstraint(
            "(state IN ('in_progress', 'queued')) = (finished_at IS NULL)", name=op.f("answers_finished")
        ),
        sa.CheckConstraint(
            "NOT reusable OR state IN ('queued', 'in_progress', 'completed', 'incomplete')",
            name=op.f("answers_reusable"),
        ),
        sa.CheckConstraint(
            "state IN ('cancelled', 'completed', 'expired', 'failed', 'in_progress', 'incomplete', 'queued')",
            name=op.f("answers_state"),
        ),
        sa.CheckConstraint("holder IS NULL OR token IS NOT NULL", name=op.f("answers_token")),
        sa.PrimaryKeyConstraint("id", name=op.f("answers_pkey")),
        comment="One generation, shared by every question that asked for it.",
    )
    op.create_index(
        "answers_claim",
        "answers",
        ["turn", "id"],
        unique=False,
        postgresql_where=sa.text("state = 'queued' AND due_at IS NULL"),
    )
    op.create_index(
        "answers_deadline",
        "answers",
        ["next_deadline"],
        unique=False,
        postgresql_where=sa.text("state IN ('in_progress', 'queued')"),
    )
    op.create_index(
        "answers_due",
        "answers",
        ["due_at"],
        unique=False,
        postgresql_where=sa.text("state = 'queued' AND due_at IS NOT NULL"),
    )
    op.create_index(
        "answers_holder", "answers", ["holder"], unique=False, postgresql_where=sa.text("state = 'in_progress'")
    )
    op.create_index(
        "answers_reusable_key", "answers", ["answer_key"], unique=True, postgresql_where=sa.text("reusable")
    )
    op.create_index(
        "answers_reuse",
        "answers",
        ["reuse_until"],
        unique=False,
        postgresql_where=sa.text("reusable AND reuse_until IS NOT NULL"),
    )
    op.create_table(
        "workers",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=True), nullable=False),
        sa.Column("name", sa.Text(), nullable=False, comment="Host and process id, for operators."),
        sa.Column(
            "lease_until", sa.DateTime(timezone=True), nullable=False, comment="Alive until then; renewed by heartbeat."
        ),
        sa.Column(
            "started_at", sa.DateTime(timezone=True), server_default=sa.text("clock_timestamp()"), nullable=False
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("workers_pkey")),
        comment="One lease a worker process.",
    )
    op.create_table(
        "questions",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=True), nullable=False),
        sa.Column("owner", sa.Text(), nullable=False, comment="Tenant that asked; only it reads the answer."),
        sa.Column("text", sa.Text(), nullable=False, comment="As it came in."),
        sa.Column("language", sa.Text(), nullable=False, comment="Language of the text, for sentences to people."),
        sa.Column("idempotency_key_hash", sa.LargeBinary(), nullable=True, comment="SHA-256 of the Idempotency-Key."),
        sa.Column(
            "request_hash",
            sa.LargeBinary(),
            nullable=True,
            comment="SHA-256 of the validated body, to compare replays with.",
        ),
        sa.Column("answer_id", sa.BigInteger(), nullable=False),
        sa.Column("ended", sa.Text(), nullable=True, comment="cancelled or expired, whatever the answer does."),
        sa.Column("deadline", sa.DateTime(timezone=True), nullable=False, comment="Expires then if not answered."),
        sa.Column(
            "created_at", sa.DateTime(timezone=True), server_default=sa.text("clock_timestamp()"), nullable=False
        ),
        sa.Column("ended_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column(
            "replayed_as",
            sa.BigInteger(),
            nullable=True,
            comment="The question by which an operator asked this one again.",
        ),
        sa.CheckConstraint("ended IS NULL OR ended IN ('cancelled', 'expired')", name=op.f("questions_ended")),
        sa.CheckConstraint("(ended IS NULL) = (ended_at IS NULL)", name=op.f("questions_ended_at")),
        sa.CheckConstraint(
            "(idempotency_key_hash IS NULL) = (request_hash IS NULL)", name=op.f("questions_request_hash")
        ),
        sa.ForeignKeyConstraint(["answer_id"], ["answers.id"], name=op.f("questions_answer_id_fkey")),
        sa.PrimaryKeyConstraint("id", name=op.f("questions_pkey")),
        comment="What somebody asked.",
    )
    op.create_index("questions_answer", "questions", ["answer_id"], unique=False)
    op.create_index(
        "questions_idempotency",
        "questions",
        ["owner", "idempotency_key_hash"],
        unique=True,
        postgresql_where=sa.text("idempotency_key_hash IS NOT NULL"),
    )
    op.create_index("questions_owner", "questions", ["owner", sa.literal_column("id DESC")], unique=False)
