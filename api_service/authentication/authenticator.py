"""Who calls, by what a request brings."""

from typing import Protocol

from starlette.datastructures import Headers

from api_service.core.principal import Principal
from api_service.http.problems import Code, ProblemError
from owners.api_keys import PREFIX

_REMEDY = "Send an API key as `Authorization: Bearer askmesh_…` or `X-API-Key: askmesh_…`"


class Credentials(Protocol):
    """Knows callers by what they bring: API keys, or tokens."""

    async def principal(self, credential: str, /) -> Principal | None:
        """Who calls with this; None if it is not good. Raises ProblemError."""
        ...


class Authenticator:
    """Takes an API key, or a token where there is an issuer."""

    def __init__(self, keys: Credentials, tokens: Credentials | None) -> None:
        self._keys = keys
        self._tokens = tokens
        self._remedy = f"{_REMEDY}{', or a token of your issuer as `Authorization: Bearer`' if tokens else ''}."
        self._no_key = f"X-API-Key must be an API key, which begins with {PREFIX}."
        if tokens:
            self._no_key += " Send a token of your issuer as `Authorization: Bearer`."

    async def principal(self, headers: Headers) -> Principal:
        """Who calls. Raises ProblemError."""
        credential = self._credential(headers)
        if credential.startswith(PREFIX):
            principal = await self._keys.principal(credential)
        elif self._tokens is not None:
            principal = await self._tokens.principal(credential)
        else:
            principal = None
        if principal is None:
            # The same words for whatever is wrong with it: who guesses learns nothing.
            said = "This key or token is not known, has expired or was revoked."
            raise _unauthenticated(said, 'Bearer realm="askmesh", error="invalid_token"')
        return principal

    def _credential(self, headers: Headers) -> str:
        bearers, keys = headers.getlist("authorization"), headers.getlist("x-api-key")
        if len(bearers) + len(keys) > 1:
            raise _unauthenticated("The request has more than one key: send one.", 'Bearer realm="askmesh"')
        if keys:
            key = keys[0].strip()
            if not key.startswith(PREFIX):
                raise _unauthenticated(self._no_key, 'Bearer realm="askmesh"')
            return key
        if bearers:
            scheme, _, credential = bearers[0].partition(" ")
            if scheme.lower() == "bearer":
                return credential.strip()
        raise _unauthenticated(self._remedy, 'Bearer realm="askmesh"')


def _unauthenticated(detail: str, challenge: str) -> ProblemError:
    return ProblemError(Code.UNAUTHENTICATED, detail, headers={"WWW-Authenticate": challenge})
