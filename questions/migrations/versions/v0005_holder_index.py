"""The index of what workers hold, so that no statement that names a state fits it."""

from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    # A release before this one names the holder too, where it needs this index.
    with op.get_context().autocommit_block():
        op.execute("DROP INDEX CONCURRENTLY IF EXISTS answers_holder")
        op.execute("CREATE INDEX CONCURRENTLY answers_holder ON answers (holder) WHERE holder IS NOT NULL")
