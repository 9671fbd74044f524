"""What the endpoint of this feature asks for, by type."""

import re
from collections.abc import Awaitable, Callable
from datetime import UTC, date, datetime, timedelta
from typing import Annotated, NamedTuple, TypedDict, cast

from fastapi import Depends, Request

from api_service.authentication.dependencies import Caller
from api_service.http.problems import Code, FieldError, ProblemError
from owners.api_keys import TENANT
from owners.ledger import UsageTotals
from owners.roles import Role

MOST_DAYS = 366
_DAY = re.compile(r"\d{4}-\d\d-\d\d", re.ASCII)
_KNOWN = ("from", "to", "tenant")


ReadDays = Callable[[str, date, date], Awaitable[dict[date, UsageTotals]]]
"""What an owner has spent on each day from the first to the last."""


class UsageState(TypedDict):
    """What this feature needs of the application while it runs."""

    ledger: ReadDays


class UsageParameters(NamedTuple):
    """Whose usage is wanted, from the first day to the last."""

    owner: str
    first: date
    last: date


async def _ledger(request: Request) -> ReadDays:
    return cast(UsageState, request.state)["ledger"]


async def _parameters(request: Request, caller: Caller) -> UsageParameters:
    if unknown := request.query_params.keys() - set(_KNOWN):
        raise _invalid(min(unknown)[:100], "is not known", f"send {', '.join(_KNOWN)}, or none of them")
    last = _day(request, "to") or datetime.now(UTC).date()
    first = _day(request, "from") or last.replace(day=1)
    if not timedelta() <= last - first < timedelta(days=MOST_DAYS):
        detail = f"is not within the {MOST_DAYS} days that end on {last}, the value of to"
        raise _invalid("from", detail, f"send for example from={last.replace(day=1)}")
    tenant = _one(request, "tenant")
    owner = caller.tenant if tenant is None else tenant
    if owner != caller.tenant:
        caller.require(Role.OPERATOR)
    if not TENANT.fullmatch(owner):
        raise _invalid("tenant", "is not the name of a tenant", "send the name for which its keys were created")
    return UsageParameters(owner, first, last)


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


Ledger = Annotated[ReadDays, Depends(_ledger)]
Parameters = Annotated[UsageParameters, Depends(_parameters)]
