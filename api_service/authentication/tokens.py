"""Which caller a token of the OIDC issuer stands for."""

import hashlib
import logging
import time
from collections.abc import Mapping
from typing import Any, Final

import jwt

from api_service.authentication.issuer_keys import ALGORITHMS, IssuerKeys
from api_service.authentication.principal import Principal
from api_service.problems import Code, ProblemError
from foundation.settings import AccessSettings
from questions.api_keys import TENANT
from questions.roles import Role

logger = logging.getLogger(__name__)

_MOST_CHARACTERS: Final = 8_192
_KEPT: Final = 10_000
_KEPT_SECONDS: Final = 60.0
"""A token that was good is not looked at again for so long; so a key that the issuer withdraws counts no longer."""


class Tokens:
    """Checks signature, issuer, audience and times of a token, and reads tenant and role out of its claims."""

    def __init__(self, settings: AccessSettings, keys: IssuerKeys) -> None:
        self._settings = settings
        self._keys = keys
        self._good: dict[bytes, tuple[Principal, float]] = {}

    async def principal(self, token: str) -> Principal | None:
        """Who calls with this token; None if it is not good. Raises ProblemError.

        Without the issuer's keys, and for a caller that the claims give no tenant or role.
        """
        if len(token) > _MOST_CHARACTERS:
            return None
        digest = hashlib.sha256(token.encode()).digest()
        now = time.monotonic()
        good = self._good.get(digest)
        if good is not None and now < good[1]:
            return good[0]
        claims = await self._claims(token)
        if claims is None:
            return None
        principal = self._read(claims)
        seconds_left = int(claims["exp"]) + self._settings.jwt_leeway_seconds - time.time()
        self._good.pop(digest, None)
        self._good[digest] = (principal, now + min(_KEPT_SECONDS, seconds_left))
        if len(self._good) > _KEPT:
            del self._good[next(iter(self._good))]
        return principal

    async def _claims(self, token: str) -> Mapping[str, Any] | None:
        try:
            header = jwt.get_unverified_header(token)
            # Which keys there are decides; what the token says of itself only chooses among them. A key is for one
            # algorithm, so that none can be mistaken for an HMAC's secret.
            if header.get("alg") not in ALGORITHMS:
                return None
            key = await self._keys.find(header.get("kid"))
            if key is None:
                return None
            return jwt.decode(
                token,
                key,
                algorithms=[key.algorithm_name],
                audience=self._settings.jwt_audience,
                issuer=self._settings.jwt_issuer,
                leeway=self._settings.jwt_leeway_seconds,
                options={"require": ["exp", "iss", "aud"]},
            )
        except (jwt.PyJWTError, ValueError) as error:
            logger.debug("a token was refused: %s", type(error).__name__)
            return None

    def _read(self, claims: Mapping[str, Any]) -> Principal:
        tenant = _claim(claims, self._settings.jwt_tenant_claim)
        if not isinstance(tenant, str) or not TENANT.fullmatch(tenant):
            raise _lacking(self._settings.jwt_tenant_claim, "1 to 255 visible ASCII characters")
        return Principal(tenant, self._role(claims))

    def _role(self, claims: Mapping[str, Any]) -> Role:
        name = self._settings.jwt_role_claim
        if not name:
            return Role.USER
        held = _claim(claims, name)
        roles = held if isinstance(held, list) else [held]
        for role in (Role.OPERATOR, Role.USER):
            if role in roles:
                return role
        raise _lacking(name, "user or operator")


def _claim(claims: Mapping[str, Any], name: str) -> object:
    """The claim of this very name (which can be a URL), else the one that its dots lead to."""
    if name in claims:
        return claims[name]
    value: object = claims
    for part in name.split("."):
        value = value.get(part) if isinstance(value, dict) else None
    return value


def _lacking(claim: str, wanted: str) -> ProblemError:
    detail = f"The token is good, but its claim {claim} does not say {wanted}: the issuer has to put it in."
    return ProblemError(Code.FORBIDDEN, detail)
