"""What steps of the schema share, so that none holds up who reads and writes meanwhile."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from alembic import op

logger = logging.getLogger("schema.migrations")

LOCK_TIMEOUT: Final = "200ms"
"""How long a step waits for a lock, and so holds up all who come after it, before it is tried again."""


@contextmanager
def concurrently() -> Iterator[None]:
    """For statements that hold nobody up, however long they take or wait: CONCURRENTLY, VALIDATE.

    They run outside of a transaction. Where one is cut short, the step begins anew: each must bear that.
    """
    with op.get_context().autocommit_block():
        op.execute("SET lock_timeout = 0")
        try:
            yield
        finally:
            op.execute(f"SET lock_timeout = '{LOCK_TIMEOUT}'")


def create_index(name: str, definition: str) -> None:
    """Make a new index, as ``questions (owner)``; what was left of it by a step that was cut short goes first.

    Within ``concurrently``.
    """
    logger.info(
        "making the index %s beside all who read and write; transactions that are open now are waited for", name
    )
    op.execute(f"DROP INDEX CONCURRENTLY IF EXISTS {name}")
    op.execute(f"CREATE INDEX CONCURRENTLY {name} ON {definition}")


def replace_index(name: str, definition: str) -> None:
    """Give an index another definition; the old one serves until the new one is there. Within ``concurrently``."""
    create_index(f"{name}_new", definition)
    op.execute(f"DROP INDEX CONCURRENTLY IF EXISTS {name}_old")
    # One statement, so that nobody finds neither. The name is not there where a step was cut short before.
    op.execute(f"""
        DO $$ BEGIN
            ALTER INDEX IF EXISTS {name} RENAME TO {name}_old;
            ALTER INDEX {name}_new RENAME TO {name};
        END $$
    """)
    op.execute(f"DROP INDEX CONCURRENTLY IF EXISTS {name}_old")
