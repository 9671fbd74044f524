"""How long a server asks to be left alone, by the headers of its refusal."""

import math
from collections.abc import Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Final

# In milliseconds: OpenAI and Azure OpenAI; Azure API Management.
_MILLISECONDS: Final = ("retry-after-ms", "x-ms-retry-after-ms")
# A number beyond is a moment in Unix time, not a duration.
_FIRST_MOMENT: Final = 1e9


def retry_after(headers: Mapping[str, str]) -> float | None:
    """Seconds from now, 0 or more; None where the headers do not say. ``headers`` compares names without case."""
    for name in _MILLISECONDS:
        if (milliseconds := _number(headers.get(name))) is not None:
            return milliseconds / 1000
    value = headers.get("Retry-After")
    if (seconds := _number(value)) is not None:
        return seconds if seconds < _FIRST_MOMENT else max(0.0, seconds - datetime.now(UTC).timestamp())
    return None if value is None else _until(value)


def _number(value: str | None) -> float | None:
    try:
        number = float(value.strip().removesuffix("s")) if value else math.nan
    except ValueError:
        return None
    return number if math.isfinite(number) and number >= 0 else None


def _until(date: str) -> float | None:
    """A date of HTTP or of ISO 8601, without a zone in UTC."""
    try:
        moment = parsedate_to_datetime(date)
    except (ValueError, TypeError):
        try:
            moment = datetime.fromisoformat(date.strip())
        except ValueError:
            return None
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    return max(0.0, (moment - datetime.now(UTC)).total_seconds())
