import json
from datetime import datetime, timedelta

import pytest
from click.testing import CliRunner

from operations.commands import askmesh
from owners.api_keys import is_well_formed


def run(database_url: str, *arguments: str) -> tuple[int, str, str]:
    result = CliRunner().invoke(askmesh, ["keys", *arguments], env={"ASKMESH_DATABASE_URL": database_url})
    return result.exit_code, result.stdout, result.stderr


def test_a_key_is_printed_alone_so_that_scripts_can_take_it(database_url: str) -> None:
    status, key, said = run(database_url, "create", "--tenant", "acme")
    assert status == 0
    assert is_well_formed(key.removesuffix("\n"))
    assert "acme, user, valid until it is revoked" in said
    assert key.strip() not in said


def test_keys_are_read_by_programs_and_not_shown_again(database_url: str) -> None:
    status, output, said = run(
        database_url, "create", "--tenant", "json", "--role", "operator", "--expires", "30d", "--json"
    )
    made = json.loads(output)
    assert (status, said) == (0, "")
    assert is_well_formed(made["key"])
    lifetime = datetime.fromisoformat(made["expires_at"]) - datetime.fromisoformat(made["created_at"])
    assert abs(lifetime - timedelta(days=30)) < timedelta(seconds=5)
    _, output, _ = run(database_url, "list", "--tenant", "json", "--json")
    listed = json.loads(output)
    assert (listed["id"], listed["role"], listed["prefix"]) == (made["id"], "operator", made["key"][:14])
    assert made["key"] not in output
    status, table, _ = run(database_url, "list")
    assert (status, f"{made['key'][:14]}…" in table, made["key"] in table) == (0, True, False)


def test_a_key_is_rotated_and_revoked(database_url: str) -> None:
    old = json.loads(run(database_url, "create", "--tenant", "rotator", "--json")[1])
    status, key, said = run(database_url, "rotate", str(old["id"]), "--overlap", "1h")
    assert (status, is_well_formed(key.strip()), "rotator" in said) == (0, True, True)
    listed = [json.loads(line) for line in run(database_url, "list", "--tenant", "rotator", "--json")[1].splitlines()]
    assert [entry["valid"] for entry in listed] == [True, True]
    assert run(database_url, "revoke", str(listed[1]["id"])) == (0, f"{listed[1]['id']} is revoked\n", "")
    status, _, said = run(database_url, "revoke", str(listed[1]["id"]))
    assert (status, "no valid key has the id" in said) == (1, True)
    status, _, said = run(database_url, "rotate", str(listed[1]["id"]))
    assert (status, "no valid key has the id" in said) == (1, True)
    table = run(database_url, "list", "--tenant", "rotator", "--all")[1]
    assert ("revoked" in table, "2 listed" in table) == (True, True)


@pytest.mark.parametrize("tenant", ["", "a b", "ключ", "x" * 256, "a\n"])
def test_a_tenant_has_a_name_that_can_be_written_anywhere(database_url: str, tenant: str) -> None:
    status, _, said = run(database_url, "create", "--tenant", tenant)
    assert (status, "visible ASCII" in said) == (2, True)


def test_a_key_has_limits_of_its_own_which_can_be_changed(database_url: str) -> None:
    made = json.loads(
        run(
            database_url,
            "create",
            "--tenant",
            "limited",
            "--limit",
            "streams=2",
            "--limit",
            "tokens_per_day=0",
            "--json",
        )[1]
    )
    assert made["limits"] == {"streams": 2, "tokens_per_day": 0}
    status, said, _ = run(database_url, "limit", str(made["id"]), "streams=default", "requests_per_minute=60")
    assert (status, said) == (0, f"{made['id']} has requests_per_minute=60 tokens_per_day=0\n")
    assert "requests_per_minute=60 tokens_per_day=0" in run(database_url, "list", "--tenant", "limited")[1]
    rotated = json.loads(run(database_url, "rotate", str(made["id"]), "--json")[1])
    assert rotated["limits"] == {"requests_per_minute": 60, "tokens_per_day": 0}
    status, _, said = run(database_url, "limit", str(made["id"]), "streams=1")
    assert (status, "no valid key has the id" in said) == (1, True)
    said = run(database_url, "create", "--tenant", "limited", "--limit", "streams=2")[2]
    assert "of limited, user, streams=2, valid" in said


@pytest.mark.parametrize(
    ("limit", "why"),
    [
        ("streams", "valid integer"),
        ("streams=", "valid integer"),
        ("streams=-1", "greater than or equal to 0"),
        ("streams=1.5", "valid integer"),
        ("streams=1000001", "less than or equal to 1000000"),
        ("tokens_per_day=1e6", "valid integer"),
        ("flows=1", "is no limit: give one of requests_per_minute, "),
    ],
)
def test_a_limit_that_cannot_be_is_refused_with_what_can(database_url: str, limit: str, why: str) -> None:
    for command in (["create", "--tenant", "a", "--limit", limit], ["limit", "1", limit]):
        status, _, said = run(database_url, *command)
        assert (status, why in said) == (2, True), said
