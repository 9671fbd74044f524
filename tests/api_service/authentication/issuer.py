"""An OIDC issuer: a real HTTP server with its keys, and tokens that it signs."""

import asyncio
import json
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import jwt
from aiohttp import web
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

ISSUER = "https://login.example.com/"
AUDIENCE = "askmesh"

SIGNERS: dict[str, Any] = {
    "RS256": rsa.generate_private_key(public_exponent=65537, key_size=2048),
    "ES256": ec.generate_private_key(ec.SECP256R1()),
    "EdDSA": ed25519.Ed25519PrivateKey.generate(),
}


def claims(**changed: Any) -> dict[str, Any]:
    """What a good token says; None leaves a claim out."""
    now = int(time.time())
    good = {"iss": ISSUER, "aud": AUDIENCE, "sub": "alice", "iat": now, "exp": now + 300}
    return {name: value for name, value in (good | changed).items() if value is not None}


def token(
    algorithm: str = "RS256",
    *,
    key_id: str | None = "",
    signer: Any = None,
    header: dict[str, Any] | None = None,
    **changed: Any,
) -> str:
    """A token with the key of this algorithm; ``header``: what its head has beside."""
    headers: dict[str, Any] = dict(header or {})
    if key_id is not None:
        headers["kid"] = key_id or algorithm
    return jwt.encode(claims(**changed), signer or SIGNERS[algorithm], algorithm, headers)


def public(algorithm: str, key_id: str, signer: Any = None) -> dict[str, Any]:
    """The public half of a key, as a JWKS has it."""
    described = jwt.get_algorithm_by_name(algorithm).to_jwk((signer or SIGNERS[algorithm]).public_key(), as_dict=True)
    return {**described, "kid": key_id, "use": "sig"}


class Issuer:
    """``keys`` are what it publishes now; ``broken``: it answers with this instead; ``fetches`` counts.

    ``in_pieces``: it sends the halves of its answer one after the other, without saying how long it is.
    """

    def __init__(self) -> None:
        self.keys = [public(algorithm, algorithm) for algorithm in SIGNERS]
        self.broken: web.Response | None = None
        self.in_pieces = False
        self.fetches = 0
        self.url = ""

    async def answer(self, request: web.Request) -> web.StreamResponse:
        self.fetches += 1
        if self.in_pieces:
            return await self._send_in_pieces(request)
        return self.broken or web.json_response({"keys": self.keys})

    async def _send_in_pieces(self, request: web.Request) -> web.StreamResponse:
        body = json.dumps({"keys": self.keys}).encode()
        response = web.StreamResponse(headers={"Content-Type": "application/json"})
        await response.prepare(request)
        for piece in (body[:100], body[100:]):
            await response.write(piece)
            await asyncio.sleep(0.05)  # the first is read before the second is there
        return response


@asynccontextmanager
async def issuing() -> AsyncIterator[Issuer]:
    """An issuer on a free port."""
    issuer = Issuer()
    app = web.Application()
    app.router.add_get("/jwks", issuer.answer)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    host, port = runner.addresses[0][:2]
    issuer.url = f"http://{host}:{port}/jwks"
    try:
        yield issuer
    finally:
        await runner.cleanup()
