"""Cursor lists: a window of rows ordered by creation, after one row, before another, or both."""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal

import sqlalchemy as sa
from sqlalchemy.orm import Session

Place = tuple[datetime, str]
"""Where a row stands: what lists are ordered by."""


@dataclass(frozen=True)
class Window:
    """What a client asks of a list; the cursors are ids of rows in it."""

    after: str | None = None
    before: str | None = None
    limit: int = 20
    order: Literal["asc", "desc"] = "desc"


def rows_in(
    session: Session,
    query: sa.Select[Any],
    place: tuple[sa.SQLColumnExpression[Any], sa.SQLColumnExpression[Any]],
    window: Window,
    place_of: Callable[[str, str], Place],
) -> tuple[list[Any], bool]:
    """The window's rows in its order, and whether more follow.

    With `before` alone, they are the last ones ahead of it, and "more" lies ahead of them. `place_of(id, param)` says
    where a cursor stands, or raises CursorNotFound.
    """
    descending = window.order == "desc"
    here = sa.tuple_(*place)
    if window.after is not None:
        bound = sa.tuple_(*place_of(window.after, "after"))
        query = query.where(here < bound if descending else here > bound)
    if window.before is not None:
        bound = sa.tuple_(*place_of(window.before, "before"))
        query = query.where(here > bound if descending else here < bound)
    backwards = window.before is not None and window.after is None
    falling = descending != backwards
    query = query.order_by(*(column.desc() if falling else column.asc() for column in place))
    found = list(session.scalars(query.limit(window.limit + 1)))
    shown = found[: window.limit]
    return (shown[::-1] if backwards else shown), len(found) > window.limit
