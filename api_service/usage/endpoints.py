"""The REST endpoint for the ledger."""

import re
from datetime import UTC, date, datetime, timedelta
from typing import Any, Self

from fastapi import APIRouter, Depends, Request, Response
from pydantic import BaseModel, Field

from api_service.core.admission.allowance import Allowance
from api_service.dependencies import Caller, Ledger, LimitsInForce, authenticate
from api_service.http.documentation import problems
from api_service.http.problems import Code, FieldError, ProblemError
from owners.api_keys import TENANT
from owners.ledger import Spent
from owners.roles import Role

router = APIRouter(prefix="/api", tags=["usage"], dependencies=[Depends(authenticate)])

_DAY = re.compile(r"\d{4}-\d\d-\d\d", re.ASCII)
_MOST_DAYS = 366


class Tokens(BaseModel):
    """What was spent. `cached_prompt_tokens` are among `prompt_tokens`."""

    requests: int = Field(description="Questions, those among them that shared an answer or got an earlier one.")
    prompt_tokens: int = Field(description="As the model server counted; an answer's are its first asker's.")
    completion_tokens: int
    cached_prompt_tokens: int
    repeated_tokens: int = Field(description="Read or written again because an attempt broke off; in no other count.")
    total_tokens: int = Field(description="What limits and budgets count: prompt, completion and repeated.")

    @classmethod
    def of(cls, spent: Spent, **more: Any) -> Self:
        """From the ledger."""
        return cls(
            requests=spent.requests,
            prompt_tokens=spent.prompt_tokens,
            completion_tokens=spent.completion_tokens,
            cached_prompt_tokens=spent.cached_prompt_tokens,
            repeated_tokens=spent.repeated_tokens,
            total_tokens=spent.tokens,
            **more,
        )


class Day(Tokens):
    """A day in UTC."""

    day: date


class Budgets(BaseModel):
    """Most tokens; a budget that is not there has no limit."""

    tokens_per_day: int | None = None
    tokens_per_month: int | None = None


class UsageResponse(BaseModel):
    """What an owner has spent. Days without anything are left out."""

    tenant: str
    first: date = Field(alias="from")
    last: date = Field(alias="to")
    days: list[Day]
    total: Tokens
    budgets: Budgets | None = Field(
        default=None, description="The caller's. Left out for another tenant: each of its keys can have its own."
    )


def _parameter(name: str, description: str, **schema: object) -> dict[str, Any]:
    return {"name": name, "in": "query", "description": description, "schema": {"type": "string", **schema}}


_PARAMETERS = [
    _parameter("from", "First day, in UTC; else the first of the month of `to`.", format="date"),
    _parameter("to", f"Last day, in UTC, at most {_MOST_DAYS} days with the first; else today.", format="date"),
    _parameter("tenant", "For operators: whose usage; else your own.", minLength=1, pattern=f"^{TENANT.pattern}$"),
]
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
_EXAMPLES: dict[int | str, dict[str, Any]] = {
    200: {"content": {"application/json": {"examples": {"month": {"value": _USAGE}}}}}
}


@router.get(
    "/usage",
    summary="See what you have spent",
    responses={**_EXAMPLES, **problems(Code.INVALID_PARAMETER, Code.FORBIDDEN, Code.DATABASE_UNAVAILABLE)},
    openapi_extra={"parameters": _PARAMETERS},
    response_model_exclude_none=True,
)
async def usage(
    *, caller: Caller, ledger: Ledger, limits: LimitsInForce, request: Request, response: Response
) -> UsageResponse:
    """Return what was asked, and the tokens that the model server counted, day by day.

    What an answer takes is booked when it ends or is cut; a cut one at the last count that was received.
    """
    known = [str(parameter["name"]) for parameter in _PARAMETERS]
    if unknown := request.query_params.keys() - known:
        raise _invalid(min(unknown)[:100], "is not known", f"send {', '.join(known)}, or none of them")
    last = _day(request, "to") or datetime.now(UTC).date()
    first = _day(request, "from") or last.replace(day=1)
    if not timedelta() <= last - first < timedelta(days=_MOST_DAYS):
        detail = f"is not within the {_MOST_DAYS} days that end on {last}, which is to"
        raise _invalid("from", detail, f"send for example from={last.replace(day=1)}")
    tenant = _one(request, "tenant")
    owner = caller.tenant if tenant is None else tenant
    if owner != caller.tenant:
        caller.require(Role.OPERATOR)
    if not TENANT.fullmatch(owner):
        raise _invalid("tenant", "is not the name of a tenant", "send the name that its keys were made for")
    days = await ledger(owner, first, last)
    response.headers["Cache-Control"] = "no-store"
    return UsageResponse(
        tenant=owner,
        **{"from": first, "to": last},
        days=[Day.of(spent, day=day) for day, spent in days.items()],
        total=Tokens.of(sum(days.values(), start=Spent())),
        budgets=_budgets(limits.allowance(caller)) if owner == caller.tenant else None,
    )


def _budgets(allowance: Allowance | None) -> Budgets:
    if allowance is None:
        return Budgets()
    return Budgets(tokens_per_day=allowance.tokens_per_day or None, tokens_per_month=allowance.tokens_per_month or None)


def _day(request: Request, name: str) -> date | None:
    value = _one(request, name)
    if value is None:
        return None
    try:
        if _DAY.fullmatch(value):
            return date.fromisoformat(value)
    except ValueError:
        pass
    raise _invalid(name, "is not a day", f"send for example {name}=2026-01-31")


def _one(request: Request, name: str) -> str | None:
    values = request.query_params.getlist(name)
    if len(values) > 1:
        raise _invalid(name, "appears more than once", "send it once")
    return values[0] if values else None


def _invalid(name: str, detail: str, remedy: str) -> ProblemError:
    return ProblemError.of_fields(Code.INVALID_PARAMETER, [FieldError(field=name, detail=detail, remedy=remedy)])
