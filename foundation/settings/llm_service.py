"""llm_service, and the model server that it asks."""

import re
from typing import Annotated, Literal, Self
from urllib.parse import urlsplit

from pydantic import AfterValidator, Field, SecretStr, model_validator

from foundation.settings.base import Group


def _model_url(value: str) -> str:
    if not value:
        return value
    try:
        parts = urlsplit(value)
        is_url = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        is_url = False
    if not is_url or not value.isprintable() or " " in value:
        raise ValueError("must be a URL, as http://host:8000/v1, without spaces and line ends")
    if parts.query or parts.fragment or value[-1] in "?#":
        raise ValueError("must not have a query or a fragment: end it with /v1, or what stands for it")
    if parts.path.rstrip("/").endswith("/completions"):
        raise ValueError("must end before /chat/completions, as in http://host:8000/v1")
    return value


def _header_value(value: SecretStr | None) -> SecretStr | None:
    if value is not None and not re.fullmatch(r"[!-~]*", value.get_secret_value()):
        raise ValueError("must be of visible ASCII characters, without spaces and line ends: no header carries others")
    return value


class LlmServiceSettings(Group):
    llm_host: str = Field("127.0.0.1", description="Address that llm_service listens on.")
    llm_port: int = Field(50_051, ge=0, le=65_535, description="Port that llm_service listens on; 0: a free one.")
    llm_health_host: str = Field("127.0.0.1", description="Address of llm_service's health port.")
    llm_health_port: int | None = Field(
        None,
        ge=0,
        le=65_535,
        description="Port for probes, on which llm_service answers only grpc.health.v1, without TLS; empty: none.",
    )
    llm_plain_text: bool = Field(
        False,
        description="true lets llm_service listen beyond this machine without TLS: anyone who can reach the port can"
        " then use the model, and anyone on the way can read the traffic.",
    )
    llm_callers: str = Field(
        "api_service,worker_service",
        description="With TLS: names in certificates (DNS or URI) that may call llm_service, separated by commas; *:"
        " every certificate that the authority has signed.",
    )
    model_url: Annotated[str, AfterValidator(_model_url)] = Field(
        "",
        description="OpenAI-compatible server, up to and including /v1, as http://host:8000/v1; with basic"
        " authentication http://user:password@host:8000/v1. Empty, with `make run`: the embedded model.",
    )
    model_api_key: Annotated[SecretStr | None, AfterValidator(_header_value)] = Field(
        None, description="Bearer token for the model server, if it needs one."
    )
    model_names: str = Field(
        "",
        description="Models of the model server, separated by commas, the default first. For servers whose /models is"
        " missing or wrong. Empty: its /models.",
    )
    model_continues: Literal["auto", "yes", "no"] = Field(
        "auto",
        description="Whether the model server can continue a half-written answer, as after a worker has died. auto:"
        " vLLM and llama.cpp can, others cannot. yes: it knows `continue_final_message`, or does not need it.",
    )
    model_stream_options: Literal["auto", "no"] = Field(
        "auto",
        description="Whether to ask the model server to count tokens in its stream (`stream_options`). auto: unless it"
        " refuses the field. no: never.",
    )
    model_limit_field: Literal["auto", "max_tokens", "max_completion_tokens"] = Field(
        "auto",
        description="Name of the model server's field for the limit of tokens. auto: `max_tokens`, or"
        " `max_completion_tokens` if it asks for that.",
    )
    model_revision: str = Field(
        "",
        pattern=r"^[A-Za-z0-9._-]{0,64}$",
        description="Version of the models' weights. Change it when the weights change under the same name, so that old"
        " answers are neither reused nor continued. Empty: derived from what vLLM and llama.cpp report.",
    )
    max_generations: int = Field(
        2_000, ge=1, le=100_000, description="Most generations of one llm_service process at a time."
    )

    @property
    def names(self) -> tuple[str, ...]:
        """``model_names`` one by one."""
        return tuple(name for part in self.model_names.split(",") if (name := part.strip()))

    @model_validator(mode="after")
    def _one_authorization(self) -> Self:
        if self.model_api_key and urlsplit(self.model_url).username is not None:
            raise ValueError("ASKMESH_MODEL_URL: has a name and a password: set them or ASKMESH_MODEL_API_KEY")
        return self
