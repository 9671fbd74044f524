"""What schemathesis loads: whom it plays, what it may meet, and what nobody may.

The environment says who plays: FUZZ_MARK and FUZZ_QUESTION_IDS of the tenant, FUZZ_STRANGER_MARK and
FUZZ_STRANGER_QUESTION_IDS of the other one.
"""

import os
import re
from pathlib import Path
from typing import Any

import schemathesis
from schemathesis import Case, CheckContext, HookContext, Response

_MARK = os.environ["FUZZ_MARK"]
_STRANGERS_MARK = os.environ["FUZZ_STRANGER_MARK"]
_OWN = [int(question_id) for question_id in os.environ["FUZZ_QUESTION_IDS"].split(",")]
_STRANGERS = [int(question_id) for question_id in os.environ["FUZZ_STRANGER_QUESTION_IDS"].split(",")]
_REPOSITORY = str(Path(__file__).parents[2])
_INSIDES = re.compile(rf"Traceback|File \\?\"|\.py\b|site-packages|asyncpg|sqlalchemy|{re.escape(_REPOSITORY)}")
# What no schema can say, so that a request that follows the document may be refused for it: by the field.
_OF_CURSORS = {
    "is beyond the end of the answer",
    "is the end of an answer that has not ended",
    "is within a code point",
    "is not a cursor",  # schemathesis 4.32 takes "0" for an example of their pattern, which it is not
}
_BEYOND_SCHEMAS = {
    "Idempotency-Key": {"was used before with another body"},
    "Last-Event-ID": _OF_CURSORS,
    "starting_after": _OF_CURSORS,
    "cursor": {"is not a valid cursor"},
    "from": {"is not within the 366 days that end on "},
    "max_wait_seconds": {"is out of range"},
    "question_text": {"contains the character U+0000"},
}


@schemathesis.hook
def map_path_parameters(context: HookContext, path_parameters: dict[str, Any]) -> dict[str, Any]:
    """Two thirds of the ids that are ones are those of questions that exist: a random one finds none."""
    question_id = (path_parameters or {}).get("question_id")
    if isinstance(question_id, int) and 0 < question_id < 2**53 and question_id % 3:
        those = _STRANGERS if question_id % 3 == 1 else _OWN
        return {**path_parameters, "question_id": those[question_id // 3 % len(those)]}
    return path_parameters


@schemathesis.hook
def map_body(context: HookContext, body: Any) -> Any:
    """What this tenant asks bears its mark."""
    if isinstance(body, dict) and isinstance(text := body.get("question_text"), str):
        return {**body, "question_text": f"{_MARK} {text}"}
    return body


@schemathesis.hook
def filter_failure(context: HookContext, failure: Exception, case: Case[Any], response: Response) -> bool:
    """Whether it is one."""
    title = getattr(failure, "title", "")
    if title == "Schema-valid request rejected" and response.status_code in (400, 422):
        errors = response.json()["errors"]
        return not errors or any(
            not error["detail"].startswith(tuple(_BEYOND_SCHEMAS.get(error["field"], ()))) for error in errors
        )
    # OpenAPI 3.1 describes the body, and not an event: the check takes it for OpenAPI 3.2.
    return title != "SSE event violates schema"


@schemathesis.check
def nothing_of_the_stranger(ctx: CheckContext, response: Response, case: Case[Any]) -> None:
    """Neither a question of the other tenant nor an answer to one; and its ids are nobody's."""
    assert _STRANGERS_MARK not in _said(response), "the other tenant's text"
    question_id = (case.path_parameters or {}).get("question_id")
    if question_id in _STRANGERS:
        assert response.status_code >= 400, "the other tenant's question"


@schemathesis.check
def nothing_of_the_insides(ctx: CheckContext, response: Response, case: Case[Any]) -> None:
    """No stack trace, no path of a file, no name of a library."""
    found = _INSIDES.search(_said(response))
    assert found is None, f"the insides: {found and found[0]}"


def _said(response: Response) -> str:
    return f"{response.headers}\n{response.content.decode(errors='replace')}"
