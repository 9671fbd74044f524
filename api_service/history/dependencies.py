"""What the endpoints of this feature ask for, by type."""

import re
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Annotated, Final, TypedDict, cast

from fastapi import Depends, Request
from starlette.datastructures import QueryParams

from api_service.history.list_cursor import decode_cursor
from api_service.history.service import QuestionHistory
from api_service.http.problems import Code, FieldError, ProblemError
from questions.listing import ListCursor, QuestionFilter
from questions.states import State

MOST: Final = 100
USUAL: Final = 20
_TIME: Final = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d{1,6})?(Z|[+-]\d\d:\d\d)", re.ASCII)
_KNOWN: Final = frozenset({"status", "created_since", "created_before", "limit", "cursor"})


class HistoryState(TypedDict):
    """What this feature needs of the application while it runs."""

    history: QuestionHistory


@dataclass(frozen=True, slots=True)
class ListParameters:
    """What a request for a list says: filters, where the page begins, and its size."""

    filters: QuestionFilter
    after: ListCursor | None
    limit: int


async def _history(request: Request) -> QuestionHistory:
    return cast(HistoryState, request.state)["history"]


async def _list_parameters(request: Request) -> ListParameters:
    return parse_list_parameters(request.query_params)


def parse_list_parameters(query: QueryParams) -> ListParameters:
    """Read the query. Raises a ProblemError that names every parameter that is wrong."""
    errors: list[FieldError] = [
        _error(name[:100], "is not known", f"send {', '.join(sorted(_KNOWN))}, or none of them")
        for name in query
        if name not in _KNOWN
    ]

    def one(name: str) -> str | None:
        values = query.getlist(name)
        if len(values) > 1:
            errors.append(_error(name, "appears more than once", "send it once"))
        return values[0] if values else None

    states = frozenset(query.getlist("status"))
    if unknown := states - set(State):
        detail = f"is {min(unknown)[:100] or 'empty'}"
        errors.append(_error("status", detail, f"send one of {', '.join(State)}, or several by repeating it"))
    times = {name: one(name) for name in ("created_since", "created_before")}
    moments = {name: _moment(name, text, errors) for name, text in times.items()}
    limit = one("limit") or str(USUAL)
    if not re.fullmatch("[0-9]{1,3}", limit, re.ASCII) or not 1 <= int(limit) <= MOST:
        errors.append(_error("limit", f"is not a whole number from 1 to {MOST}", f"send for example limit={USUAL}"))
    cursor = one("cursor")
    after = None if cursor is None else decode_cursor(cursor)
    if cursor is not None and after is None:
        errors.append(
            _error("cursor", "is not a valid cursor", "send the next_cursor of the page before, or leave it out")
        )
    if errors:
        raise ProblemError.of_fields(Code.INVALID_PARAMETER, errors[:10])
    filters = QuestionFilter(
        [State(state) for state in sorted(states)], moments["created_since"], moments["created_before"]
    )
    return ListParameters(filters, after, int(limit))


def _moment(name: str, text: str | None, errors: list[FieldError]) -> datetime | None:
    if text is None:
        return None
    try:
        if _TIME.fullmatch(text):
            return datetime.fromisoformat(text).astimezone(UTC)
    except (ValueError, OverflowError):
        pass
    errors.append(
        _error(name, "is not a time with its zone", "send for example 2026-01-31T12:00:00Z; a + is written as %2B")
    )
    return None


def _error(field: str, detail: str, remedy: str) -> FieldError:
    return FieldError(field=field, detail=detail, remedy=remedy)


History = Annotated[QuestionHistory, Depends(_history)]
Listing = Annotated[ListParameters, Depends(_list_parameters)]
