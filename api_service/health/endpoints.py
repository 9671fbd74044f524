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
        description="What is absent. Without `broker` and `redis` everything goes on, slower. Without `model` questions"
        " wait until it is back, or they expire.",
        examples=[[]],
    )
    reasons: dict[Helper, str] | None = Field(
        None,
        description="Why something is absent; not there where that is not known. Of `model` the reason of llm_service,"
        " as `model_server_denied`. What to do about it stands in the log.",
        examples=[{"model": "model_server_denied"}],
    )


@router.get("/livez", summary="Is the process alive?", responses=problems(Code.PROCESS_BROKEN))
async def livez(broken: BrokenParts, response: Response) -> Alive:
    """Restart the process if this does not answer, or not with a 200. It looks at nothing outside of the process.

    It is a 503 while a part of the process breaks whenever it is started; `detail` names it, and the log says where.
    """
    if broken:
        raise ProblemError(Code.PROCESS_BROKEN, PROCESS_BROKEN.format(", ".join(broken)))
    response.headers["Cache-Control"] = "no-store"
    return Alive()


@router.get(
    "/readyz",
    summary="Can it serve?",
    response_model_exclude_none=True,
    responses=problems(Code.DATABASE_UNAVAILABLE),
)
async def readyz(report: ReadinessReport, response: Response) -> Ready:
    """Send requests here only while this is a 200. It is a 503, with the reason, while PostgreSQL cannot be used.

    That is while it is absent, read-only (a standby) or without its schema. The report may be a second old, so that
    probes cost little.
    """
    if report.problem:
        raise unavailable(report.problem)
    response.headers["Cache-Control"] = "no-store"
    return Ready(degraded=report.degraded, reasons=dict(report.reasons) or None)
