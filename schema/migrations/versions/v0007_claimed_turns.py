"""Where the claims are, for all processes and over their restarts; and an index of what has failed."""

from alembic import op

from schema.migrations.steps import concurrently, create_index

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.execute("CREATE SEQUENCE claimed_turns MINVALUE 0 START 0")
    # What was claimed last is among what was asked last: 100,000 rows by primary key, however large the table is.
    op.execute("""
        SELECT setval('claimed_turns', coalesce(max(turn), 0)) FROM (
            SELECT turn, token FROM answers ORDER BY id DESC LIMIT 100000
        ) AS latest WHERE token IS NOT NULL
    """)
    with concurrently():
        create_index("answers_failed", "answers (error_reason, id) WHERE state = 'failed'")
