"""Each answer with the request that it answers and the model that wrote it, and the models that were seen last."""

import sqlalchemy as sa
from alembic import op

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None


def upgrade() -> None:
    # None of these touches a row. A request is read once, on its way to the model: compressing it saves nothing.
    request = "GenerationSpec to send, serialised. NULL: whoever claims it makes it of the question's text."
    op.add_column("answers", sa.Column("request", sa.LargeBinary(), nullable=True, comment=request))
    op.execute("ALTER TABLE answers ALTER COLUMN request SET STORAGE EXTERNAL")
    written_by = "Identity of the model that wrote it. NULL: not known."
    op.add_column("answers", sa.Column("written_by", sa.Text(), nullable=True, comment=written_by))
    op.create_table(
        "models",
        sa.Column("name", sa.Text(), nullable=False, comment="As asked for; empty for the model server's first."),
        sa.Column("identity", sa.Text(), nullable=False, comment="Id and revision, as id@revision."),
        sa.Column(
            "seen_at",
            sa.DateTime(timezone=True),
            server_default=sa.text("clock_timestamp()"),
            nullable=False,
            comment="When this identity was first seen in place of another.",
        ),
        sa.PrimaryKeyConstraint("name", name=op.f("models_pkey")),
        comment="Which model answered behind a name when somebody last looked.",
    )
