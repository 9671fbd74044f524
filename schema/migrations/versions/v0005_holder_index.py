"""The index of what workers hold, so that no statement that names a state fits it."""

from schema.migrations.steps import concurrently, replace_index

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    # A release before this one names the holder too, where it needs this index.
    with concurrently():
        replace_index("answers_holder", "answers (holder) WHERE holder IS NOT NULL")
