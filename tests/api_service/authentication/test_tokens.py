"""Tokens of an issuer, good and forged."""

import asyncio
import base64
import hashlib
import hmac
import json
import time
from collections.abc import AsyncIterator
from typing import Any

import jwt
import pytest
from aiohttp import web
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from api_service.authentication import issuer_keys
from api_service.authentication.issuer_keys import IssuerKeys
from api_service.authentication.tokens import TokenVerifier
from api_service.core.principal import Principal
from api_service.http.problems import Code, ProblemError
from foundation.settings import AccessSettings
from owners.roles import Role
from tests.api_service.authentication.issuer import AUDIENCE, ISSUER, SIGNERS, Issuer, claims, issuing, public, token

ALICE = Principal("alice", Role.USER)


@pytest.fixture
async def own_issuer(loopback: None) -> AsyncIterator[Issuer]:
    async with issuing() as issuer:
        yield issuer


def tokens_of(issuer: Issuer, **settings: Any) -> TokenVerifier:
    access = AccessSettings(
        require_auth=True, jwt_issuer=ISSUER, jwt_audience=AUDIENCE, jwt_jwks_url=issuer.url, **settings
    )
    return TokenVerifier(access, IssuerKeys(issuer.url))


@pytest.fixture
def tokens(own_issuer: Issuer) -> TokenVerifier:
    return tokens_of(own_issuer)


def b64(content: bytes) -> str:
    return base64.urlsafe_b64encode(content).decode().rstrip("=")


def forged(header: dict[str, Any], secret: bytes = b"") -> str:
    """A token as an attacker writes it by hand, signed by HMAC with a secret, or not at all."""
    signed = f"{b64(json.dumps(header).encode())}.{b64(json.dumps(claims()).encode())}"
    signature = hmac.digest(secret, signed.encode(), "sha256") if secret else b""
    return f"{signed}.{b64(signature)}"


@pytest.mark.parametrize("algorithm", SIGNERS)
async def test_a_good_token_is_taken_and_not_looked_at_twice(
    tokens: TokenVerifier, own_issuer: Issuer, algorithm: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    good = token(algorithm)
    assert await tokens.principal(good) == ALICE
    monkeypatch.delattr(jwt, "decode")
    assert await tokens.principal(good) == ALICE
    assert own_issuer.fetches == 1


async def test_the_clocks_may_differ_a_little(tokens: TokenVerifier) -> None:
    now = int(time.time())
    assert await tokens.principal(token(exp=now - 20)) == ALICE
    assert await tokens.principal(token(nbf=now + 20, iat=now + 20)) == ALICE


PEM = (
    SIGNERS["RS256"]
    .public_key()
    .public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
)
NOW = int(time.time())
BAD = {
    "nothing": "",
    "words": "a.b.c",
    "no signature": forged({"alg": "none", "typ": "JWT"}),
    "no signature, oddly written": forged({"alg": "NoNe", "kid": "RS256"}),
    "HMAC with the public key": forged({"alg": "HS256", "kid": "RS256"}, PEM),
    "HMAC with the public key's fingerprint": forged({"alg": "HS256", "kid": "RS256"}, hashlib.sha256(PEM).digest()),
    "an algorithm of another key": forged({"alg": "RS256", "kid": "ES256"}, PEM),
    "an algorithm that nobody set": jwt.encode(claims(), SIGNERS["RS256"], "RS512", {"kid": "RS256"}),
    "a key of its own": jwt.encode(
        claims(),
        ec.generate_private_key(ec.SECP256R1()),
        "ES256",
        {"jwk": {"kty": "EC"}, "jku": "http://127.0.0.1:1/", "kid": "ES256"},
    ),
    "an unknown key": token(key_id="another"),
    "a key id that is none": forged({"alg": "RS256", "kid": ["RS256"]}, PEM),
    "no key id": token(key_id=None),
    "another audience": token(aud="another"),
    "no audience": token(aud=None),
    "another issuer": token(iss="https://login.example.com"),
    "no issuer": token(iss=None),
    "expired": token(exp=NOW - 3_600),
    "no expiry": token(exp=None),
    "an expiry that is none": token(exp="tomorrow"),
    "not valid yet": token(nbf=NOW + 3_600),
    "issued in the future": token(iat=NOW + 3_600),
    "huge": token(name="x" * 8_192),
    "cut": token()[:-4],
    "not ASCII": "ключ.ключ.ключ",
    "padded": f"{token()}=",
    "nested": b64(b'{"alg":' + b"[" * 2_000) + ".e30.x",
}


@pytest.mark.parametrize("name", BAD)
async def test_a_token_that_is_not_good_is_refused(tokens: TokenVerifier, name: str) -> None:
    assert await tokens.principal(BAD[name]) is None


async def test_a_signature_is_for_these_claims(tokens: TokenVerifier) -> None:
    header, _, signature = token().split(".")
    assert await tokens.principal(f"{header}.{b64(json.dumps(claims(sub='root')).encode())}.{signature}") is None


async def test_new_keys_of_the_issuer_are_found_and_old_ones_forgotten(
    tokens: TokenVerifier, own_issuer: Issuer, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert await tokens.principal(token()) == ALICE
    new = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    own_issuer.keys = [public("RS256", "new", new)]
    assert await tokens.principal(token(signer=new, key_id="new")) is None  # asked a moment ago
    assert own_issuer.fetches == 1
    monkeypatch.setattr(issuer_keys, "_PAUSE_SECONDS", 0.0)
    tokens._keys._next_fetch_at = 0
    assert await tokens.principal(token(signer=new, key_id="new")) == ALICE
    assert await tokens.principal(token(signer=new, key_id=None)) == ALICE  # there is one only
    assert await tokens.principal(token(sub="bob")) is None


async def test_many_unknown_keys_make_one_fetch(tokens: TokenVerifier, own_issuer: Issuer) -> None:
    refused = await asyncio.gather(*(tokens.principal(token("EdDSA", key_id=f"{n}")) for n in range(50)))
    assert refused == [None] * 50
    assert own_issuer.fetches == 1


async def test_keys_that_come_in_pieces_are_read_to_the_end(tokens: TokenVerifier, own_issuer: Issuer) -> None:
    own_issuer.in_pieces = True
    assert await tokens.principal(token()) == ALICE


BROKEN: dict[str, tuple[dict[str, Any], str]] = {
    "an error": ({"status": 500}, "it answers 500"),
    "a redirect": ({"status": 302, "headers": {"Location": "/jwks?again"}}, "it answers 302, which is not followed"),
    "a redirect to plain text": (
        {"status": 308, "headers": {"Location": "http://127.0.0.1:1/"}},
        "set the URL that it leads to",
    ),
    "nothing": ({"status": 204}, "it answers 204"),
    "no JSON": ({"text": "<html>"}, "unexpected character"),
    "no object": ({"text": "[]"}, "the key set is no object"),
    "no keys": ({"text": '{"keys": []}'}, "did not contain any keys"),
    "no usable keys": (
        {"text": '{"keys": [{"kty": "oct", "k": "c2VjcmV0"}, {"kty": "RSA", "use": "enc"}, 1]}'},
        "the key set has no usable key",
    ),
    "too much": ({"text": " " * 2_000_000 + "{}"}, "the key set is too large"),
}


@pytest.mark.parametrize("name", BROKEN)
async def test_keys_stay_while_the_issuer_is_broken(
    own_issuer: Issuer, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    tokens = tokens_of(own_issuer)
    answer, why = BROKEN[name]
    own_issuer.broken = web.Response(**answer)
    with pytest.raises(ProblemError) as refused:
        await tokens.principal(token())
    assert refused.value.code is Code.ISSUER_UNAVAILABLE
    assert "ASKMESH_JWT_JWKS_URL" in caplog.text
    assert why in caplog.text
    own_issuer.broken = None
    tokens._keys._next_fetch_at = 0
    assert await tokens.principal(token()) == ALICE
    own_issuer.broken = web.Response(**answer)
    tokens._keys._next_fetch_at = 0
    assert await tokens.principal(token(key_id="unknown")) is None
    assert await tokens.principal(token(sub="bob")) == Principal("bob", Role.USER)


@pytest.mark.parametrize(
    ("settings", "says", "expected"),
    [
        ({"jwt_tenant_claim": "org"}, {"org": "acme"}, Principal("acme", Role.USER)),
        ({"jwt_tenant_claim": "org.id"}, {"org": {"id": "acme"}}, Principal("acme", Role.USER)),
        ({"jwt_tenant_claim": "https://x.org/t"}, {"https://x.org/t": "acme"}, Principal("acme", Role.USER)),
        ({"jwt_role_claim": "role"}, {"role": "operator"}, Principal("alice", Role.OPERATOR)),
        ({"jwt_role_claim": "realm.roles"}, {"realm": {"roles": ["x", "user"]}}, ALICE),
        ({}, {"role": "operator"}, ALICE),
        ({"jwt_role_claim": "role"}, {}, None),
        ({"jwt_role_claim": "role"}, {"role": "admin"}, None),
        ({"jwt_role_claim": "role"}, {"role": [["operator"], {}]}, None),
        ({"jwt_tenant_claim": "org"}, {}, None),
        ({"jwt_tenant_claim": "org"}, {"org": ["acme"]}, None),
        ({"jwt_tenant_claim": "org"}, {"org": "a b"}, None),
        ({"jwt_tenant_claim": "org"}, {"org": ""}, None),
    ],
)
async def test_claims_say_who_it_is(
    own_issuer: Issuer, settings: dict[str, Any], says: dict[str, Any], expected: Principal | None
) -> None:
    tokens = tokens_of(own_issuer, **settings)
    if expected is not None:
        assert await tokens.principal(token(**says)) == expected
        return
    with pytest.raises(ProblemError) as refused:
        await tokens.principal(token(**says))
    assert refused.value.code is Code.FORBIDDEN
    (claim,) = settings.values()
    assert claim in refused.value.detail


# What issuers put into tokens: the header, the claims, and with which settings the token is taken.
KINDS: dict[str, tuple[dict[str, Any], dict[str, Any], set[str]]] = {
    "PyJWT's own, Auth0 without a profile": ({"typ": "JWT"}, {}, {"access", "any"}),
    "no type": ({"typ": None}, {}, {"access", "any"}),
    "RFC 9068": ({"typ": "at+jwt"}, {}, {"access", "at+jwt", "any"}),
    "RFC 9068 in full": ({"typ": "application/at+JWT"}, {}, {"access", "at+jwt", "any"}),
    "Keycloak's access token": ({"typ": "JWT"}, {"typ": "Bearer", "azp": "app"}, {"access", "any"}),
    "that of Keycloak 24": ({"typ": "JWT"}, {"typ": "Bearer", "nonce": "n"}, {"access", "any"}),
    "Entra's": ({"typ": "JWT"}, {"idtyp": "app", "appid": "app", "ver": "1.0"}, {"access", "any"}),
    "Keycloak's ID token": ({"typ": "JWT"}, {"typ": "ID"}, {"any"}),
    "Keycloak's refresh token": ({"typ": "JWT"}, {"typ": "Refresh"}, {"any"}),
    "Keycloak's offline token": ({"typ": "JWT"}, {"typ": "Offline"}, {"any"}),
    "Google's ID token": ({"typ": "JWT"}, {"at_hash": "x", "azp": "app"}, {"any"}),
    "an ID token with a code": ({"typ": "JWT"}, {"c_hash": "x"}, {"any"}),
    "Cognito's ID token": ({}, {"token_use": "id"}, {"any"}),
    "FusionAuth's ID token": ({}, {"tty": "id"}, {"any"}),
    "a logout token": ({"typ": "logout+jwt"}, {"events": {}}, {"any"}),
    "a logout token without a type": (
        {},
        {"events": {"http://schemas.openid.net/event/backchannel-logout": {}}},
        {"any"},
    ),
    "a security event": ({"typ": "secevent+jwt"}, {}, {"any"}),
    "a proof": ({"typ": "dpop+jwt"}, {}, {"any"}),
}


@pytest.mark.parametrize("wanted", ["access", "at+jwt", "any"])
@pytest.mark.parametrize("name", KINDS)
async def test_a_token_is_for_access(own_issuer: Issuer, name: str, wanted: str) -> None:
    header, says, taken = KINDS[name]
    tokens = tokens_of(own_issuer, jwt_token_type=wanted)
    if wanted in taken:
        assert await tokens.principal(token(header=header, **says)) == ALICE
        return
    with pytest.raises(ProblemError) as refused:
        await tokens.principal(token(header=header, **says))
    assert refused.value.code is Code.UNAUTHENTICATED
    assert "access token" in refused.value.detail
    assert 'error="invalid_token"' in refused.value.headers["WWW-Authenticate"]


async def test_what_a_forged_token_says_of_itself_is_not_answered(own_issuer: Issuer) -> None:
    stranger = ec.generate_private_key(ec.SECP256R1())
    assert await tokens_of(own_issuer).principal(token("ES256", signer=stranger, typ="ID")) is None


@pytest.mark.parametrize(
    ("settings", "says", "taken"),
    [
        ({"jwt_clients": "app, other"}, {"azp": "other"}, True),
        ({"jwt_clients": "app"}, {"client_id": "app"}, True),
        ({"jwt_clients": "app"}, {"cid": "app"}, True),
        ({"jwt_clients": "app"}, {"appid": "app"}, True),
        ({"jwt_clients": "app"}, {}, False),
        ({"jwt_clients": "app"}, {"azp": "APP"}, False),
        ({"jwt_clients": "app"}, {"azp": "stranger", "client_id": "app"}, False),
        ({"jwt_clients": "app"}, {"azp": None, "sub": "app"}, False),
        ({"jwt_clients": "app"}, {"azp": ["app"]}, False),
        ({"jwt_clients": ""}, {"azp": "stranger"}, True),
        ({"jwt_scope": "ask"}, {"scope": "openid ask"}, True),
        ({"jwt_scope": "ask"}, {"scp": ["openid", "ask"]}, True),
        ({"jwt_scope": "ask"}, {"scp": "ask"}, True),
        ({"jwt_scope": "ask read"}, {"scope": "read ask"}, True),
        ({"jwt_scope": "ask read"}, {"scope": "ask"}, False),
        ({"jwt_scope": "ask"}, {"scope": "asking"}, False),
        ({"jwt_scope": "ask"}, {"scope": {"ask": 1}, "scp": [1, ["ask"]]}, False),
        ({"jwt_scope": "ask"}, {}, False),
    ],
)
async def test_a_token_is_of_a_client_and_has_a_scope(
    own_issuer: Issuer, settings: dict[str, Any], says: dict[str, Any], taken: bool
) -> None:
    tokens = tokens_of(own_issuer, **settings)
    if taken:
        assert (await tokens.principal(token(**says))) == ALICE
        return
    with pytest.raises(ProblemError) as refused:
        await tokens.principal(token(**{"sub": "alice", **says}))
    assert refused.value.code is Code.FORBIDDEN
    assert "client" in refused.value.detail or "scope" in refused.value.detail
