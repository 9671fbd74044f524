"""Who calls, through the whole API."""

import asyncio
import time
from typing import Any

import pytest
from aiohttp import ClientSession
from sqlalchemy.ext.asyncio import AsyncEngine

from api_service.app import create_app
from embedded.valkey import Valkey
from foundation.settings import AccessSettings
from owners.api_keys import create, revoke
from owners.roles import Role
from tests.api_service import worker_actions
from tests.api_service.authentication.conftest import Caller, Callers
from tests.api_service.authentication.issuer import token
from tests.api_service.serving import client_of, serving, serving_app, settings_for
from tests.questions.actors import rows

pytestmark = pytest.mark.asyncio(loop_scope="module")


async def test_a_key_goes_into_either_header_and_only_once(callers: Callers) -> None:
    key = callers.alice.key

    async def status(**headers: str) -> int:
        reply = await callers.anonymous.send("GET", "/api/questions", headers=headers)
        return reply.status

    assert await status(**{"X-API-Key": str(key)}) == 200
    assert await status(Authorization=f"bearer  {key}") == 200
    assert await status(Authorization=f"Basic {key}") == 401
    assert await status(Authorization="Bearer") == 401
    assert await status(**{"X-API-Key": str(key), "Authorization": f"Bearer {key}"}) == 401
    assert await status(**{"X-API-Key": ""}) == 401


async def test_a_token_of_the_issuer_is_as_good(callers: Callers) -> None:
    caller = Caller(callers.anonymous.client, token("ES256", sub="alice", role="user"))
    asked = await callers.alice.ask("shared by a tenant's key and token")
    assert (await caller.send("GET", f"/api/answer/{asked['question_id']}")).status == 200
    for bad, status, code in (
        (token(sub="alice", role=None), 403, "forbidden"),
        (token(sub="a lice", role="user"), 403, "forbidden"),
        (token(exp=1, role="user"), 401, "unauthenticated"),
    ):
        reply = await Caller(callers.anonymous.client, bad).send("GET", "/api/questions")
        assert (reply.status, (await reply.json())["code"]) == (status, code)


async def test_a_token_does_not_go_where_keys_go(callers: Callers, api_database_url: str, valkey: Valkey) -> None:
    good = token("ES256", sub="alice", role="user")

    async def refusal(caller: Caller, key: str) -> str:
        reply = await caller.send("GET", "/api/questions", headers={"X-API-Key": key})
        problem = await reply.json()
        assert (reply.status, problem["code"]) == (401, "unauthenticated")
        assert reply.headers["WWW-Authenticate"] == 'Bearer realm="askmesh"'
        return str(problem["detail"])

    assert (await Caller(callers.anonymous.client, good).send("GET", "/api/questions")).status == 200
    said = "X-API-Key must be an API key, which begins with askmesh_."
    with_issuer = f"{said} Send a token of your issuer as `Authorization: Bearer`."
    # A good token is told no more than a forged one, and than what is none.
    for key in (good, token(exp=1, role="user"), "rubbish"):
        assert await refusal(callers.anonymous, key) == with_issuer
    app = create_app(settings_for(api_database_url, valkey, AccessSettings(require_auth=True)))
    async with serving_app(app) as url, client_of(url) as client:
        assert await refusal(Caller(client), good) == said


async def test_who_may_not_ask_is_told_before_the_body_is_read(callers: Callers) -> None:
    reply = await callers.anonymous.send("POST", "/api/ask", data=b"{" * 60_000)
    assert reply.status == 401


async def test_a_key_whose_limits_somebody_broke_is_refused_and_no_other_is(
    callers: Callers, api_engine: AsyncEngine
) -> None:
    made = [await create(api_engine, "erin", Role.USER) for _ in range(4)]
    await rows(
        api_engine, "UPDATE api_keys SET limits = '{\"streams\": -1}' WHERE id = :id RETURNING id", id=made[0][1].id
    )
    replies = await asyncio.gather(
        *(Caller(callers.anonymous.client, key).send("GET", "/api/questions") for key, _ in made)
    )
    assert [reply.status for reply in replies] == [401, 200, 200, 200]
    assert (await replies[0].json())["code"] == "unauthenticated"


async def test_a_revoked_key_is_refused_by_every_replica_within_five_seconds(
    callers: Callers, api_database_url: str, valkey: Valkey, api_engine: AsyncEngine
) -> None:
    key, made = await create(api_engine, "dave", Role.USER)
    other = create_app(settings_for(api_database_url, valkey, AccessSettings(require_auth=True)))
    async with serving_app(other) as url, client_of(url) as client:
        replicas = [Caller(callers.anonymous.client, key), Caller(client, key)]
        assert [(await replica.send("GET", "/api/questions")).status for replica in replicas] == [200, 200]
        await revoke(api_engine, made.id)
        revoked_at = time.monotonic()
        for replica in replicas:
            while (await replica.send("GET", "/api/questions")).status == 200:
                assert time.monotonic() - revoked_at < 5
                await asyncio.sleep(0.05)


async def test_tenants_share_no_answer_and_know_nothing_of_one_another(
    callers: Callers, api_engine: AsyncEngine
) -> None:
    words = "what do two tenants ask alike?"
    first = await callers.alice.ask(words, headers={"Idempotency-Key": "the-same"})
    second = await callers.bob.ask(words, headers={"Idempotency-Key": "the-same"})
    assert first["question_id"] != second["question_id"]
    assert not second["coalesced"]
    assert (await callers.alice.ask(words))["coalesced"]
    await callers.bob.send("POST", f"/api/answer/{second['question_id']}/cancel")
    await worker_actions.complete(api_engine, words, "alice's own")
    assert (await callers.alice.ask(words))["cached"]
    assert not (await callers.bob.ask(words))["cached"]
    read = await callers.alice.send("GET", f"/api/answer/{first['question_id']}")
    assert (await read.json())["answer_text"] == "alice's own"
    # Read once, it is in Redis: it is its owner's there too.
    assert (await callers.bob.send("GET", f"/api/answer/{first['question_id']}")).status == 404


async def test_tenants_share_answers_where_that_is_set(
    callers: Callers, api_database_url: str, valkey: Valkey, api_engine: AsyncEngine
) -> None:
    words = "what may two tenants share?"
    settings = settings_for(api_database_url, valkey, AccessSettings(require_auth=True), share_answers=True)
    async with serving(settings) as url, client_of(url) as client:
        alice, bob = Caller(client, callers.alice.key), Caller(client, callers.bob.key)
        first = await alice.ask(words)
        second = await bob.ask(words)
        assert second["coalesced"]
        await worker_actions.complete(api_engine, words, "everybody's")
        assert (await bob.ask(words))["cached"]
        for caller, own, others in ((alice, first, second), (bob, second, first)):
            read = await caller.send("GET", f"/api/answer/{own['question_id']}")
            assert (await read.json())["answer_text"] == "everybody's"
            assert (await caller.send("GET", f"/api/answer/{others['question_id']}")).status == 404
        assert await erased(alice, first) == "kept"
        read = await bob.send("GET", f"/api/answer/{second['question_id']}")
        assert (await read.json())["answer_text"] == "everybody's"


async def erased(caller: Caller, asked: dict[str, Any]) -> str:
    reply = await caller.send("DELETE", f"/api/answer/{asked['question_id']}")
    assert reply.status == 200, await reply.text()
    became: str = (await reply.json())["answer"]
    return became


async def test_without_authentication_a_key_is_not_looked_at(api_database_url: str, valkey: Valkey) -> None:
    async with serving(settings_for(api_database_url, valkey)) as url, client_of(url) as client:
        assert (await Caller(client, "of another server").send("GET", "/api/questions")).status == 200
        for headers in ({"Host": "evil.example"}, {"Origin": "https://evil.example"}):
            for path in ("/", "/api/questions", "/livez", "/openapi.json"):
                reply = await client.get(path, headers=headers)
                assert (reply.status, (await reply.json())["code"]) == (403, "forbidden")
                assert "Access-Control-Allow-Origin" not in reply.headers


ASKING = {
    "Origin": "https://app.example.com",
    "Access-Control-Request-Method": "DELETE",
    "Access-Control-Request-Headers": "authorization,x-api-key,idempotency-key,last-event-id,content-type",
}


async def test_other_sites_pages_may_call_only_where_that_is_set(
    callers: Callers, api_database_url: str, valkey: Valkey
) -> None:
    refused = await callers.anonymous.send("OPTIONS", "/api/ask", headers=ASKING)
    assert refused.status == 405
    assert not any(name.startswith("Access-Control") for name in refused.headers)
    access = AccessSettings(require_auth=True, allowed_origins="https://app.example.com, http://localhost:3000")
    async with serving(settings_for(api_database_url, valkey, access)) as url, ClientSession(url) as client:
        async with client.options("/api/answer/1", headers=ASKING) as allowed:
            assert allowed.status == 200
            assert allowed.headers["Access-Control-Allow-Origin"] == "https://app.example.com"
            assert "DELETE" in allowed.headers["Access-Control-Allow-Methods"]
            assert "Access-Control-Allow-Credentials" not in allowed.headers
        async with client.get("/api/questions", headers={"Origin": "http://localhost:3000"}) as reply:
            assert reply.status == 401
            assert reply.headers["Access-Control-Allow-Origin"] == "http://localhost:3000"
            assert "Location" in reply.headers["Access-Control-Expose-Headers"]
        async with client.options("/api/ask", headers=ASKING | {"Origin": "https://evil.example"}) as reply:
            assert reply.status == 400
            assert "Access-Control-Allow-Origin" not in reply.headers
