"""The REST endpoints for what somebody has asked so far: to list it, and to erase it."""

from fastapi import APIRouter, Depends, Response

from api_service.authentication.dependencies import Caller, authenticate
from api_service.history import documentation
from api_service.history.dependencies import History, Listing
from api_service.history.list_cursor import encode_cursor
from api_service.history.schemas import Erasure, ListedQuestion, QuestionList
from api_service.http.dependencies import QuestionId

router = APIRouter(prefix="/api", tags=["questions"], dependencies=[Depends(authenticate)])


@router.get(
    "/questions",
    summary="List your questions",
    responses=documentation.LIST_RESPONSES,
    openapi_extra=documentation.LIST_REQUEST,
    response_model_exclude_none=True,
)
async def list_questions(caller: Caller, parameters: Listing, history: History, response: Response) -> QuestionList:
    """Return your questions, newest first, a page at a time. It never contains other tenants' questions."""
    response.headers["Cache-Control"] = "no-store"
    page = await history.list(caller.tenant, parameters.filters, parameters.after, parameters.limit)
    return QuestionList(
        questions=[
            ListedQuestion(
                question_id=listed.id,
                status=listed.state,
                question_text=listed.text,
                created_at=listed.created_at,
                finished_at=listed.finished_at,
            )
            for listed in page.questions
        ],
        next_cursor=encode_cursor(page.next_after) if page.next_after else None,
    )


@router.delete(
    "/answer/{question_id}",
    summary="Erase a question",
    responses=documentation.ERASE_RESPONSES,
    openapi_extra=documentation.ERASE_REQUEST,
)
async def erase(caller: Caller, question_id: QuestionId, history: History, response: Response) -> Erasure:
    """End the question and remove it for good, with its Idempotency-Key, which is free again.

    Its answer is removed too, from PostgreSQL and Redis, unless another question shares it.
    """
    response.headers["Cache-Control"] = "no-store"
    return Erasure(question_id=question_id, answer=await history.erase(caller.tenant, question_id))
