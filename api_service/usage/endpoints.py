"""The REST endpoint for the ledger."""

from fastapi import APIRouter, Depends, Response

from api_service.authentication.dependencies import Caller, authenticate
from api_service.core.admission.allowance import Allowance
from api_service.http.dependencies import LimitsInForce
from api_service.usage import documentation
from api_service.usage.dependencies import Ledger, Parameters
from api_service.usage.schemas import Budgets, Day, Tokens, UsageResponse
from owners.ledger import UsageTotals

router = APIRouter(prefix="/api", tags=["usage"], dependencies=[Depends(authenticate)])


@router.get(
    "/usage",
    summary="Read your usage",
    responses=documentation.USAGE_RESPONSES,
    openapi_extra=documentation.USAGE_REQUEST,
    response_model_exclude_none=True,
)
async def usage(
    *, caller: Caller, parameters: Parameters, ledger: Ledger, limits: LimitsInForce, response: Response
) -> UsageResponse:
    """Return the questions and the tokens that the model server counted, per day.

    An answer's tokens are recorded when it ends or is cut off; if cut off, with the last count that was received.
    """
    owner, first, last = parameters
    days = await ledger(owner, first, last)
    response.headers["Cache-Control"] = "no-store"
    return UsageResponse(
        tenant=owner,
        **{"from": first, "to": last},
        days=[Day.of(totals, day=day) for day, totals in days.items()],
        total=Tokens.of(sum(days.values(), start=UsageTotals())),
        budgets=_budgets(limits.allowance(caller)) if owner == caller.tenant else None,
    )


def _budgets(allowance: Allowance | None) -> Budgets:
    if allowance is None:
        return Budgets()
    return Budgets(tokens_per_day=allowance.tokens_per_day or None, tokens_per_month=allowance.tokens_per_month or None)
