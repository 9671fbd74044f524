"""All settings in one table: which names there are, what they mean, and what they are now."""

import os
import re
from collections.abc import Iterator, Mapping
from typing import TypeVar

from pydantic import SecretStr, ValidationError
from pydantic.fields import FieldInfo

from foundation.settings.access import AccessSettings
from foundation.settings.api import ApiSettings
from foundation.settings.base import PREFIX, Group, SettingsError
from foundation.settings.embedded import EmbeddedSettings
from foundation.settings.generation import GenerationSettings
from foundation.settings.grpc import GrpcTlsSettings, LlmClientSettings
from foundation.settings.limits import LimitSettings
from foundation.settings.llm_service import LlmServiceSettings
from foundation.settings.process import LogSettings, ProcessSettings, SecretSettings
from foundation.settings.questions import QuestionSettings
from foundation.settings.secret_urls import weakness
from foundation.settings.stores import BrokerSettings, DatabaseSettings, RedisSettings
from foundation.settings.worker import WorkerSettings

_USER_IN_URL = re.compile(r"://[^/\s]*@")
G = TypeVar("G", bound="Group")
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
