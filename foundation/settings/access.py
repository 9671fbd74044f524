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


def _names(value: str) -> frozenset[str]:
    return frozenset(name for part in value.split(",") if (name := part.strip().lower()))
