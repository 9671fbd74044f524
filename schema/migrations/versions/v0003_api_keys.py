"""Keys by which callers are known, and an index for the list of somebody's questions."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

from schema.migrations.steps import concurrently, replace_index

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    # Lists are ordered and bounded by time.
    with concurrently():
        replace_index("questions_owner", "questions (owner, created_at DESC, id DESC)")
    op.create_table(
        "api_keys",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=True), nullable=False),
        sa.Column("hash", sa.LargeBinary(), nullable=False, comment="SHA-256 of the key, which is nowhere."),
        sa.Column("prefix", sa.Text(), nullable=False, comment="How the key begins, so that people recognise it."),
        sa.Column("tenant", sa.Text(), nullable=False, comment="Owner of what is asked with it."),
        sa.Column("role", sa.Text(), nullable=False),
        sa.Column("limits", postgresql.JSONB(), nullable=True, comment="Limits that replace those of the settings."),
        sa.Column(
            "created_at", sa.DateTime(timezone=True), server_default=sa.text("clock_timestamp()"), nullable=False
        ),
        sa.Column("expires_at", sa.DateTime(timezone=True), nullable=True, comment="Not valid from then on."),
        sa.Column("revoked_at", sa.DateTime(timezone=True), nullable=True),
        sa.CheckConstraint("role IN ('operator', 'user')", name=op.f("api_keys_role")),
        sa.PrimaryKeyConstraint("id", name=op.f("api_keys_pkey")),
        sa.UniqueConstraint("hash", name=op.f("api_keys_hash_key")),
        comment="Who may ask.",
    )
