"""Every setting of askmesh, read from environment variables with the prefix ``ASKMESH_``.

The settings of one concern make a group; a service reads the groups it needs through ``load``.
They stand together here so that there is one place to read, and so that each process can refuse a
name that no group knows: a misspelt setting stops the start instead of being ignored.
``python -m foundation.settings`` prints them as the table in docs/settings.md.
"""

import os
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Annotated, Literal, Self, TypeVar
from urllib.parse import urlsplit

from pydantic import AfterValidator, Field, SecretStr, ValidationError, model_validator
from pydantic.fields import FieldInfo
from pydantic_settings import BaseSettings, SettingsConfigDict

from foundation.postgresql.url import parse_postgresql_url
from foundation.settings.secret_urls import weakness
from foundation.settings.store_urls import check_broker_url, check_redis_url

PREFIX = "ASKMESH_"
SECRETS = Path("/run/secrets")
_USER_IN_URL = re.compile(r"://[^/\s]*@")
_ORIGIN = re.compile(r"https?://[a-z0-9.\-\[\]:]+")
G = TypeVar("G", bound="Group")


class SettingsError(Exception):
    """The environment does not make a valid configuration. The message names each setting and the remedy."""


def _url(check: Callable[[str], object]) -> AfterValidator:
    """``check`` raises ValueError."""

    def validate(value: SecretStr) -> SecretStr:
        check(value.get_secret_value())
        return value

    return AfterValidator(validate)


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


def _never_or_a_day(days: float) -> float:
    if 0 < days < 1:
        raise ValueError("must be 0 (never) or at least 1: an idempotency key is kept for 24 h with its question")
    return days


class Group(BaseSettings):
    """Base of all groups: the prefix, strictness, and no surprise from a stray .env file.

    What the environment does not give, a file in /run/secrets may, as /run/secrets/askmesh_database_url: where
    containers get their secrets, and from where they do not leak as easily as from the environment.
    """

    model_config = SettingsConfigDict(
        env_prefix=PREFIX,
        extra="ignore",
        frozen=True,
        env_ignore_empty=True,
        secrets_dir=SECRETS if SECRETS.is_dir() else None,
    )


class LogSettings(Group):
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = Field(
        "INFO", description="Least severe level that is logged."
    )


class SecretSettings(Group):
    allow_weak_secrets: bool = Field(
        False,
        description="true lets passwords pass that are missing, usual or shorter than 12 characters, in URLs of servers"
        " on other machines. For development.",
    )


LEASE_CONNECTIONS = 2
"""Connections of a worker to PostgreSQL beside its pool, for its lease."""


class DatabaseSettings(Group):
    """A URL can hold a password, so it is never printed; so also below."""

    database_url: Annotated[SecretStr, _url(parse_postgresql_url)] = Field(
        description="PostgreSQL, as postgresql://user:password@host:5432/name, with the parameters of"
        " docs/operations.md. `make run`, where empty: embedded."
    )
    database_pool_size: int = Field(
        10,
        ge=2,
        le=1000,
        description="Most connections to PostgreSQL that one process opens, a worker 2 more for its lease.",
    )


class RedisSettings(Group):
    redis_url: Annotated[SecretStr, _url(check_redis_url)] = Field(
        description="Redis or Valkey, as redis://host:6379/0. `make run`, where empty: embedded."
    )


class BrokerSettings(Group):
    broker_url: Annotated[SecretStr, _url(check_broker_url)] = Field(
        description="Celery's broker, as amqp://user:password@host:5672// or redis://host:6379/1."
        " `make run`, where empty: the embedded Valkey."
    )


class GenerationSettings(Group):
    """What every answer is generated with.

    api_service makes requests of them, which are stored and decide an answer's key: a change makes new answers. The
    model's name and the time limit count when an answer is generated.
    """

    model_name: str = Field(
        "",
        max_length=256,
        description="Model that answers, as the model server names it. Empty: the model server's first.",
    )
    system_prompt: str = Field(
        "You are a helpful assistant. Answer in one short sentence, in the language of the question.",
        max_length=100_000,
        description="Instructions that precede every question. An empty value: none, for models without a system role.",
    )
    temperature: float = Field(0.0, ge=0, le=2, description="0 takes the most probable token each time.")
    max_output_tokens: int = Field(512, ge=1, le=1_000_000, description="Most tokens of one answer.")
    max_generation_seconds: float = Field(
        300, gt=0, le=86_400, description="Most seconds that one answer may be generated for."
    )

    @model_validator(mode="before")
    @classmethod
    def _empty_system_prompt_is_none(cls, values: dict[str, object]) -> dict[str, object]:
        """Elsewhere an empty value counts as unset. Here it is one: some models have no system role."""
        if os.environ.get(f"{PREFIX}SYSTEM_PROMPT", "unset").strip():
            return values
        return {**values, "system_prompt": str(values.get("system_prompt", "")).strip()}


class QuestionSettings(Group):
    max_question_characters: int = Field(
        8_000, ge=1, le=1_000_000, description="Longest question_text, in Unicode code points."
    )
    max_wait_seconds: float = Field(
        600,
        gt=0,
        le=604_800,
        description="Seconds from asking after which a question without an answer ends as expired.",
    )
    answer_reuse_seconds: float = Field(
        86_400,
        ge=0,
        le=31_536_000,
        description="Seconds for which a finished answer is given to the same question again; 0: never.",
    )
    backlog_limit: int = Field(
        100_000, ge=1, le=100_000_000, description="Queued answers beyond which new questions are refused with 503."
    )
    retention_days: Annotated[float, AfterValidator(_never_or_a_day)] = Field(
        0, ge=0, le=36_500, description="Days after its end that a question is kept for; 0: workers remove none."
    )
    share_answers: bool = Field(
        False,
        description="Whether the same question of two tenants shares one answer. Each can then tell, by how fast the"
        " answer comes, that somebody asked it before.",
    )


def _names(value: str) -> frozenset[str]:
    return frozenset(name for part in value.split(",") if (name := part.strip().lower()))


class AccessSettings(Group):
    """Who may call api_service."""

    require_auth: bool = Field(
        False,
        description="Whether callers have to say who they are, by an API key or a token. Without it api_service listens"
        " on this machine's own addresses only. In containers: true.",
    )
    allowed_hosts: str = Field(
        "",
        description="Without authentication: names, with commas between, that this API is called by beside localhost,"
        " 127.0.0.1 and [::1]. Other values of `Host` are refused, because a web page can have its own name lead here.",
    )
    allowed_origins: str = Field(
        "",
        description="Web sites, as https://app.example.com with commas between, whose pages may call the API (CORS).",
    )
    jwt_issuer: str = Field("", description="OIDC issuer whose tokens are taken, exactly as their `iss` says it.")
    jwt_audience: str = Field("", description="What `aud` has to name in a token.")
    jwt_jwks_url: str = Field(
        "",
        pattern=r"^(https?://\S+)?$",
        description="Where the issuer publishes its keys. Over http: only in a network that nobody else can write to.",
    )
    jwt_tenant_claim: str = Field(
        "sub", min_length=1, description="Claim that names the tenant. A claim within another: with a dot, as org.id."
    )
    jwt_role_claim: str = Field(
        "",
        description="Claim that holds `user` or `operator`, or a list with one of them, as realm_access.roles; tokens"
        " without either are refused. Empty: everybody is a user.",
    )
    jwt_token_type: Literal["access", "at+jwt", "any"] = Field(
        "access",
        description="Which tokens are taken. `access`: those that do not say that they are something else, such as ID"
        " tokens; `at+jwt`: those only whose `typ` says so (RFC 9068); `any`: ID tokens too, for issuers that have no"
        " others, as Google.",
    )
    jwt_clients: str = Field(
        "",
        description="Clients of the issuer, with commas between, whose tokens are taken, as `azp`, `client_id`, `cid`"
        " or `appid` names them. Empty: all.",
    )
    jwt_scope: str = Field(
        "",
        description="What `scope` or `scp` of a token must hold, with spaces between if several. Empty: nothing.",
    )
    jwt_leeway_seconds: float = Field(
        30, ge=0, le=300, description="By how much the issuer's clock and this one may differ."
    )

    @property
    def hosts(self) -> frozenset[str]:
        """``allowed_hosts`` one by one."""
        return _names(self.allowed_hosts)

    @property
    def origins(self) -> frozenset[str]:
        """``allowed_origins`` one by one."""
        return _names(self.allowed_origins)

    @property
    def clients(self) -> frozenset[str]:
        """``jwt_clients`` one by one."""
        return frozenset(name for part in self.jwt_clients.split(",") if (name := part.strip()))

    @property
    def takes_tokens(self) -> bool:
        """Whether there is an issuer."""
        return bool(self.jwt_issuer)

    @model_validator(mode="after")
    def _is_whole(self) -> Self:
        for origin in self.origins:
            if not _ORIGIN.fullmatch(origin):
                raise ValueError(f"ASKMESH_ALLOWED_ORIGINS: {origin} is none, write https://app.example.com")
        given = [bool(value) for value in (self.jwt_issuer, self.jwt_audience, self.jwt_jwks_url)]
        if any(given) and not all(given):
            raise ValueError("ASKMESH_JWT_ISSUER, ASKMESH_JWT_AUDIENCE and ASKMESH_JWT_JWKS_URL: set all three or none")
        if self.takes_tokens and not self.require_auth:
            raise ValueError("ASKMESH_REQUIRE_AUTH: must be true for tokens of ASKMESH_JWT_ISSUER to matter")
        return self


class LimitSettings(Group):
    """What one owner may take, unless its API key says otherwise. 0: no limit. docs/limits.md explains each."""

    limit_requests_per_minute: int = Field(
        0, ge=0, le=1_000_000_000, description="Questions that an owner may ask in a minute; 0: any number."
    )
    limit_tokens_per_minute: int = Field(
        0, ge=0, le=1_000_000_000_000, description="Tokens that an owner's answers may take in a minute; 0: any number."
    )
    limit_concurrent_questions: int = Field(
        0, ge=0, le=1_000_000, description="Answers of an owner that wait or are being written; 0: any number."
    )
    limit_queued_questions: int = Field(
        0, ge=0, le=1_000_000, description="Answers of an owner that wait for a worker; 0: any number."
    )
    limit_streams: int = Field(
        0,
        ge=0,
        le=1_000_000,
        description="Streams and waits that an owner holds at one api_service process; 0: any number.",
    )
    budget_tokens_per_day: int = Field(
        0, ge=0, le=10**15, description="Tokens that an owner's answers may take on a day, in UTC; 0: any number."
    )
    budget_tokens_per_month: int = Field(
        0, ge=0, le=10**15, description="Tokens that an owner's answers may take in a month, in UTC; 0: any number."
    )


class ApiSettings(Group):
    api_host: str = Field(
        "127.0.0.1",
        description="Address that api_service listens on; one of the network takes ASKMESH_REQUIRE_AUTH=true.",
    )
    api_port: int = Field(8000, ge=0, le=65_535, description="Port that api_service listens on; 0 takes a free one.")
    api_listen_fd: int | None = Field(
        None, ge=3, description="Listening socket inherited from the supervisor, instead of host and port."
    )
    max_connections: int = Field(
        8_192, ge=16, le=1_000_000, description="Most connections that one api_service process holds at a time."
    )
    max_body_bytes: int = Field(65_536, ge=1_024, le=16_777_216, description="Largest request body, in bytes.")


class GrpcTlsSettings(Group):
    """Mutual TLS between llm_service and its callers: each has a certificate, and asks for the other's."""

    grpc_certificate_file: Path | None = Field(
        None,
        description="This process's certificate for gRPC, as PEM, and those that lead to the authority after it."
        " Switches mutual TLS on, together with the two files below; each is read again when it changes.",
    )
    grpc_key_file: Path | None = Field(None, description="The certificate's private key, as PEM without a password.")
    grpc_authority_file: Path | None = Field(
        None, description="Certificates of those who may have signed the other side's, as PEM."
    )

    @model_validator(mode="after")
    def _all_or_none(self) -> Self:
        files = (self.grpc_certificate_file, self.grpc_key_file, self.grpc_authority_file)
        if any(files) and not all(files):
            raise ValueError(
                "set ASKMESH_GRPC_CERTIFICATE_FILE, ASKMESH_GRPC_KEY_FILE and ASKMESH_GRPC_AUTHORITY_FILE, or none"
            )
        return self

    @property
    def files(self) -> tuple[Path, Path, Path] | None:
        """Authority, certificate and key; None without TLS."""
        if self.grpc_authority_file and self.grpc_certificate_file and self.grpc_key_file:
            return self.grpc_authority_file, self.grpc_certificate_file, self.grpc_key_file
        return None


class LlmClientSettings(Group):
    """How a service reaches llm_service."""

    llm_targets: str = Field(
        "127.0.0.1:50051",
        min_length=1,
        description="Where llm_service is: host:port, or several with commas between, used in turn.",
    )
    llm_server_name: str = Field(
        "",
        description="Name that llm_service's certificate bears, where it is not the host in ASKMESH_LLM_TARGETS."
        " Needed with TLS and several targets.",
    )


class LlmServiceSettings(Group):
    llm_host: str = Field("127.0.0.1", description="Address that llm_service listens on.")
    llm_port: int = Field(50_051, ge=0, le=65_535, description="Port that llm_service listens on; 0 takes a free one.")
    llm_health_host: str = Field("127.0.0.1", description="Address that llm_service's health port is on.")
    llm_health_port: int | None = Field(
        None,
        ge=0,
        le=65_535,
        description="Port on which llm_service answers grpc.health.v1 alone, in plain text also with TLS, for probes;"
        " none where empty.",
    )
    llm_plain_text: bool = Field(
        False,
        description="true lets llm_service listen beyond this machine without TLS: anyone who reaches the port may then"
        " ask the model, and anyone between reads along.",
    )
    llm_callers: str = Field(
        "api_service,worker_service",
        description="With TLS, names in certificates (DNS or URI) that may call llm_service, with commas between; *:"
        " every certificate that the authority has signed.",
    )
    model_url: Annotated[str, AfterValidator(_model_url)] = Field(
        "",
        description="OpenAI-compatible server, up to and including /v1, as http://host:8000/v1; with basic"
        " authentication http://user:password@host:8000/v1. `make run`, where empty: the embedded model.",
    )
    model_api_key: Annotated[SecretStr | None, AfterValidator(_header_value)] = Field(
        None, description="Bearer token for the model server, where it wants one."
    )
    model_names: str = Field(
        "",
        description="Models that the model server serves, with commas between, the first the default. Empty: its"
        " /models is asked. For servers that have no such list, or a wrong one.",
    )
    model_continues: Literal["auto", "yes", "no"] = Field(
        "auto",
        description="Whether the model server can go on from the beginning of an answer, as after a worker has died."
        " auto: vLLM and llama.cpp are asked, others cannot. yes: it knows `continue_final_message`, or needs none.",
    )
    model_stream_options: Literal["auto", "no"] = Field(
        "auto",
        description="Whether the model server is asked to count tokens in its stream (`stream_options`). auto: unless"
        " it refuses the field. no: never.",
    )
    model_limit_field: Literal["auto", "max_tokens", "max_completion_tokens"] = Field(
        "auto",
        description="What the model server calls the limit of tokens. auto: `max_tokens`, or `max_completion_tokens`"
        " where it asks for that.",
    )
    model_revision: str = Field(
        "",
        pattern=r"^[A-Za-z0-9._-]{0,64}$",
        description="Version of the models' weights: change it when they change behind a name, so that answers of the"
        " former are neither reused nor gone on with. Empty: told by what vLLM and llama.cpp say of their models.",
    )
    max_generations: int = Field(
        2_000, ge=1, le=100_000, description="Most generations that one llm_service process holds at a time."
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


class WorkerSettings(Group):
    worker_slots: int = Field(
        512, ge=1, le=10_000, description="Questions that one worker process holds in flight at a time."
    )
    reserved_slots: int | None = Field(
        None,
        ge=0,
        le=9_999,
        description="Of these, how many one owner alone cannot have where there are several; empty: an eighth, rounded"
        " up. 0: one may have all.",
    )
    lease_seconds: float = Field(
        15, ge=6, le=3_600, description="A worker that was silent for so long has lost its questions to the others."
    )
    heartbeat_seconds: float = Field(5, ge=0.1, le=1_000, description="How often a worker renews its lease.")
    worker_health_host: str = Field("127.0.0.1", description="Address that worker_service's health port is on.")
    worker_health_port: int | None = Field(
        None, ge=1, le=65_535, description="Port on which worker_service answers grpc.health.v1; none where empty."
    )

    @model_validator(mode="after")
    def _heartbeat_is_shorter_than_lease(self) -> Self:
        if self.heartbeat_seconds * 2 + 3 > self.lease_seconds:
            raise ValueError("ASKMESH_LEASE_SECONDS must be at least 2 x ASKMESH_HEARTBEAT_SECONDS + 3")
        return self

    @model_validator(mode="after")
    def _reserve_is_a_part(self) -> Self:
        if self.reserved_slots is not None and self.reserved_slots >= self.worker_slots:
            raise ValueError("ASKMESH_RESERVED_SLOTS must be below ASKMESH_WORKER_SLOTS")
        return self


class ProcessSettings(Group):
    drain_seconds: float = Field(
        30,
        ge=0,
        le=3_600,
        description="Seconds that a process told to stop gives to the work it holds. `make run`: 5.",
    )


class EmbeddedSettings(Group):
    """Read by `make run` only."""

    port: int = Field(8080, ge=0, le=65_535, description="Public port of the API; 0 takes a free one.")
    grpc_port: int = Field(
        50_051,
        ge=0,
        le=65_535,
        description="Port of the first llm_service; further replicas take the ports after it. 0 takes free ones.",
    )
    data_dir: Path = Field(Path(".askmesh"), description="Where the embedded servers keep their data and logs.")
    api_replicas: int = Field(1, ge=1, le=64, description="Processes of api_service.")
    worker_replicas: int = Field(1, ge=1, le=64, description="Processes of worker_service.")
    llm_replicas: int = Field(1, ge=1, le=64, description="Processes of llm_service.")


GROUPS: tuple[type[Group], ...] = (
    EmbeddedSettings,
    DatabaseSettings,
    RedisSettings,
    BrokerSettings,
    GrpcTlsSettings,
    LlmServiceSettings,
    GenerationSettings,
    QuestionSettings,
    AccessSettings,
    LimitSettings,
    ApiSettings,
    LlmClientSettings,
    WorkerSettings,
    ProcessSettings,
    LogSettings,
    SecretSettings,
)


def described() -> Iterator[tuple[str, FieldInfo]]:
    """Each setting's environment variable and its field, group by group."""
    for group in GROUPS:
        for name, field in group.model_fields.items():
            yield PREFIX + name.upper(), field


def refuse_unknown(environment: Mapping[str, str] = os.environ) -> None:
    """Raise SettingsError if a variable with the prefix belongs to no setting."""
    known = {name for name, _ in described()}
    unknown = sorted(name for name in environment if name.upper().startswith(PREFIX) and name not in known)
    if unknown:
        raise SettingsError(f"unknown setting {', '.join(unknown)}: see docs/settings.md for the names, or unset it")


def load(group: type[G]) -> G:
    """Read one group from the environment.

    Raises SettingsError, which names each wrong setting, what is wrong with it, and never its value.
    """
    refuse_unknown()
    try:
        settings = group()
        if not SecretSettings().allow_weak_secrets:
            _refuse_weak(settings)
    except ValidationError as error:
        raise SettingsError("; ".join(_problem(problem) for problem in error.errors())) from None
    return settings


def _refuse_weak(settings: Group) -> None:
    for name, value in settings:
        if isinstance(value, SecretStr) and (problem := weakness(value.get_secret_value())):
            raise SettingsError(
                f"{PREFIX}{name.upper()}: {problem}: set another one, for example from `openssl rand -hex 24`, in the"
                f" server too, or {PREFIX}ALLOW_WEAK_SECRETS=true in development"
            )


def effective() -> Iterator[tuple[str, str]]:
    """Each setting's environment variable and its value now, or why it has none; secrets as ``***``.

    Raises SettingsError for an unknown name.
    """
    refuse_unknown()
    for group in GROUPS:
        try:
            values = dict(load(group))
        except SettingsError as error:
            problem = str(error)
            variables = [PREFIX + name.upper() for name in group.model_fields]
            named = re.findall(rf"{PREFIX}\w+", problem)
            wrong = [variable for variable in variables if variable in named] or variables
            for variable in variables:
                others = f"(not read while {', '.join(wrong)} is not valid)"
                yield variable, f"(not valid: {problem})" if variable in wrong else others
            continue
        for name, value in values.items():
            shown = "***" if isinstance(value, SecretStr) else "" if value is None else str(value)
            yield PREFIX + name.upper(), _USER_IN_URL.sub("://***@", shown)


def _problem(problem: Mapping[str, object]) -> str:
    location = problem["loc"]
    assert isinstance(location, tuple)
    if problem["type"] == "missing":
        message = "is required; see docs/settings.md"
    else:
        message = str(problem["msg"]).removeprefix("Value error, ")
    return f"{PREFIX}{str(location[0]).upper()}: {message}" if location else message


def as_markdown() -> str:
    """The settings as the table in docs/settings.md."""
    rows = ["| setting | default | meaning |", "| --- | --- | --- |"]
    for name, field in described():
        default = "required" if field.is_required() else f"`{field.default}`" if field.default not in (None, "") else ""
        rows.append(f"| `{name}` | {default} | {field.description} |")
    return "\n".join(rows)
