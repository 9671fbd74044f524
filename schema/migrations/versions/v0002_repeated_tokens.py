"""Tokens that are spent again where an attempt broke off, booked apart from those of the answer."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column(
        "answers",
        sa.Column(
            "repeated_tokens",
            sa.Integer(),
            server_default=sa.text("0"),
            nullable=False,
            comment="Read or written again because an attempt broke off.",
        ),
    )
