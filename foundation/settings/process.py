"""How a process logs, stops and treats passwords, whatever it does."""

from typing import Literal

from pydantic import Field

from foundation.settings.base import Group


class LogSettings(Group):
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = Field("INFO", description="Lowest level that is logged.")


class ProcessSettings(Group):
    drain_seconds: float = Field(
        30,
        ge=0,
        le=3_600,
        description="Seconds that a stopping process has to finish its work. `make run`: 5.",
    )


class SecretSettings(Group):
    allow_weak_secrets: bool = Field(
        False,
        description="true accepts missing and common passwords, and those shorter than 12 characters, in URLs of"
        " servers on other machines. For development only.",
    )
