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
