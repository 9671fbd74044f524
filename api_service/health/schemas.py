"""The bodies of responses."""

from typing import Literal

from pydantic import BaseModel, Field

from api_service.health.readiness import Helper


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
