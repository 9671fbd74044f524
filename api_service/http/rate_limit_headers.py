"""The x-ratelimit headers, which OpenAI's clients understand."""

import math

from api_service.core.errors import RateLimits


def rate_limit_headers(limits: RateLimits) -> dict[str, str]:
    """What a caller has left, for whatever is replied; nothing where nothing is limited."""
    headers = {}
    for name, limit in (("tokens", limits.tokens), ("requests", limits.requests)):
        if limit is not None:
            headers[f"x-ratelimit-limit-{name}"] = str(limit.limit)
            headers[f"x-ratelimit-remaining-{name}"] = str(limit.remaining)
            headers[f"x-ratelimit-reset-{name}"] = duration(limit.reset_seconds)
    return headers


def duration(seconds: float) -> str:
    """As OpenAI writes it: 17ms, 1.5s, 6m0s."""
    milliseconds = math.ceil(seconds * 1_000)
    if milliseconds < 1_000:
        return f"{milliseconds}ms"
    minutes, rest = divmod(milliseconds, 60_000)
    return f"{minutes}m{rest / 1_000:g}s" if minutes else f"{rest / 1_000:g}s"
