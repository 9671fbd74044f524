from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import pytest_asyncio
from aiohttp import ClientResponse, ClientSession
from fastapi import FastAPI
from sqlalchemy.ext.asyncio import AsyncEngine

from api_service.app import create_app
from embedded.valkey import Valkey
from foundation.settings import AccessSettings
from owners.api_keys import create
from owners.roles import Role
from tests.api_service.authentication.issuer import AUDIENCE, ISSUER, Issuer, issuing
from tests.api_service.serving import client_of, serving_app, settings_for


@dataclass
class Caller:
    """Somebody with a key, or without."""

    client: ClientSession
    key: str | None = None

    async def send(
        self, method: str, path: str, *, headers: dict[str, str] | None = None, **more: Any
    ) -> ClientResponse:
        """A request of which the caller decides nothing but the key."""
        bearer = {} if self.key is None else {"Authorization": f"Bearer {self.key}"}
        return await self.client.request(method, path, headers={**bearer, **(headers or {})}, **more)

    async def ask(self, words: str, **more: Any) -> dict[str, Any]:
        reply = await self.send("POST", "/api/ask", json={"question_text": words}, **more)
        assert reply.status in (200, 202), await reply.text()
        asked: dict[str, Any] = await reply.json()
        return asked


@dataclass
class Callers:
    """Two tenants, an operator of a third, and somebody unknown."""

    app: FastAPI
    url: str
    alice: Caller
    bob: Caller
    operator: Caller
    anonymous: Caller


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def issuer() -> AsyncIterator[Issuer]:
    async with issuing() as issuer:
        yield issuer


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def callers(
    api_database_url: str, valkey: Valkey, api_engine: AsyncEngine, issuer: Issuer
) -> AsyncIterator[Callers]:
    """An API that wants to know who calls."""
    access = AccessSettings(
        require_auth=True, jwt_issuer=ISSUER, jwt_audience=AUDIENCE, jwt_jwks_url=issuer.url, jwt_role_claim="role"
    )
    keys = {
        name: (await create(api_engine, name, role))[0]
        for name, role in (("alice", Role.USER), ("bob", Role.USER), ("operations", Role.OPERATOR))
    }
    app = create_app(settings_for(api_database_url, valkey, access))
    async with serving_app(app) as url, client_of(url) as client:
        yield Callers(
            app,
            url,
            Caller(client, keys["alice"]),
            Caller(client, keys["bob"]),
            Caller(client, keys["operations"]),
            Caller(client),
        )
