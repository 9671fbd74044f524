"""What all groups of settings have in common."""

from pathlib import Path

from pydantic_settings import BaseSettings, SettingsConfigDict

PREFIX = "ASKMESH_"
SECRETS = Path("/run/secrets")


class SettingsError(Exception):
    """The environment does not make a valid configuration. The message names each setting and the remedy."""


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
