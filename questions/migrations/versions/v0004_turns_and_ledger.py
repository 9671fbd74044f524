"""Whose turn it is, and what everybody's answers took."""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

_COUNTS = ("prompt_tokens", "completion_tokens", "cached_prompt_tokens", "repeated_tokens")


def upgrade() -> None:
    op.add_column("answers", sa.Column("owner", sa.Text(), nullable=True, comment="Owner who asked for it first."))
    op.add_column("answers", sa.Column("priority", sa.Text(), server_default="normal", nullable=False))
    # Where a column is new, all rows have its default, and need not be looked at.
    op.execute(
        "ALTER TABLE answers ADD CONSTRAINT answers_priority CHECK (priority IN ('high', 'low', 'normal')) NOT VALID"
    )
    op.create_table(
        "ledger_entries",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=True), nullable=False),
        sa.Column("owner", sa.Text(), nullable=False),
        sa.Column("at", sa.DateTime(timezone=True), server_default=sa.text("clock_timestamp()"), nullable=False),
        sa.Column("requests", sa.Integer(), server_default="0", nullable=False),
        *(sa.Column(name, sa.Integer(), server_default="0", nullable=False) for name in _COUNTS),
        sa.PrimaryKeyConstraint("id", name=op.f("ledger_entries_pkey")),
        comment="What was spent of late, a row each time; workers fold it into ledger_days.",
    )
    op.create_table(
        "ledger_days",
        sa.Column("owner", sa.Text(), nullable=False),
        sa.Column("day", sa.Date(), nullable=False, comment="In UTC."),
        sa.Column("requests", sa.BigInteger(), nullable=False),
        *(sa.Column(name, sa.BigInteger(), nullable=False) for name in _COUNTS),
        sa.PrimaryKeyConstraint("owner", "day", name=op.f("ledger_days_pkey")),
        comment="What an owner has spent on a day, but for what ledger_entries has.",
    )
    # As triggers, so that nothing can end an answer or take a question without booking it, in the same transaction.
    op.execute("""
        CREATE FUNCTION book_question() RETURNS trigger LANGUAGE plpgsql AS $$
        BEGIN
            INSERT INTO ledger_entries (owner, requests) VALUES (NEW.owner, 1);
            RETURN NULL;
        END $$
    """)
    op.execute("""
        CREATE TRIGGER questions_ledger AFTER INSERT ON questions FOR EACH ROW EXECUTE FUNCTION book_question()
    """)
    op.execute("""
        CREATE FUNCTION book_tokens() RETURNS trigger LANGUAGE plpgsql AS $$
        BEGIN
            INSERT INTO ledger_entries (owner, prompt_tokens, completion_tokens, cached_prompt_tokens, repeated_tokens)
            VALUES (
                coalesce(NEW.owner, (SELECT owner FROM questions WHERE answer_id = NEW.id ORDER BY id LIMIT 1), ''),
                coalesce(NEW.prompt_tokens, 0) - coalesce(OLD.prompt_tokens, 0),
                coalesce(NEW.completion_tokens, 0) - coalesce(OLD.completion_tokens, 0),
                coalesce(NEW.cached_prompt_tokens, 0) - coalesce(OLD.cached_prompt_tokens, 0),
                NEW.repeated_tokens - OLD.repeated_tokens
            );
            RETURN NULL;
        END $$
    """)
    op.execute("""
        CREATE TRIGGER answers_ledger
        AFTER UPDATE OF prompt_tokens, completion_tokens, cached_prompt_tokens, repeated_tokens ON answers
        FOR EACH ROW WHEN (
            (OLD.prompt_tokens, OLD.completion_tokens, OLD.cached_prompt_tokens, OLD.repeated_tokens)
            IS DISTINCT FROM
            (NEW.prompt_tokens, NEW.completion_tokens, NEW.cached_prompt_tokens, NEW.repeated_tokens)
        ) EXECUTE FUNCTION book_tokens()
    """)
    with op.get_context().autocommit_block():
        op.execute("DROP INDEX CONCURRENTLY IF EXISTS answers_owner")
        op.execute("""
            CREATE INDEX CONCURRENTLY answers_owner ON answers (owner, priority, turn)
            WHERE state IN ('in_progress', 'queued')
        """)
