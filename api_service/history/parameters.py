"""What a request for a list of questions says: filters, the size of a page, and where it begins."""

import base64
import binascii
import re
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final

from starlette.datastructures import QueryParams

from api_service.http.problems import Code, FieldError, ProblemError
from questions.asking import MAX_ID
from questions.listing import Place, Wanted
from questions.states import State

MOST: Final = 100
USUAL: Final = 20
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND: Final = timedelta(microseconds=1)
_CURSOR: Final = re.compile(rb"([1-9][0-9]{0,17}):([1-9][0-9]{0,15})")
_TIME: Final = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d{1,6})?(Z|[+-]\d\d:\d\d)", re.ASCII)
_KNOWN: Final = frozenset({"status", "created_since", "created_before", "limit", "cursor"})


@dataclass(frozen=True, slots=True)
class ListParameters:
    """What a request for a list says."""

    wanted: Wanted
    after: Place | None
    limit: int


def parse(query: QueryParams) -> ListParameters:
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
    wanted = Wanted([State(state) for state in sorted(states)], moments["created_since"], moments["created_before"])
    return ListParameters(wanted, after, int(limit))


def encode_cursor(place: Place) -> str:
    """The place in a form that says nothing to those who only send it back."""
    microseconds = (place.created_at - _EPOCH) // _MICROSECOND
    return base64.urlsafe_b64encode(b"%d:%d" % (microseconds, place.question_id)).decode().rstrip("=")


def decode_cursor(cursor: str) -> Place | None:
    """The place that was written like this; None for anything else."""
    if len(cursor) > 64 or not cursor.isascii():
        return None
    try:
        match = _CURSOR.fullmatch(base64.b64decode(cursor + "=" * (-len(cursor) % 4), b"-_", validate=True))
        place = Place(_EPOCH + int(match[1]) * _MICROSECOND, int(match[2])) if match else None
    except (binascii.Error, OverflowError):
        return None
    return place if place is not None and place.question_id <= MAX_ID and encode_cursor(place) == cursor else None


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
