"""Which caller a token of the OIDC issuer stands for."""

import hashlib
import logging
import time
from collections.abc import Mapping
from typing import Any, Final

import jwt

from api_service.authentication.issuer_keys import ALGORITHMS, IssuerKeys
from api_service.core.principal import Principal
from api_service.http.problems import Code, ProblemError
from foundation.settings import AccessSettings
from owners.api_keys import TENANT
from owners.roles import Role

logger = logging.getLogger(__name__)

_CHALLENGE: Final = 'Bearer realm="askmesh"'
_MOST_CHARACTERS: Final = 8_192
_KEPT: Final = 10_000
_KEPT_SECONDS: Final = 60.0
"""A token that was good is not looked at again for so long; so a key that the issuer withdraws counts no longer."""


_ACCESS_TYPES: Final = frozenset({"at+jwt", "application/at+jwt"})
_GENERAL_TYPES: Final = frozenset({"", "jwt", "application/jwt"})
_SAYS_ITS_KIND: Final = ("typ", "token_use", "tty")
"""Claims that say what a token is, where its header says no more than JWT: Keycloak's, Cognito's, FusionAuth's."""
_OTHER_KINDS: Final = frozenset({"id", "refresh", "offline", "logout", "initial", "registration"})
_OF_ID_TOKENS: Final = ("at_hash", "c_hash", "s_hash")
"""Claims that only ID tokens have: OpenID Connect Core, 3.1.3.6 and 3.3.2.11. Not `nonce`, which Keycloak before 25 put
into access tokens as well."""
_OF_EVENTS: Final = "events"
"""Only a logout token or another security event has it: RFC 8417."""
_CLIENT_CLAIMS: Final = ("azp", "client_id", "cid", "appid")
"""Who a token was issued to: OpenID Connect, RFC 9068, Okta, Entra ID."""
_SCOPE_CLAIMS: Final = ("scope", "scp")
"""RFC 8693 and 9068; Okta and Entra ID."""


class TokenVerifier:
    """Checks signature, issuer, audience, times and kind of a token, and reads tenant and role out of its claims."""

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
            claims = jwt.decode(
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
        if not _is_of_type(self._settings.jwt_token_type, header, claims):
            raise _not_an_access_token(self._settings.jwt_token_type)
        return claims

    def _read(self, claims: Mapping[str, Any]) -> Principal:
        clients = self._settings.clients
        client = next((claims[name] for name in _CLIENT_CLAIMS if name in claims), None)
        if clients and (not isinstance(client, str) or client not in clients):
            detail = "The token is valid, but ASKMESH_JWT_CLIENTS does not name the client that it was issued to."
            raise ProblemError(Code.FORBIDDEN, detail)
        wanted = set(self._settings.jwt_scope.split())
        if wanted and not wanted <= _scopes(claims):
            raise ProblemError(
                Code.FORBIDDEN,
                f"The token is valid, but its scope lacks {' '.join(sorted(wanted))}: ask the issuer for it.",
                headers={"WWW-Authenticate": f'{_CHALLENGE}, error="insufficient_scope"'},
            )
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


def _is_of_type(wanted: str, header: Mapping[str, Any], claims: Mapping[str, Any]) -> bool:
    """Whether a token is of the type that the settings want, as far as it says what it is."""
    if wanted == "any":
        return True
    stated = header.get("typ", "")
    stated = stated.lower() if isinstance(stated, str) else None
    if stated in _ACCESS_TYPES:
        return True
    # Any other type is explicitly one of something else: RFC 8725, section 3.11.
    if wanted == "at+jwt" or stated not in _GENERAL_TYPES:
        return False
    kinds = {str(claims.get(name, "")).lower() for name in _SAYS_ITS_KIND}
    return not kinds & _OTHER_KINDS and not any(name in claims for name in (*_OF_ID_TOKENS, _OF_EVENTS))


def _scopes(claims: Mapping[str, Any]) -> set[str]:
    held: set[str] = set()
    for name in _SCOPE_CLAIMS:
        value = claims.get(name)
        words = value.split() if isinstance(value, str) else value
        held |= {word for word in words if isinstance(word, str)} if isinstance(words, list) else set()
    return held


def _not_an_access_token(wanted: str) -> ProblemError:
    said = (
        "does not say that it is an access token"
        if wanted == "at+jwt"
        else "is not an access token but, for example, an ID token"
    )
    detail = f"The token is valid, but {said}: send the access token that the issuer gives with it."
    headers = {"WWW-Authenticate": f'{_CHALLENGE}, error="invalid_token"'}
    return ProblemError(Code.UNAUTHENTICATED, detail, headers=headers)


def _claim(claims: Mapping[str, Any], name: str) -> object:
    """The claim of this very name (which can be a URL), else the one that its dots lead to."""
    if name in claims:
        return claims[name]
    value: object = claims
    for part in name.split("."):
        value = value.get(part) if isinstance(value, dict) else None
    return value


def _lacking(claim: str, wanted: str) -> ProblemError:
    detail = f"The token is valid, but its claim {claim} is not {wanted}: the issuer must set it."
    return ProblemError(Code.FORBIDDEN, detail)
