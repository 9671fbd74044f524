"""Where a page of the list begins, as a caller sends it."""

import base64
import binascii
import re
from datetime import UTC, datetime, timedelta
from typing import Final

from questions.asking import MAX_ID
from questions.listing import ListCursor

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND: Final = timedelta(microseconds=1)
_CURSOR: Final = re.compile(rb"([1-9][0-9]{0,17}):([1-9][0-9]{0,15})")


def encode_cursor(position: ListCursor) -> str:
    """The position in a form that says nothing to those who only send it back."""
    microseconds = (position.created_at - _EPOCH) // _MICROSECOND
    return base64.urlsafe_b64encode(b"%d:%d" % (microseconds, position.question_id)).decode().rstrip("=")


def decode_cursor(cursor: str) -> ListCursor | None:
    """The position that was written like this; None for anything else."""
    if len(cursor) > 64 or not cursor.isascii():
        return None
    try:
        match = _CURSOR.fullmatch(base64.b64decode(cursor + "=" * (-len(cursor) % 4), b"-_", validate=True))
        position = ListCursor(_EPOCH + int(match[1]) * _MICROSECOND, int(match[2])) if match else None
    except (binascii.Error, OverflowError):
        return None
    return (
        position
        if position is not None and position.question_id <= MAX_ID and encode_cursor(position) == cursor
        else None
    )
