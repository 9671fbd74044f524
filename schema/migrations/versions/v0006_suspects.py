"""Suspects: an index of their own, outside of the queue that ordinary claims read, and until when one is tried."""

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column(
        "answers",
        sa.Column(
            "trial_until",
            sa.DateTime(timezone=True),
            nullable=True,
            comment="While it is in progress as a suspect: until then no other one is claimed.",
        ),
    )
    with op.get_context().autocommit_block():
        op.execute("DROP INDEX CONCURRENTLY IF EXISTS answers_suspects")
        op.execute("""
            CREATE INDEX CONCURRENTLY answers_suspects ON answers (id)
            WHERE state = 'queued' AND (losses >= 3 OR interruptions >= 3)
        """)
    # Those that a release before this one still queues are claimed all the same, by the index.
    op.execute("""
        UPDATE answers SET due_at = 'infinity' WHERE state = 'queued' AND (losses >= 3 OR interruptions >= 3)
    """)
