"""Many rows at once, past what SQLAlchemy does for each."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import sqlalchemy as sa


def insert_rows(
    connection: sa.Connection, table: sa.Table, columns: tuple[str, ...], rows: Sequence[tuple[Any, ...]]
) -> None:
    """Values go to the driver as they are: plain numbers, texts and bytes alone. The text of the statement is SQLAlchemy's; its
    parameters are not made from a dictionary for each row, which took a fifth of the time of a registration."""
    if not rows:
        return
    statement = sa.insert(table).values({name: sa.bindparam(name) for name in columns})
    compiled = statement.compile(dialect=connection.dialect)
    order = compiled.positiontup
    if order is None:
        connection.exec_driver_sql(str(compiled), [dict(zip(columns, row, strict=True)) for row in rows])
        return
    assert tuple(order) == columns, order
    connection.exec_driver_sql(str(compiled), list(rows))
