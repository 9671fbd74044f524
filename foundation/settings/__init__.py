"""Every setting of askmesh, read from environment variables with the prefix ``ASKMESH_``.

The settings of one concern make a group, in a file of its own; a service reads the groups it needs through ``load``.
One table is made of all groups, so that each process can refuse a name that no group knows: a misspelt setting stops
the start instead of being ignored. ``python -m foundation.settings`` prints that table as docs/settings.md holds it.
"""

from foundation.settings.access import AccessSettings
from foundation.settings.api import ApiSettings
from foundation.settings.base import PREFIX, SECRETS, Group, SettingsError
from foundation.settings.embedded import EmbeddedSettings
from foundation.settings.generation import GenerationSettings
from foundation.settings.grpc import GrpcTlsSettings, LlmClientSettings
from foundation.settings.limits import LimitSettings
from foundation.settings.llm_service import LlmServiceSettings
from foundation.settings.process import LogSettings, ProcessSettings, SecretSettings
from foundation.settings.questions import QuestionSettings
from foundation.settings.stores import LEASE_CONNECTIONS, BrokerSettings, DatabaseSettings, RedisSettings
from foundation.settings.table import GROUPS, as_markdown, described, effective, load, refuse_unknown
from foundation.settings.worker import WorkerSettings

__all__ = [
    "GROUPS",
    "LEASE_CONNECTIONS",
    "PREFIX",
    "SECRETS",
    "AccessSettings",
    "ApiSettings",
    "BrokerSettings",
    "DatabaseSettings",
    "EmbeddedSettings",
    "GenerationSettings",
    "Group",
    "GrpcTlsSettings",
    "LimitSettings",
    "LlmClientSettings",
    "LlmServiceSettings",
    "LogSettings",
    "ProcessSettings",
    "QuestionSettings",
    "RedisSettings",
    "SecretSettings",
    "SettingsError",
    "WorkerSettings",
    "as_markdown",
    "described",
    "effective",
    "load",
    "refuse_unknown",
]
