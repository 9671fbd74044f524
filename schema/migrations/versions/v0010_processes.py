"""Which processes run and with which settings, and the request by which a question came."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0010"
down_revision = "0009"
branch_labels = None
depends_on = None


def upgrade() -> None:
    now = sa.text("clock_timestamp()")
    op.create_table(
        "processes",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=True), nullable=False),
        sa.Column("service", sa.Text(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False, comment="Host and process id, as in workers."),
        sa.Column("version", sa.Text(), nullable=False),
        sa.Column("settings", postgresql.JSONB(), nullable=False, comment="What others may have to agree with."),
        sa.Column("state", postgresql.JSONB(), nullable=False, comment="What it says of itself, for operators."),
        sa.Column("started_at", sa.DateTime(timezone=True), server_default=now, nullable=False),
        sa.Column("seen_at", sa.DateTime(timezone=True), server_default=now, nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("processes_pkey")),
        comment="Which processes of the mesh run.",
    )
    op.add_column("questions", sa.Column("request_id", sa.Text(), comment="X-Request-ID by which it was asked."))
    op.add_column(
        "answers", sa.Column("request_id", sa.Text(), comment="X-Request-ID of the question that it was made for.")
    )
