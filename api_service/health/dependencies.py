"""What the endpoints of this feature ask for, by type."""

from typing import Annotated, TypedDict, cast

from fastapi import Depends, Request

from api_service.health.readiness import Readiness, Report
from foundation.background import Background


class HealthState(TypedDict):
    """What this feature needs of the application while it runs."""

    background: Background
    readiness: Readiness


async def _broken_parts(request: Request) -> list[str]:
    return cast(HealthState, request.state)["background"].broken


async def _readiness_report(request: Request) -> Report:
    return await cast(HealthState, request.state)["readiness"].report()


BrokenParts = Annotated[list[str], Depends(_broken_parts)]
ReadinessReport = Annotated[Report, Depends(_readiness_report)]
