"""What a supervisor or load balancer asks."""

from typing import Literal

from fastapi import APIRouter, Response
from pydantic import BaseModel, Field

from api_service.core.database import unavailable
from api_service.dependencies import BrokenParts, ReadinessReport
from api_service.health.readiness import Helper
from api_service.http.documentation import problems
from api_service.http.problems import PROCESS_BROKEN, Code, ProblemError

router = APIRouter(tags=["health"])


class Alive(BaseModel):
    """This process runs and answers."""

    status: Literal["alive"] = "alive"


class Ready(BaseModel):
    """Questions can be asked and answers read."""

    status: Literal["ready"] = "ready"
    degraded: list[Helper] = Field(
        description="What is missing. Without `broker` and `redis` everything works, but slower. Without `model`"
        " questions wait until it is back, or expire.",
        examples=[[]],
    )
    reasons: dict[Helper, str] | None = Field(
        None,
        description="Why something is missing, if that is known. For `model`, the reason of llm_service, such as"
        " `model_server_denied`. The log names the remedy.",
        examples=[{"model": "model_server_denied"}],
    )


@router.get("/livez", summary="Is the process alive?", responses=problems(Code.PROCESS_BROKEN))
async def livez(broken: BrokenParts, response: Response) -> Alive:
    """Restart the process if this does not answer with 200. It checks nothing outside the process.

    It is 503 while a part of the process fails whenever it is started; `detail` names the part, and the log says where.
    """
    if broken:
        raise ProblemError(Code.PROCESS_BROKEN, PROCESS_BROKEN.format(", ".join(broken)))
    response.headers["Cache-Control"] = "no-store"
    return Alive()


@router.get(
    "/readyz",
    summary="Can the process serve?",
    response_model_exclude_none=True,
    responses=problems(Code.DATABASE_UNAVAILABLE),
)
async def readyz(report: ReadinessReport, response: Response) -> Ready:
    """Send requests here only while this is 200. It is 503, with the reason, while PostgreSQL cannot be used.

    That is while it is down, read-only (a standby) or without its schema. The report may be a second old, so that
    probes cost little.
    """
    if report.problem:
        raise unavailable(report.problem)
    response.headers["Cache-Control"] = "no-store"
    return Ready(degraded=report.degraded, reasons=dict(report.reasons) or None)
