"""The bodies of requests and responses."""

import json
import re
import unicodedata
from dataclasses import dataclass
from datetime import datetime
from typing import Annotated, Any, Literal, NoReturn

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    Strict,
    ValidationError,
    ValidationInfo,
)
from pydantic_core import PydanticCustomError

from api_service.http.problems import Code, FieldError, ProblemError
from owners.priority import Priority
from questions.states import ErrorReason, FinishReason, State

# json.loads takes "\ud800", which neither UTF-8 nor PostgreSQL can hold.
_SURROGATES = re.compile("[\ud800-\udfff]")
_MOST_ERRORS = 10
_MOST_NAME_CHARACTERS = 100


@dataclass(frozen=True, slots=True)
class AskLimits:
    """Limits that are settings: most code points of a question, most seconds to wait for an answer."""

    question_characters: int
    wait_seconds: float


def _invalid(detail: str, remedy: str) -> NoReturn:
    raise PydanticCustomError("limit", "{detail}", {"detail": detail, "remedy": remedy})


def _check_question_text(text: str, info: ValidationInfo[AskLimits]) -> str:
    limits = info.context
    if len(text) > limits.question_characters:
        _invalid(
            f"has {len(text):,} characters", f"shorten it to at most {limits.question_characters:,} Unicode code points"
        )
    if _SURROGATES.search(text):
        _invalid("contains half of a surrogate pair", "send whole Unicode characters")
    if "\0" in text:
        _invalid("contains the character U+0000", "remove it")
    # Control and format characters alone, as a zero width space, show nothing either.
    if all(character.isspace() or unicodedata.category(character) in ("Cc", "Cf") for character in text):
        _invalid("is blank", "write a question in it")
    return text


def _check_wait(seconds: float, info: ValidationInfo[AskLimits]) -> float:
    limits = info.context
    if not 0 < seconds <= limits.wait_seconds:
        remedy = f"send a number of seconds above 0 and at most {limits.wait_seconds:g}, or leave the field out"
        _invalid("is out of range", remedy)
    return seconds


class AskRequest(BaseModel):
    """A question."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    question_text: Annotated[str, AfterValidator(_check_question_text)] = Field(
        description="The question, in any language. It must not be blank, and has at most"
        " ASKMESH_MAX_QUESTION_CHARACTERS (8,000) Unicode code points.",
        examples=["What is the capital of France?"],
    )
    max_wait_seconds: Annotated[float, AfterValidator(_check_wait)] | None = Field(
        None,
        description="Seconds from now after which the question ends as `expired` if it has no answer. Above 0, and at"
        " most the default, ASKMESH_MAX_WAIT_SECONDS (600).",
        examples=[60],
    )
    cancel_on_disconnect: bool | None = Field(
        None,
        description="`true`: cancel the question if you disconnect this request before its end. Only with"
        " `Accept: text/event-stream` or `wait`. By default the question continues, and its answer is there when you"
        " return.",
    )
    # Strict mode takes no string for an enumeration.
    priority: Annotated[Priority, Strict(False)] | None = Field(
        None,
        description="How soon a waiting question is answered: while `high`, `normal` and `low` questions all wait, 16,"
        " 4 and 1 of them are answered in turn. `high` and `low` need the operator role.",
    )


_REMEDIES = {
    "missing": ("is missing", "add it"),
    "extra_forbidden": ("is not known", "remove it"),
    "string_type": ("is not a string", "send a JSON string"),
    "string_unicode": ("contains half of a surrogate pair", "send whole Unicode characters"),
    "float_type": ("is not a number", "send a JSON number, or leave the field out"),
    "enum": ("is none of high, normal and low", "send one of them, or leave the field out"),
    "bool_type": ("is neither true nor false", "send true or false, or leave the field out"),
    "model_type": ("is not a JSON object", 'send an object such as {"question_text": "…"}'),
}


def parse_ask(body: bytes, limits: AskLimits) -> AskRequest:
    """Read the body of POST /api/ask. Raises ProblemError.

    Stricter than json.loads: UTF-8 only, no NaN, no name twice, because each of these can be read in two ways.
    """
    try:
        content = json.loads(body.decode(), object_pairs_hook=_unique, parse_constant=_refuse_constant)
    except UnicodeDecodeError as error:
        raise _invalid_json(f"is not UTF-8 at byte {error.start}", "encode it as UTF-8") from None
    except json.JSONDecodeError as error:
        where = f"is not JSON at line {error.lineno}, column {error.colno}"
        raise _invalid_json(where, 'send JSON such as {"question_text": "…"}') from None
    except (RecursionError, ValueError):  # of numbers with more than 4,300 digits
        raise _invalid_json(
            "is nested too deeply, or has too long a number", "send nothing but the known fields"
        ) from None
    try:
        return AskRequest.model_validate(content, context=limits)
    except ValidationError as error:
        problems = error.errors(include_url=False, include_input=False)[:_MOST_ERRORS]
        fields = [_field_error(problem["loc"], problem["type"], problem.get("ctx", {})) for problem in problems]
        raise ProblemError.of_fields(Code.INVALID_FIELD, fields) from None


def _field_error(location: tuple[int | str, ...], kind: str, context: dict[str, Any]) -> FieldError:
    detail, remedy = _REMEDIES.get(kind) or (context["detail"], context["remedy"])
    return FieldError(field=_shown(str(location[0])) if location else "body", detail=detail, remedy=remedy)


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    content: dict[str, Any] = {}
    for name, value in pairs:
        if name in content:
            raise _invalid_json("appears more than once", "send it once", field=_shown(name))
        content[name] = value
    return content


def _refuse_constant(name: str) -> NoReturn:
    raise _invalid_json(f"contains {name}, which JSON does not have", "send numbers")


def _invalid_json(detail: str, remedy: str, field: str = "body") -> ProblemError:
    return ProblemError.of_fields(Code.INVALID_JSON, [FieldError(field=field, detail=detail, remedy=remedy)])


def _shown(name: str) -> str:
    """A name out of a request, fit to be sent back."""
    return name[:_MOST_NAME_CHARACTERS].encode(errors="backslashreplace").decode()


class AskResponse(BaseModel):
    """A question that was accepted: it is committed, and gets exactly one final answer."""

    question_id: int = Field(description="Read the answer at /api/answer/{question_id}.")
    status: State
    answer_text: str = Field(description="A sentence for people, or the answer if it exists already.")
    cached: bool = Field(description="An earlier answer to the same question is reused.")
    coalesced: bool = Field(description="The same question is already being answered; both get that answer.")


class Usage(BaseModel):
    """Tokens that the model server counted for the answer. Counts that it does not report are left out."""

    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    cached_prompt_tokens: int | None = Field(
        None, description="Those of prompt_tokens that the model server had cached."
    )
    total_tokens: int | None = None


class AnswerError(BaseModel):
    """Why a question failed."""

    reason: ErrorReason
    detail: str = Field(description="What happened and what to do about it, for developers.")


class AnswerResponse(BaseModel):
    """A question as it is now. Fields that do not apply yet, or never will, are left out."""

    question_id: int
    status: State = Field(
        description="`queued` and `in_progress` will change; `completed`, `incomplete`, `failed`, `cancelled` and"
        " `expired` are final and never change."
    )
    answer_text: str = Field(
        description="The model's answer if `status` is `completed` or `incomplete`, else a sentence for people."
    )
    model: str | None = Field(
        None,
        description="The model that wrote the answer, as the model server names it. Left out if unknown.",
    )
    finish_reason: FinishReason | None = Field(None, description="Why the model stopped writing.")
    usage: Usage | None = None
    error: AnswerError | None = Field(None, description="Only if the status is `failed`.")
    replayed_as: int | None = Field(
        None, description="An operator asked the question again: read that question instead."
    )
    created_at: datetime
    finished_at: datetime | None = Field(None, description="Earlier than `created_at` if the answer is reused.")


class StatusEvent(BaseModel):
    """The data of a `status` event."""

    question_id: int
    status: State
    queue_position: int | Literal["1000+"] | None = Field(
        None, description="While `queued`: 1 is next. An estimate, left out if there is none."
    )
    estimated_wait_seconds: float | None = Field(
        None, description="Seconds until the question's turn at the present pace; a lower bound for `1000+`."
    )
    cached: bool | None = Field(None, description="As in the response to a question; first event of POST only.")
    coalesced: bool | None = Field(None, description="As in the response to a question; first event of POST only.")


class DeltaEvent(BaseModel):
    """The data of a `delta` event."""

    text: str = Field(description="The text that follows the earlier deltas.")
