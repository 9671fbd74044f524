"""The keys that the OIDC issuer signs with (JWKS), fetched in the background and kept while it is away."""

import asyncio
import logging
from http import HTTPStatus
from typing import Final

import aiohttp
import jwt
import orjson

from api_service.http.problems import ISSUER_UNAVAILABLE, Code, ProblemError

logger = logging.getLogger(__name__)

ALGORITHMS: Final = ("RS256", "ES256", "EdDSA")

_FRESH_SECONDS: Final = 300.0
_PAUSE_SECONDS: Final = 10.0
"""Between two fetches, whatever tokens say: a token with an unknown key id cannot make more."""
_FETCH_SECONDS: Final = 5.0
_MOST_BYTES: Final = 1_000_000


class IssuerKeys:
    """The issuer's public keys by their id. Once fetched, they stay until the issuer has others."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._keys: dict[str | None, jwt.PyJWK] | None = None
        self._next_fetch_at = 0.0
        self._turn = asyncio.Lock()
        self._reachable = True

    async def find(self, key_id: object) -> jwt.PyJWK | None:
        """The key with this id, or the only one for a token that names none. None: the issuer has no such key.

        Raises a ProblemError until keys were fetched for the first time.
        """
        if key_id is not None and not isinstance(key_id, str):
            return None
        if (key := self._get(key_id)) is None:
            await self._fetch_unless_recent()
            key = self._get(key_id)
        if self._keys is None:
            headers = {"Retry-After": f"{_PAUSE_SECONDS:.0f}"}
            raise ProblemError(Code.ISSUER_UNAVAILABLE, ISSUER_UNAVAILABLE, headers=headers)
        return key

    async def refresh(self) -> None:
        """Fetch every five minutes until cancelled, so that a key that is withdrawn counts no longer."""
        while True:
            await self._fetch_unless_recent()
            await asyncio.sleep(_FRESH_SECONDS if self._reachable else _PAUSE_SECONDS)

    def _get(self, key_id: str | None) -> jwt.PyJWK | None:
        if self._keys is None:
            return None
        if key_id is None and len(self._keys) == 1:
            return next(iter(self._keys.values()))
        return self._keys.get(key_id)

    async def _fetch_unless_recent(self) -> None:
        async with self._turn:
            now = asyncio.get_running_loop().time()
            if now < self._next_fetch_at:
                return
            self._next_fetch_at = now + _PAUSE_SECONDS
            try:
                self._keys = await self._fetch()
            except (aiohttp.ClientError, TimeoutError, ValueError, jwt.PyJWTError) as error:
                kept = "there are none yet" if self._keys is None else "those of before stay"
                logger.warning("no keys of the issuer at ASKMESH_JWT_JWKS_URL (%s): %s", _why(error), kept)
                self._reachable = False
            else:
                self._reachable = True

    async def _fetch(self) -> dict[str | None, jwt.PyJWK]:
        timeout = aiohttp.ClientTimeout(total=_FETCH_SECONDS)
        async with (
            aiohttp.ClientSession(timeout=timeout, trust_env=True) as session,
            # A redirect could lead to plain text, or to a server inside: whoever may redirect would choose the keys.
            session.get(self._url, headers={"Accept": "application/json"}, allow_redirects=False) as response,
        ):
            if response.status != HTTPStatus.OK:
                raise _UnexpectedStatusError(response.status)
            body = bytearray()
            async for piece in response.content.iter_any():
                body += piece
                if len(body) > _MOST_BYTES:
                    raise ValueError("the key set is too large")
        keys = orjson.loads(body)
        if not isinstance(keys, dict):
            raise ValueError("the key set is no object")  # noqa: TRY004 - it is what came that is wrong
        usable = [key for key in jwt.PyJWKSet.from_dict(keys) if _is_usable(key)]
        if not usable:
            raise ValueError("the key set has no usable key")
        return {key.key_id: key for key in usable}


class _UnexpectedStatusError(ValueError):
    def __init__(self, status: int) -> None:
        redirect = HTTPStatus.MULTIPLE_CHOICES <= status < HTTPStatus.BAD_REQUEST
        remedy = ", which is not followed: set the URL that it leads to" if redirect else ""
        super().__init__(f"it answers {status}{remedy}")


def _why(error: Exception) -> str:
    # What is said of a connection names its URL, which can hold a password.
    match error:
        case aiohttp.ClientError() | TimeoutError():
            return type(error).__name__
    return str(error)


def _is_usable(key: jwt.PyJWK) -> bool:
    return key.algorithm_name in ALGORITHMS and key.public_key_use in (None, "sig")
