"""The mesh's id, which every key and channel in Redis bears."""

from alembic import op

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.execute("""
        CREATE TABLE mesh (
            only_one boolean NOT NULL DEFAULT true CONSTRAINT mesh_pkey PRIMARY KEY,
            id uuid NOT NULL DEFAULT gen_random_uuid(),
            CONSTRAINT mesh_only_one CHECK (only_one)
        )
    """)
    op.execute("COMMENT ON TABLE mesh IS 'Whose keys and channels in Redis are: one row.'")
    op.execute("INSERT INTO mesh DEFAULT VALUES")
