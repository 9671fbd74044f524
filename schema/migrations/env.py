"""What Alembic runs: applies the steps on the connection that __main__ opened."""

from alembic import context

from schema.tables import metadata

context.configure(
    connection=context.config.attributes["connection"], target_metadata=metadata, transaction_per_migration=True
)
with context.begin_transaction():
    context.run_migrations()
