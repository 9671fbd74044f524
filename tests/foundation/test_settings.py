import re
from pathlib import Path

import pytest

from foundation import settings
from foundation.settings import (
    BrokerSettings,
    DatabaseSettings,
    GenerationSettings,
    QuestionSettings,
    SettingsError,
    WorkerSettings,
    as_markdown,
    described,
    load,
)

ROOT = Path(settings.__file__).parents[2]


@pytest.fixture(autouse=True)
def _clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, _ in described():
        monkeypatch.delenv(name, raising=False)


def test_a_setting_is_read_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ASKMESH_MAX_QUESTION_CHARACTERS", "17")
    assert load(QuestionSettings).max_question_characters == 17


def test_an_empty_value_counts_as_unset(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ASKMESH_MAX_QUESTION_CHARACTERS", "")
    assert load(QuestionSettings).max_question_characters == 8_000


@pytest.mark.parametrize(("value", "prompt"), [("", ""), ("  ", ""), ("Be brief.", "Be brief.")])
def test_an_empty_system_prompt_is_none(monkeypatch: pytest.MonkeyPatch, value: str, prompt: str) -> None:
    assert GenerationSettings().system_prompt
    monkeypatch.setenv("ASKMESH_SYSTEM_PROMPT", value)
    assert load(GenerationSettings).system_prompt == prompt


def test_a_file_gives_what_the_environment_does_not(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "askmesh_database_url").write_text("postgresql://from-file/askmesh\n")
    monkeypatch.setitem(DatabaseSettings.model_config, "secrets_dir", tmp_path)
    monkeypatch.setenv("ASKMESH_DATABASE_URL", "")
    assert load(DatabaseSettings).database_url.get_secret_value() == "postgresql://from-file/askmesh"
    monkeypatch.setenv("ASKMESH_DATABASE_URL", "postgresql://from-environment/askmesh")
    assert load(DatabaseSettings).database_url.get_secret_value() == "postgresql://from-environment/askmesh"


@pytest.mark.parametrize("name", ["ASKMESH_PROT", "askmesh_prot", "askmesh_port"])
def test_an_unknown_name_with_the_prefix_is_refused(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setenv(name, "1")
    with pytest.raises(SettingsError, match=rf"unknown setting {name}"):
        load(QuestionSettings)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("ASKMESH_MAX_QUESTION_CHARACTERS", "many"),
        ("ASKMESH_MAX_QUESTION_CHARACTERS", "0"),
        ("ASKMESH_MAX_WAIT_SECONDS", "-1"),
        ("ASKMESH_RETENTION_DAYS", "0.5"),
    ],
)
def test_a_wrong_value_is_refused_by_name(monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(SettingsError, match=name):
        load(QuestionSettings)


def test_a_missing_one_is_named() -> None:
    with pytest.raises(SettingsError, match="ASKMESH_DATABASE_URL: is required"):
        load(DatabaseSettings)


def test_a_wrong_url_is_refused_without_showing_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ASKMESH_BROKER_URL", "http://user:secret@host")
    with pytest.raises(SettingsError, match="amqp://") as refused:
        load(BrokerSettings)
    assert "secret" not in str(refused.value)


def test_a_password_is_never_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ASKMESH_DATABASE_URL", "postgresql://user:very-well-hidden@host/name")
    assert "hidden" not in repr(load(DatabaseSettings))


def test_a_heartbeat_that_cannot_keep_its_lease_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ASKMESH_HEARTBEAT_SECONDS", "7")
    with pytest.raises(SettingsError, match="ASKMESH_LEASE_SECONDS must be at least"):
        load(WorkerSettings)


def test_no_two_groups_share_a_name() -> None:
    names = [name for name, _ in described()]
    assert len(names) == len(set(names))


def test_the_documentation_holds_the_table_of_settings() -> None:
    assert as_markdown() in (ROOT / "docs" / "settings.md").read_text()


def test_the_example_environment_names_every_setting() -> None:
    example = (ROOT / ".env.example").read_text()
    assert set(re.findall(r"^#?\s?(ASKMESH_\w+)=", example, re.MULTILINE)) == {name for name, _ in described()}
