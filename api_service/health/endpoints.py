"""What a supervisor or load balancer asks."""

from fastapi import APIRouter, Response

from api_service.core.database import unavailable
from api_service.health.dependencies import BrokenParts, ReadinessReport
from api_service.health.schemas import Alive, Ready
from api_service.http.documentation import problems
from api_service.http.problems import PROCESS_BROKEN, Code, ProblemError

router = APIRouter(tags=["health"])


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
