"""What /openapi.json says about these endpoints beyond their types: parameters, headers and examples."""

from typing import Any

from api_service.history.dependencies import MOST, USUAL
from api_service.http.documentation import (
    REQUEST_ID,
    REQUEST_ID_HEADER,
    Responses,
    examples,
    problems,
    query_parameter,
)
from api_service.http.problems import Code

LIST_REQUEST: dict[str, Any] = {
    "parameters": [
        query_parameter(
            "status",
            "Only questions with this status. Repeat it for several.",
            type="array",
            items={"$ref": "#/components/schemas/State"},
        ),
        query_parameter(
            "created_since",
            "Only questions asked at this time or later.",
            format="date-time",
            examples=["2026-01-31T12:00:00Z"],
        ),
        query_parameter(
            "created_before",
            "Only questions asked before this time.",
            format="date-time",
            examples=["2026-02-01T00:00:00Z"],
        ),
        query_parameter("limit", "Most questions on a page.", type="integer", minimum=1, maximum=MOST, default=USUAL),
        query_parameter(
            "cursor",
            "`next_cursor` of the page before, with the same filters. Default: from the newest on.",
            pattern="^[A-Za-z0-9_-]{1,64}$",
        ),
        REQUEST_ID,
    ]
}
LIST_RESPONSES: Responses = {
    200: {
        "description": "A page of your questions.",
        "headers": REQUEST_ID_HEADER,
        "content": examples(
            page={
                "questions": [
                    {
                        "question_id": 42,
                        "status": "completed",
                        "question_text": "What is the capital of France?",
                        "created_at": "2026-01-31T12:00:00.125000Z",
                        "finished_at": "2026-01-31T12:00:00.831000Z",
                    }
                ],
                "next_cursor": "MTc2OTg2MDgwMDEyNTAwMDo0Mg",
            },
            last={"questions": []},
        ),
    },
    **problems(Code.INVALID_PARAMETER, Code.DATABASE_UNAVAILABLE),
}
ERASE_REQUEST: dict[str, Any] = {"parameters": [REQUEST_ID]}
ERASE_RESPONSES: Responses = {
    200: {
        "description": "The question is erased.",
        "headers": REQUEST_ID_HEADER,
        "content": examples(erased={"question_id": 42, "answer": "erased"}, kept={"question_id": 42, "answer": "kept"}),
    },
    **problems(Code.QUESTION_NOT_FOUND, Code.DATABASE_UNAVAILABLE, Code.ERASURE_UNAVAILABLE),
}
