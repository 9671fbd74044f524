"""What llm_service says of the weights behind a model's id."""

import re
from dataclasses import replace
from typing import Any

import pytest
from pydantic import ValidationError

from foundation.settings import LlmServiceSettings
from llm_service.upstream.catalogue import _served
from tests.fakes.model_server import FakeModelServer, Options
from tests.llm_service.conftest import ask, service_over

VLLM = {"id": "chat", "owned_by": "vllm", "created": 1, "root": "/weights/a", "parent": None, "max_model_len": 4096}
LLAMA = {"id": "chat", "owned_by": "llamacpp", "meta": {"n_ctx": 4096, "n_params": 7_000_000_000, "size": 4_000_000}}
OPENAI = {"id": "gpt-4o", "object": "model", "created": 1, "owned_by": "system"}


@pytest.mark.parametrize("entry", [VLLM, LLAMA, OPENAI, {"id": "chat"}])
@pytest.mark.parametrize(
    "changed",
    [{"created": 2}, {"permission": [{"id": "modelperm-8c1f"}]}, {"status": "loaded"}],
    ids=["created", "permission", "status"],
)
def test_what_changes_with_every_request_is_no_revision(entry: dict[str, Any], changed: dict[str, Any]) -> None:
    """VLLM's ``created`` is the time of the request, and its permissions have random ids."""
    assert _served(entry, "").revision == _served(entry | changed, "").revision


@pytest.mark.parametrize(
    ("entry", "changed"),
    [
        (VLLM, {"root": "/weights/b"}),
        (VLLM, {"root": "chat"}),
        (LLAMA, {"meta": {"n_ctx": 4096, "n_params": 8_000_000_000, "size": 4_000_000}}),
        (LLAMA, {"meta": {"n_ctx": 4096, "n_params": 7_000_000_000, "size": 5_000_000}}),
        (LLAMA, {"meta": None}),
    ],
)
def test_other_weights_are_another_revision(entry: dict[str, Any], changed: dict[str, Any]) -> None:
    one, other = _served(entry, "").revision, _served(entry | changed, "").revision
    assert one != other
    assert re.fullmatch(r"[A-Za-z0-9._-]{1,64}", one)
    assert _served(entry, "2026-11").revision == _served(entry | changed, "2026-11").revision == "2026-11"


@pytest.mark.parametrize(
    "entry",
    [
        {"id": "chat"},
        OPENAI,
        {"id": "chat", "root": "chat"},
        {"id": "chat", "root": None, "meta": None},
        {"id": "chat", "meta": {}},
        {"id": "chat", "meta": []},
        {"id": "chat", "meta": {"n_ctx": 4096}},
    ],
)
def test_who_says_nothing_beyond_the_id_has_none(entry: dict[str, Any]) -> None:
    assert _served(entry, "").revision == ""


@pytest.mark.parametrize("revision", ["a@b", "a b", "ä", "x" * 65, "a\n"])
def test_a_revision_that_could_be_mistaken_is_refused(revision: str) -> None:
    with pytest.raises(ValidationError):
        LlmServiceSettings(model_revision=revision)


@pytest.mark.loopback
@pytest.mark.parametrize("setting", ["", "2026-11"])
async def test_every_call_tells_the_revision_of_what_answers(setting: str) -> None:
    async with (
        FakeModelServer(Options(models=("first", "second"), root="/weights")) as fake,
        service_over(fake.url, model_revision=setting) as (_, client),
    ):
        listed = (await client.models()).models
        assert {model.revision for model in listed} == {setting or _served(VLLM | {"root": "/weights"}, "").revision}
        started = (await client.stream(ask("why?", model="second"))).started
        assert started is not None
        assert (started.model, started.revision) == ("second", listed[1].revision)
        answer = await client.generate(ask("why?"))
        assert (answer.model, answer.revision) == ("first", listed[0].revision)


async def test_after_a_break_the_weights_are_looked_at_again(fake: FakeModelServer) -> None:
    """Another server may stand there by now, which takes the name of the one before."""
    async with service_over(fake.url) as (_, client):
        before = await client.stream(ask("why? [[fault=cut at=3]]"))
        assert before.failure is not None
        fake.options = replace(fake.options, root="/weights/b")
        after = await client.stream(ask("why? [[tokens=3]]"))
        assert before.started is not None
        assert after.started is not None
        assert before.started.revision == ""
        assert after.started.revision != ""
