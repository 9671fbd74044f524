"""Who may call api_service."""

import re
from typing import Literal, Self

from pydantic import Field, model_validator

from foundation.settings.base import Group

_ORIGIN = re.compile(r"https?://[a-z0-9.\-\[\]:]+")


class AccessSettings(Group):
    """Who may call api_service."""

    require_auth: bool = Field(
        False,
        description="Whether callers need an API key or a token. If not, api_service listens on this machine's own"
        " addresses only. In containers: true.",
    )
    allowed_hosts: str = Field(
        "",
        description="Without authentication: further host names of this API, separated by commas, besides localhost,"
        " 127.0.0.1 and [::1]. Other values of `Host` are refused, because a web page can point its own name here.",
    )
    allowed_origins: str = Field(
        "",
        description="Web sites whose pages may call the API (CORS), as https://app.example.com, separated by commas.",
    )
    jwt_issuer: str = Field("", description="OIDC issuer whose tokens are accepted, exactly as in their `iss`.")
    jwt_audience: str = Field("", description="Value that `aud` of a token must contain.")
    jwt_jwks_url: str = Field(
        "",
        pattern=r"^(https?://\S+)?$",
        description="Where the issuer publishes its keys. Use http only in a network that nobody else can write to.",
    )
    jwt_tenant_claim: str = Field(
        "sub", min_length=1, description="Claim that names the tenant. Write a nested claim with a dot, as org.id."
    )
    jwt_role_claim: str = Field(
        "",
        description="Claim that contains `user` or `operator`, or a list with one of them, as realm_access.roles;"
        " tokens without either are refused. Empty: every caller is a user.",
    )
    jwt_token_type: Literal["access", "at+jwt", "any"] = Field(
        "access",
        description="Accepted kinds of tokens. `access`: all that are not marked as something else, such as ID tokens;"
        " `at+jwt`: only those with this `typ` (RFC 9068); `any`: ID tokens too, for issuers such as Google that issue"
        " no others.",
    )
    jwt_clients: str = Field(
        "",
        description="Clients of the issuer whose tokens are accepted, separated by commas, as in `azp`, `client_id`,"
        " `cid` or `appid`. Empty: all.",
    )
    jwt_scope: str = Field(
        "",
        description="Values that `scope` or `scp` of a token must contain, separated by spaces. Empty: none.",
    )
    jwt_leeway_seconds: float = Field(
        30, ge=0, le=300, description="Allowed difference between the issuer's clock and this one."
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


def _names(value: str) -> frozenset[str]:
    return frozenset(name for part in value.split(",") if (name := part.strip().lower()))
