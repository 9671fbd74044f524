"""Whose turn it is, and what everybody's answers took."""

import sqlalchemy as sa
from alembic import op

from schema.migrations.steps import concurrently, create_index

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

_COUNTS = ("prompt_tokens", "completion_tokens", "cached_prompt_tokens", "repeated_tokens")


def upgrade() -> None:
    # What is there is there because this step was cut short below, where it is committed part by part.
    owner = sa.Column("owner", sa.Text(), nullable=True, comment="Owner who asked for it first.")
    op.add_column("answers", owner, if_not_exists=True)
    priority = sa.Column("priority", sa.Text(), server_default="normal", nullable=False)
    op.add_column("answers", priority, if_not_exists=True)
    op.execute("ALTER TABLE answers DROP CONSTRAINT IF EXISTS answers_priority")
    # Checking the rows that are there takes a while, and is done below, where it keeps nobody waiting.
    op.execute(
        "ALTER TABLE answers ADD CONSTRAINT answers_priority CHECK (priority IN ('high', 'low', 'normal')) NOT VALID"
    )
    op.create_table(
        "ledger_entries",  # without any index, which would cost a final write as much again as the row does
        sa.Column("owner", sa.Text(), nullable=False),
        sa.Column("at", sa.DateTime(timezone=True), server_default=sa.text("clock_timestamp()"), nullable=False),
        sa.Column("requests", sa.Integer(), server_default="0", nullable=False),
        *(sa.Column(name, sa.Integer(), server_default="0", nullable=False) for name in _COUNTS),
        comment="What was spent of late, a row each time; workers fold it into ledger_days.",
        if_not_exists=True,
    )
    op.create_table(
        "ledger_days",
        sa.Column("owner", sa.Text(), nullable=False),
        sa.Column("day", sa.Date(), nullable=False, comment="In UTC."),
        sa.Column("requests", sa.BigInteger(), nullable=False),
        *(sa.Column(name, sa.BigInteger(), nullable=False) for name in _COUNTS),
        sa.PrimaryKeyConstraint("owner", "day", name=op.f("ledger_days_pkey")),
        comment="What an owner has spent on a day, but for what ledger_entries has.",
        if_not_exists=True,
    )
    # Without a key it can be published only so, and deleting rows of a published table fails otherwise.
    op.execute("ALTER TABLE ledger_entries REPLICA IDENTITY FULL")
    with concurrently():
        op.execute("ALTER TABLE answers VALIDATE CONSTRAINT answers_priority")
        create_index("answers_owner", "answers (owner, priority, turn) WHERE state IN ('in_progress', 'queued')")
