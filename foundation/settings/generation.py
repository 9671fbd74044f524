"""What every answer is generated with."""

import os

from pydantic import Field, model_validator

from foundation.settings.base import PREFIX, Group


class GenerationSettings(Group):
    """What every answer is generated with.

    api_service makes requests of them, which are stored and decide an answer's key: a change makes new answers. The
    model's name and the time limit count when an answer is generated.
    """

    model_name: str = Field(
        "",
        max_length=256,
        description="Model that answers, as the model server names it. Empty: the first in the model server's list.",
    )
    system_prompt: str = Field(
        "You are a helpful assistant. Answer in one short sentence, in the language of the question.",
        max_length=100_000,
        description="Instructions before every question. An empty value: none, for models without a system role.",
    )
    temperature: float = Field(0.0, ge=0, le=2, description="0 always chooses the most probable token.")
    max_output_tokens: int = Field(512, ge=1, le=1_000_000, description="Most tokens of one answer.")
    max_generation_seconds: float = Field(
        300, gt=0, le=86_400, description="Longest time for generating one answer, in seconds."
    )

    @model_validator(mode="before")
    @classmethod
    def _empty_system_prompt_is_none(cls, values: dict[str, object]) -> dict[str, object]:
        """Elsewhere an empty value counts as unset. Here it is one: some models have no system role."""
        if os.environ.get(f"{PREFIX}SYSTEM_PROMPT", "unset").strip():
            return values
        return {**values, "system_prompt": str(values.get("system_prompt", "")).strip()}
