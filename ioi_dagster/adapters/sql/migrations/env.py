"""Run by Alembic, on the connection that it is given (`adapters.sql.migrating`); the transaction is the caller's."""

from __future__ import annotations

from alembic import context

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=context.config.attributes.get("tables"),
    # SQLite changes few things of a table in place.
    render_as_batch=True,
)
context.run_migrations()
