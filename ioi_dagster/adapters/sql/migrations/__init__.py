"""Alembic's scripts: how the registry's tables are made and changed, and changed back."""
