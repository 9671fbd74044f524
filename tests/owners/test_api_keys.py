import asyncio
import hashlib
import re
from datetime import timedelta

import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from owners.api_keys import create, find, hash_of, is_well_formed, limit, list_keys, new_key, revoke, rotate
from owners.limits import NO_OVERRIDES, LimitOverrides
from owners.roles import Role
from tests.questions.actors import rows

_ALL_DEFAULT = " ".join(f"{name}=default" for name in sorted(LimitOverrides.model_fields))


def test_a_key_is_recognised_by_its_form_and_its_checksum() -> None:
    key = new_key()
    assert re.fullmatch("askmesh_[0-9A-Za-z]{49}", key)
    assert is_well_formed(key)
    for place in (8, 30, 50, 56):
        other = "0" if key[place] != "0" else "1"
        assert not is_well_formed(key[:place] + other + key[place + 1 :])
    assert not any(map(is_well_formed, ["", "askmesh_", key[:-1], f"{key}0", f"{key}\n", key.upper(), f" {key}"]))


def test_keys_do_not_repeat_and_use_all_their_characters() -> None:
    keys = {new_key() for _ in range(500)}
    assert len(keys) == 500
    assert set("".join(key[8:51] for key in keys)) == set(re.findall("[0-9A-Za-z]", "".join(map(chr, range(128)))))


async def test_only_the_hash_of_a_key_is_stored(engine: AsyncEngine) -> None:
    key, made = await create(engine, "acme", Role.USER)
    stored = await rows(engine, "SELECT CAST(k AS text), hash FROM api_keys k WHERE id = :id", id=made.id)
    assert stored[0].hash == hashlib.sha256(key.encode()).digest()
    assert key[8 + 6 :] not in str(stored[0])
    assert key.startswith(made.prefix)
    assert len(made.prefix) == 14


async def test_a_key_is_found_until_it_is_revoked_or_expires(engine: AsyncEngine) -> None:
    lasting, first = await create(engine, "acme", Role.OPERATOR)
    brief, second = await create(engine, "acme", Role.USER, timedelta(hours=1))
    gone, third = await create(engine, "acme", Role.USER, timedelta(microseconds=1))
    hashes = [hash_of(key) for key in (lasting, brief, gone, new_key())]
    found = await find(engine, hashes)
    assert found.keys() == set(hashes[:2])
    assert (found[hashes[0]].tenant, found[hashes[0]].role) == ("acme", Role.OPERATOR)
    assert found[hashes[0]].seconds_left is None
    assert 3_500 < (found[hashes[1]].seconds_left or 0) <= 3_600
    assert await revoke(engine, first.id)
    assert not await revoke(engine, first.id)
    assert not await revoke(engine, third.id)
    assert (await find(engine, hashes)).keys() == {hashes[1]}
    assert await revoke(engine, second.id)


async def test_keys_are_listed_without_themselves(engine: AsyncEngine) -> None:
    key, made = await create(engine, "lister", Role.USER)
    _, revoked = await create(engine, "lister", Role.USER)
    await create(engine, "somebody else", Role.USER)
    await revoke(engine, revoked.id)
    assert await list_keys(engine, "lister") == [made]
    both = await list_keys(engine, "lister", all_=True)
    assert [(entry.id, entry.valid) for entry in both] == [(made.id, True), (revoked.id, False)]
    assert {made.id, revoked.id} < {entry.id for entry in await list_keys(engine, all_=True)}
    assert key not in str(both)


async def test_a_rotated_key_has_the_rights_of_the_old_one(engine: AsyncEngine) -> None:
    old, made = await create(engine, "rotator", Role.OPERATOR, timedelta(days=30))
    await rows(engine, "UPDATE api_keys SET limits = '{}' WHERE id = :id RETURNING id", id=made.id)
    rotated = await rotate(engine, made.id, timedelta(hours=1))
    assert rotated is not None
    new, its = rotated
    assert (its.tenant, its.role) == (made.tenant, made.role)
    assert abs(its.expires_at - made.expires_at) < timedelta(seconds=5)  # type: ignore[operator]
    found = await find(engine, [hash_of(old), hash_of(new)])
    assert len(found) == 2
    assert 3_500 < (found[hash_of(old)].seconds_left or 0) <= 3_600
    at_once = await rotate(engine, its.id, timedelta(0), timedelta(days=1))
    assert at_once is not None
    assert (await find(engine, [hash_of(new), hash_of(at_once[0])])).keys() == {hash_of(at_once[0])}
    assert await rotate(engine, its.id, timedelta(0)) is None
    assert await rotate(engine, 10**9, timedelta(0)) is None
    limits = await rows(engine, "SELECT limits FROM api_keys WHERE id = :id", id=at_once[1].id)
    assert limits[0].limits == {}


async def test_of_two_who_rotate_a_key_at_once_one_gets_a_new_one(engine: AsyncEngine) -> None:
    _, made = await create(engine, "raced", Role.USER)
    rotated = await asyncio.gather(*(rotate(engine, made.id, timedelta(0)) for _ in range(5)))
    assert sum(one is not None for one in rotated) == 1
    assert len(await list_keys(engine, "raced")) == 1


async def test_limits_of_a_key_that_is_in_use_change(engine: AsyncEngine) -> None:
    key, made = await create(engine, "limited", Role.USER, limits=LimitOverrides(streams=2))

    async def limits() -> LimitOverrides:
        return (await find(engine, [hash_of(key)]))[hash_of(key)].limits

    assert await limits() == LimitOverrides(streams=2)
    await limit(engine, made.id, {"tokens_per_day": 5})
    assert await limits() == LimitOverrides(streams=2, tokens_per_day=5)
    await limit(engine, made.id, {"tokens_per_day": None, "streams": None})
    assert await limits() == NO_OVERRIDES
    assert await revoke(engine, made.id)
    assert await limit(engine, made.id, {"streams": 2}) is None


@pytest.mark.parametrize(
    ("edited", "listed", "remedy"),
    [
        ('{"streams": -1, "tokens_per_day": 5}', {"streams": -1, "tokens_per_day": 5}, "streams=default"),
        ('{"tokens_per_day": 10000000000000000}', {"tokens_per_day": 10**16}, "tokens_per_day=default"),
        ('{"streams": "many", "queued_questions": 1.5}', None, "queued_questions=default streams=default"),
        ('{"streams": 1e5000}', None, _ALL_DEFAULT),  # more digits than Python reads
        ("[1]", {}, _ALL_DEFAULT),
        ('"none"', {}, _ALL_DEFAULT),
    ],
)
async def test_a_key_whose_limits_somebody_broke_is_refused_until_they_are_mended(
    engine: AsyncEngine, edited: str, listed: dict[str, int] | None, remedy: str, caplog: pytest.LogCaptureFixture
) -> None:
    key, made = await create(engine, "broken", Role.USER, limits=LimitOverrides(streams=2))
    other, _ = await create(engine, "broken", Role.USER)
    hashes = [hash_of(key), hash_of(other)]
    update = "UPDATE api_keys SET limits = CAST(:limits AS jsonb) WHERE id = :id RETURNING id"
    await rows(engine, update, id=made.id, limits=edited)
    assert (await find(engine, hashes)).keys() == {hash_of(other)}
    (said,) = [record.getMessage() for record in caplog.records if record.name == "owners.api_keys"]
    assert said.startswith(f"API key {made.id} is refused")
    assert f"`askmesh keys limit {made.id} {remedy}`" in said
    if listed is not None:
        assert listed in [entry.limits for entry in await list_keys(engine, "broken")]
    mended = await limit(engine, made.id, dict.fromkeys(name.split("=")[0] for name in remedy.split()))
    assert mended is not None
    found = await find(engine, hashes)
    assert found.keys() == set(hashes)
    assert found[hash_of(key)].limits.model_dump(exclude_none=True) == mended.limits


@pytest.mark.parametrize("nothing", ["NULL", "'null'", "'{}'", "'{\"of_a_later_release\": -1}'"])
async def test_a_key_without_limits_of_its_own_has_those_of_the_settings(engine: AsyncEngine, nothing: str) -> None:
    key, made = await create(engine, "unlimited", Role.USER)
    await rows(engine, f"UPDATE api_keys SET limits = {nothing} WHERE id = :id RETURNING id", id=made.id)
    assert (await find(engine, [hash_of(key)]))[hash_of(key)].limits == NO_OVERRIDES
