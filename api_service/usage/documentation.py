"""What /openapi.json says about this endpoint beyond its types: parameters and an example."""

from typing import Any

from api_service.http.documentation import Responses, examples, problems, query_parameter
from api_service.http.problems import Code
from api_service.usage.dependencies import MOST_DAYS
from owners.api_keys import TENANT

USAGE_REQUEST: dict[str, Any] = {
    "parameters": [
        query_parameter("from", "First day, in UTC. Default: the first of the month of `to`.", format="date"),
        query_parameter("to", f"Last day, in UTC; at most {MOST_DAYS} days in all. Default: today.", format="date"),
        query_parameter(
            "tenant",
            "For operators: whose usage to return. Default: your own.",
            minLength=1,
            pattern=f"^{TENANT.pattern}$",
        ),
    ]
}
_COUNTS = {"requests": 3, "prompt_tokens": 114, "completion_tokens": 24, "cached_prompt_tokens": 72}
_COUNTS |= {"repeated_tokens": 0, "total_tokens": 138}
_USAGE = {
    "tenant": "acme",
    "from": "2026-01-01",
    "to": "2026-01-31",
    "days": [{**_COUNTS, "day": "2026-01-31"}],
    "total": _COUNTS,
    "budgets": {"tokens_per_day": 1_000_000},
}
USAGE_RESPONSES: Responses = {
    200: {"content": examples(month=_USAGE)},
    **problems(Code.INVALID_PARAMETER, Code.FORBIDDEN, Code.DATABASE_UNAVAILABLE),
}
