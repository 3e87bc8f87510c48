"""Rows by a list of values, without what SQLAlchemy does for each value and each row."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

import msgspec
import sqlalchemy as sa
from sqlalchemy.dialects import postgresql


class Listed:
    """`statement` for the rows whose `column`, of numbers or of texts, is one of a list. The list is one value to the database
    (`json_each` of SQLite, an array of PostgreSQL), so the statement is made once, however long the list. Bound parameters of the
    statement are given by name."""

    def __init__(self, statement: Any, column: sa.Column[Any]) -> None:
        self._statement, self._column = statement, column
        self._made: dict[str, tuple[str, dict[str, Any], list[str] | None]] = {}

    def rows(self, connection: sa.Connection, values: Collection[Any], **more: Any) -> Sequence[Any]:
        """As the driver gives them."""
        if not values:
            return []
        dialect = connection.dialect
        text, known, order = self._made.get(dialect.name) or self._make(dialect)
        its = list(values)
        given = {**known, **more, "listed": msgspec.json.encode(its).decode() if dialect.name == "sqlite" else its}
        result = connection.exec_driver_sql(text, given if order is None else tuple(given[name] for name in order))
        assert result.cursor is not None
        try:
            return result.cursor.fetchall()
        finally:
            result.close()

    def _make(self, dialect: sa.Dialect) -> tuple[str, dict[str, Any], list[str] | None]:
        if dialect.name == "sqlite":
            each = sa.func.json_each(sa.bindparam("listed")).table_valued("value")
            among = self._column.in_(sa.select(each.c.value))
        else:
            among = self._column == sa.any_(sa.bindparam("listed", type_=postgresql.ARRAY(self._column.type)))
        compiled = self._statement.where(among).compile(dialect=dialect)
        made = str(compiled), dict(compiled.params), compiled.positiontup
        self._made[dialect.name] = made
        return made
